"""Which models a configuration names, and where on this machine they lie.

Nothing here asks the model hub: a run uses what ``earmark models fetch``
(:mod:`earmark.models.hub`) left behind, or a folder that somebody put there.  Nor is a model
loaded: that imports PyTorch, which takes seconds, and whoever only schedules jobs should not
wait for that.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from earmark.configuration import is_folder
from earmark.errors import EarmarkError, SetupError
from earmark.models.classifier_files import check_adapter, check_base
from earmark.models.snapshots import Snapshot
from earmark.models.whisper_files import check_whisper
from earmark.settings import AsrSettings, ClassifySettings, Settings


@dataclass(frozen=True)
class Model:
    """A model that the configuration names.

    Attributes:
        key: The configuration's key that names it, such as ``asr.model``.
        name: Its value: a folder, a name on the hub, or a Whisper model's name.
        revision: The commit that it is pinned to, or None.
    """

    key: str
    name: str
    revision: str | None = None

    @property
    def pin(self) -> str:
        """The configuration's key that pins its revision."""
        section, _, which = self.key.partition(".")
        return f"{section}.revision" if which == "model" else f"{section}.{which}_revision"

    @property
    def files(self) -> tuple[str, ...]:
        """Files that every such model has; a library may ask the hub for one that is missing."""
        return {
            "asr.model": ("model.bin", "config.json", "tokenizer.json"),
            "classify.model": ("config.json",),
            "classify.adapter": ("adapter_config.json",),
        }[self.key]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder rather than a model of the hub."""
        return is_folder(self.name)

    @property
    def repository(self) -> str:
        """Its name on the hub, ``owner/name``: faster-whisper knows what ``large-v2`` stands for.

        Raises:
            EarmarkError: a Whisper model of this name isn't known.
        """
        if self.key != "asr.model" or "/" in self.name:
            return self.name
        # Takes a second. Its public available_models() has names only, and no repositories.
        from faster_whisper.utils import _MODELS

        if self.name not in _MODELS:
            raise SetupError(
                f"{self.key} is '{self.name}', which is neither a Whisper model ("
                f"{', '.join(_MODELS)}) nor owner/name on the hub nor a folder that is there"
            )
        return str(_MODELS[self.name])


class Found(NamedTuple):
    """Where a model lies.

    Attributes:
        folder: What to load; a library that gets a folder never asks the hub.
        revision: The hub's commit that it holds; None for a folder that somebody put there.
    """

    folder: str
    revision: str | None


def named_in(settings: Settings) -> list[Model]:
    """The models that a configuration names.

    Args:
        settings: The configuration.
    """
    base, adapter = base_and_adapter(settings.classify)
    return [whisper(settings.asr), base, *([adapter] if adapter else [])]


def whisper(asr: AsrSettings) -> Model:
    """The model that transcribes."""
    return Model("asr.model", asr.model, asr.revision)


def base_and_adapter(classify: ClassifySettings) -> tuple[Model, Model | None]:
    """The model that classifies, and the adapter on top of it if there is one."""
    base = Model("classify.model", classify.model, classify.revision)
    if classify.adapter is None:
        return base, None
    return base, Model("classify.adapter", classify.adapter, classify.adapter_revision)


def check_models(settings: Settings) -> None:
    """Check that all models of a configuration are there.

    Args:
        settings: The configuration.

    Raises:
        EarmarkError: see :func:`find`.
    """
    find_whisper(settings.asr)
    find_classifier(settings.classify)


def find(model: Model) -> Found:
    """Where a model lies, once it is known to be there, every file with its size.

    Args:
        model: The model.

    Raises:
        SetupError: it isn't, or not whole; the message says what to do.
    """
    if model.is_folder:
        check_folder(model)
        return Found(model.name, None)
    snapshot = _fetched(model)
    for damage in snapshot.damage(by_size=True):
        raise SetupError(_remedy(model, snapshot, damage))
    return Found(str(snapshot.folder), snapshot.commit)


def find_whisper(asr: AsrSettings) -> Found:
    """Where the model that transcribes lies.

    Raises:
        SetupError: as :func:`find`, and as :func:`earmark.models.whisper_files.check_whisper`; or
            other languages are to be heard than the model knows.
    """
    model = whisper(asr)
    if _hears_english_alone(model) and asr.language != "en":
        raise SetupError(
            f"asr.model {asr.model} hears English alone, and writes English words for other "
            "languages; set asr.language to en if that will do, or choose large-v3-turbo"
        )
    found = find(model)
    check_whisper(Path(found.folder))
    return found


def _hears_english_alone(model: Model) -> bool:
    """Whether it is one of Distil-Whisper's, which have all of Whisper's languages in their words.

    Those whose names end in .en have English ones, and are asked for nothing else.
    Source: https://huggingface.co/distil-whisper/distil-large-v3.5
    """
    if model.is_folder:
        return False
    return "distil-whisper" in model.repository and not model.repository.endswith(".en")


def find_classifier(classify: ClassifySettings) -> tuple[Found, Found | None]:
    """Where the model that classifies lies, and its adapter.

    Raises:
        SetupError: as :func:`find`.
    """
    base, adapter = base_and_adapter(classify)
    found = find(base), find(adapter) if adapter else None
    check_classifier(classify, *found)
    return found


def check_classifier(classify: ClassifySettings, base: Found, adapter: Found | None) -> None:
    """Check what can be known of a classifier without loading it.

    Raises:
        SetupError: as those of :mod:`earmark.models.classifier_files`.
    """
    check_base(Path(base.folder))
    if adapter is not None:
        check_adapter(Path(adapter.folder), [classify.model, base.folder], classify.adapter_fits)


#: Lies beside models that understand the demo's clips and nothing else.
_MARKER = "ONLY-FOR-THE-DEMO"


def warning_of_demo(settings: Settings) -> str | None:
    """That results mean nothing, in a sentence, where the demo's models meet another source.

    Args:
        settings: The configuration.
    """
    source = settings.source
    keys = [
        model.key
        for model in named_in(settings)
        if model.is_folder and (marked := Path(model.name).parent / _MARKER).is_file()
        if (source.kind, Path(source.directory)) != ("folder", marked.parents[1] / "archives")
    ]
    if not keys:
        return None
    what = "transcripts, scores and flags" if "asr.model" in keys else "scores and flags"
    return (
        f"{what} mean nothing here: {', '.join(keys)} name the demo's models, which know a "
        "hundred words of the demo's own clips; name real models (docs/models.md)"
    )


@dataclass(frozen=True)
class Condition:
    """What a check of a model found.

    Attributes:
        key: The configuration's key that names the model.
        model: Its name.
        commit: The hub's commit; None for a folder, and for what isn't there.
        problem: What is wrong and what to do, or None.
    """

    key: str
    model: str
    commit: str | None
    problem: str | None


def inspect_all(settings: Settings, by_size: bool) -> list[Condition]:
    """Check all models of a configuration as they lie here, and whether they go together.

    Args:
        settings: The configuration.
        by_size: As in :func:`inspect`.

    Returns:
        As :func:`inspect`, for each model.
    """
    found = [each for model in named_in(settings) for each in inspect(model, by_size)]
    for section, check in (
        ("asr", lambda: find_whisper(settings.asr)),
        ("classify", lambda: find_classifier(settings.classify)),
    ):
        if any(each.problem for each in found if each.key.startswith(f"{section}.")):
            continue
        try:
            check()
        except SetupError as error:
            at_fault, problem = error.key or f"{section}.model", str(error)
            found = [
                replace(each, problem=problem) if each.key == at_fault else each for each in found
            ]
    return found


def inspect(model: Model, by_size: bool) -> list[Condition]:
    """Check a model as it lies here.

    Args:
        model: The model.
        by_size: Compare sizes only; else every byte of a model from the hub is read.

    Returns:
        Each problem, or one entry that has none.
    """
    try:
        if model.is_folder:
            check_folder(model)
            return [Condition(model.key, model.name, None, None)]
        snapshot = _fetched(model)
    except EarmarkError as error:
        return [Condition(model.key, model.name, None, str(error))]
    problems = [_remedy(model, snapshot, damage) for damage in snapshot.damage(by_size)]
    whole = Condition(model.key, snapshot.repository, snapshot.commit, None)
    return [replace(whole, problem=problem) for problem in problems] or [whole]


def _fetched(model: Model) -> Snapshot:
    snapshot = Snapshot.of(model.repository, model.revision)
    if snapshot is None:
        wanted = f" at revision {model.revision}" if model.revision else ""
        raise SetupError(
            f"{model.key} names {model.repository}, which has not been fetched{wanted}; run "
            "`earmark models fetch` with this configuration where the model hub can be reached "
            "(HF_HOME says where models lie, and must be the same there and here)"
        )
    return snapshot


def _remedy(model: Model, snapshot: Snapshot, damage: str) -> str:
    return (
        f"{model.key}: {damage} of {snapshot.repository} in {snapshot.folder}; run "
        "`earmark models fetch`, which brings just that"
    )


def check_folder(model: Model) -> None:
    """Check a model that is named by a folder.

    Raises:
        SetupError: it is not there (a library would take the path for a name on the hub), or
            a revision is given, which only a model of the hub has.
    """
    for file in model.files:
        if not (Path(model.name) / file).is_file():
            raise SetupError(
                f"{model.key} names the folder {model.name}, which is missing or holds no {file}; "
                "correct the path or put the model there"
            )
    if model.revision is not None:
        raise SetupError(
            f"{model.pin} pins a model of the hub, but {model.key} names the folder {model.name}; "
            f"set {model.pin} to null"
        )
