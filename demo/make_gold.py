"""Make the demo's gold set and reference texts again: `python -m demo.make_gold`.

The gold set holds 300 texts of sentences that the classifier was never trained on, with the
categories that they were made of. The references are what is said in the demo's clips, by
demo/expected.json; `make demo` has them transcribed.
"""

import json
import random
from pathlib import Path

from demo.training import sentences
from demo.training.classifier_data import HARMLESS, MIXED, draw_post, pools

HERE = Path(__file__).resolve().parent
SEED = 20261128
TEXTS = 300
#: Sentences in a text.
LENGTHS = (1, 8)


def gold() -> list[dict[str, object]]:
    """The gold set's rows: of five texts one has each category planted, and one is Spanish."""
    rng, known = random.Random(SEED), pools(held_out=True)
    kinds: list[tuple[dict[str, float], str | None]]
    kinds = [(MIXED, category) for category in sentences.CATEGORIES]
    kinds += [(HARMLESS, None), ({"spanish": 1.0}, None)]
    rows: list[dict[str, object]] = []
    for number in range(TEXTS):
        shares, planted = kinds[number % len(kinds)]
        post = draw_post(rng, known, rng.randint(*LENGTHS), shares, planted)
        categories = [each for each in sentences.CATEGORIES if post.holds(each)]
        spoken = {sentence.kind for sentence in post.sentences}
        language = "es" if spoken <= {"spanish", "babble"} and "spanish" in spoken else "en"
        rows.append(
            {
                "id": f"demo-{number:03d}",
                "text": post.text,
                "categories": categories,
                "language": language,
                "labelled_by": "demo/make_gold.py",
            }
        )
    return rows


def references() -> list[dict[str, object]]:
    """What is said in the clips of the demo's archives."""
    expected = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
    return [
        {
            "clip": {"archive": archive, "ordinal": member["ordinal"]},
            "text": member["text"],
            "language": member["language"],
        }
        for archive, told in expected["archives"].items()
        for member in told["members"]
        if member["status"] == "ok" and member["language"] and member["duplicate_of"] is None
    ]


def main() -> None:
    """Write both files."""
    for name, rows in (("gold", gold()), ("references", references())):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
