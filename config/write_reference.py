"""Writes what tells of the settings from earmark.settings: `make settings`.

config/config.yaml, the tables of config/README.md, and workflow/schemas/config.schema.yaml for
editors.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from earmark import REPOSITORY
from earmark.settings import schema

_CONFIG_HEADER = """\
# Earmark's configuration: every key with its default. config/README.md explains each;
# a file of your own holds only what it changes. Use it with `--configfile FILE`.
"""
_SCHEMA_HEADER = "# Made by `make settings` from src/earmark/settings.py.\n"
_TABLE = re.compile(r"(## `(\w+)`\n(?:[^|#\n].*\n|\n)*)(?:\|.*\n)+")


def written(value: Any) -> str:
    """A value as YAML on one line; a date or a time of day must stay text when it is edited."""
    if isinstance(value, str) and re.fullmatch(r"[\d:-]+", value):
        return json.dumps(value)
    text: str = yaml.safe_dump(value, default_flow_style=True)
    return text.removesuffix("...\n").rstrip("\n")


def defaults() -> str:
    """The text of config/config.yaml."""
    sections = []
    for section, body in schema()["properties"].items():
        keys = (f"  {key}: {written(rules['default'])}\n" for key, rules in _rules(body))
        sections.append(f"\n{section}:\n{''.join(keys)}")
    return _CONFIG_HEADER + "".join(sections)


def with_tables(page: str) -> str:
    """A text of config/README.md with the tables that belong into it."""
    sections = schema()["properties"]

    def table(found: re.Match[str]) -> str:
        rows = (
            f"| `{key}` | `{written(rules['default'])}` | {rules['description']} |\n"
            for key, rules in _rules(sections[found[2]])
        )
        return f"{found[1]}| key | default | meaning |\n|---|---|---|\n{''.join(rows)}"

    return _TABLE.sub(table, page)


def schema_file() -> str:
    """The text of workflow/schemas/config.schema.yaml."""
    text: str = yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=100)
    return _SCHEMA_HEADER + text


def files() -> dict[Path, str]:
    """The three files and what belongs into them."""
    page = REPOSITORY / "config/README.md"
    return {
        REPOSITORY / "config/config.yaml": defaults(),
        page: with_tables(page.read_text(encoding="utf-8")),
        REPOSITORY / "workflow/schemas/config.schema.yaml": schema_file(),
    }


def _rules(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(body["properties"].items())


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
