"""The configuration as it is read: completed, checked, and overridden by the environment.

Which keys there are, with their types and defaults, :mod:`earmark.settings` says.
"""

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec.structs import replace

from earmark import REPOSITORY, strict_yaml
from earmark.errors import EarmarkError
from earmark.settings import Settings, schema

if TYPE_CHECKING:
    from jsonschema import ValidationError

DEFAULT_FILE = REPOSITORY / "config/config.yaml"

#: Folders of the volume that Earmark writes to (docs/design.md).
_OWN_FOLDERS = {
    "audio",
    "backups",
    "classes",
    "failed",
    "incoming",
    "logs",
    "manifests",
    "processed",
    "reports",
    "state",
    "transcripts",
    "unpacked",
}


def read(path: Path) -> Settings:
    """Read, complete and check one configuration file.

    Args:
        path: A YAML file; keys it leaves out get their defaults.

    Raises:
        EarmarkError: the file is missing, is not YAML, or :func:`resolve` refuses it.
    """
    return resolve(_load(path))


def problems_in(path: Path) -> tuple[list[str], Settings, set[str]]:
    """Everything that is wrong with one configuration file.

    Args:
        path: A YAML file.

    Returns:
        What is wrong, in a sentence each; the settings, with the defaults of sections that are
        wrong; and the names of these.

    Raises:
        EarmarkError: the file is missing or is not YAML.
    """
    from jsonschema import Draft202012Validator  # slow, and only needed here

    config = _with_sections(_load(path))
    told: list[str] = []
    wrong: set[str] = set()
    errors = sorted(Draft202012Validator(schema()).iter_errors(config), key=_unknown_keys_first)
    for error in errors:
        told += _explain_rule(error)
        wrong.update(map(str, list(error.absolute_path)[:1]))
    config = {key: body for key, body in config.items() if key in Settings.__struct_fields__}
    for section in [section for section in config if section not in wrong]:
        try:  # what no schema can say
            _complete({section: config[section]})
        except EarmarkError as refusal:
            told.append(str(refusal))
            wrong.add(section)
    settings = _complete({key: config[key] for key in config.keys() - wrong})
    if not wrong & {"source", "volume"}:
        try:
            _check_source_is_not_volume(settings)
        except EarmarkError as refusal:
            told.append(str(refusal))
            wrong.add("source")
    return told, settings, wrong


def check_files(paths: Iterable[str | Path]) -> None:
    """Check that files say what they seem to say, where somebody else reads them too.

    Args:
        paths: YAML files; Snakemake takes the last one of two equal keys.

    Raises:
        EarmarkError: as :func:`read` does.
    """
    for path in paths:
        _load(Path(path))


def _load(path: Path) -> dict[str, Any]:
    try:
        config = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EarmarkError(f"cannot read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise EarmarkError(f"the config {path} is not valid YAML: {reason}") from error
    if not isinstance(config, dict):
        raise EarmarkError(f"the config {path} must be a mapping of keys; see config/README.md")
    return config


def resolve(config: Mapping[str, Any]) -> Settings:
    """Complete a configuration and check it.

    ``VOLUME_ROOT`` overrides ``volume.root``, and relative paths are taken from the root of the
    checkout, so that a run does not depend on the current folder. (``POSTGRES_*`` never enter the
    configuration: see :mod:`earmark.record.database`.)

    Args:
        config: The mapping as read, or what :func:`msgspec.to_builtins` makes of settings; it is
            not changed.

    Raises:
        EarmarkError: a key is unknown or a value is not allowed.
    """
    settings = _complete(config)
    _check_source_is_not_volume(settings)
    return settings


def _check_source_is_not_volume(settings: Settings) -> None:
    """Refuse to take for loose files what Earmark itself writes.

    Raises:
        EarmarkError: the source's folder is the volume or one of Earmark's own folders there.
    """
    source, root = settings.source, settings.volume.root
    if source.kind != "files" or "\0" in source.directory + root:
        return
    below = os.path.relpath(os.path.realpath(source.directory), os.path.realpath(root))
    first = below.split("/")[0]
    if first == "." or first in _OWN_FOLDERS:
        raise EarmarkError(
            f"the config's 'source.directory' is {source.directory!r}, where Earmark keeps its own "
            "files (volume.root), which would be taken in again; name a folder that holds "
            "recordings only"
        )


def _complete(config: Mapping[str, Any]) -> Settings:
    config = _with_sections(config)
    volume = config.setdefault("volume", {})
    if isinstance(volume, Mapping) and (root := os.environ.get("VOLUME_ROOT")):
        config["volume"] = {**volume, "root": root}
    _check_finite(config, "")
    try:
        settings = msgspec.convert(config, Settings)
    except msgspec.ValidationError as error:
        raise EarmarkError(_explain(config, error)) from error
    source, asr, classify = settings.source, settings.asr, settings.classify
    if source.kind == "ssh" and not source.directory.startswith("/"):
        raise EarmarkError(
            f"the config's 'source.directory' is {source.directory!r}, which is no "
            "absolute path; with source.kind ssh it must be one, of the host"
        )
    return replace(
        settings,
        volume=replace(settings.volume, root=_absolute(settings.volume.root)),
        source=replace(
            source,
            ssh_config=_absolute(source.ssh_config),
            directory=source.directory if source.kind == "ssh" else _absolute(source.directory),
            list=source.list and _absolute(source.list),
        ),
        asr=replace(asr, model=_model(asr.model)),
        classify=replace(
            classify,
            policies=_absolute(classify.policies),
            model=_model(classify.model),
            adapter=classify.adapter and _model(classify.adapter),
        ),
    )


def _with_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose sections are mappings; in YAML one may be left empty."""
    sections = Settings.__struct_fields__
    return {key: {} if body is None and key in sections else body for key, body in config.items()}


def is_folder(model: str) -> bool:
    """Whether a model is named by a folder rather than by its name on the model hub.

    Hub names are ``name`` or ``owner/name``; anything else, and whatever exists in the
    checkout or would lie in an existing folder of it, is a folder.
    """
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        return True
    path = Path(_absolute(model))
    return path.exists() or (model.count("/") == 1 and path.parent.exists())


def _absolute(path: str) -> str:
    return os.path.abspath(REPOSITORY / Path(path).expanduser())  # noqa: PTH100


def _model(name: str) -> str:
    return _absolute(name) if is_folder(name) else name


def _check_finite(value: object, where: str) -> None:
    """Refuse infinity and what is no number: no bound of a setting would."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_finite(inner, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise EarmarkError(f"the config's '{where}' is {value}, which is no finite number")


def _explain(config: Mapping[str, Any], refusal: msgspec.ValidationError) -> str:
    """One sentence about the first thing that is wrong."""
    from jsonschema import Draft202012Validator  # slow, and only needed here

    errors = Draft202012Validator(schema()).iter_errors(config)
    if first := min(errors, key=_unknown_keys_first, default=None):
        return _explain_rule(first)[0]
    # A schema can't tell 1.0 from 1, or say anything of a value that is no number.
    where = re.search(r"\$\.([\w.]+)", str(refusal))
    reason = str(refusal).partition(" - at ")[0]
    return f"the config's '{where[1] if where else ''}' is wrong: {reason}; see config/README.md"


def _unknown_keys_first(error: "ValidationError") -> tuple[int, str]:
    return (0 if error.validator == "additionalProperties" else 1, error.json_path)


def _explain_rule(error: "ValidationError") -> list[str]:
    where = ".".join(str(part) for part in error.absolute_path)
    rules: Any = error.schema
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(rules["properties"])
        prefix = f"{where}." if where else ""
        told = []
        for unknown in sorted(str(key) for key in error.instance if key not in known):
            close = difflib.get_close_matches(unknown, known, n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known: {', '.join(known)}"
            told.append(f"the config has an unknown key '{prefix}{unknown}'; {hint}")
        return told
    expected = error.message.removeprefix(f"{error.instance!r} ")
    unquoted = isinstance(error.instance, (bool, int, float, date))
    is_text = error.validator == "type" and "string" in str(error.validator_value) and unquoted
    hint = "put it in quotes" if is_text else "see config/README.md"
    return [f"the config's '{where}' is {error.instance!r}, which {expected}; {hint}"]
