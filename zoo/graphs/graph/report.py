"""What ``zoo predict`` leaves of a graph classifier: scores as CSV, and a picture of graphs and mistakes."""

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

_EXAMPLES = 12
_ROUNDS = 60  # of the spring layout


@dataclass
class GraphPredictions:
    """Classified graphs.

    Attributes:
        scores: class probabilities (B, C).
        labels: int64 (B,).
        numbers: int64 (B,), of the graphs in the data set.
        embedding: (B, W), what the classifier sees.
        edge_index: int64 (2, E) of all graphs.
        ptr: int64 (B + 1,), where the nodes of each graph begin.
        class_names: C names.
        title: of the picture.
        split: the set that they are of.
    """

    scores: Tensor
    labels: Tensor
    numbers: Tensor
    embedding: Tensor
    edge_index: Tensor
    ptr: Tensor
    class_names: Sequence[str]
    title: str
    split: str = "test"

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv`` and ``graphs.png`` in ``folder``."""
        outputs = [folder / "scores.csv", folder / "graphs.png"]
        edges = torch.bincount(
            torch.bucketize(self.edge_index[0], self.ptr[1:], right=True), minlength=len(self.labels)
        )
        sizes = {"nodes": self.ptr.diff().tolist(), "directed_edges": edges.tolist()}
        split = [self.split] * len(self.labels)
        names = self.numbers.tolist()
        write_scores(outputs[0], self.scores, self.class_names, names, self.labels, split, extra=sizes)
        self._draw(outputs[1])
        return outputs

    def examples(self) -> list[int]:
        """Up to twelve graphs, at most half of them mistakes; the others go round the classes."""
        wrong = (self.scores.argmax(dim=1) != self.labels).nonzero()[:, 0].tolist()
        chosen = wrong[: _EXAMPLES // 2]
        right = [i for i in range(len(self.labels)) if i not in set(wrong)]
        seen: dict[int, int] = {}
        turn = []
        for i in right:
            label = int(self.labels[i])
            turn.append((seen.get(label, 0), label, i))
            seen[label] = seen.get(label, 0) + 1
        room = _EXAMPLES - len(chosen)
        return [i for _, _, i in sorted(turn)[:room]] + chosen

    def _draw(self, path: Path) -> None:
        with drawing(path, 0, 0, dpi=80, figsize=(17, 7.2)) as (figure, _):
            left, right = figure.subfigures(1, 2, width_ratios=(2.1, 1))
            axes = left.subplots(3, 4)
            predicted = self.scores.argmax(dim=1)
            chosen = self.examples()
            for axis in axes.flat:
                axis.axis("off")
            for axis, i in zip(axes.flat, chosen, strict=False):
                self._draw_graph(axis, i)
                good = bool(predicted[i] == self.labels[i])
                truth, guess = (plain(self.class_names[int(c)]) for c in (self.labels[i], predicted[i]))
                text = f"{truth}" if good else f"{truth}, taken for {guess}"
                axis.set_title(
                    f"{text} ({float(self.scores[i].max()):.2f})",
                    fontsize=9,
                    color="black" if good else "tab:red",
                )
            top, bottom = right.subplots(2, 1)
            self._draw_confusion(top)
            self._draw_embedding(bottom)
            accuracy = float((predicted == self.labels).float().mean())
            figure.suptitle(f"{plain(self.title)}, accuracy {accuracy:.3f}")

    def _draw_graph(self, axis: Any, i: int) -> None:
        start, end = int(self.ptr[i]), int(self.ptr[i + 1])
        mine = (self.edge_index[0] >= start) & (self.edge_index[0] < end)
        edges = (self.edge_index[:, mine] - start).numpy()
        places = spring_layout(end - start, edges)
        axis.plot(*places[edges.T].transpose(2, 1, 0), color="0.6", linewidth=0.7, zorder=1)
        colour = f"C{int(self.labels[i]) % 10}"
        axis.scatter(places[:, 0], places[:, 1], s=12, color=colour, zorder=2, linewidths=0)
        axis.set_aspect("equal")

    def _draw_confusion(self, axis: Any) -> None:
        classes = self.scores.shape[1]
        code = self.labels * classes + self.scores.argmax(dim=1)
        counts = torch.bincount(code, minlength=classes**2).view(classes, classes).numpy()
        shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if classes <= 15:
            for a, b in np.ndindex(counts.shape):
                colour = "white" if shares[a, b] > 0.5 else "black"
                axis.text(b, a, str(counts[a, b]), ha="center", va="center", fontsize=9, color=colour)
        names = [plain(name, 24) for name in self.class_names]
        axis.set_xticks(range(classes), names, fontsize=8)
        axis.set_yticks(range(classes), names, fontsize=8)
        axis.set_xlabel("predicted", fontsize=9)
        axis.set_ylabel("label", fontsize=9)

    def _draw_embedding(self, axis: Any) -> None:
        flat = self.embedding - self.embedding.mean(dim=0)
        flat = flat / flat.std(dim=0).clamp(min=1e-6)
        _, _, directions = torch.linalg.svd(flat, full_matrices=False)
        points = (flat @ directions[:2].T).numpy()
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
        for label in self.labels.unique().tolist():
            mine = (self.labels == label).numpy()
            name = plain(self.class_names[label])
            axis.scatter(*points[mine].T, s=9, color=f"C{label % 10}", label=name, linewidths=0)
        axis.legend(fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title("graph vectors, two principal directions", fontsize=9)


def spring_layout(nodes: int, edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places (n, 2) of the nodes, by springs from a spectral start (Fruchterman and Reingold, 1991)."""
    adjacency = np.zeros((nodes, nodes))
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1
    _, vectors = np.linalg.eigh(np.diag(adjacency.sum(axis=1)) - adjacency)
    places = np.pad(vectors[:, 1:3], ((0, 0), (0, max(0, 3 - nodes))))
    # the spectral start puts symmetric nodes on one spot
    places = places + 0.02 * np.random.Generator(np.random.Philox(0)).standard_normal((nodes, 2))
    scale = nodes**-0.5
    for step in range(_ROUNDS):
        difference = places[:, None] - places[None]
        distance = np.linalg.norm(difference, axis=2).clip(min=1e-3)
        force = scale**2 / distance**2 - adjacency * distance / scale
        move = (difference * force[:, :, None]).sum(axis=1)
        length = np.linalg.norm(move, axis=1, keepdims=True).clip(min=1e-9)
        places = places + move / length * np.minimum(length, 0.1 * (1 - step / _ROUNDS))
    out: np.ndarray[Any, Any] = places
    return out
