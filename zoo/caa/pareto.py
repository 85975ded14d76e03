"""What a search leaves: its front as a picture, its archive as CSV, the best policy as JSON."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.caa.nsga import fronts
from zoo.drawing import drawing
from zoo.reports import replace_file, writing

Array = np.ndarray[Any, Any]
_NAMED = 6


@dataclass
class SearchReport:
    """A finished or running search.

    Attributes:
        objectives: f1 and f2 of the population (P, 2).
        names: its policies.
        rows: policy, images right, images, nominal backward passes of everything that was measured.
        policy: the best one as JSON.
        cost_unit: backward passes that count 1 in f2.
    """

    objectives: Array
    names: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    policy: str
    cost_unit: float

    def write(self, folder: Path) -> list[Path]:
        """``pareto.png``, ``archive.csv``, ``policy.json``."""
        paths = [folder / name for name in ("pareto.png", "archive.csv", "policy.json")]
        with writing(paths[0]):
            self.draw(paths[0])
        with writing(paths[1]), paths[1].open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["policy", "robust_accuracy", "images", "nominal_backward"])
            for name, correct, images, backward in sorted(
                self.rows, key=lambda r: (r[1] / max(r[2], 1), r[3])
            ):
                writer.writerow([name, f"{correct / max(images, 1):.6f}", images, backward])
        replace_file(paths[2], self.policy)
        return paths

    def draw(self, path: Path) -> None:
        """Everything measured in grey, the front in colour, some of its policies by name."""
        with drawing(path, 1, 1, dpi=110, figsize=(8, 4.6)) as (_, axis):
            measured = np.array([[r[3], r[1] / max(r[2], 1)] for r in self.rows]).reshape(-1, 2)
            axis.scatter(measured[:, 0], measured[:, 1], s=12, color="0.75", label="measured")
            chosen = fronts(self.objectives)[0]
            front = self.objectives[chosen]
            order = front[:, 1].argsort(kind="stable")
            cost, value = front[order, 1] * self.cost_unit, front[order, 0]
            axis.plot(cost, value, "o-", markersize=4, label="front")
            step = max(1, -(-len(order) // _NAMED))
            shown: set[tuple[float, float]] = set()
            for place in [*range(0, len(order), step), len(order) - 1]:
                point = float(cost[place]), float(value[place])
                if point not in shown:
                    shown.add(point)
                    text = self.names[chosen[int(order[place])]]
                    axis.annotate(text, point, textcoords="offset points", xytext=(5, 4), fontsize=6)
            axis.set(xlabel="nominal backward passes of an image", ylabel="robust accuracy")
            axis.legend(fontsize=8)
            axis.grid(alpha=0.3)
