"""Generated molecules as files: SMILES lines, a table, a sheet of drawings, distributions beside the
training set's."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.drawing import drawing
from zoo.molecules.drawing import molecule_sheet
from zoo.molecules.strings.generation import canonical, properties
from zoo.reports import PARTS, merged_records, replace_file, write_records

_SHEET, _COLUMNS = 20, 5
_REFERENCE = "reference.txt"
_TITLES = {
    "weight": "molecular weight", "log_p": "logP", "qed": "QED (1 drug-like)", "sa": "SA (1 easy to make)",
}  # fmt: skip


def record(index: int, text: str, known: Collection[str] | None) -> dict[str, Any]:
    """What is told of one generated SMILES."""
    smiles = canonical(text)
    found: dict[str, Any] = {"index": index, "generated": text, "smiles": smiles, "valid": bool(smiles)}
    if smiles:
        if known is not None:
            found["novel"] = smiles not in known
        found |= {name: round(value, 4) for name, value in properties(smiles).items()}
    return found


@dataclass
class GeneratedMolecules:
    """Molecules that a language model drew.

    ``samples.smi`` has what was drawn, one a line; ``molecules.csv`` a row for each: ``index, generated,
    smiles`` (canonical), ``valid, novel, qed, sa, log_p, weight``, empty where they are not;
    ``molecules.png`` the first 20 distinct valid ones with QED and novelty; ``distributions.png`` histograms
    beside those of the training set.

    Attributes:
        texts: B SMILES as drawn.
        index: (B,) positions.
        known: canonical SMILES that were trained on; None where nobody knows them.
        reference: some of those, for the histograms; of the batch that has the first position.
    """

    texts: list[str]
    index: Tensor
    known: Collection[str] | None = None
    reference: Sequence[str] = field(default_factory=tuple)

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        pairs = zip(self.index.tolist(), self.texts, strict=True)
        write_records(folder, [record(i, text, self.known) for i, text in pairs])
        if self.reference and 0 in self.index.tolist():
            replace_file(folder / PARTS / _REFERENCE, "\n".join(self.reference) + "\n")
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``samples.smi``, ``molecules.csv``, ``molecules.png`` and ``distributions.png``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "samples.smi", folder / "molecules.csv"]
        replace_file(outputs[0], "".join(r["generated"] + "\n" for r in records))
        replace_file(outputs[1], table(records))
        distinct: dict[str, Any] = {}
        for each in records:
            if each["valid"]:
                distinct.setdefault(each["smiles"], each)
        shown = [*distinct.values()][:_SHEET]
        if shown:
            outputs += [folder / "molecules.png", folder / "distributions.png"]
            molecule_sheet(outputs[2], [r["smiles"] for r in shown], [*map(legend, shown)], columns=_COLUMNS)
            given = folder / PARTS / _REFERENCE
            reference = given.read_text().split() if given.is_file() else []
            distributions(
                outputs[3], [*distinct.values()], [properties(s) for s in reference if canonical(s)]
            )
        return outputs


def table(records: Sequence[dict[str, Any]]) -> str:
    """A CSV of records."""
    names = ("index", "generated", "smiles", "valid", "novel", "qed", "sa", "log_p", "weight")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for each in records:
        cells = (each.get(name, "") for name in names)
        writer.writerow([str(c).lower() if isinstance(c, bool) else c for c in cells])
    return text.getvalue()


def legend(found: dict[str, Any]) -> str:
    """QED and novelty of a drawn molecule."""
    new = {True: ", new", False: ", known", None: ""}[found.get("novel")]
    return f"QED {found['qed']:.2f}{new}"


def distributions(path: Path, drawn: Sequence[dict[str, Any]], known: Sequence[dict[str, float]]) -> None:
    """Histograms of four properties of generated molecules, and of the training set where it is known."""
    with drawing(path, 1, 4, dpi=110, figsize=(12, 2.8)) as (_, axes):
        for axis, (name, title) in zip(axes, _TITLES.items(), strict=True):
            values = [[float(r[name]) for r in rows] for rows in (drawn, known) if rows]
            low, high = min(map(min, values)), max(map(max, values))
            bins = [low + (high - low or 1.0) * i / 30 for i in range(31)]
            for rows, colour, label in zip(
                values, ("tab:orange", "tab:blue"), ("generated", "trained on"), strict=False
            ):
                axis.hist(
                    rows, bins, density=True, histtype="stepfilled", alpha=0.45, color=colour, label=label
                )
            axis.set_title(title, fontsize=10)
            axis.set_yticks([])
        axes[0].legend(fontsize=8)
