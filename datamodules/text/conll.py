"""Columns of words and tags: CoNLL-2003, TSV, UNER's iob2, and CoNLL-2012's ``v4_gold_conll``.

A sentence ends at a line without anything but blanks. Lines have a limit (:mod:`datamodules.loading.tables`);
what cannot be read is named with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.loading.tables import cut
from datamodules.text.records import lines_of
from datamodules.text.schemes import Span, spans_of, split_tag

_LONGEST_WORD = 1000  # characters: what is longer is no word of a table


@dataclass(frozen=True)
class Sentence:
    """Words with their entities.

    Attributes:
        words: n texts without blanks.
        spans: entities (first word, word after the last, type); None where nobody has labelled them.
        genre: of the text, empty where the files do not say.
    """

    words: tuple[str, ...]
    spans: tuple[Span, ...] | None
    genre: str = ""


def read_columns(
    path: Path, word: int = 0, tag: int | None = -1, delimiter: str | None = None, comments: bool = False
) -> Iterator[Sentence]:
    """Sentences of a table of words.

    ``-DOCSTART-`` lines are left out. Tags may be of any scheme; an I that opens a chunk opens an entity.

    Args:
        path: of the table.
        word: column of the words, from 0.
        tag: column of the tags, negative ones count from the right; None reads words alone.
        delimiter: between columns; None is any run of blanks.
        comments: lines that begin with ``# `` and have no TAB are left out; a token may be ``#``.

    Raises:
        FileNotFoundError, ValueError: naming the file and the line.
    """
    words: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in lines_of(path):
        if not line.strip():  # also a separator that holds a TAB alone
            if words:
                yield _sentence(path, number, words, tags if tag is not None else None)
            words, tags = [], []
            continue
        if comments and line.startswith("# ") and "\t" not in line:
            continue
        cells = [c.strip() for c in line.split(delimiter)]
        if cells[0] == "-DOCSTART-":
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns, the lines before have {width}")
        needed = max(word, -1 if tag is None else tag) + 1
        if width < max(needed, 1 if tag is None else 2):
            raise ValueError(
                f"{path}, line {number}: {width} column{'s' if width > 1 else ''}, no tag; words without "
                "tags belong in the file of the pool"
            )
        if not cells[word]:
            raise ValueError(f"{path}, line {number}: no word")
        if len(cells[word]) > _LONGEST_WORD:
            raise ValueError(
                f"{path}, line {number}: a word of {len(cells[word]):,} characters, {_LONGEST_WORD:,} at most"
            )
        words.append(cells[word])
        if tag is not None:
            try:
                split_tag(cells[tag])
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            tags.append(cells[tag])
    if words:
        yield _sentence(path, number, words, tags if tag is not None else None)


def _sentence(path: Path, number: int, words: list[str], tags: Sequence[str] | None) -> Sentence:
    return Sentence(tuple(words), None if tags is None else tuple(spans_of(tags)))


_BRACKETS = re.compile(r"(?:\(([A-Z_]+))?\*?(\))?")


def read_gold_conll(path: Path, genre: str = "") -> Iterator[Sentence]:
    """Sentences of a CoNLL-2012 file: word in column 4, entities as brackets in column 11, ``(PERSON*``,
    ``*)``.

    Raises:
        FileNotFoundError, ValueError: naming the file and the line.
    """
    words: list[str] = []
    spans: list[Span] = []
    opened: tuple[int, str] | None = None
    number = 0
    for number, line in lines_of(path):
        if line.startswith("#"):
            continue
        cells = line.split()
        if not cells:
            if opened is not None:
                raise ValueError(f"{path}, line {number}: the sentence ends inside an entity")
            if words:
                yield Sentence(tuple(words), tuple(spans), genre)
            words, spans = [], []
            continue
        if len(cells) < 12:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns, v4_gold_conll has at least 12")
        match = _BRACKETS.fullmatch(cells[10])
        if match is None or (match[1] and opened) or (match[2] and not match[1] and opened is None):
            raise ValueError(f"{path}, line {number}: {cut(cells[10])} is no bracket of an entity here")
        if match[1]:
            opened = (len(words), match[1])
        words.append(cells[3])
        if match[2] and opened is not None:
            spans.append((opened[0], len(words), opened[1]))
            opened = None
    if opened is not None:
        raise ValueError(f"{path}, line {number}: the file ends inside an entity")
    if words:
        yield Sentence(tuple(words), tuple(spans), genre)
