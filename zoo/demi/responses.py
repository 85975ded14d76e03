"""Responses as files: one JSON object a history, and a page that a person reads."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.reports import json_lines, merged_records, replace_file, write_records

_MOST_ON_A_PAGE = 300
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
section{border-top:1px solid #ccc;padding:1em 0}.h{color:#555}.g{color:#070}.r{font-weight:600}
.n{font-variant-numeric:tabular-nums;color:#777;font-size:85%}"""


@dataclass
class Responses:
    """A response to each history.

    ``responses.jsonl`` has a line for each: ``index``, ``history`` (turns), ``response``, ``log_p`` of it in
    nats, and where there is one ``reference``; with a reference also ``log_p_reference``, and the nats that
    the last turn and the rest of the history tell of it by the critics (``nats_last_turn``,
    ``nats_history``), its batch being the negatives. ``responses.html`` shows the first 300.

    Attributes:
        records: of a batch.
        protocol: how the responses were made.
    """

    records: list[dict[str, Any]]
    protocol: str

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        write_records(folder, [{**record, "protocol": self.protocol} for record in self.records])
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``responses.jsonl`` and ``responses.html``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "responses.jsonl", folder / "responses.html"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], page(records))
        return outputs


def page(records: list[dict[str, Any]]) -> str:
    """HTML with each history, its response and the reference; texts are escaped."""
    sections = []
    for record in records[:_MOST_ON_A_PAGE]:
        turns = "".join(f'<div class="h">{html.escape(turn)}</div>' for turn in record["history"])
        response = html.escape(record["response"]) or "<i>(empty)</i>"
        numbers = [f"log p {record['log_p']:.2f}"]
        if "nats_last_turn" in record:
            numbers.append(f"reference: {record['nats_last_turn']:.2f} nats of the last turn")
        if "nats_history" in record:
            numbers.append(f"{record['nats_history']:.2f} of the rest of the history")
        gold = record.get("reference")
        reference = f'<div class="g">{html.escape(gold)}</div>' if gold else ""
        sections.append(
            f'<section>{turns}<div class="r">{response}</div>{reference}'
            f'<div class="n">{"; ".join(numbers)}</div></section>'
        )
    few = len(sections) < len(records)
    more = f"<p>The first {len(sections)} of {len(records):,}.</p>" if few else ""
    return (
        '<!doctype html><html><head><meta charset="utf-8"><title>Responses</title>'
        f"<style>{_STYLE}</style></head><body><h1>Responses</h1>"
        f"<p>{html.escape(records[0]['protocol'])}. Histories in grey, responses in bold, references in "
        f'<span class="g">green</span>.</p>{more}{"".join(sections)}</body></html>\n'
    )
