"""The sentences that the demo's voices speak, and the labels that belong to them.

The demo's two tiny models understand this small world and nothing else: about 110
English words in four kinds of sentence (three that a policy forbids, one that none
does) and a few Spanish sentences.  Every fifth sentence of each kind is held out:
no model is trained on it, and all accuracy figures are measured on those alone.
"""

import itertools
import random

SECRETS = ["bank password", "card number", "secret code", "account number", "email password"]
PEOPLE = ["my brother", "my sister", "my teacher", "our friend", "the doctor"]
THINGS = ["dog", "car", "house", "phone", "window"]
PLACES = ["park", "school", "market", "garden", "office"]
TIMES = ["today", "tomorrow", "tonight", "this morning", "after school"]
FOODS = ["bread", "soup", "rice", "apples", "coffee"]
QUALITIES = ["nice", "good", "small", "green", "quiet"]
INSULTS = ["stupid", "ugly", "worthless", "pathetic", "disgusting"]

#: Patterns per kind; each name in braces is replaced by every entry of its list.
PATTERNS: dict[str, list[str]] = {
    "scams": [
        "please send me your {secret} {time}",
        "give me the {secret} right now",
        "i need your {secret} to send the money",
        "you won a free {prize} just send the {secret}",
        "transfer the money to this account {time}",
    ],
    "violent-threats": [
        "i will {attack} you {time}",
        "we will {destroy} your {thing} {time}",
        "you will be sorry when i find your {thing}",
        "i am going to {attack} {person} at the {place}",
    ],
    "harassment": [
        "you are a {insult} and {insult2} person",
        "everyone at the {place} thinks you are {insult}",
        "nobody likes you because you are {insult}",
        "look at your {insult} face you {insult2} loser",
    ],
    "benign": [
        "{person} will be at the {place} {time}",
        "the {place} is very {quality} {time}",
        "please give me the {food} and the {food2}",
        "i need {food} and {food2} from the market",
        "we are going to the {place} with {person}",
        "you can find your {thing} at the {place}",
        "{person} has a {quality} {thing}",
    ],
    "spanish": [
        "mañana vamos al {es_place} con {es_person}",
        "por favor dame {es_food} y {es_drink}",
        "{es_person} tiene {es_thing} muy {es_quality}",
    ],
}

FILLERS: dict[str, list[str]] = {
    "secret": SECRETS,
    "time": TIMES,
    "prize": ["prize", "phone", "car"],
    "attack": ["hurt", "find", "follow"],
    "destroy": ["break", "burn"],
    "thing": THINGS,
    "person": PEOPLE,
    "place": PLACES,
    "insult": INSULTS,
    "insult2": INSULTS,
    "quality": QUALITIES,
    "food": FOODS,
    "food2": FOODS,
    "es_place": ["parque", "mercado", "colegio"],
    "es_person": ["mi hermano", "mi amigo", "la maestra"],
    "es_food": ["el pan", "la sopa", "el arroz"],
    "es_drink": ["el café", "la fruta", "el agua"],
    "es_thing": ["una casa", "un perro", "un coche"],
    "es_quality": ["bonito", "grande", "tranquilo"],
}

KINDS = tuple(PATTERNS)
#: The kinds that a policy of the same name in config/policies flags.
CATEGORIES = ("scams", "violent-threats", "harassment")
#: Kinds that are spoken in English.
ENGLISH = (*CATEGORIES, "benign")


def language(kind: str) -> str:
    """ISO 639-1 code of the language a kind of sentence is spoken in."""
    return "es" if kind == "spanish" else "en"


def sentences(kind: str) -> list[str]:
    """Every sentence of one kind, sorted."""
    found = set()
    for pattern in PATTERNS[kind]:
        names = [name for name in FILLERS if "{" + name + "}" in pattern]
        for values in itertools.product(*(FILLERS[name] for name in names)):
            if len(set(values)) == len(values):
                found.add(pattern.format(**dict(zip(names, values, strict=True))))
    return sorted(found)


def split(kind: str) -> tuple[list[str], list[str]]:
    """One kind's sentences as (training, held out), 4 : 1, the same on every machine."""
    shuffled = sentences(kind)
    random.Random(7).shuffle(shuffled)
    held_out = max(4, len(shuffled) // 5)
    return shuffled[held_out:], shuffled[:held_out]
