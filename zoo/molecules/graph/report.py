"""What a person looks at: predictions as CSV, molecules with their atoms' contributions, parity plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.drawing import drawing, plain, span
from zoo.metrics.properties import averaged, by_task
from zoo.molecules.drawing import molecule_sheet
from zoo.reports import PARTS, merged_records, replace_file, write_records, writing

_DRAWN = 20
_EMPTY = ("", None)


@dataclass
class MoleculePredictions:
    """Predictions of a batch.

    Attributes:
        smiles: canonical SMILES of B molecules.
        predicted: float64 (B, T), in the unit of the data, or the probability of class 1.
        deviation: (B, T), None where the model does not say.
        margin: half width of the interval (B, T), NaN without one.
        target: (B, T), NaN where unknown.
        index: of each molecule in the data.
        neighbour: the most similar training molecule, empty where unknown.
        similarity: its Tanimoto similarity.
        contributions: of each atom to the first target, in the order of the SMILES; empty without a graph.
        names: of the T targets.
        task: ``regression`` or ``classification``.
        coverage: of the intervals, in per cent.
        fingerprints: (B, H) of the network, or None.
    """

    smiles: list[str]
    predicted: Tensor
    deviation: Tensor | None
    margin: Tensor
    target: Tensor
    index: list[int]
    neighbour: list[str]
    similarity: list[float]
    contributions: list[list[float]]
    names: list[str]
    task: str
    coverage: int
    fingerprints: Tensor | None = None

    def records(self) -> list[dict[str, Any]]:
        """A plain mapping for each molecule; what is unknown is None."""
        found = []
        for i, smiles in enumerate(self.smiles):
            record: dict[str, Any] = {"index": int(self.index[i]), "smiles": smiles, "names": self.names}
            record |= {"task": self.task, "coverage": self.coverage}
            record["predicted"] = _numbers(self.predicted[i])
            record["deviation"] = None if self.deviation is None else _numbers(self.deviation[i])
            record["margin"], record["target"] = _numbers(self.margin[i]), _numbers(self.target[i])
            record["neighbour"] = self.neighbour[i] or None
            record["similarity"] = self.similarity[i] if self.neighbour[i] else None
            record["contributions"] = self.contributions[i] if self.contributions else None
            record["fingerprint"] = None if self.fingerprints is None else _numbers(self.fingerprints[i])
            found.append(record)
        return found

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        write_records(folder, self.records())
        return []

    def save(self, folder: str | Path) -> list[Path]:
        """All files at once, of predictions made in Python."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        return write_all(place, self.records())

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``predictions.csv``, ``molecules.png``, and of known targets ``parity.png`` or ``roc.png``."""
        return write_all(folder, merged_records(folder)) if any((folder / PARTS).glob("*.jsonl")) else []


def _numbers(row: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in row.tolist()]


def write_all(folder: Path, records: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The files of all records; returns them."""
    outputs = [folder / "predictions.csv"]
    replace_file(outputs[0], table(records))
    if records[0]["fingerprint"] is not None:
        outputs.append(folder / "fingerprints.csv")
        replace_file(outputs[-1], fingerprints(records))
    outputs.append(folder / "molecules.png")
    with writing(outputs[-1]):
        draw_molecules(outputs[-1], records)
    predicted, target = (_column(records, key) for key in ("predicted", "target"))
    if np.isfinite(target).any():
        regression = records[0]["task"] == "regression"
        outputs.append(folder / ("parity.png" if regression else "roc.png"))
        with writing(outputs[-1]):
            (draw_parity if regression else draw_roc)(outputs[-1], predicted, target, records[0]["names"])
    return outputs


def _column(records: Sequence[Mapping[str, Any]], key: str) -> Any:
    return np.array([[math.nan if v is None else v for v in r[key]] for r in records], dtype=np.float64)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    """Six digits, and twelve of large numbers, which may lie near to each other: total energies do."""
    return "" if value is None else f"{value:.6g}" if abs(value) < 1e3 else f"{value:.12g}"


def _shown(value: float | None) -> str:
    """Two digits behind the point, or three in all where those would be 0 or very many."""
    if value is None:
        return ""
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.3g}"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The csv: index, canonical SMILES, prediction, uncertainty, interval, truth, nearest neighbour."""
    first = records[0]
    names, coverage = first["names"], first["coverage"]
    sure = first["deviation"] is not None
    bounded = any(m is not None for r in records for m in r["margin"])
    known = any(t is not None for r in records for t in r["target"])
    head = ["index", "smiles"]
    for name in names:
        head += [name] + [f"{name} deviation"] * sure
        head += [f"{name} low{coverage}", f"{name} high{coverage}"] * bounded + [f"{name} true"] * known
    rows: list[list[object]] = [[*head, "nearest training molecule", "tanimoto"]]
    for r in records:
        row: list[object] = [r["index"], r["smiles"]]
        for t, value in enumerate(r["predicted"]):
            row += [_cell(value)] + ([_cell(r["deviation"][t])] if sure else [])
            if bounded:
                margin = r["margin"][t]
                row += ["", ""] if margin is None else [_cell(value - margin), _cell(value + margin)]
            row += [_cell(r["target"][t])] if known else []
        rows.append([*row, r["neighbour"] or "", _cell(r["similarity"])])
    return _csv(rows)


def fingerprints(records: Sequence[Mapping[str, Any]]) -> str:
    """The csv of the network's fingerprints h_G."""
    width = len(records[0]["fingerprint"])
    rows: list[list[object]] = [["index", "smiles", *(f"h{i}" for i in range(width))]]
    return _csv(rows + [[r["index"], r["smiles"], *map(_cell, r["fingerprint"])] for r in records])


def draw_molecules(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The first molecules, atoms red where they raise the first target and blue where they lower it."""
    shown = records[:_DRAWN]
    largest = [abs(c) for r in shown for c in r["contributions"] or ()]
    scale = float(np.quantile(largest, 0.95)) if largest else 1.0
    legends, weights = [], []
    for r in shown:
        truth = r["target"][0]
        told = _shown(r["predicted"][0])
        legends.append(f"{told} (true {_shown(truth)})" if truth is not None else told)
        weights.append([c / (scale or 1.0) for c in r["contributions"]] if r["contributions"] else None)
    molecule_sheet(path, [r["smiles"] for r in shown], legends, weights)


def draw_parity(path: Path, predicted: Any, target: Any, names: Sequence[str]) -> None:
    """Predicted against true values of up to six targets, with a histogram of the errors below."""
    count = min(6, len(names))
    with drawing(path, 2, count, dpi=110, figsize=(4.2 * count, 5.6), squeeze=False,
                 gridspec_kw={"height_ratios": (3, 1)}) as (_, axes):  # fmt: skip
        for t in range(count):
            known = np.isfinite(target[:, t])
            p, y = predicted[known, t], target[known, t]
            top, bottom = axes[0, t], axes[1, t]
            top.set(xlabel=f"true {plain(names[t], 43)}", ylabel="predicted")
            bottom.set(xlabel="error", ylabel="molecules")
            if not len(y):
                continue
            ends = [min(p.min(), y.min()), max(p.max(), y.max())]
            top.plot(ends, ends, color="#999", lw=1)
            top.scatter(y, p, s=10, alpha=0.6, color="#2b6cb0", edgecolors="none")
            said = averaged(by_task("regression", p[:, None], y[:, None]))
            top.set_title(", ".join(f"{k.upper()} {v:.3g}" for k, v in said.items()), fontsize=10)
            error = p - y
            bottom.hist(error, bins=30, range=span(float(error.min()), float(error.max())), color="#2b6cb0")
            bottom.axvline(0, color="#999", lw=1)


def draw_roc(path: Path, predicted: Any, target: Any, names: Sequence[str]) -> None:
    """ROC curves of the targets that have both classes."""
    from sklearn.metrics import roc_curve

    with drawing(path, 1, 1, dpi=110, figsize=(5.2, 5)) as (_, axes):
        axes.plot([0, 1], [0, 1], color="#bbb", lw=1)
        for t, name in enumerate(names):
            known = np.isfinite(target[:, t])
            p, y = predicted[known, t], target[known, t]
            if known.any() and 0 < y.mean() < 1:
                wrong, right, _ = roc_curve(y, p)
                value = by_task("classification", p[:, None], y[:, None])["roc_auc"][0]
                axes.plot(wrong, right, lw=1.4, label=f"{plain(name, 24)} {value:.3f}")
        axes.set(xlabel="false positives", ylabel="true positives")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
