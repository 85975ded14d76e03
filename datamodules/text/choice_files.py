"""Questions with choices: HellaSwag, PIQA, CommonsenseQA, CrowS-Pairs, JSON lines, CSV, generated."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line
from datamodules.loading.sampling import item_generator
from datamodules.loading.tables import cut
from datamodules.text.records import lines_of, numbered_jsonl, read_lines
from datamodules.text.stream_files import Document, standard_library

_KEY = 19_02
_LINES, _LEAST, _EACH = 8, 20, 25


@dataclass(frozen=True)
class Question:
    """A question and its choices.

    Attributes:
        text: all that stands before a choice.
        choices: at least two.
        gold: which one is right; -1 where nobody says.
        between: question and choice.
    """

    text: str
    choices: tuple[str, ...]
    gold: int
    between: str = " "


def hellaswag(path: Path) -> list[Question]:
    """``{"activity_label", "ctx_a", "ctx_b", "endings", "label"}``; tidied as the usual harness does."""
    needed = {"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list}
    found = []
    for number, record in numbered_jsonl(path, needed):
        context = f"{record['activity_label']}: {record['ctx_a']} {record['ctx_b'].capitalize()}"
        endings = _texts(record["endings"], f"{path}, line {number}, 'endings'")
        gold = _gold(record.get("label"), len(endings), f"{path}, line {number}, 'label'")
        found.append(Question(_tidy(context), tuple(map(_tidy, endings)), gold))
    return found


def _tidy(text: str) -> str:
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def piqa(path: Path) -> list[Question]:
    """``train.jsonl`` with ``{"goal", "sol1", "sol2"}`` and, beside it, ``train-labels.lst``."""
    records = [record for _, record in numbered_jsonl(path, {"goal": str, "sol1": str, "sol2": str})]
    labels = path.with_name(f"{path.stem}-labels.lst")
    golds: list[int] = [-1] * len(records)
    if labels.is_file():
        told = [line.strip() for line in read_lines(labels)]
        while told and not told[-1]:
            told.pop()
        if len(told) != len(records):
            raise ValueError(f"{labels} has {len(told):,} lines, {path} has {len(records):,}")
        golds = [_gold(t, 2, f"{labels}, line {i}") for i, t in enumerate(told, 1)]
    return [
        Question(f"Question: {r['goal']}\nAnswer:", (r["sol1"], r["sol2"]), gold)
        for r, gold in zip(records, golds, strict=True)
    ]


def commonsense(path: Path) -> list[Question]:
    """``{"question": {"stem", "choices": [{"label": "A", "text"}]}, "answerKey": "A"}``."""
    found = []
    for number, record in numbered_jsonl(path, {"question": dict}):
        where = f"{path}, line {number}"
        stem, choices = record["question"].get("stem"), record["question"].get("choices")
        if not isinstance(stem, str) or not isinstance(choices, list):
            raise ValueError(f"{where}: 'question' has no text 'stem' with a list of 'choices'")
        if not all(isinstance(c, dict) and isinstance(c.get("label"), str) for c in choices):
            raise ValueError(f"{where}: a choice has no 'label'")
        texts = _texts([c.get("text") for c in choices], f"{where}, 'choices'")
        names = [c["label"] for c in choices]
        key = record.get("answerKey")
        if key is not None and key not in names:
            raise ValueError(f"{where}: 'answerKey' {cut(str(key))} is none of {', '.join(names)}")
        gold = -1 if key is None else names.index(key)
        found.append(Question(f"Question: {stem.strip()}\nAnswer:", tuple(texts), gold))
    return found


def crows_pairs(path: Path) -> list[Question]:
    """Columns ``sent_more`` and ``sent_less``: pairs that differ in the group they name. The "right" choice
    is the stereotype: an unbiased model is right half of the time."""
    return [
        Question("", (row["sent_more"], row["sent_less"]), 0, "")
        for _, row in _table(path, "sent_more", "sent_less")
    ]


def own_lines(path: Path) -> list[Question]:
    """``{"question", "choices": [...], "answer": 0}``; an answer is a number from 0, or a letter."""
    found = []
    for number, record in numbered_jsonl(path, {"question": str, "choices": list}):
        where = f"{path}, line {number}"
        choices = _texts(record["choices"], f"{where}, 'choices'")
        found.append(
            Question(
                record["question"],
                tuple(choices),
                _gold(record.get("answer"), len(choices), f"{where}, 'answer'"),
            )
        )
    return found


def own_table(path: Path) -> list[Question]:
    """Columns ``question``, ``answer`` and, for the choices, ``A``, ``B``, ... or ``choice_...``, in the
    order in which they stand; a question may leave its last choices empty."""
    found = []
    for number, row in _table(path, "question"):
        where = f"{path}, line {number}"
        columns = [name for name in row if re.fullmatch(r"[A-Za-z]|choice.*", name, re.IGNORECASE)]
        choices = [row[name] for name in columns]
        while choices and not choices[-1].strip():
            choices.pop()
        texts = _texts(choices, f"{where}, columns {', '.join(columns) or 'A, B, ...'}")
        found.append(
            Question(
                row["question"], tuple(texts), _gold(row.get("answer"), len(texts), f"{where}, 'answer'")
            )
        )
    return found


def _table(path: Path, *needed: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.reader(text + "\n" for _, text in lines_of(path))
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in needed if name not in header]:
            raise ValueError(f"{path} has no column {missing[0]!r}, only {', '.join(map(repr, header[:9]))}")
        if len({*header}) < len(header):
            raise ValueError(f"{path} has two columns of one name: {', '.join(map(repr, header[:9]))}")
        count = 0
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, its first line has {len(header)}"
                )
            count += 1
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {one_line(error)}") from None
    if not count:
        raise ValueError(f"{path} has no rows")


def _texts(values: Sequence[Any], where: str) -> list[str]:
    if len(values) < 2 or not all(isinstance(v, str) and v.strip() for v in values):
        raise ValueError(f"{where}: {cut(str(list(values)), 60)} are no two or more texts to choose from")
    return list(values)


def _gold(value: Any, count: int, where: str) -> int:
    """Which choice a label names: a number from 0, as text too, or a letter; -1 for none."""
    if value is None or value == "":
        return -1
    text = str(value).strip()
    gold = -1
    if not isinstance(value, bool | float):
        if re.fullmatch(r"[0-9]{1,3}", text):
            gold = int(text)
        elif re.fullmatch(r"[A-Za-z]", text):
            gold = ord(text.upper()) - ord("A")
    if not 0 <= gold < count:
        raise ValueError(
            f"{where}: {cut(text)} is none of the {count} choices; it is a number from 0 to {count - 1}, or "
            "a letter from A"
        )
    return gold


def next_lines(documents: Sequence[Document], choices: int, key: int) -> list[Question]:
    """Which line comes next in a module of the standard library? The real one among others of the same file.

    Generated: every 25th line of at least 20 characters that has 8 lines before it is asked for, the others
    are drawn by its place. The order of the choices is drawn, too.
    """
    found = []
    for number, document in enumerate(documents):
        lines = document.text.split("\n")
        usable = [i for i, line in enumerate(lines) if len(line.strip()) >= _LEAST]
        every = [*{lines[i].strip(): lines[i] for i in usable}.values()]
        for at in [i for i in usable if i >= _LINES][::_EACH] if len(every) >= choices else ():
            draw = item_generator(_KEY, key, number, at)
            drawn = [every[i] for i in draw.choice(len(every), choices, replace=False)]
            wrong = [line for line in drawn if line.strip() != lines[at].strip()][: choices - 1]
            gold = int(draw.integers(choices))
            shown = (*wrong[:gold], lines[at], *wrong[gold:])
            context = "\n".join(lines[at - _LINES : at]) + "\n"
            found.append(Question(context, shown, gold, ""))
    return found


def of_standard_library(choices: int) -> dict[str, list[Question]]:
    """:func:`next_lines` of each split of the standard library."""
    every = standard_library()
    return {
        split: next_lines([d for d in every if d.split == split], choices, key)
        for key, split in enumerate(("train", "val", "test"))
    }
