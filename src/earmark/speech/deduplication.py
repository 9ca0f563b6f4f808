"""Which contents have been transcribed, and where: an upload that repeats one is not heard again.

An index of text files beside the results, one line for each content that was transcribed:

    {SHA-256 of the content} TAB {date} TAB {ordinal} TAB {archive}

A line is a hint and never believed: the manifest and the transcripts that it names decide.  So
a line that is lost costs one more transcription, one that has become wrong costs nothing, and
the whole folder may be deleted.  The first line that holds counts, which makes reruns find what
they found before.  docs/sampling.md tells why it is no table of the database.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earmark import locks
from earmark.errors import EarmarkError
from earmark.files import make_folder
from earmark.progress import track
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, read_table
from earmark.volume import Volume

logger = logging.getLogger(__name__)

_LINE = re.compile(r"([0-9a-f]{64})\t(\d{4}-\d{2}-\d{2})\t(\d+)\t([^\t\n/]+)")
#: Hexadecimal digits that name a file of the index: 4,096 files of a few MB after a year.
_DIGITS = 3


@dataclass(frozen=True)
class Place:
    """Where a content was transcribed.

    Attributes:
        date: Of the archive, ``YYYY-MM-DD``.
        archive: Its whole file name.
        ordinal: The clip's position in it.
    """

    date: str
    archive: str
    ordinal: int


class DeduplicationIndex:
    """The contents that have been transcribed under one name of settings."""

    def __init__(self, volume: Volume, asr: str, date: str) -> None:
        """Nothing is read yet.

        Args:
            volume: The shared volume.
            asr: Name of the settings; another one hears other things.
            date: Of the archives that are transcribed now, ``YYYY-MM-DD``.
        """
        self._volume = volume
        self._asr = asr
        self._date = date
        self._folder = volume.deduplication(asr)

    def copies(
        self, archive: str, clips: Mapping[int, str], facts: Mapping[str, object]
    ) -> Iterator[dict[str, Any]]:
        """The transcripts of clips whose content was transcribed before, in another archive.

        Args:
            archive: Whole file name of the archive that is transcribed.
            clips: SHA-256 of the content, by ordinal.
            facts: What the other transcripts' metadata must say, by key, for them to be what
                would be heard now.

        Yields:
            Rows of :data:`earmark.tables.TRANSCRIPTS` for the archive, which name the clip
            that was heard in ``copied_from``.

        Raises:
            OSError: the volume cannot be read.
        """
        places = self.find(clips.values())
        others = {ordinal: places[sha] for ordinal, sha in clips.items() if sha in places}
        if not others:
            return
        heard = _OtherTranscripts(self._volume, self._asr, facts)
        for ordinal, candidates in track(
            others.items(), f"look up {archive}", "clips", len(others)
        ):
            for place in candidates:
                if (place.date, place.archive) == (self._date, archive):
                    break  # this archive was the first: it is heard here again
                row = heard.row(place, clips[ordinal])
                if row is not None:
                    yield {**row, "archive": archive, "ordinal": ordinal, "seconds": 0.0}
                    break

    def find(self, contents: Iterable[str]) -> dict[str, list[Place]]:
        """Where contents were transcribed by what the index says, the first place first.

        Args:
            contents: SHA-256s, hexadecimal.

        Raises:
            OSError: the volume cannot be read.
        """
        found: dict[str, list[Place]] = defaultdict(list)
        for path, wanted in self._by_file(contents).items():
            for sha, place in _lines(path, wanted):
                found[sha].append(place)
        return dict(found)

    def publish(self, archive: str, clips: Mapping[int, str]) -> None:
        """Add clips of an archive whose transcripts lie in the volume now.

        Args:
            archive: Its whole file name.
            clips: SHA-256 of the content, by ordinal.

        Raises:
            OSError: the volume cannot be written.
        """
        places = {sha: Place(self._date, archive, ordinal) for ordinal, sha in clips.items()}
        make_folder(self._folder)
        with locks.exclusive(self._volume.deduplication_lock, "contents"):
            for path, hashes in self._by_file(places).items():
                _cut_torn_line(path)
                known = set(_lines(path, hashes))
                new = [sha for sha in sorted(hashes) if (sha, places[sha]) not in known]
                with path.open("a", encoding="utf-8") as file:
                    for sha in new:
                        file.write(f"{sha}\t{self._date}\t{places[sha].ordinal}\t{archive}\n")

    def _by_file(self, contents: Iterable[str]) -> dict[Path, set[str]]:
        grouped: dict[Path, set[str]] = defaultdict(set)
        for sha in contents:
            grouped[self._folder / f"{sha[:_DIGITS]}.tsv"].add(sha)
        return grouped


def _lines(path: Path, wanted: Container[str]) -> Iterator[tuple[str, Place]]:
    """What a file of the index says of some contents; a line that is no such line says nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.split("\n")[:-1]:
        # After a year there are 24,000 lines, of which a few are wanted.
        if line[:64] in wanted and (match := _LINE.fullmatch(line)):
            sha, date, ordinal, archive = match.groups()
            yield sha, Place(date, archive, int(ordinal))


def _cut_torn_line(path: Path) -> None:
    """Remove what a writer left that was killed within a line: it could look like another one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


class _OtherTranscripts:
    """Transcripts of other archives, each file read once."""

    def __init__(self, volume: Volume, asr: str, facts: Mapping[str, object]) -> None:
        self._volume = volume
        self._asr = asr
        self._facts = {key: "" if value is None else str(value) for key, value in facts.items()}
        self._rows: dict[tuple[str, str], dict[int, tuple[str, dict[str, Any]]]] = {}

    def row(self, place: Place, sha256: str) -> dict[str, Any] | None:
        """The transcript at a place, if it is one of this content that was heard there."""
        key = (place.date, place.archive)
        if key not in self._rows:
            self._rows[key] = self._read(*key)
        sha_there, row = self._rows[key].get(place.ordinal, (None, None))
        return row if sha_there == sha256 else None

    def _read(self, date: str, archive: str) -> dict[int, tuple[str, dict[str, Any]]]:
        """Content and row of each clip of an archive that was heard, by ordinal."""
        transcripts = self._volume.transcripts(self._asr, date, archive)
        manifest = self._volume.manifest(date, archive)
        try:
            made_by = read_provenance(transcripts)
            rows = read_table(transcripts, TRANSCRIPTS).to_pylist()
            clips = read_table(manifest, MANIFEST).select(["ordinal", "source_sha256", "opus_path"])
        except EarmarkError as error:
            logger.info("not copied from %s: %s", archive, error)
            return {}
        if any(made_by.get(key) != value for key, value in self._facts.items()):
            return {}
        clip_of = {clip["ordinal"]: clip for clip in clips.to_pylist()}
        return {
            row["ordinal"]: (clip["source_sha256"], row | {"copied_from": clip["opus_path"]})
            for row in rows
            if row["status"] == "ok"
            and row["copied_from"] is None
            and (clip := clip_of.get(row["ordinal"])) is not None
        }
