"""The small JSON object that an instruction-tuned model answers with, as it really writes it.

Models put prose and code fences around it, use single quotes, leave commas behind, say
``True``, stop halfway or change their mind.  What can be read in one way only is read;
anything else is told as unreadable, and never taken for a "no".
"""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import yaml

from earmark import strict_yaml

#: An object without another inside it.
_OBJECT = re.compile(r"\{[^{}]*\}")


class Answer(NamedTuple):
    """A model's answer.

    Attributes:
        flagged: Whether it holds that the policy is met.
        score: How probable it holds that, 0 to 1.
        category: One of those asked about, or None.
    """

    flagged: bool
    score: float
    category: str | None


class UnreadableError(ValueError):
    """An answer can't be read; says why, in a phrase."""


def read_answer(text: str, categories: Collection[str]) -> Answer:
    """Read what a model wrote.

    Args:
        text: Anything.
        categories: Those it was asked about.

    Returns:
        The answer that the text holds, once or repeatedly.

    Raises:
        UnreadableError: the text holds none, several that differ, or one that is cut off,
            nested, incomplete, contradicts itself or has a value of the wrong kind.
    """
    objects = _OBJECT.findall(text)
    rest = _OBJECT.sub("", text)
    if "{" in rest or "}" in rest:
        raise UnreadableError("an object is cut off" if not objects else "objects in each other")
    if not objects:
        raise UnreadableError("there is no JSON object")
    answers = {_answer(_fields(each), categories) for each in objects}
    if len(answers) > 1:
        raise UnreadableError("several objects that differ")
    return answers.pop()


def _fields(text: str) -> dict[str, Any]:
    """The keys and values of one object.

    YAML's flow style is JSON with just the liberties that models take: single quotes or none, a
    comma behind the last value, ``yes`` for ``true`` (YAML 1.1, as PyYAML reads it).  Its tags,
    anchors and aliases are no such liberty, nor is what it reads differently than it is written:
    ``0,9`` is a zero and a key, ``010`` eight.
    """
    try:
        if not _is_json(text):
            events = yaml.parse(text, yaml.SafeLoader)
            if any(getattr(e, "tag", None) or getattr(e, "anchor", None) for e in events):
                raise UnreadableError("the object is not JSON")
        fields: dict[str, Any] = strict_yaml.load(text)
    except UnreadableError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableError(f"the object is not JSON: {_shown(reason)}") from error
    if not all(isinstance(key, str) for key in fields):
        raise UnreadableError("a key is no word")
    return fields


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _answer(fields: dict[str, Any], categories: Collection[str]) -> Answer:
    flagged, score = (_constant(fields.get(key)) for key in ("flagged", "score"))
    if not isinstance(flagged, bool):
        raise UnreadableError(f"flagged is {_shown(flagged)}")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise UnreadableError(f"score is {_shown(score)}")
    if not 0 <= score <= 1:
        raise UnreadableError(f"score is {_shown(score)}, not between 0 and 1")
    if flagged != (score >= 0.5) and score != 0.5:
        raise UnreadableError(f"flagged is {json.dumps(flagged)}, but score is {_shown(score)}")
    return Answer(flagged, float(score), _category(fields.get("category"), categories))


def _constant(value: Any) -> Any:
    """Python's words for JSON's constants."""
    known = {"True": True, "False": False, "None": None}
    return known.get(value, value) if isinstance(value, str) else value


def _category(value: Any, categories: Collection[str]) -> str | None:
    value = _constant(value)
    if value is None:
        return None
    if isinstance(value, str):
        name = re.sub(r"[\s_-]+", "-", value.strip().lower())
        if name in ("", "null", "none"):
            return None
        if name in categories:
            return name
    raise UnreadableError(f"category is {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a person, in no more than a few words."""
    if value is None:
        return "missing"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"
