"""The configuration: defaults, checks, and what the environment overrides.

The schema in ``workflow/schemas/config.schema.yaml`` is the one place that names keys,
types and defaults.
"""

import difflib
import os
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from earmark import REPOSITORY
from earmark.errors import EarmarkError

SCHEMA_FILE = REPOSITORY / "workflow/schemas/config.schema.yaml"
DEFAULT_FILE = REPOSITORY / "config/config.yaml"

Config = dict[str, Any]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration."""
    loaded: dict[str, Any] = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    return loaded


def read(path: Path) -> Config:
    """Read, complete and check one configuration file.

    Args:
        path: A YAML file; keys it leaves out get the schema's defaults.

    Raises:
        EarmarkError: the file is missing, is not YAML, or :func:`resolve` refuses it.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EarmarkError(f"cannot read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise EarmarkError(f"the config {path} is not valid YAML: {reason}") from error
    if not isinstance(config, dict):
        raise EarmarkError(f"the config {path} must be a mapping of keys; see config/README.md")
    return resolve(config)


def resolve(config: Mapping[str, Any]) -> Config:
    """Complete a configuration and check it.

    Defaults are filled in, ``VOLUME_ROOT`` overrides ``volume.root``, and relative paths are
    taken from the root of the checkout, so that a run does not depend on the current folder.
    (``POSTGRES_*`` never enter the configuration: see :mod:`earmark.record.database`.)

    Args:
        config: The mapping as read; it is not changed.

    Raises:
        EarmarkError: a key is unknown or a value is not what the schema allows.
    """
    complete: Config = deepcopy(dict(config))
    if root := os.environ.get("VOLUME_ROOT"):
        volume = complete.setdefault("volume", {})
        if isinstance(volume, dict):
            volume["root"] = root
    _fill_defaults(complete, schema())
    errors = sorted(Draft202012Validator(schema()).iter_errors(complete), key=_unknown_keys_first)
    if errors:
        raise EarmarkError(_explain(errors[0]))
    shortest, longest = (complete["selection"][key] for key in ("min_seconds", "max_seconds"))
    if longest is not None and longest < shortest:
        raise EarmarkError(
            f"the config's 'selection.max_seconds' is {longest}, which is less than "
            f"'selection.min_seconds', {shortest}; no clip could ever be drawn"
        )
    if complete["source"]["kind"] == "folder":
        complete["source"]["directory"] = str(_absolute(complete["source"]["directory"]))
    elif not complete["source"]["directory"].startswith("/"):
        raise EarmarkError(
            f"the config's 'source.directory' is {complete['source']['directory']!r}, which is no "
            "absolute path; with source.kind ssh it must be one, of the host"
        )
    for section, key in (
        ("volume", "root"),
        ("source", "ssh_config"),
        ("classify", "policies"),
    ):
        complete[section][key] = str(_absolute(complete[section][key]))
    for section, key in (("asr", "model"), ("classify", "model"), ("classify", "adapter")):
        value = complete[section][key]
        if value is not None and is_folder(value):
            complete[section][key] = str(_absolute(value))
    return complete


def is_folder(model: str) -> bool:
    """Whether a model is named by a folder rather than by its name on the model hub.

    Hub names are ``name`` or ``owner/name``; anything else, and whatever exists in the
    checkout or would lie in an existing folder of it, is a folder.
    """
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        return True
    return _absolute(model).exists() or (model.count("/") == 1 and _absolute(model).parent.exists())


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(REPOSITORY / Path(path).expanduser()))  # noqa: PTH100


def _fill_defaults(value: Any, subschema: Mapping[str, Any]) -> None:
    """Set what a mapping lacks to its default, section by section."""
    if not isinstance(value, dict):
        return
    for key, child in subschema.get("properties", {}).items():
        if key not in value and "default" in child:
            value[key] = deepcopy(child["default"])
        if key in value:
            if value[key] is None and child.get("type") == "object":
                value[key] = {}  # a section left empty in YAML
            _fill_defaults(value[key], child)


def _unknown_keys_first(error: ValidationError) -> tuple[int, str]:
    return (0 if error.validator == "additionalProperties" else 1, error.json_path)


def _explain(error: ValidationError) -> str:
    """One sentence about the first thing that is wrong."""
    where = ".".join(str(part) for part in error.absolute_path)
    rules: Any = error.schema
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(rules["properties"])
        unknown = sorted(str(key) for key in error.instance if key not in known)
        name = f"{where}.{unknown[0]}" if where else unknown[0]
        close = difflib.get_close_matches(unknown[0], known, n=1)
        prefix = f"{where}." if where else ""
        hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"the config has an unknown key '{name}'; {hint}"
    expected = error.message.removeprefix(f"{error.instance!r} ")
    return f"the config's '{where}' is {error.instance!r}, which {expected}; see config/README.md"
