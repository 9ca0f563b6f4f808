"""What is checked before anything is begun, without loading a model or asking a server."""

import datetime
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from earmark import configuration, disk_space
from earmark.clock import next_deadline
from earmark.driver import slurm
from earmark.errors import EarmarkError, SetupError, refused_by_system
from earmark.evaluation.results import not_evaluated
from earmark.gpu import has_gpu
from earmark.ingest.source import LooseSource, source_of
from earmark.models.inventory import check_models, find_whisper, inspect_all, warning_of_demo
from earmark.names import asr_name, policy_set_name
from earmark.policy.policies import load_policies, not_checked, prompt_sha256, texts_of
from earmark.policy.screen import with_screen
from earmark.record import database
from earmark.settings import Settings
from earmark.speech.decoding import DECODING_FACTS
from earmark.volume import Volume

logger = logging.getLogger(__name__)


def check_inputs(settings: Settings) -> None:
    """Check models and policies without loading them, and the time zone of noon.

    Raises:
        EarmarkError: one is missing or wrong, or changed under a name that stands for the old
            one; the message names it and the remedy.
    """
    _check_noon(settings)
    classify = settings.classify
    policies = load_policies(Path(classify.policies), classify.categories)
    unknown = sorted(set(classify.thresholds) - {policy.category for policy in policies})
    if unknown:
        raise EarmarkError(
            f"classify.thresholds names the category '{unknown[0]}', which has no policy in "
            f"{classify.policies}; known: {', '.join(policy.category for policy in policies)}"
        )
    if without := not_checked(policies):
        logger.warning(without)
    if warning := warning_of_demo(settings):
        logger.warning(warning)
    check_models(settings)
    volume = Volume.of(settings)
    asr_name(settings, volume, DECODING_FACTS).check()
    prompt = prompt_sha256(classify.answer)
    texts = texts_of(with_screen(policies, classify))
    policy_set = policy_set_name(settings, volume, texts, prompt)
    policy_set.check()
    if unknown_quality := not_evaluated(volume, policy_set):
        logger.warning(unknown_quality)


def problems(path: Path) -> Iterator[str]:
    """Everything that is wrong with a configuration and what it names; nothing is made.

    Args:
        path: The configuration file.

    Yields:
        What is wrong and what to do, in a sentence each.
    """
    try:
        told, settings, wrong = configuration.problems_in(path)
    except EarmarkError as error:
        yield str(error)
        return
    yield from told
    known = set(told)
    for sections, check in _CHECKS:
        if wrong.intersection(sections):
            continue
        try:
            found = list(check(settings))
        except EarmarkError as error:
            found = [str(error)]
        except OSError as error:
            found = [refused_by_system(error)]
        for problem in found:
            if problem not in known:
                yield problem
        known.update(found)


def _check_noon(settings: Settings) -> None:
    now = datetime.datetime.now(datetime.UTC)
    next_deadline(now, settings.review.noon, settings.review.timezone)


def _noon(settings: Settings) -> Iterator[str]:
    _check_noon(settings)
    yield from ()


def _volume(settings: Settings) -> Iterator[str]:
    root = Path(settings.volume.root)
    if not root.is_dir():
        yield f"there is no {root} (volume.root); make it, or mount it"
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield f"{root} (volume.root) can't be written to; check its owner and mode"
    limits, now = settings.room, disk_space.usage(root)
    for key in ("stop_fetching_percent", "stop_encoding_percent"):
        if now.percent() >= getattr(limits, key):
            yield (
                f"{disk_space.describe(root, now)}; stages wait from {getattr(limits, key):g} % on "
                f"(room.{key}): make room, or raise it"
            )


def _source(settings: Settings) -> Iterator[str]:
    source = source_of(settings)
    if isinstance(source, LooseSource):
        source.check()
    else:
        source.files()
    yield from ()


def _policies(settings: Settings) -> Iterator[str]:
    classify = settings.classify
    folder = Path(classify.policies)
    names = classify.categories or sorted(path.stem for path in folder.glob("*.md")) or [""]
    for name in names:
        try:
            load_policies(folder, [name] if name else None)
        except EarmarkError as error:
            yield str(error)
    for name in sorted(set(classify.thresholds) - set(names)):
        yield (
            f"classify.thresholds names the category '{name}', which is none of "
            f"{', '.join(names)}; correct it, or leave it out"
        )


def _models(settings: Settings) -> Iterator[str]:
    for each in inspect_all(settings, by_size=True):
        if each.problem:
            yield each.problem


def _language(settings: Settings) -> Iterator[str]:
    language = settings.asr.language
    if language in (None, "en"):
        return
    try:
        folder = Path(find_whisper(settings.asr).folder)
    except SetupError:  # told of the model
        return
    said = json.loads((folder / "tokenizer.json").read_bytes())
    known = {each.get("content") for each in said.get("added_tokens", [])}
    if f"<|{language}|>" not in known:
        yield (
            f"asr.language is '{language}', which {settings.asr.model} does not know; give a code "
            "of ISO 639-1, such as es, or null"
        )


def _gpu(settings: Settings) -> Iterator[str]:
    wanted = [
        key
        for key, section in (("asr", settings.asr), ("classify", settings.classify))
        if section.device == "cuda"
    ]
    # Of a cluster, this machine may be the only one without.
    if wanted and not slurm.is_installed() and not has_gpu():
        yield (
            f"{' and '.join(f'{key}.device' for key in wanted)} say cuda, and no NVIDIA GPU is "
            "found here; see `nvidia-smi`, or set cpu, with models that fit (`earmark init --for "
            "cpu` writes such a configuration)"
        )


def _names(settings: Settings) -> Iterator[str]:
    classify, volume = settings.classify, Volume.of(settings)
    names = [asr_name(settings, volume, DECODING_FACTS)]
    with suppress(EarmarkError):  # told of the policies
        policies = load_policies(Path(classify.policies), classify.categories)
        texts = texts_of(with_screen(policies, classify))
        names += [policy_set_name(settings, volume, texts, prompt_sha256(classify.answer))]
    for name in names:
        try:
            name.check()
        except EarmarkError as error:
            yield str(error)


def _database(settings: Settings) -> Iterator[str]:
    url = settings.database.url
    if not database.is_embedded(url):
        conninfo = database.connection_string(url, Path(settings.volume.root))
        with database.connect(conninfo, patience_seconds=0.0) as connection:
            database.require_schema(connection)
    yield from ()


#: What is looked at, and the sections that have to be right for that.
_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Settings], Iterator[str]]], ...] = (
    (("volume", "room"), _volume),
    (("source", "transfer", "volume"), _source),
    (("asr", "classify"), _models),
    (("asr",), _language),
    (("asr", "classify"), _gpu),
    (("classify",), _policies),
    (("asr", "classify", "volume"), _names),
    (("review",), _noon),
    (("database", "volume"), _database),
)
