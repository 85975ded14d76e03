"""Tag schemes of named entities: IOB1, IOB2, IOBES, BILOU, and the spans that tags mean.

A span is (first word, word after the last, type). :func:`spans_of` reads any scheme as the CoNLL scorer
(conlleval) does, :func:`strict_spans` only what the scheme allows, :func:`tags_of` writes a scheme.

IOBES and BILOU are two names of the same marks: E is L, S is U. IOB1 writes B only between touching entities
of one type, IOB2 at the beginning of each.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

Span = tuple[int, int, str]
Scheme = Literal["iob1", "iob2", "iobes", "bilou"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
_IOBES_OF = {"L": "E", "U": "S"}
_BILOU_OF = {"E": "L", "S": "U"}
_TAG = re.compile(r"([BIESLU])-(\S+)", re.DOTALL)
_MARKS = {"iob1": "BI", "iob2": "BI", "iobes": "BIES", "bilou": "BILU"}


def split_tag(tag: str) -> tuple[str, str]:
    """(mark in the letters of IOBES, type) of a tag; ``O`` has no type.

    Raises:
        ValueError: for a text that is no tag of any scheme.
    """
    if tag == "O":
        return "O", ""
    match = _TAG.fullmatch(tag)
    if match is None:
        shown = tag if len(tag) <= 40 else tag[:37] + "..."
        raise ValueError(f"{shown!r} is no tag of {', '.join(SCHEMES)}: O, or a letter, a dash and a type")
    return _IOBES_OF.get(match[1], match[1]), match[2]


def tag_names(types: Sequence[str], scheme: str) -> list[str]:
    """All tags of a scheme: ``O``, then the marks of each type in turn."""
    return ["O", *(f"{mark}-{kind}" for kind in types for mark in _MARKS[scheme])]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Entities of a sentence, as conlleval and seqeval's default mode read them.

    A new entity begins where a mark is B or S, where the tag before is O, E or S, and where the type changes:
    an I that begins a chunk opens an entity.
    """
    found: list[Span] = []
    start, before, kind_before = 0, "O", ""
    for i, tag in enumerate((*tags, "O")):
        mark, kind = split_tag(tag)
        if before != "O" and (mark in "BSO" or before in "ES" or kind != kind_before):
            found.append((start, i, kind_before))
            before = "O"
        if before == "O":
            start = i
        before, kind_before = mark, kind
    return found


def strict_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Entities that the scheme allows; what opens or ends otherwise is none (seqeval's strict mode).

    Raises:
        ValueError: for ``iob1``, of which every sequence is allowed.
    """
    if scheme == "iob1":
        raise ValueError("strict reading is defined for iob2, iobes and bilou")
    closing = scheme != "iob2"
    parts = [split_tag(tag) for tag in tags]
    found: list[Span] = []
    i = 0
    while i < len(parts):
        mark, kind = parts[i]
        i += 1
        if mark == "S" and closing:
            found.append((i - 1, i, kind))
        if mark != "B":
            continue
        start = i - 1
        last = mark
        while (
            i < len(parts) and last in "BI" and parts[i][1] == kind and parts[i][0] in ("IE" * closing or "I")
        ):
            last = parts[i][0]
            i += 1
        if not closing or last == "E":
            found.append((start, i, kind))
    return found


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Tags of a sentence of ``length`` words.

    Raises:
        ValueError: for spans that overlap, are empty or reach over the end.
    """
    tags = ["O"] * length
    end, kind_before = -1, ""
    for start, stop, kind in sorted(spans):
        if not max(end, 0) <= start < stop <= length:
            raise ValueError(
                f"the span {start}:{stop} of {length} words overlaps another, or has no words in it"
            )
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        if scheme != "iob1" or (start == end and kind == kind_before):
            tags[start] = f"B-{kind}"
        if scheme in ("iobes", "bilou"):
            tags[stop - 1] = f"E-{kind}" if stop - start > 1 else f"S-{kind}"
        if scheme == "bilou":
            tags[start:stop] = [f"{_BILOU_OF.get(t[0], t[0])}{t[1:]}" for t in tags[start:stop]]
        end, kind_before = stop, kind
    return tags


def convert(tags: Sequence[str], scheme: str) -> list[str]:
    """A sentence's tags in another scheme; its spans are the same."""
    return tags_of(spans_of(tags), len(tags), scheme)


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that a file is written in: by the letters, then by an I that opens an entity (IOB1)."""
    letters: set[str] = set()
    opens = False
    for tags in sentences:
        before = "O"
        for tag in tags:
            letters.add(tag[:1])
            opens |= tag[:1] == "I" and (before == "O" or before[1:] != tag[1:])
            before = tag
    if letters & {"L", "U"}:
        return "bilou"
    if letters & {"E", "S"}:
        return "iobes"
    return "iob1" if opens else "iob2"
