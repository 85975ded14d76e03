"""What a prediction writes: JSON lines, a plain ``.out`` file, and a page to read side by side."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.reports import json_lines, merged_records, replace_file, write_records

_SHOWN = 200
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1300px;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%;table-layout:fixed}
td,th{vertical-align:top;padding:.7em;border-top:1px solid #ccc;text-align:left;overflow-wrap:anywhere}
th{position:sticky;top:0;background:#fff}.doc{font-size:13px;color:#444}.score{color:#777;font-size:13px}
mark{background:#fde9a9}"""


@dataclass
class GeneratedSummaries:
    """Summaries of one batch.

    Attributes:
        index: place of each document in the whole set.
        names: what the data call them.
        documents: texts as they were given.
        references: gold summaries, or None.
        generated: candidates of each, the best first.
        scores: ROUGE of the best of each, or None.
        truncated: whether the document was cut.
        protocol: how they were made and scored.
        rows: line of each document in its file, from 1, where there is one.
    """

    index: list[int]
    names: list[str]
    documents: list[str]
    references: list[str] | None
    generated: list[list[str]]
    scores: list[dict[str, float]] | None
    truncated: list[bool]
    protocol: str
    rows: list[int] | None = None

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        write_records(folder, self._rows())
        return []

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for place, index in enumerate(self.index):
            row: dict[str, Any] = {"index": index, "id": self.names[place]}
            if self.rows is not None:
                row["row"] = self.rows[place]
            row["document"] = self.documents[place]
            if self.references is not None:
                row["summary"] = self.references[place]
            row["generated"] = self.generated[place][0]
            if len(self.generated[place]) > 1:
                row["candidates"] = self.generated[place]
            if self.scores is not None:
                row |= {key: round(value, 6) for key, value in self.scores[place].items()}
            rows.append(row | {"truncated": self.truncated[place], "protocol": self.protocol})
        return rows

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``summaries.jsonl``, ``summaries.out`` (one a line), ``candidates.out`` where there are several
        (those of a document on neighbouring lines) and ``summaries.html``, the first 200.

        Line i of ``summaries.out`` is of line i of an input file: of a blank one, which was left out, it is
        blank.
        """
        rows = merged_records(folder)
        if not rows:
            return []
        files = {
            "summaries.jsonl": json_lines({k: v for k, v in row.items() if k != "index"} for row in rows),
            "summaries.out": beside_lines(rows, [[row["generated"]] for row in rows]),
            "summaries.html": page(rows),
        }
        if "candidates" in rows[0]:
            files["candidates.out"] = beside_lines(rows, [row["candidates"] for row in rows])
        for name, text in files.items():
            replace_file(folder / name, text)
        return [folder / name for name in files]


def beside_lines(rows: list[dict[str, Any]], texts: list[list[str]]) -> str:
    """The texts of each record a line each, blank lines for the lines of the input that have no record."""
    found, line = [], 0
    for row, given in zip(rows, texts, strict=True):
        gap = max(0, row.get("row", line + 1) - line - 1)
        found += [""] * (gap * len(given)) + given
        line += gap + 1
    return "".join(text + "\n" for text in found)


def page(rows: list[dict[str, Any]]) -> str:
    """Documents, gold and generated summaries side by side; words of a summary that its document lacks are
    marked."""
    shown, cut = rows[:_SHOWN], sum(row["truncated"] for row in rows)
    gold = "summary" in rows[0]
    note = f"{len(rows):,} documents, {cut:,} of them cut at the model's length; {rows[0]['protocol']}"
    means = ""
    if "rouge1" in rows[0]:
        keys = ("rouge1", "rouge2", "rougeLsum")
        means = "; mean " + ", ".join(f"{k} {sum(r[k] for r in rows) / len(rows):.3f}" for k in keys)
    cells = "".join(_cells(row, gold) for row in shown)
    head = "<th style='width:45%'>document</th>" + "<th>summary</th>" * gold + "<th>generated</th>"
    first = f" The first {_SHOWN} are shown." if len(rows) > _SHOWN else ""
    return (
        f"<!doctype html><meta charset='utf-8'><title>Summaries</title><style>{_STYLE}</style>"
        f"<h1>Summaries</h1><p>{html.escape(note + means)}.{first} Marked: words that the document lacks.</p>"
        f"<table><tr>{head}</tr>{cells}</table>\n"
    )


def _cells(row: dict[str, Any], gold: bool) -> str:
    there = set(row["document"].lower().split())
    words = [
        html.escape(word) if word.lower() in there else f"<mark>{html.escape(word)}</mark>"
        for word in row["generated"].split()
    ]
    score = ""
    if "rouge1" in row:
        score = (
            f"<p class='score'>R-1 {row['rouge1']:.3f}, R-2 {row['rouge2']:.3f}, "
            f"R-Lsum {row['rougeLsum']:.3f}</p>"
        )
    document = f"<p class='score'>{html.escape(str(row['id']))}</p>{html.escape(row['document'])}"
    summary = f"<td>{html.escape(row['summary'])}</td>" if gold else ""
    return f"<tr><td class='doc'>{document}</td>{summary}<td>{' '.join(words)}{score}</td></tr>"
