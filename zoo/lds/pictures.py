"""What a person looks at after LDS: scores of the nodes, the learned adjacency, the histogram of theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing
from zoo.reports import write_scores

_LARGEST_PICTURE = 800


@dataclass
class NodeScores:
    """Predictions of a node classifier.

    Attributes:
        scores: (N, C), logits or logarithms of probabilities.
        labels: (N,).
        split: (N,) name of each node's set.
        class_names: C names.
    """

    scores: Tensor
    labels: Tensor
    split: list[str]
    class_names: list[str]

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv`` in ``folder``."""
        path, nodes = folder / "scores.csv", range(len(self.labels))
        write_scores(path, self.scores.softmax(dim=1), self.class_names, nodes, self.labels, self.split)
        return [path]


def split_names(batch: Any, sets: Sequence[str]) -> list[str]:
    """Name of the set of each node, empty for those of no set."""
    names = [""] * len(batch.y)
    for name in sets:
        for node in batch[f"{name}_mask"].nonzero()[:, 0].tolist():
            names[node] = name
    return names


@dataclass
class LearnedGraph:
    """Predictions of a node classifier with the graph that it learned.

    Attributes:
        scores: (N, C) mean logits, or log mean probabilities.
        labels: (N,).
        split: (N,) name of each node's set.
        class_names: C names.
        pairs: (2, P), i < j, that may be edges.
        theta: (P,) their learned probabilities.
        initial: (P,) their probabilities at the start.
    """

    scores: Tensor
    labels: Tensor
    split: list[str]
    class_names: list[str]
    pairs: Tensor
    theta: Tensor
    initial: Tensor

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv``, ``graph.npz``, ``adjacency.png`` and ``edge_probabilities.png`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / n for n in ("scores.csv", "graph.npz", "adjacency.png", "edge_probabilities.png")]
        NodeScores(self.scores, self.labels, self.split, self.class_names).write(folder)
        write_graph(paths[1], self.pairs, self.theta, len(self.labels))
        self._plot_adjacency(paths[2])
        self._plot_histogram(paths[3])
        return paths

    def _plot_adjacency(self, path: Path) -> None:
        """Given and learned matrices, nodes sorted by class, and what was added and taken away."""
        order = torch.sort(self.labels, stable=True).indices
        nodes = len(order)
        bins = min(nodes, _LARGEST_PICTURE)
        place = torch.empty_like(order)
        place[order] = torch.arange(nodes) * bins // nodes
        with drawing(path, 1, 3, figsize=(13, 4.4), dpi=110) as (figure, axes):
            change = self.theta - self.initial
            panels = (
                ("given graph", self.initial, "Greys", 0.0, 1.0),
                ("learned probabilities", self.theta, "Greys", 0.0, 1.0),
                ("learned - given", change, "RdBu_r", -1.0, 1.0),
            )
            borders = torch.cumsum(self.labels.bincount(), 0)[:-1] * bins // nodes
            for axis, (title, values, colours, low, high) in zip(axes, panels, strict=True):
                image = axis.imshow(
                    _binned(place[self.pairs], values, bins),
                    cmap=colours,
                    vmin=low,
                    vmax=high,
                    interpolation="nearest",
                )
                for border in borders.tolist():
                    axis.axhline(border - 0.5, color="tab:orange", linewidth=0.6)
                    axis.axvline(border - 0.5, color="tab:orange", linewidth=0.6)
                figure.colorbar(image, ax=axis, shrink=0.8)
                axis.set_title(
                    f"{title}\nexpected edges {values.sum():,.0f}" if colours == "Greys" else title
                )
                axis.set_xlabel("nodes by class")
            axes[0].set_ylabel("nodes by class")

    def _plot_histogram(self, path: Path) -> None:
        """theta of pairs that were edges and of pairs that were not, within a class and across."""
        same = self.labels[self.pairs[0]] == self.labels[self.pairs[1]]
        with drawing(path, 1, 2, figsize=(9, 3.4), dpi=110) as (_, axes):
            for axis, title, chosen in (
                (axes[0], "pairs that were edges", self.initial > 0),
                (axes[1], "pairs that were not", self.initial <= 0),
            ):
                groups = [self.theta[chosen & same].numpy(), self.theta[chosen & ~same].numpy()]
                names = [f"same class ({len(groups[0]):,})", f"other class ({len(groups[1]):,})"]
                axis.hist(groups, bins=[i / 20 for i in range(21)], label=names)
                axis.set_yscale("symlog", linthresh=1)
                axis.set_title(title)
                axis.set_xlabel("edge probability")
                axis.legend(fontsize=8)
            axes[0].set_ylabel("pairs")


def write_graph(path: Path, pairs: Tensor, theta: Tensor, num_nodes: int) -> Path:
    """A learned graph without zeros: ``row``, ``col`` (i < j), ``probability``, ``node_ids``, ``num_nodes``.

    ``np.load(path, allow_pickle=False)`` reads it.
    """
    kept = (theta > 0).cpu()
    row, column = pairs.cpu()[:, kept].numpy().astype(np.int32)
    np.savez_compressed(
        path,
        row=row,
        col=column,
        probability=theta.detach().cpu()[kept].numpy(),
        node_ids=np.arange(num_nodes, dtype=np.int32),
        num_nodes=np.int64(num_nodes),
    )
    return path


def _binned(places: Tensor, values: Tensor, bins: int) -> Any:
    """Symmetric matrix of the values; of large graphs the largest magnitude in each bin."""
    image = torch.zeros(bins * bins)
    code = torch.cat([places[0] * bins + places[1], places[1] * bins + places[0]])
    both = torch.cat([values, values]).float()
    order = both.abs().argsort(stable=True)
    image[code[order]] = both[order]  # the last of equal places is the largest
    return image.view(bins, bins).numpy()
