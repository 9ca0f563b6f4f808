"""Speech to text: one archive's clips to one table of transcripts.

Three things go on at once: clips are prepared ahead (:mod:`earmark.speech.preparation`), windows
of many clips pass the model together (:mod:`earmark.speech.batches`), and what is done is kept
(:mod:`earmark.checkpoints`).
"""

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import asdict

from earmark.checkpoints import Checkpoint, fingerprint
from earmark.gpu import GpuWatch
from earmark.models.inventory import find_whisper
from earmark.names import ASR_FACTS
from earmark.progress import AudioProgress
from earmark.settings import AsrSettings
from earmark.speech.batches import BATCHES_TOGETHER, Batcher, Transcribed
from earmark.speech.deduplication import DeduplicationIndex
from earmark.speech.preparation import Clip, Preparation
from earmark.speech.recognition import Recogniser
from earmark.speech.vad import WINDOW_SECONDS
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, read_table, write_table

logger = logging.getLogger(__name__)


class Transcriber:
    """A loaded model, and the processes that prepare clips for it.

    Attributes:
        gpu: What it uses of the GPU.
    """

    def __init__(self, settings: AsrSettings) -> None:
        """Nothing is loaded yet."""
        self._settings = settings
        self._stack = ExitStack()
        self.gpu = GpuWatch(settings.device)

    def __enter__(self) -> Self:
        """Load the model while the processes start.

        Raises:
            EarmarkError: the model, the device or the number format is not there.
        """
        settings = self._settings
        # On a GPU, one thread feeds the model; with a single one there is nothing to share.
        spare = settings.threads - (settings.device == "cuda")
        processes = max(1, spare) if settings.threads > 1 else 0
        with self._stack:
            self._preparation = self._stack.enter_context(
                Preparation(settings.vad, settings.device, processes)
            )
            self._recogniser = Recogniser(settings)
            self._stack.enter_context(self.gpu)
            self.gpu.model_loaded("Whisper")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def transcribe(self, clips: Iterable[Clip]) -> Iterator[list[Transcribed]]:
        """Transcribe clips.

        Args:
            clips: Any number; memory does not grow with it.

        Yields:
            The clips that are done, after each batch; not in the order of the clips.

        Raises:
            EarmarkError: an audio file has vanished, or the GPU's memory is too small.
            OSError: the system refused to read, or to start a process.
        """
        ahead_seconds = BATCHES_TOGETHER * self._settings.batch_size * WINDOW_SECONDS
        prepared = self._preparation.prepare(clips, self._recogniser.mels, ahead_seconds)
        return Batcher(self._recogniser, self._settings.batch_size).transcribe(prepared)


def transcribe_archive(
    manifest: Path,
    output: Path,
    volume_root: Path,
    settings: AsrSettings,
    checkpoint: Path,
    index: DeduplicationIndex | None = None,
) -> None:
    """Transcribe every clip of an archive that is ok, selected and no duplicate.

    A clip that cannot be decoded is a row with ``status='failed'``; only a broken machine
    (memory, device, disk) raises.  The model is not loaded when there is nothing to do.
    What was done is kept: a job that was killed goes on from there.  What was heard before
    in another archive is copied.

    Args:
        manifest: The archive's manifest.
        output: The Parquet file to write, with the columns of ``tables.TRANSCRIPTS``, one
            row per clip in the manifest's order.
        volume_root: What ``opus_path`` is relative to.
        settings: How to transcribe.
        checkpoint: Folder for what is done, of this archive and stage alone; it stays.
        index: What has been heard before, and learns what was heard now; None if nothing
            is to be shared with other archives.

    Raises:
        EarmarkError: the model cannot be loaded, an audio file has vanished, or the GPU's
            memory is too small for a single window.
        OSError: the system refused to read or write.
    """
    started = time.monotonic()
    origin = read_provenance(manifest)
    members = read_table(manifest, MANIFEST)
    clips = clips_of(members, volume_root)
    revision = find_whisper(settings).revision if clips else None
    decisive = {name: getattr(settings, name) for name in ASR_FACTS if name != "revision"}
    key = fingerprint(manifest, decisive | {"revision": revision})
    kept = Checkpoint(checkpoint, TRANSCRIPTS, key, settings.checkpoint_seconds)
    done = _ordinals(kept)
    archive = members["archive"][0].as_py() if clips else ""
    hashes = members.select(["ordinal", "source_sha256"]).to_pylist()
    content_of = {row["ordinal"]: row["source_sha256"] for row in hashes}
    if done:
        logger.info("%d of %d clips were done before", len(done), len(clips))
    if index is not None:
        new = {clip.ordinal: content_of[clip.ordinal] for clip in clips if clip.ordinal not in done}
        kept.add(index.copies(archive, new, decisive | {"model_revision": revision}))
        done = _ordinals(kept)
    gpu: dict[str, object] = {}
    if len(done) < len(clips):
        gpu = _transcribe(archive, clips, done, kept, settings)
    table = kept.table().sort_by("ordinal")
    heard = set(table.filter(pc.is_null(table["copied_from"]))["ordinal"].to_pylist())
    write_table(
        output,
        TRANSCRIPTS,
        table,
        {
            **{k: v for k, v in asdict(settings).items() if k not in ("name", "revision")},
            "model_revision": revision,
            "asr": settings.name,
            **{package: version(package) for package in ("faster-whisper", "whisperx")},
            **gpu,
            "audio_seconds": round(sum(c.duration_seconds for c in clips if c.ordinal in heard), 3),
            "copied": len(table) - len(heard),
            "archive_status": origin.get("archive_status"),
            "archive_error": origin.get("archive_error"),
            "seconds": round(time.monotonic() - started, 3),
        },
    )
    if index is not None:
        sound = table.filter(pc.equal(table["status"], "ok"))["ordinal"].to_pylist()
        index.publish(archive, {each: content_of[each] for each in sound if each in heard})


def _ordinals(kept: Checkpoint) -> set[int]:
    return set(kept.table()["ordinal"].to_pylist())


def clips_of(members: pa.Table, volume_root: Path) -> list[Clip]:
    """The clips of an archive that are to be transcribed.

    Args:
        members: With the columns of ``tables.MANIFEST``.
        volume_root: What ``opus_path`` is relative to.
    """
    return [
        Clip(row["ordinal"], volume_root / row["opus_path"], row["duration_seconds"] or 0.0)
        for row in members.to_pylist()
        if row["status"] == "ok" and row["selected"] and row["duplicate_of"] is None
    ]


def _transcribe(
    archive: str, clips: Sequence[Clip], done: set[int], kept: Checkpoint, settings: AsrSettings
) -> dict[str, object]:
    """Transcribe the clips that are not done; returns what was used of the GPU."""
    with (
        Transcriber(settings) as transcriber,
        AudioProgress(
            f"transcribe {archive}",
            count=len(clips),
            seconds=sum(clip.duration_seconds for clip in clips),
        ) as progress,
    ):
        for clip in clips:
            if clip.ordinal in done:
                progress.skip(clip.duration_seconds)
        todo = (clip for clip in clips if clip.ordinal not in done)
        for transcribed in transcriber.transcribe(todo):
            kept.add(_row(archive, each) for each in transcribed)
            for each in transcribed:
                progress.advance(each.prepared.clip.duration_seconds)
    return transcriber.gpu.facts()


def _row(archive: str, transcribed: Transcribed) -> dict[str, Any]:
    prepared = transcribed.prepared
    if transcribed.transcript is None:
        row = {"status": "failed", "error": prepared.error}
    else:
        row = {**dataclasses.asdict(transcribed.transcript), "status": "ok"}
    ordinal = prepared.clip.ordinal
    return {"archive": archive, "ordinal": ordinal, "seconds": round(transcribed.seconds, 3), **row}
