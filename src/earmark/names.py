"""Names that stand for settings, and never for two different ones.

``asr.name`` and ``classify.policy`` are parts of paths; results under one name must be
comparable, so the first use of a name records what it stands for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earmark.errors import EarmarkError
from earmark.files import whole


def bind(record: Path, key: str, name: str, facts: Mapping[str, Any]) -> None:
    """Record what a name stands for, or check that it still stands for the same.

    Args:
        record: The JSON file that remembers it.
        key: The configuration's key that gives the name, for the message.
        name: The name.
        facts: All that the results depend on, as JSON can hold it.

    Raises:
        EarmarkError: the name stood for something else before, or its record is damaged.
    """
    if not record.exists():
        with whole(record) as partial:
            partial.write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
        return
    try:
        known = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise EarmarkError(
            f"{record}, which says what {key} '{name}' stands for, is damaged ({error}); "
            f"restore it, or change {key}"
        ) from error
    changed = sorted(
        fact for fact in known.keys() | facts.keys() if known.get(fact) != facts.get(fact)
    )
    if changed:
        raise EarmarkError(
            f"{key} '{name}' was used before with another {', '.join(changed)} (see {record}); "
            f"choose a new {key} for the new settings, or take the change back"
        )
