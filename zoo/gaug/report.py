"""What ``zoo predict`` leaves of a GAug model: scores and changed edges as CSV, one picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing
from zoo.gaug.ranking import edge_homophily
from zoo.reports import write_scores

_SIDE = 300  # pixels of an adjacency picture; larger graphs are binned


@dataclass
class NodePredictions:
    """A classified graph and what was done to its edges.

    Attributes:
        scores: class probabilities (N, C).
        labels: int64 (N,), or multi-hot (N, C).
        masks: bool (N,) of each split.
        embedding: (N, H) the hidden layer before the classifier's last one.
        given: edges i < j (2, m) of the data.
        changed: edges i < j (2, m') that the classifier was trained on (GAug-O: one sampled graph).
        pairs: pairs i < j (2, K) of the histogram: the given edges and as many others.
        probability: the predicted probability (K,) of ``pairs``; None without an edge predictor.
        title: of the picture.
        class_names: C names.
    """

    scores: Tensor
    labels: Tensor
    masks: dict[str, Tensor]
    embedding: Tensor
    given: Tensor
    changed: Tensor
    pairs: Tensor
    probability: Tensor | None
    title: str
    class_names: Sequence[str]

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv``, ``edges.csv`` and ``graph.png`` in ``folder``."""
        outputs = [folder / name for name in ("scores.csv", "edges.csv", "graph.png")]
        split = np.full(len(self.scores), "", dtype=object)
        for name, mask in self.masks.items():
            split[mask.numpy()] = name
        nodes, several = range(len(self.scores)), self.labels.ndim == 2
        write_scores(outputs[0], self.scores, self.class_names, nodes, self.labels, split.tolist(), several)
        self._write_edges(outputs[1])
        self._draw(outputs[2])
        return outputs

    def _write_edges(self, path: Path) -> None:
        given = {tuple(p) for p in self.given.T.tolist()}
        changed = {tuple(p) for p in self.changed.T.tolist()}
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "change", "same_class"])
            for change, edges in (("removed", given - changed), ("added", changed - given)):
                for a, b in sorted(edges):
                    writer.writerow([a, b, change, int(self._same_class(torch.tensor([[a], [b]])))])

    def _same_class(self, pairs: Tensor) -> Tensor:
        a, b = self.labels[pairs[0]], self.labels[pairs[1]]
        return a == b if self.labels.ndim == 1 else ((a > 0) & (b > 0)).any(dim=1)

    def _draw(self, path: Path) -> None:
        classes = self.labels if self.labels.ndim == 1 else self.labels.argmax(dim=1)
        order = classes.argsort(stable=True)
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order))
        with drawing(path, 1, 4, figsize=(19, 4.8), dpi=90) as (figure, axes):
            bounds = classes.bincount().cumsum(0)[:-1]
            for axis, name, pairs in ((axes[0], "given", self.given), (axes[1], "changed", self.changed)):
                image, scale = _adjacency_image(position[pairs], len(order))
                # the root keeps single edges visible beside dense blocks
                axis.imshow(np.sqrt(image), cmap="Greys", interpolation="nearest", vmax=None)
                for bound in bounds.tolist():
                    axis.axhline(bound * scale - 0.5, color="tab:red", linewidth=0.3)
                    axis.axvline(bound * scale - 0.5, color="tab:red", linewidth=0.3)
                homophily = edge_homophily(pairs, self.labels)
                axis.set_title(f"{name}: {pairs.shape[1]:,} edges, {homophily:.1%} intra-class", fontsize=10)
                axis.set_xlabel("node, sorted by class")
                axis.set_xticks([])
                axis.set_yticks([])
            self._draw_histogram(axes[2])
            flat = self.embedding.float() - self.embedding.float().mean(dim=0)
            _, _, directions = torch.pca_lowrank(flat, q=2, center=False, niter=4)
            points = (flat @ directions).numpy()
            axes[3].scatter(points[:, 0], points[:, 1], c=classes.numpy(), s=5, cmap="tab10", linewidths=0)
            axes[3].set_title("hidden layer, two principal directions", fontsize=10)
            figure.suptitle(self.title)

    def _draw_histogram(self, axis: Any) -> None:
        axis.set_title("predicted probability of edges and as many other pairs", fontsize=10)
        if self.probability is None:
            axis.text(0.5, 0.5, "no edge predictor", ha="center")
            return
        same = self._same_class(self.pairs).numpy()
        edge = torch.arange(self.pairs.shape[1]).numpy() < self.given.shape[1]
        values, bins = self.probability.float().numpy(), np.linspace(0, 1, 41)
        for name, mask, style in (
            ("intra-class edges", same & edge, {"color": "tab:blue"}),
            ("inter-class edges", ~same & edge, {"color": "tab:orange"}),
            ("other pairs, intra", same & ~edge, {"color": "tab:blue", "linestyle": ":"}),
            ("other pairs, inter", ~same & ~edge, {"color": "tab:orange", "linestyle": ":"}),
        ):
            if mask.any():
                share = np.full(mask.sum(), 1 / mask.sum())
                label = f"{name} ({mask.sum():,})"
                axis.hist(values[mask], bins, weights=share, histtype="step", label=label, **style)
        axis.set_xlabel("probability")
        axis.set_ylabel("share of each kind")
        axis.legend(fontsize=7)


def _adjacency_image(places: Tensor, nodes: int) -> tuple[np.ndarray[Any, Any], float]:
    """Edges per pixel (S, S), and pixels per node."""
    side = min(nodes, _SIDE)
    scale = side / nodes
    cells = (places.double() * scale).long().clamp(max=side - 1)
    image = torch.zeros(side * side).index_add(0, cells[0] * side + cells[1], torch.ones(places.shape[1]))
    image = image.view(side, side)
    return (image + image.T).numpy(), scale
