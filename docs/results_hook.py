"""mkdocs hook: `{{ file/metric }}` and `{{ file/metric | .3f }}` become numbers of docs/results/file.json.

`{{ claim_dtr/table }}` becomes the tables that `zoo compare` made. A `:label`
after the file picks the entries whose command contains it. A missing number stops the build, so a page
cannot show one that no command made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PLACEHOLDER = re.compile(
    r"\{\{\s*(?P<file>[\w-]+)(?::(?P<label>[^/}]+))?/(?P<metric>[\w/-]+?)\s*(?:\|\s*(?P<format>\S+)\s*)?\}\}"
)


def lookup(file: str, label: str | None, metric: str) -> dict[str, Any]:
    """The one entry that a placeholder means."""
    path = RESULTS / f"{file}.json"
    if not path.is_file():
        raise KeyError(f"no results file docs/results/{file}.json")
    entries = [
        e
        for e in json.loads(path.read_text())
        if e["metric"] == metric and (label is None or f"{label} " in e["command"] + " ")
    ]
    if len(entries) != 1:
        raise KeyError(
            f"{len(entries)} entries for {metric!r} with {label!r} in docs/results/{file}.json, expected one"
        )
    return entries[0]


def fill(text: str) -> str:
    """Text with its placeholders replaced."""

    def number(match: re.Match[str]) -> str:
        value = lookup(match["file"], match["label"], match["metric"])["value"]
        return value if isinstance(value, str) else format(value, match["format"] or ".4g")

    return PLACEHOLDER.sub(number, text)


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """mkdocs calls this for each page."""
    return fill(markdown)
