"""Embeddings of images as files: the numbers, a scatter plot, a sheet of nearest neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.drawing import drawing, plain
from zoo.reports import PARTS, image_grid, save_png, to_uint8, writing

_QUERIES, _NEIGHBOURS, _MOST = 12, 8, 20_000
_COLOURS = 20


@dataclass
class Embeddings:
    """Features of a batch.

    Attributes:
        features: (B, F).
        images: (B, C, S, S) in [-1, 1].
        labels: (B,), -1 where unknown.
        index: (B,).
        names: of the classes, where the data have some.
    """

    features: Tensor
    images: Tensor
    labels: Tensor
    index: Tensor
    names: Sequence[str] = ()

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        arrays = {k: getattr(self, k).numpy() for k in ("features", "labels", "index")}
        np.savez(part, **arrays, pixels=to_uint8(self.images), names=np.array([*self.names], dtype=str))
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``embeddings.npz``, ``scatter.png`` (two principal components) and ``neighbours.png``."""
        parts = [np.load(p) for p in sorted((folder / PARTS).glob("*.npz"))]
        if not parts:
            return []
        whole = {k: np.concatenate([p[k] for p in parts]) for k in ("features", "labels", "index", "pixels")}
        order = np.argsort(whole["index"])
        whole = {k: v[order] for k, v in whole.items()}
        names = parts[0]["names"].tolist()
        path = folder / "embeddings.npz"
        with writing(path):
            np.savez(path, **{k: v for k, v in whole.items() if k != "pixels"}, names=parts[0]["names"])
        features = torch.from_numpy(whole["features"][:_MOST])
        _scatter(folder / "scatter.png", features, whole["labels"][:_MOST], names)
        _sheet(folder / "neighbours.png", features, whole["pixels"])
        return [path, folder / "scatter.png", folder / "neighbours.png"]


def _scatter(
    path: Path, features: Tensor, labels: np.ndarray[tuple[int], np.dtype[np.int64]], names: Sequence[str]
) -> None:
    centred = features.double() - features.double().mean(dim=0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
    largest = directions.abs().argmax(dim=0)
    directions = directions * directions[largest, range(directions.shape[1])].sign()  # the same in every run
    at = (centred @ directions).numpy()
    with drawing(path, dpi=110, figsize=(6, 5)) as (_figure, axis):
        for label in np.unique(labels)[:_COLOURS]:
            chosen = labels == label
            known = 0 <= label < len(names)
            name = "no label" if label < 0 else plain(names[label]) if known else str(label)
            axis.scatter(*at[chosen].T, s=6, color=f"C{max(0, label) % 10}", label=name)
        axis.set(xlabel="first principal component", ylabel="second")
        axis.legend(fontsize=7, markerscale=2)


def neighbours(features: Tensor, queries: Tensor, count: int) -> Tensor:
    """Places (Q, count) of the nearest features by cosine, without the query itself."""
    unit = functional.normalize(features.float(), dim=1)
    cosine = unit[queries] @ unit.T
    cosine[torch.arange(len(queries)), queries] = -2
    return cosine.topk(min(count, len(features) - 1), dim=1).indices


def _sheet(path: Path, features: Tensor, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """A row for each query: itself, then its neighbours, the nearest first."""
    queries = torch.linspace(0, len(features) - 1, min(_QUERIES, len(features))).long()
    if len(features) < 2:
        save_png(path, image_grid(pixels))
        return
    found = torch.cat([queries[:, None], neighbours(features, queries, _NEIGHBOURS)], dim=1)
    save_png(path, image_grid(pixels[found.flatten().numpy()], columns=found.shape[1]))
