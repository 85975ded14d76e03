"""A user's own sentences: tables of columns, JSON lines, and plain lines for the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import json_of, one_line
from datamodules.loading.terminal import say
from datamodules.text.conll import Sentence, read_columns
from datamodules.text.records import lines_of
from datamodules.text.schemes import Span, spans_of

FILE_LAYOUT = "train, dev, test (and pool) as .conll, .tsv or .jsonl (pool also .txt)"
_ENDINGS = (".conll", ".tsv", ".jsonl", ".txt")


def read_files(root: Path, split: str) -> list[Sentence]:
    """A labelled split of a user's folder.

    Raises:
        FileNotFoundError: with the layout.
        ValueError: naming file and line.
    """
    path = _file(root, split, _ENDINGS)
    return list(
        read_jsonl(path) if path.suffix == ".jsonl" else read_columns(path, delimiter=_delimiter(path))
    )


def read_pool(root: Path) -> list[Sentence]:
    """The sentences that nobody has labelled; labels that the file may have are not looked at.

    Raises:
        FileNotFoundError: with the layout.
        ValueError: naming file and line.
    """
    _, found = read_sentences(_file(root, "pool", _ENDINGS))
    return [Sentence(s.words, None, s.genre) for s in found]


def read_sentences(path: Path) -> tuple[list[int], list[Sentence]]:
    """Sentences of any file, labelled or not: a table of one column has words alone; ``.txt`` has a sentence
    a line, its words between blanks. It is said how many lines are empty.

    Returns:
        Row of each sentence in the file, from 0, and the sentences. Empty lines of ``.txt`` and ``.jsonl``
        count as rows; those of a table stand between its sentences, which are counted.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    if path.suffix in (".jsonl", ".txt"):
        lines = list(lines_of(path))
        filled = [(number, line) for number, line in lines if line.strip()]
        rows = [number - 1 for number, _ in filled]
        if path.suffix == ".txt":
            found = [Sentence(tuple(line.split()), None) for _, line in filled]
        else:
            found = [_of_json(line, f"{path}, line {number}") for number, line in filled]
        if found and len(filled) < len(lines):
            say(f"{len(lines) - len(filled):,} of {len(lines):,} lines of {path} are empty and left out")
    elif path.suffix in _ENDINGS:
        first = next((line for _, line in lines_of(path) if line.strip()), "")
        tag = -1 if len(first.split(_delimiter(path))) > 1 else None
        found = list(read_columns(path, tag=tag, delimiter=_delimiter(path)))
        rows = list(range(len(found)))
    else:
        raise ValueError(f"{path}: sentences are in files {', '.join(_ENDINGS)}")
    if not found:
        raise ValueError(f"{path} has no sentence")
    return rows, found


def short_enough(sentences: list[Sentence], what: str, most: int | None) -> list[Sentence]:
    """The sentences of at most so many words; it is said how many are left out."""
    kept = [s for s in sentences if most is None or len(s.words) <= most]
    if len(kept) < len(sentences):
        say(
            f"{len(sentences) - len(kept):,} of {len(sentences):,} {what} sentences have more than "
            f"data.init_args.max_words {most} words and are left out"
        )
    return kept


def known_already(sentences: Sequence[Sentence], labelled: int, evaluated: Sequence[Sentence]) -> list[int]:
    """Sentences of a pool that nobody need be asked; it is said how many.

    A word for word copy of a labelled sentence would cost a label and teach nothing; one of ``dev`` or
    ``test`` would be learned by heart before it is scored.

    Args:
        sentences: the labelled ones, then the pool.
        labelled: how many of them are labelled.
        evaluated: of dev and test.

    Returns:
        Their indices.
    """
    seen = {s.words for s in (*sentences[:labelled], *evaluated)}
    elsewhere, twice = frozenset(seen), 0
    found: list[int] = []
    for index in range(labelled, len(sentences)):
        words = sentences[index].words
        if words in seen:
            found.append(index)
            twice += words not in elsewhere
        seen.add(words)
    if found:
        say(
            f"{len(found):,} of {len(sentences) - labelled:,} pool sentences are not asked: "
            f"{len(found) - twice:,} stand in train, dev or test, {twice:,} stand in the pool before"
        )
    return found


def _delimiter(path: Path) -> str | None:
    return "\t" if path.suffix == ".tsv" else None


def _file(root: Path, split: str, endings: tuple[str, ...]) -> Path:
    found = [root / f"{split}{ending}" for ending in endings if (root / f"{split}{ending}").is_file()]
    if not found:
        raise FileNotFoundError(
            f"no file {root / split}.conll; data.init_args.root is a folder with {FILE_LAYOUT}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{found[0]} and {found[1].name} are both there: which is the {split} set? remove one"
        )
    return found[0]


def read_jsonl(path: Path) -> Iterator[Sentence]:
    """Sentences of JSON lines: ``tokens`` (or ``words``) with ``tags`` (or ``ner_tags``: names, not numbers)
    or ``spans`` ({start, end, label} in words, ``end`` after the last); ``genre`` if there is one. Without
    tags and spans nobody has labelled the sentence.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    for number, line in lines_of(path):
        if line.strip():
            yield _of_json(line, f"{path}, line {number}")


def _of_json(line: str, where: str) -> Sentence:
    record = json_record(line, where)
    words = record.get("tokens", record.get("words"))
    if not isinstance(words, list) or not words or not all(isinstance(w, str) and w.strip() for w in words):
        raise ValueError(f"{where}: tokens must be a list of texts, at least one, none empty")
    genre = record.get("genre", "")
    if not isinstance(genre, str):
        raise ValueError(f"{where}: genre must be a text")
    spans = _spans(record, len(words), where)
    return Sentence(tuple(w.strip() for w in words), spans, genre)


def json_record(line: str, where: str) -> dict[str, Any]:
    """A line as a JSON object.

    Raises:
        ValueError: for anything else.
    """
    try:
        record = json_of(line.encode())
    except (ValueError, UnicodeEncodeError) as error:
        raise ValueError(f"{where}: no JSON ({one_line(error)})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: no JSON object")
    return record


def _spans(record: dict[str, Any], length: int, where: str) -> tuple[Span, ...] | None:
    tags = record.get("tags", record.get("ner_tags"))
    if tags is not None:
        if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
            raise ValueError(f"{where}: tags must be a list of texts like B-PER")
        if len(tags) != length:
            raise ValueError(f"{where}: {len(tags)} tags of {length} tokens")
        try:
            return tuple(spans_of(tags))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    given = record.get("spans")
    if given is None:
        return None
    if not isinstance(given, list):
        raise ValueError(f"{where}: spans must be a list")
    found: list[Span] = []
    for span in given:
        parts = [span.get(k) for k in ("start", "end", "label")] if isinstance(span, dict) else [None]
        if (
            len(parts) != 3
            or type(parts[0]) is not int
            or type(parts[1]) is not int
            or not _is_type(parts[2])
        ):
            raise ValueError(f"{where}: a span has start and end, whole numbers of words, and a label")
        found.append((parts[0], parts[1], str(parts[2])))
    found.sort()
    ends = [0, *(end for _, end, _ in found)]
    if any(
        start < before or start >= end or end > length
        for (start, end, _), before in zip(found, ends, strict=False)
    ):
        raise ValueError(f"{where}: spans overlap, are empty or reach over the {length} tokens")
    return tuple(found)


def _is_type(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and not any(c.isspace() for c in name)
