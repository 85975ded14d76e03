"""Wizard of Wikipedia (Dinan et al., ICLR 2019): its JSON files, of which the turns are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line, read_json
from datamodules.text.exchanges import Exchange

FILES = {
    "train": "train.json",
    "val": "valid_{topics}_split.json",
    "test": "test_{topics}_split.json",
}
LEAST_HISTORY = 2


def read_wizard(path: Path) -> list[Exchange]:
    """Every turn of the wizard that has two or more turns before it, with all of these.

    The file is a list of dialogues ``{"dialog": [{"speaker": "0_Wizard" | "1_Apprentice", "text": ...}]}``;
    topics, personas and passages of knowledge are not read. Turns without a word are left out.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged or of another layout, in one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({one_line(error)})") from None
    if not isinstance(content, list):
        raise ValueError(f"{path} is no list of dialogues, as Wizard of Wikipedia has it")
    found: list[Exchange] = []
    for number, dialogue in enumerate(content):
        found += _of_dialogue(dialogue, f"{path}, dialogue {number}")
    if not found:
        raise ValueError(f"{path}: no wizard answers to two or more turns")
    return found


def _of_dialogue(dialogue: Any, where: str) -> list[Exchange]:
    turns = dialogue.get("dialog") if isinstance(dialogue, dict) else None
    if not isinstance(turns, list):
        raise ValueError(f"{where}: it has no list of turns under 'dialog'")
    said: list[str] = []
    found = []
    for turn in turns:
        speaker, text = (turn.get(k) if isinstance(turn, dict) else None for k in ("speaker", "text"))
        if not isinstance(speaker, str) or not isinstance(text, str):
            raise ValueError(f"{where}: a turn needs the texts 'speaker' and 'text'")
        if not speaker.endswith(("Wizard", "Apprentice")):
            raise ValueError(f"{where}: the speaker {one_line(speaker, 40)!r} is no Wizard and no Apprentice")
        text = _whole(" ".join(text.split()), where)
        if not text:
            continue
        if speaker.endswith("Wizard") and len(said) >= LEAST_HISTORY:
            found.append(Exchange(tuple(said), text))
        said.append(text)
    return found


def _whole(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: half of a character, written \\ud..., is no text") from None
    return text
