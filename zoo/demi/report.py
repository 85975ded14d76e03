"""What the estimates leave: tables and pictures of them beside the truth, and every pair's own part."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.demi.bounds import SATURATED
from zoo.demi.network import UNDIVIDED
from zoo.drawing import drawing
from zoo.reports import PARTS, replace_file, writing

_TRAINED = {"bo": "I_BO", "is": "I_IS", "exact": "exact negatives", "var": "tau's negatives"}


@dataclass
class Estimate:
    """One estimate of mutual information over held-out batches, in nats.

    Attributes:
        name: ``infonce``, ``bo_exact`` and so on.
        values: of each batch.
        columns: K of each of its terms.
        terms: number of them.
    """

    name: str
    values: Sequence[float]
    columns: int
    terms: int

    @property
    def mean(self) -> float:
        """Over batches."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """Of a batch; 0 where there is one alone."""
        values = torch.tensor(self.values, dtype=torch.float64)
        return float(values.std()) if len(values) > 1 else 0.0

    @property
    def margin(self) -> float:
        """Half of the 95 % t interval of the mean; NaN for one batch, which has none."""
        from scipy.stats import t

        many = len(self.values)
        return float(t.ppf(0.975, many - 1)) * self.deviation / math.sqrt(many) if many > 1 else math.nan

    @property
    def ceiling(self) -> float:
        """The most that it could be: log K for each contrastive term; the others have none."""
        bounded = self.name == "infonce" or self.name not in UNDIVIDED
        return self.terms * math.log(self.columns) if bounded else math.inf

    @property
    def saturated(self) -> bool:
        """Whether it says more about K than about the data."""
        return self.mean >= SATURATED * self.ceiling

    @property
    def label(self) -> str:
        """In words."""
        if self.name in UNDIVIDED:
            words = {"infonce": "InfoNCE", "dv": "Donsker-Varadhan", "nwj": "NWJ", "smile": "SMILE"}
            return f"{words[self.name]}, K {self.columns}"
        trained, _, evaluated = self.name.partition("_")
        how = {"exact": "exact negatives", "is": "I_IS", "bound": "tau, less its KL"}[evaluated]
        return f"DEMI by {_TRAINED[trained]}, evaluated by {how}, {self.terms} x K {self.columns}"


def write_estimates(folder: Path, found: Sequence[Estimate], truth: float | None) -> Path:
    """``estimates.csv``, a row for each estimate."""
    head = ["estimate", "nats", "sd_of_a_batch", "low", "high", "ceiling", "saturated", "truth", "batches"]
    path = folder / "estimates.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(head)
        for e in found:
            spread = e.deviation if len(e.values) > 1 else math.nan
            numbers = (e.mean, spread, e.mean - e.margin, e.mean + e.margin, e.ceiling)
            cells = [f"{x:.4f}" if math.isfinite(x) else "" for x in numbers]
            known = "" if truth is None else f"{truth:.4f}"
            rows.writerow([e.name, *cells, str(e.saturated).lower(), known, len(e.values)])
    return path


def draw_estimates(
    path: Path,
    found: Sequence[Estimate],
    truth: float | None,
    totals: Sequence[float] = (),
    optimal: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Estimates with the spread over batches beside the truth and their ceilings.

    Args:
        path: of the picture.
        found: the run's estimates.
        truth: nats, where it is known.
        totals: of the left panel, which Gaussian data alone have.
        optimal: what optimal critics would say at ``totals``, ``infonce`` and ``exact``.
    """
    colours = [f"C{i}" for i in range(10)]
    width = 11 if optimal else 7
    with drawing(path, 1, 2 if optimal else 1, dpi=110, figsize=(width, 4), squeeze=False) as (_, axes):
        if optimal:
            left = axes[0, 0]
            left.plot(totals, totals, color="black", lw=1, label="truth")
            for (name, values), style in zip(optimal.items(), ("--", "-"), strict=True):
                words = "InfoNCE" if name == "infonce" else "DEMI, exact negatives"
                left.plot(totals, values, style, color="grey", label=f"{words}, optimal critics")
            for level in sorted({round(e.ceiling, 4) for e in found if math.isfinite(e.ceiling)}):
                left.axhline(level, color="grey", lw=0.7, ls=":")
            for e, colour in zip(found, colours, strict=False):
                assert truth is not None
                left.errorbar([truth], [e.mean], yerr=[e.deviation], fmt="o", color=colour, ms=4, capsize=3)
            left.set(xlabel="true information (nats)", ylabel="estimate (nats)", ylim=(0, None))
            left.legend(fontsize=7, loc="upper left")
        axis = axes[0, -1]
        for place, (e, colour) in enumerate(zip(found, colours, strict=False)):
            axis.errorbar([e.mean], [place], xerr=[e.deviation], fmt="o", color=colour, capsize=3)
            if math.isfinite(e.ceiling):
                axis.plot([e.ceiling, e.ceiling], [place - 0.3, place + 0.3], color="grey", ls=":")
            note = " (saturated)" if e.saturated else ""
            axis.annotate(
                f"{e.label}{note}", (0.01, place - 0.32), xycoords=("axes fraction", "data"), fontsize=7
            )
        if truth is not None:
            axis.axvline(truth, color="black", lw=1, label="truth")
        axis.plot([], [], color="grey", ls=":", label="ceiling, terms x log K")
        axis.set(yticks=[], ylim=(len(found) - 0.5, -0.7), xlabel="nats, mean and sd over held-out batches")
        axis.set_xlim(left=min(0.0, *(e.mean - e.deviation for e in found)))
        axis.legend(fontsize=7, loc="lower right")


@dataclass
class PointwiseInformation:
    """What each pair contributes to an estimate; their mean is the estimate.

    Attributes:
        index: rows of the data, (B,).
        nats: (B,) by the name of the curve.
    """

    index: Tensor
    nats: Mapping[str, Tensor]

    def write(self, folder: Path) -> list[Path]:
        """A part of the file that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.csv"
        with part.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["row", *self.nats])
            columns = [self.index.tolist(), *([f"{x:.5f}" for x in v.tolist()] for v in self.nats.values())]
            rows.writerows(zip(*columns, strict=True))
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``pointwise.csv``, a row for each pair, and ``pointwise.png``, how they are spread."""
        parts = sorted((folder / PARTS).glob("*.csv"))
        if not parts:
            return []
        texts = [p.read_text().splitlines() for p in parts]
        rows = sorted((r for text in texts for r in text[1:]), key=lambda r: int(r.partition(",")[0]))
        table, picture = folder / "pointwise.csv", folder / "pointwise.png"
        replace_file(table, "\n".join([texts[0][0], *rows]) + "\n")
        names = texts[0][0].split(",")[1:]
        values = [[float(cell) for cell in row.split(",")[1:]] for row in rows]
        with drawing(picture, dpi=110, figsize=(6, 3.5)) as (_, axis):
            for place, name in enumerate(names):
                column = [v[place] for v in values]
                mean = sum(column) / len(column)
                axis.hist(column, bins=40, alpha=0.5, color=f"C{place}", label=f"{name}, mean {mean:.3f}")
                axis.axvline(mean, color=f"C{place}")
            axis.set(xlabel="pointwise mutual information (nats)", ylabel="pairs")
            axis.legend(fontsize=8)
        return [table, picture]
