"""What ``zoo predict`` leaves of a node classifier: scores as CSV and one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.reports import write_scores

_DRAWN = 20_000  # points of a scatter; larger graphs show so many nodes, evenly spaced
_PICTURES = 4


@dataclass
class NodeScores:
    """A classified graph.

    Attributes:
        scores: class probabilities (N, C).
        labels: int64 (N,), or multi-hot (N, C).
        split: (N,) name of each node's set, empty for none.
        embedding: (N, H) the last hidden layer.
        title: of the picture.
        names: (N,) of the nodes: numbers in the whole graph, ``1:0`` for node 0 of a second one.
        class_names: C names.
        number: of the batch on this process; later ones have it in their pictures' names.
        rank: of the process; those after the first have files of their own.
    """

    scores: Tensor
    labels: Tensor
    split: np.ndarray[Any, Any]
    embedding: Tensor
    title: str
    names: Sequence[object]
    class_names: Sequence[str]
    number: int = 0
    rank: int = 0

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv`` and, of the first batches, ``nodes.png`` in ``folder``."""
        end = f"_rank{self.rank}" if self.rank else ""
        paths = [folder / f"scores{end}.csv"]
        write_scores(
            paths[0],
            self.scores,
            self.class_names,
            self.names,
            self.labels,
            self.split.tolist(),
            several=self.several,
            append=self.number > 0,
        )
        if self.number < _PICTURES:
            paths.append(folder / f"nodes{end}{f'_{self.number}' if self.number else ''}.png")
            self._draw(paths[1])
        return paths if self.number == 0 else paths[1:]

    @property
    def several(self) -> bool:
        """Whether a node may have several labels."""
        return self.labels.ndim == 2

    def _shown(self) -> Tensor:
        """Nodes that are judged: the test nodes, or all where there are none."""
        test = torch.from_numpy(self.split == "test")
        return test if bool(test.any()) else torch.ones(len(self.labels), dtype=torch.bool)

    def _draw(self, path: Path) -> None:
        with drawing(path, 1, 3, figsize=(16, 5), dpi=90) as (figure, axes):
            flat = self.embedding.float() - self.embedding.float().mean(dim=0)
            _, _, directions = torch.pca_lowrank(flat, q=min(2, *flat.shape), center=False, niter=4)
            points = torch.nn.functional.pad(flat @ directions, (0, 2 - directions.shape[1]))
            chosen = torch.arange(0, len(points), max(1, len(points) // _DRAWN))
            self._scatter_classes(axes[0], points, chosen)
            self._scatter_correct(axes[1], points)
            if self.several:
                self._draw_f1(axes[2])
            else:
                self._draw_confusion(figure, axes[2])
            figure.suptitle(self.title)

    def _scatter_classes(self, axis: Any, points: Tensor, chosen: Tensor) -> None:
        classes = self.labels.sum(dim=1) if self.several else self.labels
        colours = "viridis" if self.several or self.scores.shape[1] > 10 else "tab10"
        limits = {} if colours == "viridis" else {"vmin": -0.5, "vmax": 9.5}
        dots = axis.scatter(*points[chosen].T, c=classes[chosen], s=8, cmap=colours, linewidths=0, **limits)
        if colours == "tab10":
            handles = [
                axis.plot(
                    [], [], "o", color=dots.cmap(dots.norm(c)), markersize=5, label=plain(self.class_names[c])
                )[0]
                for c in range(self.scores.shape[1])
            ]
            axis.legend(handles=handles, fontsize=7)
        axis.set_title("last hidden layer, by " + ("number of labels" if self.several else "class"))
        axis.set_xlabel("first principal direction")
        axis.set_ylabel("second")

    def _scatter_correct(self, axis: Any, points: Tensor) -> None:
        shown = self._shown()
        if self.several:
            right = ((self.scores > 0.5) == (self.labels > 0)).float().mean(dim=1)
            dots = axis.scatter(*points[shown].T, c=right[shown], s=8, cmap="RdYlGn", linewidths=0)
            axis.figure.colorbar(dots, ax=axis, label="share of labels that are right")
        else:
            right = self.scores.argmax(dim=1) == self.labels
            for name, mask, colour in (("right", right, "tab:gray"), ("wrong", ~right, "tab:red")):
                nodes = shown & mask
                axis.scatter(
                    *points[nodes].T, s=10, color=colour, linewidths=0, label=f"{name} ({int(nodes.sum()):,})"
                )
            axis.legend(fontsize=8)
        axis.set_title(f"{int(shown.sum()):,} judged nodes, by correctness")
        axis.set_xlabel("first principal direction")

    def _draw_confusion(self, figure: Any, axis: Any) -> None:
        shown, classes = self._shown(), self.scores.shape[1]
        code = self.labels[shown] * classes + self.scores[shown].argmax(dim=1)
        counts = torch.bincount(code, minlength=classes**2).view(classes, classes)
        share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if classes <= 15:
            for row in range(classes):
                for column in range(classes):
                    colour = "white" if share[row, column] > 0.6 else "black"
                    number = f"{int(counts[row, column])}"
                    axis.text(column, row, number, ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, ax=axis, label="share of the class")
        axis.set_xticks(range(classes))
        axis.set_yticks(range(classes))
        accuracy = float(counts.trace() / counts.sum().clamp(min=1))
        axis.set_title(f"confusion, accuracy {accuracy:.1%}")
        axis.set_xlabel("predicted")
        axis.set_ylabel("class")

    def _draw_f1(self, axis: Any) -> None:
        shown = self._shown()
        predicted, truth = self.scores[shown] > 0.5, self.labels[shown] > 0
        hits = (predicted & truth).sum(dim=0)
        f1 = 2 * hits / (predicted.sum(dim=0) + truth.sum(dim=0)).clamp(min=1)
        axis.scatter(truth.float().mean(dim=0), f1, s=12)
        axis.set_ylim(0, 1)
        axis.set_title(f"F1 of each of the {len(f1)} labels")
        axis.set_xlabel("share of nodes with the label")
        axis.set_ylabel("F1")
