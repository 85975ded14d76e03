"""Sentences from templates with slots for names: a set for tests and first looks, generated, not real.

Names come from gazetteers whose entries are of uneven frequency (Zipf), so that a random sample keeps asking
for the frequent ones while the rare ones, and the templates that hold them, stay unseen. Some words are both a
name and an ordinary word ("May", "Reading"), so that context decides.
"""

from __future__ import annotations

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.text.conll import Sentence

_STREAM = 7301
_SYLLABLES = [
    "ba",
    "be",
    "bo",
    "da",
    "de",
    "do",
    "ka",
    "ke",
    "ko",
    "la",
    "le",
    "lo",
    "ma",
    "me",
    "mo",
    "na",
    "ne",
    "no",
    "ra",
    "re",
    "ro",
    "sa",
    "se",
    "so",
    "ta",
    "te",
    "to",
    "va",
    "ve",
    "vo",
]
_FIRST = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ida",
    "Jonas",
    "Kate",
    "Leo",
    "May",
    "Nora",
    "Oskar",
    "Paula",
    "Rose",
    "Tom",
    "Vera",
    "Will",
]
_ENDS = {
    "PER": ("son", "berg", "ini", "ova"),
    "LOC": ("ville", "burg", "stad", "ia"),
    "ORG": (" Ltd", " Group", " Bank", " Works"),
}
_FRAGMENTS = ("yesterday", "last week", "in the end", "after a long debate", "as expected", "on Monday")
_TEMPLATES = (
    (10, "travel", "{PER} went to {LOC} {f} ."),
    (8, "business", "{ORG} opened an office in {LOC} ."),
    (8, "business", "{PER} said that {ORG} would not sell ."),
    (6, "travel", "The mayor of {LOC} met {PER} and {PER} {f} ."),
    (4, "business", "Shares of {ORG} fell {f} , traders said ."),
    (3, "people", "{PER} , who grew up near {LOC} , now works for {ORG} ."),
    (2, "people", "Reading is what {PER} likes best ."),
    (1, "business", "Neither {ORG} nor {ORG} replied to letters from {LOC} ."),
    (16, "small talk", "It rained all day and nobody came {f} ."),
    (12, "small talk", "They may work if the will is there ."),
    (10, "business", "The price of bread rose again {f} ."),
    (8, "small talk", "Nothing else was said about the matter ."),
    (6, "people", "A rose is what she bought {f} ."),
)
SIZES = {"train": 1500, "dev": 300, "test": 300}
TYPES = ("LOC", "ORG", "PER")


def grammar_sentences(split: str, seed: int = 0) -> list[Sentence]:
    """Sentences of a split, a function of (split, seed)."""
    names = {kind: _gazetteer(kind) for kind in TYPES}
    random = item_generator(_STREAM, seed, list(SIZES).index(split))
    weights = np.array([w for w, *_ in _TEMPLATES], dtype=float)
    chosen = random.choice(len(_TEMPLATES), SIZES[split], p=weights / weights.sum())
    return [_filled(*_TEMPLATES[i][1:], names, random) for i in chosen]


def _gazetteer(kind: str) -> list[str]:
    """400 names of a type, the same in all splits and for all seeds."""
    random = item_generator(_STREAM, 99, TYPES.index(kind))
    found: dict[str, None] = {}
    while len(found) < 400:
        stem = "".join(random.choice(_SYLLABLES, random.integers(2, 4))).capitalize()
        name = stem + str(random.choice(_ENDS[kind]))
        found[f"{random.choice(_FIRST)} {name}" if kind == "PER" and random.random() < 0.7 else name] = None
    return list(found)


def _filled(topic: str, template: str, names: dict[str, list[str]], random: np.random.Generator) -> Sentence:
    words: list[str] = []
    spans = []
    for piece in template.split():
        if piece == "{f}":
            words += str(random.choice(_FRAGMENTS)).split()
        elif piece.startswith("{"):
            kind = piece.strip("{}")
            rank = min(int(random.zipf(1.4)) - 1, 399) if random.random() < 0.7 else int(random.integers(400))
            name = names[kind][rank].split()
            spans.append((len(words), len(words) + len(name), kind))
            words += name
        else:
            words.append(piece)
    return Sentence(tuple(words), tuple(spans), topic)
