"""Sentences from templates with slots for names: a set for tests and first looks, generated, not real.

Names come from gazetteers whose entries are of uneven frequency (Zipf), so that a random sample keeps asking
for the frequent ones while rare ones, and the templates that hold them, stay unseen. Endings tell a type half
of the time only, some templates take any type, and some words are both a name and an ordinary word ("May",
"Reading").
"""

from __future__ import annotations

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.text.conll import Sentence

_STREAM = 7301
_NAMES = 300
_SYLLABLES = (
    "ba be bo da de do ga go ka ke ko la le lo ma me mo na ne no pa pe ra re ro sa se so ta te to va ve vo"
)
_FIRST = (
    "Anna Ben Clara David Emma Felix Grace Hugo Ida Jonas Kate Leo May Nora Oskar Paula Rose Tom Vera Will"
)
_ENDS = {"PER": "son berg ini ova", "LOC": "ville burg stad ia", "ORG": "tec corp line ex"}
_OTHER_ENDS = "n r l s d t"
_SECOND = {"PER": _FIRST, "LOC": "North South East Port", "ORG": "Royal First United Reading"}
_FRAGMENTS = (
    "yesterday",
    "last week",
    "in the end",
    "after a long debate",
    "as expected",
    "on Monday",
    "in May",
)
_TEMPLATES = (
    (10, "travel", "{PER} went to {LOC} {f} ."),
    (8, "business", "{ORG} opened an office in {LOC} ."),
    (8, "business", "{PER} said that {ORG} would not sell ."),
    (6, "people", "The mayor of {LOC} met {PER} and {PER} {f} ."),
    (6, "sport", "{ANY} beat {ANY} {f} ."),
    (5, "sport", "Nobody had heard of {ANY} before {ANY} lost {f} ."),
    (4, "business", "Shares of {ORG} fell {f} , traders said ."),
    (4, "sport", "{ANY} said nothing about {ANY} ."),
    (3, "people", "{PER} , who grew up near {LOC} , now works for {ORG} ."),
    (2, "people", "Reading is what {PER} likes best ."),
    (1, "business", "Neither {ORG} nor {ORG} replied to letters from {LOC} ."),
    (1, "travel", "From {LOC} by way of {LOC} and {LOC} it is a day to {LOC} ."),
    (16, "small talk", "It rained all day and nobody came {f} ."),
    (12, "small talk", "They may work if the will is there ."),
    (10, "business", "The price of bread rose again {f} ."),
    (8, "small talk", "Nothing else was said about the matter ."),
    (6, "small talk", "A rose is what she bought {f} ."),
)
SIZES = {"train": 1500, "dev": 300, "test": 300}
TYPES = ("LOC", "ORG", "PER")


def grammar_sentences(split: str, seed: int = 0) -> list[Sentence]:
    """Sentences of a split, a function of (split, seed)."""
    names = {kind: _gazetteer(kind) for kind in TYPES}
    random = item_generator(_STREAM, seed, list(SIZES).index(split))
    weights = np.array([weight for weight, *_ in _TEMPLATES], dtype=float)
    chosen = random.choice(len(_TEMPLATES), SIZES[split], p=weights / weights.sum())
    return [_filled(*_TEMPLATES[i][1:], names, random) for i in chosen]


def _gazetteer(kind: str) -> list[str]:
    """Names of a type, frequent ones first, the same in all splits and for all seeds."""
    random = item_generator(_STREAM, 99, TYPES.index(kind))
    syllables = _SYLLABLES.split()
    found: dict[str, None] = {}
    while len(found) < _NAMES:
        ends = _ENDS[kind] if random.random() < 0.5 else _OTHER_ENDS
        stem = "".join(random.choice(syllables, random.integers(2, 4))).capitalize()
        name = stem + str(random.choice(ends.split()))
        second = str(random.choice(_SECOND[kind].split()))
        found[f"{second} {name}" if random.random() < 0.4 else name] = None
    return list(found)


def _filled(topic: str, template: str, names: dict[str, list[str]], random: np.random.Generator) -> Sentence:
    words: list[str] = []
    spans = []
    for piece in template.split():
        if piece == "{f}":
            words += str(random.choice(_FRAGMENTS)).split()
        elif piece.startswith("{"):
            kind = piece.strip("{}")
            kind = str(random.choice(TYPES)) if kind == "ANY" else kind
            frequent = random.random() < 0.6
            rank = min(int(random.zipf(1.4)) - 1, _NAMES - 1) if frequent else int(random.integers(_NAMES))
            name = names[kind][rank].split()
            spans.append((len(words), len(words) + len(name), kind))
            words += name
        else:
            words.append(piece)
    return Sentence(tuple(words), tuple(spans), topic)
