"""Scores of texts by a policy set: as the stage makes them, and each asked for once.

A score depends on the text, the policy, the prompt and the model; it is kept under a hash of
these, so that after an edit of one policy only that policy is asked again.  What is kept is hashes
of texts and scores, no words.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from earmark import locks, version
from earmark.checkpoints import Checkpoint
from earmark.models.inventory import Found, find_classifier
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.classify import classifier_facts
from earmark.policy.policies import Policy, one_line
from earmark.policy.screen import with_screen
from earmark.policy.self_check import self_check
from earmark.progress import track
from earmark.settings import ClassifySettings
from earmark.tables import Column, schema_of
from earmark.volume import Volume

logger = logging.getLogger(__name__)

#: Scores that were made so many days ago are forgotten.
KEPT_DAYS = 30

#: Columns of ``state/evaluations/…/scores/….parquet``, which keep what a policy says of texts.
COLUMNS = (
    Column("sha256", pa.string(), "Hash of the text as the prompt has it", nullable=False),
    Column(
        "score", pa.float64(), "Probability that the policy is met; null unless status is ok",
        "classifications.flag_score",
    ),
    Column(
        "truncated", pa.bool_(), "The text was too long for the prompt and was cut",
        "classifications.truncated", False,
    ),
    Column("status", pa.string(), "ok, unparsed or failed", "classifications.status", False),
    Column(
        "error", pa.string(), "Why there is no score; null if there is one",
        "classifications.error",
    ),
)  # fmt: skip
_SCORES = schema_of(COLUMNS)
#: As the stage has it: nobody is asked about a clip without speech.
_SILENT = Classification(0.0, truncated=False)


def classify(
    volume: Volume, settings: ClassifySettings, policies: Sequence[Policy], texts: Sequence[str]
) -> dict[str, list[Classification]]:
    """Classify texts by policies, and by the screen if there is one.

    The model is loaded only if something is asked for the first time, and must then pass its
    self-check.  What is done stays when this is cut off.

    Args:
        volume: Where scores are kept.
        settings: Model and prompt.
        policies: The set.
        texts: Any texts.

    Returns:
        By category, that of the screen included, the classification of each text, in order.

    Raises:
        EarmarkError: a model is missing, or as the stage has it.
        OSError: the volume can't be written.
    """
    base, adapter = find_classifier(settings)
    contents = {_sha256(text): text for text in texts if text.strip()}
    asking = with_screen(policies, settings)
    with locks.exclusive(volume.evaluations / "lock", "evaluate"):
        _forget(volume)
        kept = {}
        for policy in asking:
            key = _key(settings, base, adapter, policy)
            folder = volume.evaluation_scores / key
            kept[policy.category] = Checkpoint(folder, _SCORES, key, settings.checkpoint_seconds)
        known = {category: _known(checkpoint) for category, checkpoint in kept.items()}
        missing = {
            policy: [sha256 for sha256 in contents if sha256 not in known[policy.category]]
            for policy in asking
        }
        if any(missing.values()):
            classifier = Classifier(settings)
            self_check(classifier, policies)
        for policy, todo in missing.items():
            if not todo:
                continue
            answers = classifier.classify(policy, [contents[sha256] for sha256 in todo])
            for index, answer in track(answers, policy.category, "texts", len(todo)):
                row = answer._asdict() | {"sha256": todo[index]}
                del row["raw_response"]
                kept[policy.category].add([row])
            known[policy.category] = _known(kept[policy.category])
    return {
        category: [answers[_sha256(text)] if text.strip() else _SILENT for text in texts]
        for category, answers in known.items()
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(one_line(text).encode()).hexdigest()


def _key(settings: ClassifySettings, base: Found, adapter: Found | None, policy: Policy) -> str:
    facts = {
        **classifier_facts(settings, base, adapter),
        "version": version.current(),
        # A folder has no revision; another model under its name has other files.
        "files": [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for model in (base, adapter)
            if model is not None
            for path in sorted(Path(model.folder).iterdir())
        ],
        "category": policy.category,
        "policy": policy.sha256,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _known(checkpoint: Checkpoint) -> Mapping[str, Classification]:
    return {row.pop("sha256"): Classification(**row) for row in checkpoint.table().to_pylist()}


def _forget(volume: Volume) -> None:
    """Remove old scores."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for folder in volume.evaluation_scores.glob("*"):
        newest = max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)
        if newest < oldest:
            shutil.rmtree(folder, ignore_errors=True)
