"""Classification of an archive's transcripts against written policies: the files of the stage.

:mod:`earmark.policy.classifier` asks the model; what is done is kept (:mod:`earmark.checkpoints`),
so that a killed job goes on where it stopped.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from earmark.checkpoints import Checkpoint, fingerprint
from earmark.gpu import GpuWatch
from earmark.models.inventory import find_classifier
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.policies import Policy, prompt_sha256, set_sha256
from earmark.policy.self_check import self_check
from earmark.progress import AudioProgress
from earmark.settings import ClassifySettings
from earmark.tables import CLASSES, TRANSCRIPTS, read_provenance, read_table, write_table

logger = logging.getLogger(__name__)


def classify_archive(
    transcripts: Path,
    output: Path,
    policies: Sequence[Policy],
    settings: ClassifySettings,
    policy_name: str,
    checkpoint: Path,
) -> None:
    """Classify all transcripts of an archive against all policies.

    Clips whose transcription failed get no row; a clip without speech is not flagged,
    without asking the model; a clip that the model has no answer for gets rows with status
    ``failed``, or ``unparsed`` if it wrote something that can't be read.  With nothing to
    ask, the model isn't even loaded.  What was done is kept: a job that was killed goes on
    from there.

    Args:
        transcripts: A file of :data:`earmark.tables.TRANSCRIPTS`.
        output: The file of :data:`earmark.tables.CLASSES` to write, one row per clip and
            policy.
        policies: The policies, at least one.
        settings: Model and thresholds.
        policy_name: Name of the policy set, for the provenance.
        checkpoint: Folder for what is done, of this archive and stage alone; it stays.

    Raises:
        EarmarkError: the transcripts or the model can't be read, or the model classifies the
            policies' own examples wrongly.
        OSError: the system refused to read or write.
    """
    started = time.monotonic()
    columns = ["archive", "ordinal", "text", "speech_seconds", "status"]
    table = read_table(transcripts, TRANSCRIPTS).select(columns)
    source = read_provenance(transcripts)
    clips = [clip for clip in table.to_pylist() if clip["status"] == "ok"]
    spoken = [clip for clip in clips if (clip["text"] or "").strip()]

    base, adapter = find_classifier(settings) if spoken else (None, None)
    facts = {
        "model": settings.model,
        "model_revision": base and base.revision,
        "adapter": settings.adapter,
        "adapter_revision": adapter and adapter.revision,
        "quantization": settings.quantization,
        "dtype": settings.dtype,
        "max_tokens": settings.max_tokens,
        "answer": settings.answer,
        "max_new_tokens": settings.max_new_tokens if settings.answer == "json" else None,
        "prompt_sha256": prompt_sha256(settings.answer),
        "policy_sha256": json.dumps({each.category: each.sha256 for each in policies}),
        "policy_set_sha256": set_sha256(policies),
    }
    thresholds = {each.category: settings.threshold_of(each.category) for each in policies}
    key = fingerprint(transcripts, {**facts, "thresholds": thresholds})
    kept = Checkpoint(checkpoint, CLASSES, key, settings.checkpoint_seconds)
    done = kept.table()
    asked = set(zip(done["ordinal"].to_pylist(), done["category"].to_pylist(), strict=True))
    kept.add(
        _row(clip, policy, Classification(0.0, truncated=False), settings)
        for policy in policies
        for clip in clips
        if not (clip["text"] or "").strip() and (clip["ordinal"], policy.category) not in asked
    )
    if asked:
        logger.info("%d of %d answers were done before", len(asked), len(clips) * len(policies))
    used: dict[str, object] = {}
    if any((clip["ordinal"], each.category) not in asked for clip in spoken for each in policies):
        used = _classify(output.stem, spoken, policies, asked, kept, settings)
    rows = kept.table().sort_by([("ordinal", "ascending"), ("category", "ascending")])
    seconds = time.monotonic() - started
    write_table(
        output,
        CLASSES,
        rows,
        {
            **facts,
            "policy": policy_name,
            **{package: version(package) for package in ("transformers", "peft")},
            **used,
            "seconds": round(seconds, 3),
            "archive_status": source.get("archive_status"),
            "archive_error": source.get("archive_error"),
        },
    )
    unread = pc.sum(pc.equal(rows["status"], "unparsed")).as_py() or 0
    if 2 * unread > len(rows):
        logger.warning(
            "%d of %d answers can't be read; is %s with adapter %s tuned to follow instructions "
            "(classify.answer: json)? raw_response has what it wrote",
            unread, len(rows), settings.model, settings.adapter,
        )  # fmt: skip
    logger.info(
        "classified %d clips of %s (%d with speech) against %d policies in %.1f s",
        len(clips),
        output.stem,
        len(spoken),
        len(policies),
        seconds,
    )


def _classify(
    archive: str,
    clips: Sequence[Mapping[str, Any]],
    policies: Sequence[Policy],
    asked: set[tuple[int, str]],
    kept: Checkpoint,
    settings: ClassifySettings,
) -> dict[str, object]:
    """Judge the clips that are not done; returns what was used of the GPU, and the self-check."""
    classifier = Classifier(settings)
    with GpuWatch(settings.device) as gpu:
        gpu.model_loaded(settings.model)
        checked = self_check(classifier, policies)
        with AudioProgress(
            f"classify {archive}",
            count=len(clips) * len(policies),
            seconds=sum(clip["speech_seconds"] or 0 for clip in clips),
            unit="answers",
        ) as progress:
            for policy in policies:
                todo = []
                for clip in clips:
                    if (clip["ordinal"], policy.category) in asked:
                        progress.skip((clip["speech_seconds"] or 0) / len(policies))
                    else:
                        todo.append(clip)
                texts = [clip["text"] for clip in todo]
                for index, classification in classifier.classify(policy, texts):
                    kept.add([_row(todo[index], policy, classification, settings)])
                    progress.advance((todo[index]["speech_seconds"] or 0) / len(policies))
    return {**gpu.facts(), "self_check": json.dumps(checked)}


def _row(
    clip: Mapping[str, Any],
    policy: Policy,
    classification: Classification,
    settings: ClassifySettings,
) -> dict[str, Any]:
    threshold = settings.threshold_of(policy.category)
    return {
        "archive": clip["archive"],
        "ordinal": clip["ordinal"],
        "category": policy.category,
        "flagged": None if classification.score is None else classification.score >= threshold,
        "threshold": threshold,
        "answer": settings.answer,
        **classification._asdict(),
    }
