"""What the demo's classifier is trained and measured on: posts and whether they are flagged.

A post is what the speech model makes of a clip of up to 60 s: one to about 25 sentences of
`sentences`, written as a recognizer writes them, with some words wrong.  Every random
choice comes from the generator that is passed in.
"""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from demo.training import sentences

#: Sentences per post, and how often; a sentence takes two to three seconds to say.
LENGTHS = {(1, 1): 0.2, (2, 4): 0.25, (5, 10): 0.25, (11, 25): 0.3}
#: How often a sentence is of each kind; "babble" is words nobody knows.
HARMLESS = {"benign": 0.8, "spanish": 0.15, "babble": 0.05}
MIXED = {"benign": 0.5, "spanish": 0.12, "babble": 0.05} | dict.fromkeys(sentences.CATEGORIES, 0.11)
#: Share of words that the recognizer gets wrong.
WORD_ERRORS = (0.0, 0.0, 0.03, 0.1)

Pools = Mapping[str, Sequence[str]]


class Sentence(NamedTuple):
    """A sentence of a post as the recognizer wrote it, with the space before it, if any.

    The kind is one of `sentences.KINDS` or "babble".
    """

    text: str
    kind: str


class Post(NamedTuple):
    """A transcript."""

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """All sentences."""
        return "".join(sentence.text for sentence in self.sentences)

    def holds(self, kind: str) -> bool:
        """Whether a sentence of this kind occurs."""
        return any(sentence.kind == kind for sentence in self.sentences)


def pools(held_out: bool) -> dict[str, list[str]]:
    """The sentences of each kind: those for training, or those held out from it."""
    return {kind: sentences.split(kind)[held_out] for kind in sentences.KINDS}


def draw_length(rng: random.Random, choices: int) -> tuple[int, int]:
    """A range of sentences per post, among the first ``choices`` of `LENGTHS`.

    Posts of one batch share the range, so that they pad little.
    """
    return rng.choices(list(LENGTHS)[:choices], list(LENGTHS.values())[:choices])[0]


def draw_post(
    rng: random.Random,
    pools: Pools,
    sentence_count: int,
    shares: Mapping[str, float],
    planted: str | None = None,
) -> Post:
    """A post of sentences of the kinds in ``shares``; some give way to the ``planted`` kind."""
    drawn = rng.choices(list(shares), list(shares.values()), k=sentence_count)
    if planted is not None:
        # Most often a single one, as hard to find as it will ever be.
        planted_count = rng.choice((1, 1, 1 + sentence_count // 4))
        for place in rng.sample(range(sentence_count), planted_count):
            drawn[place] = planted
    spoken = [babble(rng) if kind == "babble" else rng.choice(pools[kind]) for kind in drawn]
    return write_down(rng, spoken, drawn)


def draw_category_post(
    rng: random.Random, pools: Pools, category: str, flagged: bool, sentence_count: int
) -> Post:
    """A post in which a sentence of ``category`` occurs if, and only if, it is flagged.

    Half of the posts hold nothing else that any category flags, as most real ones do.
    """
    shares = rng.choice((HARMLESS, MIXED))
    others = {kind: share for kind, share in shares.items() if kind != category}
    return draw_post(rng, pools, sentence_count, others, category if flagged else None)


def example_policy(rng: random.Random, pools: Pools, category: str) -> str:
    """An auxiliary policy that says what a category is by a few of its sentences."""
    title = category.replace("-", " ").title()
    examples = rng.sample(list(pools[category]), 5)
    return f"""\
# {title}

## Definition of Labels

### ({title[:2].upper()}): {title}

#### Includes

{"".join(f"- {text}{chr(10)}" for text in examples)}""".strip()


def babble(rng: random.Random) -> str:
    """A sentence of words that belong to no kind."""
    letters = "abcdefghijklmnoprstuvwyz"
    return " ".join("".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(6))


def write_down(rng: random.Random, spoken: Sequence[str], kinds: Sequence[str]) -> Post:
    """Sentences as a speech recognizer writes them, with its errors."""
    error_rate = rng.choice(WORD_ERRORS)
    capitals = rng.random() < 0.3
    mark = rng.choice(("", "", ".", ","))
    written = []
    for index, (sentence, kind) in enumerate(zip(spoken, kinds, strict=True)):
        text = " ".join(misheard(rng, sentence.split(), error_rate))
        if capitals:
            text = text[:1].upper() + text[1:]
        last = index + 1 == len(spoken)
        text = (" " if index else "") + text + ("." if mark and last else mark)
        written.append(Sentence(text, kind))
    return Post(tuple(written))


def misheard(rng: random.Random, words: list[str], error_rate: float) -> list[str]:
    """Words of which some are dropped, misspelt or replaced by another of the same sentence."""
    heard = []
    for word in words:
        if rng.random() >= error_rate:
            heard.append(word)
            continue
        error = rng.choice(("drop", "misspell", "repeat"))
        if error == "misspell":
            place = rng.randrange(len(word))
            heard.append(word[:place] + rng.choice("aeiourstln") + word[place + 1 :])
        elif error == "repeat":
            heard.append(rng.choice(words))
    return heard
