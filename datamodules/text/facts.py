"""Made dialogues whose answer needs a fact of the first turn, with exactly known information.

The first turn tells three facts in any order, two turns of small talk follow, the last one asks for one of
the facts, and the answer is that fact in the words of its kind. The question tells the kind, ln 3 nats of the
answer, and nothing of the fact; which of ``VALUES`` it is stands in the first turn alone:
I(last turn; answer) = ln 3 and I(history; answer | last turn) = ln 16, exactly.
"""

from __future__ import annotations

import math

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.text.exchanges import Exchange

_KEY = 17_01
KINDS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "city": (
        "amsterdam berlin cairo delhi edinburgh florence geneva havana istanbul jakarta kyoto lisbon madrid "
        "nairobi oslo prague",
        "i live in {}",
        ("where do i live ?", "which city is my home ?"),
        "you live in {} .",
    ),
    "pet": (
        "cat dog parrot rabbit hamster turtle snake lizard pony goldfish ferret canary spider donkey goat "
        "hen",
        "i keep a {}",
        ("what animal do i keep ?", "who waits for me at home ?"),
        "you keep a {} at home .",
    ),
    "work": (
        "baker teacher pilot nurse painter farmer lawyer singer plumber dentist tailor writer miner butcher "
        "sailor judge",
        "i work as a {}",
        ("what do i do for a living ?", "what is my job ?"),
        "your job is that of a {} .",
    ),
}
"""Values, how the first turn says them, questions, answer."""
VALUES = 16
_TALK = (
    ("nice to meet you .", "thanks , the same to you ."),
    ("welcome , how was your day ?", "long , but good ."),
    ("hello , it rains again today .", "yes , and it is cold ."),
    ("good to hear from you .", "i was away for a week ."),
)
FIRST, CONDITIONAL = math.log(len(KINDS)), math.log(VALUES)
"""I(last turn; answer) and I(history; answer | last turn) in nats."""


def _combinations() -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
    """Values of the three facts by split, (N, 3): none stands in two splits."""
    order = item_generator(_KEY, 0).permutation(VALUES ** len(KINDS))
    held = len(order) // 10
    parts = {"train": order[2 * held :], "val": order[:held], "test": order[held : 2 * held]}
    powers = VALUES ** np.arange(len(KINDS))
    return {split: part[:, None] // powers % VALUES for split, part in parts.items()}


def fact_dialogues(split: str, count: int) -> tuple[list[Exchange], list[str]]:
    """Exchanges of a split with four turns, and the word of each answer that the first turn decides."""
    draw = item_generator(_KEY, 1, list(_combinations()).index(split))
    known = _combinations()[split]
    found, answers = [], []
    for number in range(count):
        values = known[number % len(known)] if count <= len(known) else known[draw.integers(len(known))]
        words = {kind: KINDS[kind][0].split()[v] for kind, v in zip(KINDS, values, strict=True)}
        told = [KINDS[kind][1].format(words[kind]) for kind in draw.permutation(list(KINDS))]
        asked = str(draw.choice(list(KINDS)))
        question = str(draw.choice(KINDS[asked][2]))
        talk = _TALK[draw.integers(len(_TALK))]
        turns = (f"{told[0]} , {told[1]} and {told[2]} .", *talk, question)
        found.append(Exchange(turns, KINDS[asked][3].format(words[asked])))
        answers.append(words[asked])
    return found, answers
