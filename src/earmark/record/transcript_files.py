"""Transcripts as files that other programs read.

Subtitles and labels are a file for each clip, whose text has what can't be seen written out, as
people look at such files in terminals and players.  Tables hold the text as it is, but for what a
spreadsheet would take for a formula.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from earmark.errors import EarmarkError
from earmark.files import make_folder, whole
from earmark.record import label_studio
from earmark.record.clips import Clip
from earmark.record.queue_files import CSV_ENCODING, cell
from earmark.tables import SEGMENT_COLUMNS, Column, items
from earmark.visible import visible
from earmark.volume import ARCHIVE_NAME

_ROWS = 2_000  # written at a time
#: Columns of a table of transcripts, those of :class:`earmark.record.clips.Clip`.
COLUMNS = (
    Column("id", pa.int64(), "Key in the database", "audio_files.id", False),
    Column(
        "archive", pa.string(), "Whole file name of the archive; null if it came without one",
        "audio_files.archive_source",
    ),
    Column(
        "date", pa.date32(),
        "Day of the archive's own modification time (UTC); null if it is in none", "archives.date",
    ),
    Column(
        "ordinal", pa.int32(), "Position in the archive, from 0; null if it is in none",
        "audio_files.ordinal",
    ),
    Column(
        "original_filename", pa.string(), "Name in the archive, which anybody may have chosen",
        "audio_files.original_filename", False,
    ),
    Column(
        "opus_path", pa.string(), "Relative to the volume; null for a copy of an earlier member",
        "audio_files.opus_path",
    ),
    Column(
        "duration_seconds", pa.float64(), "Length of its audio; null if it is not known",
        "audio_files.duration_seconds",
    ),
    Column(
        "status", pa.string(), "transcribed (and not flagged), flagged or reviewed",
        "audio_files.status", False,
    ),
    Column(
        "language", pa.string(), "ISO 639-1, of the most seconds of speech; null without speech",
        "transcripts.language",
    ),
    Column(
        "confidence", pa.float64(), "Of the transcript; null without text",
        "transcripts.confidence",
    ),
    Column(
        "doubt", pa.string(), "Why words may not have been spoken; null if nothing is doubtful",
        "transcripts.doubt",
    ),
    Column(
        "score", pa.float64(),
        "The highest of its scores, or that of the category that was asked for; null if there is "
        "none", "classifications.flag_score",
    ),
    Column(
        "category", pa.string(), "Whose score that is; null without any",
        "classifications.flag_category",
    ),
    Column(
        "text", pa.string(), "The whole transcript", "transcripts.transcript_text", False
    ),
    Column(
        "segments", items(SEGMENT_COLUMNS), "Its parts in order; not in CSV",
        "transcripts.segments", False, parts=SEGMENT_COLUMNS,
    ),
    Column(
        "asr", pa.string(), "Name of the speech recognition set; null if it came without archive",
        "archives.asr",
    ),
    Column(
        "policy", pa.string(), "Name of the policy set; null if it came without archive",
        "archives.policy",
    ),
)  # fmt: skip
SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])


def _srt(clip: Clip) -> str:
    return "\n".join(
        f"{number}\n{_time(each['start'], ',')} --> {_time(each['end'], ',')}\n{_plain(each)}\n"
        for number, each in enumerate(clip.segments, 1)
    )


def _vtt(clip: Clip) -> str:
    cues = (
        f"{_time(each['start'], '.')} --> {_time(each['end'], '.')}\n"
        f"{_line(each).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n"
        for each in clip.segments
    )
    return "\n".join(["WEBVTT\n", *cues])


def _txt(clip: Clip) -> str:
    return "".join(f"{_line(each)}\n" for each in clip.segments)


def _audacity(clip: Clip) -> str:
    return "".join(
        f"{each['start']:.6f}\t{each['end']:.6f}\t{_line(each)}\n" for each in clip.segments
    )


def _line(segment: dict[str, Any]) -> str:
    return visible(segment["text"].strip())


def _plain(segment: dict[str, Any]) -> str:
    # What stands between two times in SRT, which has no way to write it out.
    return _line(segment).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(max(seconds, 0) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _csv(path: Path, clips: Iterator[Clip]) -> None:
    with path.open("w", newline="", encoding=CSV_ENCODING) as file:
        columns = [name for name in SCHEMA.names if name != "segments"]
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL, extrasaction="ignore")
        writer.writeheader()
        for clip in clips:
            writer.writerow({key: cell(value) for key, value in asdict(clip).items()})


def _json_lines(path: Path, clips: Iterator[Clip]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for clip in clips:
            print(json.dumps(asdict(clip), ensure_ascii=False, default=str), file=file)


def _label_studio(path: Path, clips: Iterator[Clip]) -> None:
    with path.open("w", encoding="utf-8") as file:
        tasks = map(label_studio.task, clips)
        print("[", next(tasks, ""), file=file)
        for task in tasks:
            print(",", task, file=file)
        print("]", file=file)


def _parquet(path: Path, clips: Iterator[Clip]) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := [asdict(clip) for clip in islice(clips, _ROWS)]:
            for row in some:  # Earmark 0.2 wrote less of a segment
                row["segments"] = [
                    {part.name: each.get(part.name) for part in SEGMENT_COLUMNS}
                    for each in row["segments"]
                ]
            writer.write_table(pa.Table.from_pylist(some, schema=SCHEMA))


#: Formats that are a file for each clip, with their endings.
_OF_A_CLIP: dict[str, tuple[str, Callable[[Clip], str]]] = {
    "srt": (".srt", _srt),
    "vtt": (".vtt", _vtt),
    "txt": (".txt", _txt),
    "audacity": (".labels.txt", _audacity),
}
#: Formats that are one file.
_TABLES: dict[str, Callable[[Path, Iterator[Clip]], None]] = {
    "csv": _csv,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "label-studio": _label_studio,
}
FORMATS = (*_OF_A_CLIP, *_TABLES)


def write(clips: Iterable[Clip], kind: str, target: Path) -> int:
    """Write transcripts.

    Args:
        clips: Whose.
        kind: One of :data:`FORMATS`.
        target: For ``csv``, ``jsonl``, ``parquet`` and ``label-studio`` the file; for the others a
            folder, in which ``2026-11-02/a/000012.srt`` is of the member 12 of that day's archive
            ``a``. What is there is replaced.

    Returns:
        How many there were; Label Studio gets those with audio alone.

    Raises:
        EarmarkError: the target is a folder and should be a file, or the other way round.
        OSError: it can't be written.
    """
    if kind == "label-studio":  # where people label what they hear
        clips = (clip for clip in clips if clip.opus_path)
    counted = _Counted(clips)
    if kind in _TABLES:
        if target.is_dir():
            raise EarmarkError(f"{target} is a folder; name a file for {kind}")
        with whole(target) as partial:
            _TABLES[kind](partial, counted)
        return counted.count
    if target.exists() and not target.is_dir():
        raise EarmarkError(f"{target} is a file; name a folder for {kind}")
    ending, text_of = _OF_A_CLIP[kind]
    make_folder(target)
    for clip in counted:
        path = target / f"{_name(clip)}{ending}"
        make_folder(path.parent)
        with whole(path) as partial:
            partial.write_text(text_of(clip), encoding="utf-8")
    return counted.count


def _name(clip: Clip) -> str:
    # Archives of different days may have one name.
    has_place = clip.date and clip.ordinal is not None
    if has_place and clip.archive and ARCHIVE_NAME.fullmatch(clip.archive):
        return f"{clip.date}/{clip.archive}/{clip.ordinal:06d}"
    return f"clip {clip.id}"


class _Counted(Iterator[Clip]):
    """Clips, and how many of them have been taken."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = iter(clips)
        self.count = 0

    def __next__(self) -> Clip:
        clip = next(self._clips)
        self.count += 1
        return clip
