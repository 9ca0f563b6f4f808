"""What ``earmark evaluate`` does, from the files it is given to what it prints and keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from earmark import configuration
from earmark.errors import EarmarkError
from earmark.evaluation import charts, results, speech, tables
from earmark.evaluation.evaluate import compare, disagreements, measure, texts_in, with_options
from earmark.evaluation.gold import Labelled, Reference, read
from earmark.settings import Settings
from earmark.volume import Volume

__all__ = ["Answer", "Other", "evaluate_policies", "evaluate_speech", "other", "with_options"]


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        facts: All of it, for programs.
        tables: The same for people, each with its title.
        kept: The file that it is kept in.
    """

    facts: Mapping[str, Any]
    tables: Sequence[tables.Titled]
    kept: Path


@dataclass(frozen=True)
class Other:
    """What something is compared with.

    Attributes:
        called: What to call it.
        settings: Its configuration.
    """

    called: str
    settings: Settings


def other(settings: Settings, named: str, options: Mapping[str, Any]) -> Other:
    """What ``--against`` names.

    Args:
        settings: The configuration.
        named: A threshold, a folder of policies, or a configuration file.
        options: What else differs from the configuration; it holds for both sides, but for what is
            named, and not with another configuration.

    Raises:
        EarmarkError: it is none of them.
    """
    path = Path(named)
    if path.is_dir():
        return Other(named, with_options(settings, **{**options, "policies": path}))
    if path.is_file():
        classify = configuration.read(path).classify
        return Other(named, msgspec.structs.replace(settings, classify=classify))
    try:
        threshold = float(named)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise EarmarkError(
            f"--against {named} is neither a folder of policies nor a configuration file nor a "
            "threshold from 0 to 1"
        )
    return Other(named, with_options(settings, **{**options, "threshold": threshold}))


def evaluate_policies(
    settings: Settings,
    path: Path,
    conninfo: Callable[[], str],
    most: int,
    *,
    against: Other | None = None,
    weighted: bool = False,
) -> Answer:
    """Measure a policy set.

    Args:
        settings: Policies, model and thresholds.
        path: The gold set.
        conninfo: Gives the connection to the database, which a gold set of clips needs.
        most: At most so many disagreements of each category are shown.
        against: What it is compared with.
        weighted: Let texts count by their weights.

    Raises:
        EarmarkError: the gold set is wrong, or as
            :func:`earmark.evaluation.evaluate.measure`.
        OSError: the volume can't be written.
    """
    volume, gold = Volume.of(settings), read(path, Labelled)
    texts = texts_in(gold, conninfo, settings.asr.name)
    measured = measure(settings, gold, texts, weighted)
    found = measured.evaluation
    kept = results.keep(volume, measured.name, found, charts.calibration(found.reliability))
    wrong = disagreements(measured, most)
    facts: dict[str, Any] = {**msgspec.to_builtins(found), "disagreements": wrong}
    shown = [*tables.of_policies(found), ("The worst disagreements", wrong)]
    if against is not None:
        compared = [*compare(measure(against.settings, gold, texts, weighted), measured)]
        facts["compared"] = msgspec.to_builtins(compared)
        shown.append(tables.of_comparisons(compared, against.called))
    return Answer(facts, shown, kept)


def evaluate_speech(
    settings: Settings, path: Path, conninfo: Callable[[], str], most: int
) -> Answer:
    """Measure what is heard.

    Args:
        settings: What clips are heard with.
        path: The references.
        conninfo: Gives the connection to the database, which references of clips need.
        most: At most so many clips are shown.

    Raises:
        EarmarkError: the references are wrong, or as :func:`earmark.evaluation.speech.hear`.
        OSError: the volume can't be written.
    """
    gold = read(path, Reference)
    heard = speech.hear(settings, gold, conninfo)
    found = speech.evaluate(settings, gold, heard)
    kept = results.keep(Volume.of(settings), speech.name_of(settings), found)
    wrong = speech.worst(heard, most)
    facts = {**msgspec.to_builtins(found), "worst": wrong}
    return Answer(facts, [tables.of_speech(found), ("The worst clips", wrong)], kept)
