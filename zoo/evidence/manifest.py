"""The results manifest: every number in the docs, with the command, seeds, versions and date that made it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from zoo.locks import changing, write_json

FIELDS = ("metric", "value", "seeds", "command", "versions", "date")


def entries_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Manifest entries of a run's ``summary*.json``, one per final metric."""
    shared = {
        "seeds": [summary["seed"]],
        "command": _essential(summary["command"]),
        "versions": summary["versions"],
        "date": summary["date"],
    }
    return [{"metric": name, "value": value, **shared} for name, value in sorted(summary["final"].items())]


def _essential(command: str) -> str:
    """The command without the options that say where results go and how they are shown."""
    words, skip = [], False
    for word in shlex.split(command):
        name, has_value, _ = word.partition("=")
        if name in ("--manifest", "--trainer.default_root_dir", "--trainer.enable_progress_bar"):
            skip = not has_value
        elif not skip:
            words.append(word)
        else:
            skip = False
    return shlex.join(words)


def read(path: Path) -> list[dict[str, Any]]:
    """Entries of a manifest file.

    Raises:
        ValueError: for a file that is no manifest.
    """
    try:
        entries = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ValueError(f"{path} is no results manifest: a list of entries with {', '.join(FIELDS)}")
    return entries


def _is_entry(entry: Any) -> bool:
    texts = ("metric", "command")
    return (
        isinstance(entry, dict)
        and set(FIELDS) <= set(entry)
        and all(isinstance(entry[k], str) for k in texts)
    )


def update(path: Path, entries: list[dict[str, Any]]) -> None:
    """Add entries to a manifest file; an entry of the same metric and command is replaced.

    Several processes may add to one file at the same time.
    """
    new = {(e["metric"], e["command"]) for e in entries}
    with changing(path):
        kept = [e for e in read(path) if (e["metric"], e["command"]) not in new] if path.exists() else []
        write_json(path, [*kept, *entries])


def record(path: Path, summary: dict[str, Any]) -> None:
    """Add the final metrics of a run's ``summary*.json`` to a manifest file."""
    update(path, entries_of(summary))
