"""YAML, or JSON, that is refused wherever it would be read differently than people write it.

PyYAML follows YAML 1.1: of a key that is given twice the last one counts, ``010`` is eight and
``1:30`` ninety, ``1e3`` is text and ``2026-11-01`` a date.  A number that is taken without quotes
here is the same one in YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema); ``yes`` and ``no``
are booleans, as people mean them, and nowhere taken for text.
"""

import json
import math
import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def load(text: str) -> Any:
    """Read one document.

    Args:
        text: The document; as in Snakemake it is YAML if it is no JSON.

    Raises:
        yaml.YAMLError: it is neither; a mapping gives a key twice, or something that stands
            without quotes is read as something else. The message names the line.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        return yaml.load(text, _StrictLoader)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise yaml.YAMLError(f"{twice!r} is given twice")
    return mapping


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"{key.value!r} is given twice, in line {lines[key.value]} and in line {line}"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(node, ScalarNode) and node.style is None and (read := _misread(node, value)):
            raise yaml.YAMLError(
                f"{node.value!r} in line {node.start_mark.line + 1} is read as {read}; put it in "
                "quotes if it is text, or write the number with digits and a point alone"
            )
        return value


def _misread(node: ScalarNode, value: object) -> str | None:
    """As what something without quotes is read, if not as what it looks like."""
    looks_like_a_number = _NUMBER.fullmatch(node.value)
    match value:
        case bool() | None:
            return None
        case int() | float():
            has_zeros = re.match(r"[-+]?0[0-9]", node.value)  # octal to one reader or another
            is_finite = isinstance(value, int) or math.isfinite(value)
            return None if looks_like_a_number and is_finite and not has_zeros else str(value)
        case str():
            return "text" if looks_like_a_number else None
        case _:
            return f"a {type(value).__name__}"
