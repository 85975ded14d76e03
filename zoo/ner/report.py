"""What a person looks at: tagged text as JSON lines and a page, F1 over words, what was asked."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.drawing import drawing
from zoo.ner.schemes import Span
from zoo.reports import json_lines, merged_records, replace_file, write_records, writing

_ON_PAGE = 500  # sentences; all are in tagged.jsonl
_COLOURS = ("#cfe8ff", "#ffe3c2", "#d6f5d0", "#f6d3e8", "#e6dcff", "#fff3b0", "#d0f0ee", "#f2d0d0")


@dataclass
class TaggedText:
    """Sentences with the entities that the model finds.

    Attributes:
        words: of each sentence.
        spans: found, (first word, word after the last, type).
        scores: log P(y*)/n of each sentence.
        gold: entities of the data, None where nobody has labelled them.
        index: of each sentence in the data.
        rank: of the process.
    """

    words: Sequence[Sequence[str]]
    spans: Sequence[Sequence[Span]]
    scores: Sequence[float]
    gold: Sequence[Sequence[Span]] | None
    index: Sequence[int]
    rank: int = 0

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        records = []
        for i, words in enumerate(self.words):
            record: dict[str, Any] = {
                "index": int(self.index[i]),
                "tokens": list(words),
                "spans": _records(words, self.spans[i]),
                "mnlp": self.scores[i],
            }
            if self.gold is not None:
                record["gold"] = _records(words, self.gold[i])
            records.append(record)
        write_records(folder, records)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``tagged.jsonl`` in the order of the data and ``tagged.html``, least certain sentences first."""
        records = merged_records(folder)
        outputs = [folder / "tagged.jsonl", folder / "tagged.html"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], page(records))
        return outputs


def _records(words: Sequence[str], spans: Sequence[Span]) -> list[dict[str, Any]]:
    return [{"start": a, "end": b, "label": kind, "text": " ".join(words[a:b])} for a, b, kind in spans]


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Tagged sentences as an HTML page; what is missed is underlined, what is wrong struck out."""
    types = sorted({s["label"] for r in records for s in [*r["spans"], *r.get("gold", ())]})
    colours = {kind: _COLOURS[i % len(_COLOURS)] for i, kind in enumerate(types)}
    shown = sorted(records, key=lambda r: r["mnlp"])[:_ON_PAGE]
    rows = "\n".join(_row(record, colours) for record in shown)
    legend = " ".join(f'<mark style="background:{c}">{html.escape(t)}</mark>' for t, c in colours.items())
    return f"""<!doctype html><meta charset="utf-8"><title>Tagged text</title>
<style>body{{font:15px/1.9 sans-serif;max-width:60em;margin:2em auto}}mark{{padding:2px
4px;border-radius:4px}} sub{{font-size:70%;color:#555}}.missed{{border-bottom:2px solid
#c00}}.wrong{{text-decoration:line-through}} td{{vertical-align:top;padding:2px
8px}}td:first-child{{color:#888}}</style>
<p>{legend} <span class="missed">missed</span> <mark class="wrong">not so in the data</mark></p>
<p>{len(shown):,} of {len(records):,} sentences, the least certain first.</p>
<table>
{rows}
</table>
"""


def _row(record: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    words = [html.escape(w) for w in record["tokens"]]
    gold = record.get("gold")
    true = None if gold is None else {(s["start"], s["end"], s["label"]) for s in gold}
    found = {(s["start"], s["end"], s["label"]) for s in record["spans"]}
    for start, end, kind in sorted((true or set()) - found):
        for i in range(start, end):  # word by word: it may reach over the ends of a mark
            words[i] = f'<span class="missed" title="{html.escape(kind)}">{words[i]}</span>'
    for start, end, kind in sorted(found):
        wrong = ' class="wrong"' if true is not None and (start, end, kind) not in true else ""
        words[start] = f'<mark{wrong} style="background:{colours[kind]}">{words[start]}'
        words[end - 1] += f" <sub>{html.escape(kind)}</sub></mark>"
    return f"<tr><td>{record['mnlp']:.3f}</td><td>{' '.join(words)}</td></tr>"


def draw_rounds(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """F1 over labelled words, the length of what was asked, and which types it held."""
    asked = [r for r in rows if "asked" in r]
    with writing(path), drawing(path, 1, 3, figsize=(15, 4), dpi=90) as (_, axes):
        known = [r for r in rows if r["f1"] is not None]
        axis = "cost" if any("cost" in r for r in rows) else "words"
        axes[0].plot([r[axis] for r in known], [r["f1"] for r in known], marker="o")
        axes[0].set_xlabel("cost of the labels" if axis == "cost" else "labelled words")
        axes[0].set_ylabel("F1 (validation)")
        _draw_asked(axes[1], asked)
        _draw_types(axes[2], asked)
        for axis in axes[1:]:
            axis.xaxis.get_major_locator().set_params(integer=True)


def _draw_asked(axis: Any, asked: Sequence[Mapping[str, Any]]) -> None:
    rounds = [r["round"] for r in asked]
    axis.plot(rounds, [r["asked_words"] for r in asked], marker="o", label="asked")
    axis.plot(rounds, [r["pool_words"] for r in asked], marker=".", label="pool", color="grey")
    axis.set_xlabel("asked after round")
    axis.set_ylabel("mean words of a sentence")
    if asked:
        axis.legend()


def _draw_types(axis: Any, asked: Sequence[Mapping[str, Any]]) -> None:
    told = [r for r in asked if "asked_types" in r]
    types = sorted({t for r in told for t in r["asked_types"]})
    bottom = np.zeros(len(told))
    for kind in types:
        counts = np.array([r["asked_types"].get(kind, 0) / r["asked"] for r in told])
        axis.bar([r["round"] for r in told], counts, bottom=bottom, label=kind)
        bottom += counts
    axis.set_xlabel("asked after round")
    axis.set_ylabel("entities in a sentence asked")
    if types:
        axis.legend(fontsize=7)


def draw_comparison(path: Path, runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> None:
    """Arms side by side, a thin line for each seed and a thick one for the mean.

    Args:
        path: of the picture.
        runs: arm -> seeds -> rows of ``rounds.jsonl``.
    """
    with writing(path), drawing(path, 1, 3, figsize=(16, 4.6), dpi=100) as (_, axes):
        for number, (name, seeds) in enumerate(runs.items()):
            colour = f"C{number}"
            for rows in seeds:
                x, y = [r["words"] for r in rows], [r["f1"] for r in rows]
                axes[0].plot(x, y, color=colour, linewidth=0.6, alpha=0.6)
            _mean_line(axes[0], seeds, "words", "f1", colour, name)
            _mean_line(axes[1], seeds, "round", "asked_words", colour, name)
            _mean_line(axes[2], seeds, "round", "asked_with_entity", colour, name)
        pool = [[r for r in rows if "pool_words" in r] for seeds in runs.values() for rows in seeds]
        _mean_line(axes[1], pool, "round", "pool_words", "grey", "pool")
        for axis, across, up in (
            (axes[0], "labelled words", "F1 (validation), every seed and the mean"),
            (axes[1], "asked after round", "mean words of a sentence asked"),
            (axes[2], "asked after round", "share of sentences asked that hold an entity"),
        ):
            axis.set_xlabel(across)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_ylabel(up)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)


def _mean_line(
    axis: Any, seeds: Sequence[Sequence[Mapping[str, Any]]], x: str, y: str, colour: str, name: str
) -> None:
    told = [[(r[x], r[y]) for r in rows if r.get(y) is not None] for rows in seeds]
    length = min((len(points) for points in told), default=0)
    if length:
        mean = np.mean([points[:length] for points in told], axis=0)
        axis.plot(mean[:, 0], mean[:, 1], color=colour, linewidth=2, marker="o", markersize=3, label=name)
