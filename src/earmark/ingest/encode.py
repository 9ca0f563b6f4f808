"""Encodes an unpacked archive's members to Opus and writes its manifest.

Knows duplicates, worker processes and the manifest's columns; what a file is and how it
is encoded, :mod:`earmark.ingest.media` knows.
"""

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from earmark.errors import EarmarkError
from earmark.files import final_name, make_folder, sync
from earmark.ingest.formats import with_name
from earmark.ingest.selection import Drawn, Selection
from earmark.ingest.unpack import MEMBERS_FILE
from earmark.progress import track
from earmark.settings import EncodeSettings
from earmark.tables import (
    MANIFEST,
    MEMBERS,
    TABLES,
    read_provenance,
    read_table,
    write_table,
)
from earmark.volume import Volume
from earmark.wording import counted
from earmark.worker import DiedError, OutOfTimeError, Worker, Workers

logger = logging.getLogger(__name__)

#: What a manifest's row says in the column ``error`` of a clip that was erased.
ERASED = "erased"
_ARCHIVE_FACTS = ("archive_status", "archive_error", "archive_type", "archive_bytes")
#: Settings that change the Opus files.
_SOUND = ("bitrate", "channels", "complexity", "application", "vbr")
#: Columns that a duplicate shares with the first member of the same content.
_OF_THE_CONTENT = (
    "source_format",
    "opus_bytes",
    "duration_seconds",
    "sample_rate",
    "channels",
    "source_rms_dbfs",
    "source_peak_dbfs",
    "opus_rms_dbfs",
    "opus_peak_dbfs",
    "status",
    "error",
    "selected",
    "inclusion_probability",
    "encoded_at",
)


def _encode(worker: Worker, source: Path, target: Path, timeout_seconds: float) -> dict[str, Any]:
    """Encode one file; returns columns of the manifest, ``status`` among them.

    Raises:
        OSError: the system refused to read or write, or the process couldn't start.
    """
    task = {"source": str(source), "target": str(target)}
    try:
        outcome, _ = worker.ask(task, timeout_seconds)
        return outcome
    except DiedError as error:
        return {"status": "failed", "error": f"the decoder died of {error}"}
    except OutOfTimeError:
        reason = f"not decoded in {timeout_seconds:g} seconds of computing"
        return {"status": "failed", "error": reason}


def _encode_firsts(
    members: list[dict[str, Any]],
    unpacked: Path,
    audio_folder: Path,
    settings: EncodeSettings,
    description: str,
) -> dict[int, dict[str, Any]]:
    """Encode members that differ from each other; returns the outcome of each ordinal."""

    def encode(member: dict[str, Any], worker: Worker) -> dict[str, Any]:
        target = audio_folder / f"{member['ordinal']:06d}.opus"
        outcome = _encode(worker, unpacked / member["file"], target, settings.timeout_seconds)
        if outcome["status"] == "skipped":
            outcome["error"] = with_name(outcome["error"], member["member"])
        return {**outcome, "encoded_at": datetime.now(UTC)}

    count = min(settings.workers, len(members)) or 1
    with Workers("earmark.ingest.media", asdict(settings), count) as workers:
        futures = [workers.submit(partial(encode, member)) for member in members]
        outcomes = (future.result() for future in futures)
        told = track(outcomes, description, "clips", len(members))
        ordinals = [member["ordinal"] for member in members]
        return dict(zip(ordinals, told, strict=True))


def _note(outcome: dict[str, Any]) -> str | None:
    """The error column: why there is no audio, or what of it is missing."""
    if outcome["status"] == "ok":
        return "; ".join(outcome["notes"]) or None
    error: str | None = outcome.get("error")
    return error


def encode_archive(
    unpacked: Path,
    audio_folder: Path,
    manifest: Path,
    archive: str,
    volume_root: Path,
    settings: EncodeSettings,
    selection: Selection | None = None,
    erased: Container[str] = (),
) -> None:
    """Encode an archive's audio and write its manifest, one row for every member.

    The audio of member 12 becomes ``audio_folder/000012.opus``. A file that is bad,
    crashes its decoder or takes too long is a ``failed`` row, one that is no audio a
    ``skipped`` row; neither is selected, with inclusion probability 0. A member with the
    same content as an earlier one is not encoded again: its row names the earlier one in
    ``duplicate_of``, shares its outcome and has no ``opus_path``. An ``ok`` row has an
    ``error`` where parts of the source were left out or changed.

    Args:
        unpacked: What :func:`earmark.ingest.unpack.unpack_archive` left.
        audio_folder: A folder for this archive alone; what lies there is removed first.
        manifest: The table to write, :data:`earmark.tables.MANIFEST`. Its metadata repeat
            ``archive_status``, ``archive_error``, ``archive_type``, ``archive_bytes`` and
            ``unpack_seconds``, and add ``encode`` (the settings as JSON), ``selection`` (which
            clips were drawn and why, likewise) and ``seconds``.
        archive: The archive's name, for the rows.
        volume_root: ``opus_path`` is relative to this folder.
        settings: How to encode, with how many processes and in what time.
        selection: Which clips are drawn for transcription; None draws all.
        erased: SHA-256s of contents that are left out (:mod:`earmark.record.erasure`).

    Raises:
        EarmarkError: the list of members, or the ledger of the selection, is not readable.
        OSError: the system refused (disk full, permission); trying again can help.
    """
    started = time.monotonic()
    if audio_folder.exists():
        shutil.rmtree(audio_folder)  # of a run that was killed
    make_folder(audio_folder)
    try:
        rows, provenance = _encode_members(
            unpacked, audio_folder, archive, volume_root, settings, selection, erased
        )
        for path in audio_folder.iterdir():
            if final_name(path.name):  # of a decoder that died
                path.unlink()
        sync(audio_folder)  # before the manifest that names what is in it
        provenance["seconds"] = f"{time.monotonic() - started:.3f}"
        _forget_former(Volume(volume_root), manifest, rows)
        write_table(manifest, MANIFEST, rows, provenance)
    except BaseException:
        # On a full disk it would take the room that is waited for.
        shutil.rmtree(audio_folder, ignore_errors=True)
        raise
    counts = Counter(row["status"] for row in rows)
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    logger.info("%s: %s: %s", archive, counted(len(rows), "member"), said or "none")


def _forget_former(volume: Volume, manifest: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Remove what is told of the clips that a replaced archive had in the places of new ones.

    The stages make their tables anew for the present names of models and policy sets alone; those
    of other names would go on to be read as if they were about the new clips.
    """
    try:
        former = read_table(manifest, MANIFEST).select(["ordinal", "source_sha256"]).to_pylist()
    except EarmarkError:  # there was none, or nobody knows what it told of
        return
    contents = {row["ordinal"]: row["source_sha256"] for row in rows}
    if len(former) == len(rows) and all(
        None in (row["source_sha256"], known := contents.get(row["ordinal"]))
        or known == row["source_sha256"]
        for row in former
    ):
        return
    date = manifest.parent.name.removeprefix("date=")
    for table in TABLES.values():
        for path in table.files(volume, date, manifest.stem) if table.partitions else ():
            path.unlink(missing_ok=True)
            logger.info("removed %s, of the archive that had this name before", path)


def _withheld(member: dict[str, Any], erased: Container[str]) -> dict[str, Any]:
    """A member as its row may tell of it: nothing of a content that was erased."""
    if member["sha256"] is None or member["sha256"] not in erased:
        return member
    return member | {
        "member": "", "sha256": None, "status": "skipped", "error": ERASED, "metadata": None,
    }  # fmt: skip


def _encode_members(
    unpacked: Path,
    audio_folder: Path,
    archive: str,
    volume_root: Path,
    settings: EncodeSettings,
    selection: Selection | None,
    erased: Container[str],
) -> tuple[list[dict[str, Any]], dict[str, object]]:
    """Encode what is audio and draw from it; returns the manifest's rows and provenance."""
    members = [
        _withheld(member, erased)
        for member in read_table(unpacked / MEMBERS_FILE, MEMBERS).to_pylist()
    ]
    facts = read_provenance(unpacked / MEMBERS_FILE)
    first_of: dict[str, int] = {}  # SHA-256 to ordinal
    for member in members:
        if member["status"] == "ok":
            first_of.setdefault(member["sha256"], member["ordinal"])
    to_encode = [row for row in members if first_of.get(row["sha256"]) == row["ordinal"]]
    outcomes = _encode_firsts(to_encode, unpacked, audio_folder, settings, f"encode {archive}")
    durations = {
        member["sha256"]: outcome["duration_seconds"]
        for member in to_encode
        if (outcome := outcomes[member["ordinal"]])["status"] == "ok"
    }
    if selection is None:
        drawn = Drawn(1.0, "every clip is drawn", len(durations), durations)
    else:
        drawn = selection.draw(archive, durations)

    rows: dict[int, dict[str, Any]] = {}
    for member in members:
        ordinal = member["ordinal"]
        row = {
            "archive": archive,
            "ordinal": ordinal,
            "member": member["member"],
            "source_sha256": member["sha256"],
            "source_bytes": member["bytes"],
            "status": member["status"],
            "error": member["error"],
            "metadata": member["metadata"],
            "selected": False,
            "inclusion_probability": 0.0,
        }
        rows[ordinal] = row
        first = first_of.get(member["sha256"]) if member["status"] == "ok" else None
        if first is None:
            continue
        if first != ordinal:
            row |= {name: rows[first].get(name) for name in _OF_THE_CONTENT}
            row["duplicate_of"] = first
            continue
        outcome = outcomes[ordinal]
        row |= {name: outcome[name] for name in _OF_THE_CONTENT if name in outcome}
        row["error"] = _note(outcome)
        if outcome["status"] == "ok":
            opus = audio_folder / f"{ordinal:06d}.opus"
            row["opus_path"] = opus.relative_to(volume_root).as_posix()
            row["selected"] = drawn.has(member["sha256"])
            row["inclusion_probability"] = drawn.probability(member["sha256"])
    how = {name: value for name, value in asdict(settings).items() if name in _SOUND}
    return list(rows.values()), {
        **{fact: facts.get(fact) for fact in _ARCHIVE_FACTS},
        "encode": json.dumps(how, sort_keys=True),
        "selection": json.dumps(
            {
                **(asdict(selection.settings) if selection else {}),
                "configured_fraction": selection.settings.fraction if selection else 1.0,
                "fraction": drawn.fraction,
                "reason": drawn.reason,
                "clips": drawn.clips,
            }
        ),
        "unpack_seconds": facts.get("seconds"),
    }
