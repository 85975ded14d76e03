"""Files of pairs: chitchat-dataset's, PersonaChat as ParlAI and the hub have it, JSON lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import check_claim, json_of, one_line
from datamodules.loading.terminal import say
from datamodules.text.exchanges import Exchange
from datamodules.text.records import lines_of, numbered_jsonl

_PERSONA = re.compile(r"(?:your|partner's) persona: ?")


def asked(given: str | Sequence[str]) -> list[Exchange]:
    """What a prediction answers: an utterance, the utterances of one history, or a file of them.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged, and for nothing to answer.
    """
    if isinstance(given, str) and given.endswith((".txt", ".jsonl")):
        path = Path(given)
        if path.suffix == ".jsonl":
            found = read_pairs(path, replies=False)
        else:
            found = [Exchange((t.strip(),), row=n) for n, t in lines_of(path) if t.strip()]
        if not found:
            raise ValueError(f"{path} has no line to answer")
        if blank := sum(not text.strip() for _, text in lines_of(path)):
            say(f"{path}: {blank:,} lines without a word are passed over; `row` is the line of the others")
        return found
    if isinstance(given, str) and os.path.isfile(given):
        raise ValueError(
            f"data.init_args.predict: {given} is a file; read are .txt with a text a line and .jsonl"
        )
    utterances = tuple(text.strip() for text in ([given] if isinstance(given, str) else given))
    if not utterances or not all(utterances):
        raise ValueError("data.init_args.predict has an utterance without a word")
    return [Exchange(utterances)]


def read_chitchat(path: Path) -> list[list[str]]:
    """Turns of each conversation of ``chitchat_dataset/dataset.json``; a turn's messages are joined by
    spaces.

    Empty turns are left out. The package is not imported.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or of another layout.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; install the extra again: pip install 'lightning-zoo[text]'")
    check_claim(path, "the file", path.stat().st_size)
    try:
        content = json_of(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no object of conversations")
    found = []
    for name, conversation in content.items():
        try:
            turns = [" ".join(message["text"] for message in turn) for turn in conversation["messages"]]
        except (TypeError, KeyError, AttributeError):
            raise ValueError(
                f"{path}, conversation {one_line(name, 40)}: its messages are no lists of turns with texts"
            ) from None
        found.append([text for t in turns if (text := " ".join(t.split()))])
    return found


def read_parlai(path: Path) -> list[Exchange]:
    """Exchanges of a file of ParlAI's text.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or has a line of another form.
    """
    found: list[Exchange] = []
    persona: list[str] = []
    turns: list[str] = []
    for number, line in lines_of(path):
        if not line.strip():
            continue
        count, _, text = line.partition(" ")
        if not count.isascii() or not count.isdigit():
            raise ValueError(
                f"{path}, line {number}: begins with no number; expected is 'N text<TAB>response'"
            )
        if int(count[:9]) == 1:
            persona, turns = [], []
        if match := _PERSONA.match(text):
            persona.append(text[match.end() :])
            continue
        said, *rest = text.split("\t")
        if not rest or not said.strip() or not rest[0].strip():
            raise ValueError(f"{path}, line {number}: has no response after a tab")
        reply = rest[0]
        candidates = tuple(rest[2].split("|")) if len(rest) > 2 and rest[2] else ()
        if candidates and reply not in candidates:
            raise ValueError(f"{path}, line {number}: the response is not among its candidates")
        turns.append(said)
        found.append(Exchange(tuple(turns), reply, tuple(persona), candidates))
        turns.append(reply)
    if not found:
        raise ValueError(f"{path} holds no dialogue")
    return found


def read_pairs(path: Path, replies: bool = True) -> list[Exchange]:
    """Exchanges of JSON lines with ``source``, ``target``, and ``history`` and ``persona`` at will.

    Args:
        path: of the file.
        replies: all have a ``target``, which may be empty; else none needs one, and a ``source`` has a word.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged, or asks nothing.
    """
    found = []
    needed = {"source": str, **({"target": str} if replies else {})}
    for number, record in numbered_jsonl(path, needed):
        before, persona = (record.get(key) or [] for key in ("history", "persona"))
        for key, value in (("history", before), ("persona", persona)):
            if not isinstance(value, list) or not all(
                isinstance(text, str) and text.strip() for text in value
            ):
                raise ValueError(f"{path}, line {number}: {key!r} must be a list of texts")
        target = record.get("target", "")
        if not isinstance(target, str) or not (replies or record["source"].strip()):
            raise ValueError(f"{path}, line {number}: 'source' must have a word, and 'target' be a text")
        row = 0 if replies else number
        found.append(Exchange((*before, record["source"]), target, tuple(persona), row=row))
    return found


def read_splits(folder: Path) -> list[list[Exchange]]:
    """``train.jsonl``, ``val.jsonl`` and, where it is there, ``test.jsonl``; see :func:`read_pairs`.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged.
    """
    paths = [folder / f"{split}.jsonl" for split in ("train", "val", "test")]
    if missing := [p for p in paths[:2] if not p.is_file()]:
        raise FileNotFoundError(
            f"no {missing[0]}; expected are train.jsonl and val.jsonl with lines "
            '{"source": "...", "target": "..."}, or set data.init_args.root'
        )
    return [read_pairs(p) if p.is_file() else [] for p in paths]


def of_hub(record: dict[str, Any], where: str) -> Iterator[Exchange]:
    """Exchanges of a record of either PersonaChat of the hub; the gold reply is the last candidate.

    Raises:
        ValueError: for a record of another layout.
    """
    try:
        persona = tuple(record["personality"])
        for turn in record.get("utterances") or [record]:
            candidates, history = tuple(turn["candidates"]), tuple(turn["history"])
            if not all(isinstance(t, str) for t in (*candidates, *history, *persona)):
                raise TypeError
            yield Exchange(history, candidates[-1], persona, candidates)
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"{where}: expected are personality, candidates and history, or utterances of those"
        ) from None
