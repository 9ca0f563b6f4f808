"""Which clips are drawn, and with what probability.

A uniform number that depends on nothing but a clip's content decides: the clip is drawn if
the number is below the fraction in force.  So a rerun draws the same clips, an upload that
repeats a content is drawn with it, and a smaller fraction draws a part of what a larger one
draws (permanent random numbers: Ohlsson, "Coordination of Samples Using Permanent Random
Numbers", in Business Survey Methods, Wiley 1995).

The fraction of an archive is fixed once, from the number of clips alone, and kept in a ledger
below ``state/``; docs/sampling.md has the rule and its reasons.  The module knows nothing of
what clips sound like, and nothing of the draw's use: :mod:`earmark.ingest.encode` writes it into
the manifest, :mod:`earmark.record.load` draws controls for the review queue.
"""

import datetime
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
from msgspec.structs import asdict

from earmark import locks
from earmark.errors import EarmarkError
from earmark.files import set_aside, whole
from earmark.settings import SelectionSettings
from earmark.tables import MANIFEST, TABLES, read_provenance, read_table
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Days before an archive's own from which it is estimated how many clips a day brings.
FORMER_DAYS = 7


def uniform(sha256: str, purpose: str) -> float:
    """A number that is uniform over contents, and fixed for each.

    Args:
        sha256: Of the content, hexadecimal.
        purpose: What is drawn; numbers of different purposes are independent.

    Returns:
        At least 0 and less than 1, a multiple of 2⁻⁵³.
    """
    digest = hashlib.sha256(f"earmark {purpose} {sha256}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True)
class Drawn:
    """What was drawn of an archive.

    Attributes:
        fraction: Inclusion probability of every content that can be drawn.
        reason: Where it comes from.
        clips: Different contents that can be drawn.
        admitted: Their SHA-256s.
    """

    fraction: float
    reason: str
    clips: int
    admitted: Collection[str]

    def probability(self, sha256: str) -> float:
        """Inclusion probability of a content, 0 if it can't be drawn."""
        return self.fraction if sha256 in self.admitted else 0.0

    def has(self, sha256: str) -> bool:
        """Whether a content is drawn."""
        return uniform(sha256, "selection") < self.probability(sha256)


class Selection:
    """The draw for the archives of one date."""

    def __init__(self, settings: SelectionSettings, volume: Volume, date: str) -> None:
        """Nothing is read or written yet.

        Args:
            settings: Which clips are drawn.
            volume: The shared volume, which has the ledger.
            date: The archives', ``YYYY-MM-DD``.
        """
        self.settings = settings
        self._volume = volume
        self._date = datetime.date.fromisoformat(date)

    def draw(self, archive: str, durations: Mapping[str, float]) -> Drawn:
        """Draw clips of an archive, and note in the ledger with what probability.

        An archive that is there with the same contents, and was drawn from by the same
        settings, keeps the probability it had.

        Args:
            archive: Its whole file name.
            durations: Seconds of each content that could be decoded, by its SHA-256.

        Raises:
            OSError: the volume cannot be read or written.
        """
        admitted = {sha for sha, seconds in durations.items() if self.settings.admits(seconds)}
        entry: dict[str, Any] = {
            "contents": _digest(admitted),
            "clips": len(admitted),
            "settings": asdict(self.settings),
        }
        with locks.exclusive(self._volume.selection_lock, "selection"):
            day = self._ledger(self._date)
            known = day.get(archive, {})
            if entry.items() <= known.items():
                return Drawn(known["fraction"], known["reason"], len(admitted), admitted)
            day[archive] = entry
            entry["fraction"], entry["reason"] = self._fraction(day)
            _write(self._volume.selection(str(self._date)), day)
        return Drawn(entry["fraction"], entry["reason"], len(admitted), admitted)

    def _fraction(self, day: Mapping[str, Any]) -> tuple[float, str]:
        """The fraction for the latest archive of a day, and where it comes from."""
        settings = self.settings
        if settings.max_clips_per_day is None:
            return settings.fraction, "selection.fraction"
        former = [self._clips_of(before) for before in range(1, FORMER_DAYS + 1)]
        active = [clips for clips in former if clips]
        usual = sum(active) / len(active) if active else 0.0
        so_far = sum(entry["clips"] for entry in day.values())
        if usual >= so_far:
            expected = f"{usual:.0f} clips are expected, the mean of {len(active)} days before"
        else:
            expected = f"{so_far} clips have come so far, and {usual:.0f} were expected"
        affordable = settings.max_clips_per_day / max(usual, so_far, 1)
        if affordable >= settings.fraction:
            return settings.fraction, f"selection.fraction; {expected}"
        return affordable, f"selection.max_clips_per_day; {expected}"

    def _clips_of(self, days_before: int) -> int:
        former = self._ledger(self._date - datetime.timedelta(days=days_before))
        return sum(entry["clips"] for entry in former.values())

    def _ledger(self, date: datetime.date) -> dict[str, dict[str, Any]]:
        path = self._volume.selection(date.isoformat())
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
        except FileNotFoundError:
            return {}
        except ValueError as error:
            set_aside(path, error)
        day = dict(self._in_manifests(date.isoformat()))
        _write(path, day)
        return day

    def _in_manifests(self, date: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the manifests of a date say of the draws that the ledger was to remember."""
        for path in TABLES["manifests"].files(self._volume, date):
            try:
                told = json.loads(read_provenance(path)["selection"])
                rows = read_table(path, MANIFEST)
            except (EarmarkError, KeyError, ValueError) as error:
                logger.warning("the draw from %s is not known any more: %s", path.stem, error)
                continue
            facts = {name: told.pop(name) for name in ("fraction", "reason", "clips")}
            told["fraction"] = told.pop("configured_fraction", facts["fraction"])
            drawn = rows.filter(pc.field("inclusion_probability") > 0)["source_sha256"]
            contents = _digest(drawn.to_pylist())
            yield path.stem, {"contents": contents, "settings": told, **facts}


def _write(path: Path, day: Mapping[str, Any]) -> None:
    with whole(path) as partial:
        partial.write_text(json.dumps(day, indent=1) + "\n", encoding="utf-8")


def _digest(contents: Iterable[str]) -> str:
    """Hash of a set of contents."""
    return hashlib.sha256("".join(sorted(set(contents))).encode()).hexdigest()
