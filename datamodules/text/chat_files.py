"""Chats: JSON lines of messages, the hub's, and the corpus of ChatterBot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.loading.files import one_line
from datamodules.loading.tables import cut
from datamodules.text.records import numbered_jsonl, package_folder

ROLES = {"system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
         "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # fmt: skip
Turn = tuple[str, str]
"""(``system``, ``user`` or ``assistant``; text)."""
Chat = tuple[Turn, ...]


def of_turns(turns: Sequence[str]) -> Chat:
    """A chat of plain turns: the user begins, every second one is a reply."""
    return tuple((("user", "assistant")[i % 2], text) for i, text in enumerate(turns))


def chat_of(record: Any, where: str) -> Chat:
    """A chat of a record: ``messages`` (or ``conversations``) with ``role`` and ``content`` (or ``from`` and
    ``value``), or ``turns``, a list of texts.

    Raises:
        ValueError: for anything else, with ``where``.
    """
    messages = next((record[k] for k in ("messages", "conversations", "turns") if k in record), None)
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"{where}: no list 'messages' of role and content, nor 'turns' of texts, only "
            f"{', '.join(map(repr, list(record)[:8]))}"
        )
    if all(isinstance(message, str) for message in messages):
        return of_turns(messages)
    found: list[Turn] = []
    for number, message in enumerate(messages, 1):
        role, text = (
            next((message[k] for k in keys if k in message), None) if isinstance(message, dict) else None
            for keys in (("role", "from"), ("content", "value"))
        )
        if not isinstance(text, str) or not isinstance(role, str) or role not in ROLES:
            raise ValueError(
                f"{where}, message {number}: {cut(str(message), 60)} has no text 'content' with a 'role' of "
                f"{', '.join(sorted(set(ROLES.values())))}"
            )
        found.append((ROLES[role], text))
    return tuple(found)


def read_chats(path: Path) -> list[Chat]:
    """The chats of a file of JSON lines.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged, with the line.
    """
    return [chat_of(record, f"{path}, line {number}") for number, record in numbered_jsonl(path, {})]


def chatterbot() -> list[Chat]:
    """The English conversations of the package chatterbot-corpus, as they stand, repeated ones among them."""
    folder = package_folder("chatterbot_corpus", "language") / "data" / "english"
    found: list[Chat] = []
    for path in sorted(folder.glob("*.yml")):
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Texts)
            found += [of_turns(turns) for turns in content["conversations"]]
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}; install the package anew") from None
    if not found:
        raise FileNotFoundError(f"{folder} holds no conversations; install chatterbot-corpus anew")
    return found


_Texts: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # every scalar is a text: no yes, no 42


def unique(chats: Iterable[Chat]) -> Iterator[Chat]:
    """The first of each."""
    yield from dict.fromkeys(chats)
