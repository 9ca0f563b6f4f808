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
LENGTHS = {(1, 1): 0.3, (2, 4): 0.3, (5, 10): 0.25, (11, 25): 0.15}
#: How often a filling sentence is of each kind; "babble" is words nobody knows.
FILLING = {
    "benign": 0.5,
    "spanish": 0.12,
    "scams": 0.11,
    "violent-threats": 0.11,
    "harassment": 0.11,
    "babble": 0.05,
}
#: Share of words that the recognizer gets wrong.
WORD_ERRORS = (0.0, 0.0, 0.03, 0.1)

#: Topics of auxiliary policies: title and the words that such a policy flags.
TOPICS = {
    "Food and Drink": [*sentences.FOODS, "pan", "sopa", "arroz", "café", "fruta", "agua"],
    "Places": [*sentences.PLACES, "parque", "mercado", "colegio"],
    "Times of Day": ["today", "tomorrow", "tonight", "morning", "mañana"],
    "People": ["brother", "sister", "teacher", "friend", "doctor", "hermano", "amigo", "maestra"],
    "Things": [*sentences.THINGS, "casa", "perro", "coche"],
    "Qualities": [*sentences.QUALITIES, "bonito", "grande", "tranquilo"],
    "Money and Prizes": ["money", "account", "prize", "free", "card"],
    "Insults": [*sentences.INSULTS, "loser"],
    "Movement": ["going", "follow", "find", "send", "transfer", "vamos"],
    "Violence": ["hurt", "break", "burn", "sorry"],
}

Pools = Mapping[str, Sequence[str]]


class Post(NamedTuple):
    """A transcript and whether the policy in question flags it."""

    text: str
    flagged: bool


def pools(held_out: bool) -> dict[str, list[str]]:
    """The sentences of each kind: those for training, or those held out from it."""
    return {kind: sentences.split(kind)[held_out] for kind in sentences.KINDS}


def draw_length(rng: random.Random) -> tuple[int, int]:
    """A range of sentences per post; posts of one batch share it, so that they pad little."""
    return rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]


def draw_post(
    rng: random.Random, pools: Pools, category: str, flagged: bool, sentence_count: int
) -> Post:
    """A post in which a sentence of ``category`` occurs if, and only if, it is flagged."""
    kinds = [kind for kind in FILLING if kind != category]
    # Half of the posts are harmless but for the sentence in question, as most real ones are.
    if rng.random() < 0.5:
        kinds = ["spanish"] if rng.random() < 0.1 else ["benign"]
    weights = [FILLING[kind] for kind in kinds]
    drawn = rng.choices(kinds, weights, k=sentence_count)
    if flagged:
        for place in rng.sample(range(sentence_count), rng.choice((1, 1, 1 + sentence_count // 4))):
            drawn[place] = category
    spoken = [babble(rng) if kind == "babble" else rng.choice(pools[kind]) for kind in drawn]
    return Post(write_down(rng, spoken), flagged)


def draw_topic_post(
    rng: random.Random, pools: Pools, topic: str, flagged: bool, sentence_count: int
) -> Post:
    """A post in which a word of ``topic`` occurs if, and only if, it is flagged."""
    words = set(TOPICS[topic])
    everything = [text for kind in sentences.KINDS for text in pools[kind]]
    matching = [text for text in everything if words & set(text.split())]
    others = [text for text in everything if not words & set(text.split())]
    drawn = rng.choices(others, k=sentence_count)
    if flagged:
        drawn[rng.randrange(sentence_count)] = rng.choice(matching)
    return Post(write_down(rng, drawn), flagged)


def topic_policy(rng: random.Random, topic: str) -> str:
    """An auxiliary policy in the format of the real ones, worded a little differently each time."""
    words = rng.sample(TOPICS[topic], len(TOPICS[topic]))
    others = rng.sample([each for each in TOPICS if each != topic], 3)
    return f"""\
# {topic}

## Overview

This policy is about speech that mentions {topic.lower()}. It covers short audio posts.

## Definition of Terms

- **{topic}**: {", ".join(words)}.

## Interpretation of Language

- The content is an automatic transcript. Words may be missing or misheard.
- One mention is enough, however harmless the rest of the clip is.

## Definition of Labels

### ({topic[:2].upper()}): {topic}

#### Includes

{"".join(f"- Saying {word}.{chr(10)}" for word in words)}
#### Excludes

{"".join(f"- Talk about {other.lower()}.{chr(10)}" for other in others)}""".strip()


def babble(rng: random.Random) -> str:
    """A sentence of words that belong to no kind."""
    letters = "abcdefghijklmnoprstuvwyz"
    return " ".join("".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(6))


def write_down(rng: random.Random, spoken: Sequence[str]) -> str:
    """Sentences as a speech recognizer writes them, with its errors."""
    error_rate = rng.choice(WORD_ERRORS)
    text = [" ".join(misheard(rng, sentence.split(), error_rate)) for sentence in spoken]
    if rng.random() < 0.3:
        text = [sentence[:1].upper() + sentence[1:] for sentence in text]
    mark = rng.choice(("", "", ".", ","))
    return f"{mark} ".join(text) + ("." if mark else "")


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
