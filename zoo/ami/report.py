"""Replies as files: one JSON object a history, and a page that a person reads."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.reports import json_lines, merged_records, replace_file, write_records

_MOST_ON_A_PAGE = 500
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
section{border-top:1px solid #ccc;padding:1em 0}.h{white-space:pre-wrap;color:#444}.g{color:#070}
table{border-collapse:collapse;margin-top:.5em}td,th{text-align:left;padding:.15em 1.2em .15em
0;vertical-align:top}
th{font-weight:normal;color:#777;font-size:85%}.n{font-variant-numeric:tabular-nums;color:#777;white-space:nowrap}"""


@dataclass
class GeneratedReplies:
    """K replies to each history, best first.

    ``replies.jsonl`` has a line for each history: ``index``, ``row``, its line in a file that was asked,
    ``history``, the utterances that were read, a line each, ``unread``, how many stand before those, ``cut``,
    whether a text is longer than what was read of it, ``persona`` and ``reference`` where there is one,
    ``replies``, a list of ``text``, ``log_p`` (of the forward network) and ``log_q`` (log q(S|T') of the
    backward network), both in nats summed over tokens, and ``protocol``, how the replies were made.
    ``replies.html`` shows the first 500.

    Attributes:
        histories: B texts.
        references: B texts, or none.
        replies: B lists of K texts.
        forward: log p(T'|S), (B, K).
        backward: log q(S|T'), (B, K).
        index: (B,) position of each in the whole set.
        protocol: how they were made.
        told: of each history ``row``, ``unread``, ``cut`` and ``persona``, as far as they are known.
    """

    histories: list[str]
    references: list[str]
    replies: list[list[str]]
    forward: Tensor
    backward: Tensor
    index: Tensor
    protocol: str
    told: dict[str, list[Any]] = field(default_factory=dict)

    def records(self) -> Iterator[dict[str, Any]]:
        """One for each history."""
        for row, number in enumerate(self.index.tolist()):
            scores = zip(
                self.replies[row], self.forward[row].tolist(), self.backward[row].tolist(), strict=True
            )
            told = {key: values[row] for key, values in self.told.items()}
            first = {key: told.pop(key) for key in ("row",) if key in told}
            record: dict[str, Any] = {"index": number, **first, "history": self.histories[row], **told}
            if self.references:
                record["reference"] = self.references[row]
            record["replies"] = [
                {"text": text, "log_p": round(p, 4), "log_q": round(q, 4)} for text, p, q in scores
            ]
            yield {**record, "protocol": self.protocol}

    def write(self, folder: Path) -> list[Path]:
        """A part of the file that :meth:`merge` makes."""
        write_records(folder, list(self.records()))
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``replies.jsonl`` and ``replies.html``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "replies.jsonl", folder / "replies.html"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], page(records))
        return outputs


def page(records: list[dict[str, Any]]) -> str:
    """HTML with each history, its reference and its replies; texts are escaped."""
    shown = records[:_MOST_ON_A_PAGE]
    sections = []
    for record in shown:
        rows = [
            f"<tr><td>{html.escape(reply['text']) or '<i>(empty)</i>'}</td>"
            f'<td class="n">{reply["log_p"]:.2f}</td><td class="n">{reply["log_q"]:.2f}</td></tr>'
            for reply in record["replies"]
        ]
        gold, persona = record.get("reference"), record.get("persona")
        notes = [f"line {record['row']}"] if "row" in record else []
        notes += [f"{record['unread']} earlier ones not read"] if record.get("unread") else []
        notes += ["read in part alone"] if record.get("cut") else []
        before = f'<div class="n">{", ".join(notes)}</div>' if notes else ""
        before += f'<div class="h"><i>{html.escape(persona)}</i></div>' if persona else ""
        reference = f'<div class="g">{html.escape(gold)}</div>' if gold else ""
        sections.append(
            f'<section>{before}<div class="h">{html.escape(record["history"])}</div>{reference}'
            f"<table><tr><th>reply</th><th>log p(T'|S)</th><th>log "
            f"q(S|T')</th></tr>{''.join(rows)}</table></section>"
        )
    more = f"<p>The first {len(shown)} of {len(records):,}.</p>" if len(shown) < len(records) else ""
    return (
        f"<!doctype html><html><head><meta "
        f'charset="utf-8"><title>Replies</title><style>{_STYLE}</style></head>'
        f"<body><h1>Replies</h1><p>{html.escape(records[0]['protocol'])}. Scores in nats, summed over "
        "tokens; the gold "
        f'reply in <span class="g">green</span>.</p>{more}{"".join(sections)}</body></html>\n'
    )
