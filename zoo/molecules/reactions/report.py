"""Predicted reactions as files: a table, and a panel of drawn reactions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.molecules.drawing import molecule_picture
from zoo.molecules.strings.generation import canonical
from zoo.reports import merged_records, replace_file, write_records

_PANEL, _SHOWN = 8, 3
_WIDE, _HIGH = 230, 190
_TRUE, _WRONG = (0, 130, 60), (190, 30, 30)


@dataclass
class PredictedReactions:
    """Beams of each source, best first.

    ``reactions.csv`` has a row for each: ``index, kind, source, target, rank`` of the target among the beams
    (0 where it is not, empty without a target), then ``prediction1, log_p1, ...``, canonical where they are
    molecules.
    ``reactions.png`` draws the first eight: what reacts, the first three predictions, what is true; green
    where a prediction is that.

    Attributes:
        sources: B texts.
        targets: B texts, or none.
        candidates: B lists of texts.
        log_p: B lists of numbers; empty where nothing scores.
        kinds: B texts, or none.
        index: (B,) positions.
    """

    sources: list[str]
    targets: list[str]
    candidates: list[list[str]]
    log_p: list[list[float]]
    index: Tensor
    kinds: list[str] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """One for each source."""
        found = []
        for row, number in enumerate(self.index.tolist()):
            names = [canonical(text) or text for text in self.candidates[row]]
            record: dict[str, Any] = {"index": number, "source": self.sources[row], "predictions": names}
            record["log_p"] = [round(p, 4) for p in self.log_p[row]] if self.log_p else []
            if self.kinds:
                record["kind"] = self.kinds[row]
            if self.targets:
                truth = canonical(self.targets[row])
                record |= {"target": truth, "rank": names.index(truth) + 1 if truth in names else 0}
            found.append(record)
        return found

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        write_records(folder, self.records())
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``reactions.csv`` and ``reactions.png``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "reactions.csv", folder / "reactions.png"]
        replace_file(outputs[0], table(records))
        panel(outputs[1], records[:_PANEL])
        return outputs


def table(records: Sequence[dict[str, Any]]) -> str:
    """A CSV of records."""
    beams = max(len(r["predictions"]) for r in records)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [name for k in range(1, beams + 1) for name in (f"prediction{k}", f"log_p{k}")]
    writer.writerow(["index", "kind", "source", "target", "rank", *head])
    for each in records:
        cells: list[Any] = []
        for k in range(beams):
            for name in ("predictions", "log_p"):
                cells.append(each[name][k] if k < len(each[name]) else "")
        writer.writerow([*(each.get(n, "") for n in ("index", "kind", "source", "target", "rank")), *cells])
    return text.getvalue()


def panel(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """A row for each reaction: source, the first predictions, the truth where it is known."""
    from PIL import Image, ImageDraw

    truth = any("target" in r for r in records)
    widths = [2 * _WIDE] + [_WIDE] * (_SHOWN + truth)
    head = 26
    sheet = Image.new("RGB", (sum(widths), head + _HIGH * len(records)), "white")
    pen = ImageDraw.Draw(sheet)
    titles = ["source", *(f"prediction {k + 1}" for k in range(_SHOWN))] + ["true"] * truth
    lefts = [sum(widths[:i]) for i in range(len(widths))]
    for left, title in zip(lefts, titles, strict=True):
        pen.text((left + 8, 6), title, fill=(90, 90, 90))
    for row, each in enumerate(records):
        top = head + _HIGH * row
        pen.line([(0, top), (sheet.width, top)], fill=(220, 220, 220))
        shown = [each["source"].replace(">", "."), *each["predictions"][:_SHOWN]]
        shown += [""] * (1 + _SHOWN - len(shown)) + [each.get("target", "")] * truth
        for place, smiles in enumerate(shown):
            size = (widths[place] - 6, _HIGH - 8)
            if canonical(smiles):
                sheet.paste(molecule_picture(smiles, "", None, size), (lefts[place] + 3, top + 4))
            elif smiles:
                pen.text((lefts[place] + 10, top + _HIGH // 2), f"no molecule: {smiles[:24]}", fill=_WRONG)
            if 1 <= place <= _SHOWN and smiles and "target" in each:
                colour = _TRUE if smiles == each["target"] else _WRONG
                box = [lefts[place] + 1, top + 2, lefts[place] + widths[place] - 3, top + _HIGH - 3]
                pen.rectangle(box, outline=colour, width=2)
        if each.get("kind"):
            pen.text((8, top + 4), str(each["kind"]), fill=(90, 90, 90))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
