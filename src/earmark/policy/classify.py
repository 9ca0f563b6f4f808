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
from msgspec.structs import asdict

from earmark.checkpoints import Checkpoint, fingerprint
from earmark.gpu import GpuWatch
from earmark.models.inventory import Found, find_classifier
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.policies import Policy, prompt_sha256, set_sha256
from earmark.policy.screen import UNSCREENED, Screened, screened, screening_policy, with_screen
from earmark.policy.self_check import self_check
from earmark.progress import AudioProgress
from earmark.settings import SCREEN, ClassifySettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_provenance, read_table, write_table

logger = logging.getLogger(__name__)

_UNASKED = Classification(None, truncated=False, status="unasked")


def classify_archive(
    transcripts: Path,
    output: Path,
    policies: Sequence[Policy],
    settings: ClassifySettings,
    policy_name: str,
    checkpoint: Path,
    manifest: Path | None = None,
) -> None:
    """Classify all transcripts of an archive against all policies.

    Clips whose transcription failed get no row; a clip without speech is not flagged,
    without asking the model; a clip that the model has no answer for gets rows with status
    ``failed``, or ``unparsed`` if it wrote something that can't be read; one that a screen
    (:mod:`earmark.policy.screen`) keeps from the policies gets rows with status ``unasked``.
    How many clips the screen had no answer for stands in the provenance (``unscreened``).  With
    nothing to ask, the model isn't even loaded.  What was done is kept: a job that was
    killed goes on from there.

    Args:
        transcripts: A file of :data:`earmark.tables.TRANSCRIPTS`.
        output: The file of :data:`earmark.tables.CLASSES` to write, one row per clip and
            policy.
        policies: The policies, at least one.
        settings: Model and thresholds.
        policy_name: Name of the policy set, for the provenance.
        checkpoint: Folder for what is done, of this archive and stage alone; it stays.
        manifest: A file of :data:`earmark.tables.MANIFEST` with the contents' hashes, by which
            a screen draws; without one it is not read.

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

    screen, asking = settings.screen, with_screen(policies, settings)
    facts = {
        **classifier_facts(settings, *(find_classifier(settings) if spoken else (None, None))),
        "policy_sha256": json.dumps({each.category: each.sha256 for each in policies}),
        "policy_set_sha256": set_sha256(policies),
        "screen": screen and json.dumps({**asdict(screen), "sha256": asking[0].sha256}),
    }
    thresholds = {each.category: settings.threshold_of(each.category) for each in policies}
    key = fingerprint(transcripts, {**facts, "thresholds": thresholds})
    kept = Checkpoint(checkpoint, CLASSES, key, settings.checkpoint_seconds)
    done = kept.table()
    asked = set(zip(done["ordinal"].to_pylist(), done["category"].to_pylist(), strict=True))
    kept.add(
        _row(clip, policy, Classification(0.0, truncated=False), settings, UNSCREENED)
        for policy in policies
        for clip in clips
        if not (clip["text"] or "").strip() and (clip["ordinal"], policy.category) not in asked
    )
    if asked:
        logger.info("%d of %d answers were done before", len(asked), len(clips) * len(asking))
    used: dict[str, object] = {}
    if any((clip["ordinal"], each.category) not in asked for clip in spoken for each in asking):
        contents = _contents(manifest) if screen else {}
        used = _classify(output.stem, spoken, policies, contents, asked, kept, settings)
    rows = kept.table().sort_by([("ordinal", "ascending"), ("category", "ascending")])
    is_screening = pc.equal(rows["category"], SCREEN)
    screening, rows = rows.filter(is_screening), rows.filter(pc.invert(is_screening))
    unscreened = screening["score"].null_count
    seconds = time.monotonic() - started
    write_table(
        output,
        CLASSES,
        rows,
        {
            **facts,
            "policy": policy_name,
            "unscreened": unscreened if screen else None,
            **{package: version(package) for package in ("transformers", "peft")},
            **used,
            "seconds": round(seconds, 3),
            "archive_status": source.get("archive_status"),
            "archive_error": source.get("archive_error"),
        },
    )
    if 2 * unscreened > screening.num_rows:
        logger.warning(
            "the screen has no answer for %d of %d clips of %s, which went through all policies: "
            "%s",
            unscreened, screening.num_rows, output.stem, pc.max(screening["error"]),
        )  # fmt: skip
    unread = pc.sum(pc.equal(rows["status"], "unparsed")).as_py() or 0
    answers = pc.sum(pc.not_equal(rows["status"], "unasked")).as_py() or 0
    if 2 * unread > answers:
        logger.warning(
            "%d of %d answers can't be read; is %s with adapter %s tuned to follow instructions "
            "(classify.answer: json)? raw_response has what it wrote",
            unread, answers, settings.model, settings.adapter,
        )  # fmt: skip
    logger.info(
        "classified %d clips of %s (%d with speech) against %d policies in %.1f s",
        len(clips),
        output.stem,
        len(spoken),
        len(policies),
        seconds,
    )


def classifier_facts(
    settings: ClassifySettings, base: Found | None, adapter: Found | None
) -> dict[str, object]:
    """What a score depends on besides the policy and the content.

    Args:
        settings: Model and prompt.
        base: Where the base model lies; None if it is not asked.
        adapter: Where the adapter lies; None if there is none.
    """
    return {
        "model": settings.model,
        "model_revision": base and base.revision,
        "adapter": settings.adapter,
        "adapter_revision": adapter and adapter.revision,
        "quantization": settings.quantization,
        "llm_int8_threshold": (
            settings.llm_int8_threshold if settings.quantization == "8bit" else None
        ),
        "dtype": settings.dtype,
        "max_tokens": settings.max_tokens,
        "answer": settings.answer,
        "max_new_tokens": settings.max_new_tokens if settings.answer == "json" else None,
        "prompt_sha256": prompt_sha256(settings.answer),
    }


def _contents(manifest: Path | None) -> dict[int, str]:
    """The SHA-256 of each clip's content, by its ordinal."""
    if manifest is None:
        raise ValueError("classify.screen draws by content: it needs the manifest")
    table = read_table(manifest, MANIFEST)
    return dict(zip(table["ordinal"].to_pylist(), table["source_sha256"].to_pylist(), strict=True))


def _classify(
    archive: str,
    clips: Sequence[Mapping[str, Any]],
    policies: Sequence[Policy],
    contents: Mapping[int, str],
    asked: set[tuple[int, str]],
    kept: Checkpoint,
    settings: ClassifySettings,
) -> dict[str, object]:
    """Judge the clips that are not done; returns what was used of the GPU, and the self-check."""
    classifier = Classifier(settings)
    with GpuWatch(settings.device) as gpu:
        gpu.model_loaded(settings.model)
        checked = self_check(classifier, policies)
        found: dict[int, Screened] = {}
        if settings.screen is not None:
            screening = screening_policy(policies)
            _ask(classifier, f"screen {archive}", clips, [screening], found, asked, kept)
            done = kept.table()
            done = done.filter(pc.equal(done["category"], SCREEN))
            scores = zip(done["ordinal"].to_pylist(), done["score"].to_pylist(), strict=True)
            found = {
                ordinal: screened(score, contents[ordinal], settings.screen)
                for ordinal, score in scores
            }
            left = [clip for clip in clips if not found[clip["ordinal"]].is_asked]
            kept.add(
                _row(clip, policy, _UNASKED, settings, found[clip["ordinal"]])
                for policy in policies
                for clip in left
                if (clip["ordinal"], policy.category) not in asked
            )
            clips = [clip for clip in clips if found[clip["ordinal"]].is_asked]
            logger.info("the screen keeps %d clips of %s from the policies", len(left), archive)
        _ask(classifier, f"classify {archive}", clips, policies, found, asked, kept)
    return {**gpu.facts(), "self_check": json.dumps(checked)}


def _ask(
    classifier: Classifier,
    description: str,
    clips: Sequence[Mapping[str, Any]],
    policies: Sequence[Policy],
    found: Mapping[int, Screened],
    asked: set[tuple[int, str]],
    kept: Checkpoint,
) -> None:
    """Judge clips by policies, except what is done."""
    with AudioProgress(
        description,
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
                clip = todo[index]
                of_clip = found.get(clip["ordinal"], UNSCREENED)
                kept.add([_row(clip, policy, classification, classifier.settings, of_clip)])
                progress.advance((clip["speech_seconds"] or 0) / len(policies))


def _row(
    clip: Mapping[str, Any],
    policy: Policy,
    classification: Classification,
    settings: ClassifySettings,
    of_clip: Screened,
) -> dict[str, Any]:
    threshold = settings.threshold_of(policy.category)
    return {
        "archive": clip["archive"],
        "ordinal": clip["ordinal"],
        "category": policy.category,
        "flagged": None if classification.score is None else classification.score >= threshold,
        "threshold": threshold,
        "answer": settings.answer,
        "screen_score": of_clip.score,
        "asked_probability": of_clip.probability,
        **classification._asdict(),
    }
