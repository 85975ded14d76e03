"""Learned features against classical ones: what each tells of the other (float64 arrays of N molecules)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.molecules.graph.descriptors import Standardiser, tanimoto
from zoo.molecules.graph.featurised import descriptors_of, graphs_of
from zoo.reports import writing

if TYPE_CHECKING:
    from zoo.molecules.graph.module import MoleculeGraph2D

_PROBED = 256  # molecules of a batch
_NEIGHBOURS = 5
_STRENGTH = 1.0


def linear_cka(a: Any, b: Any) -> float:
    """Linear centred kernel alignment of (N, D) and (N, E), ``|A'B|^2 / (|A'A| |B'B|)`` centred, 0 to 1.

    Kornblith et al. 2019; NaN where one does not vary.
    """
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    # by the Gram matrices where there are fewer molecules than columns
    kernels = [x @ x.T for x in (a, b)]
    scale = np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1])
    return float((kernels[0] * kernels[1]).sum() / scale) if scale > 0 else float("nan")


def ridge_r2(x: Any, y: Any, x_test: Any, y_test: Any) -> Any:
    """R2 on the test molecules of a ridge probe of each column of y (N, E) from x (N, D); NaN where y_test is
    constant. x is standardised by the training molecules, the strength is 1."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    middle = y.mean(axis=0)
    if x.shape[1] <= len(x):
        weights = np.linalg.solve(x.T @ x + _STRENGTH * np.eye(x.shape[1]), x.T @ (y - middle))
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + _STRENGTH * np.eye(len(x)), y - middle)
    left = ((y_test - middle - x_test @ weights) ** 2).sum(axis=0)
    total = ((y_test - y_test.mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), np.nan)


def common_neighbours(a: Any, b: Any) -> float:
    """Mean share of the five nearest training molecules that two similarities (N, M) have in common."""
    count = min(_NEIGHBOURS, a.shape[1])
    nearest = [np.argsort(-x, axis=1, kind="stable")[:, :count] for x in (a, b)]
    shared = [len(set(p) & set(q)) for p, q in zip(*(n.tolist() for n in nearest), strict=True)]
    return float(np.mean(shared)) / count


def write_probes(path: Path, names: Sequence[str], learned: Any) -> None:
    """``probes.csv``: R2 of each rdkit descriptor from h_G, best first; those without one at the end."""
    order = sorted(range(len(names)), key=lambda i: (not np.isfinite(learned[i]), -np.nan_to_num(learned[i])))
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["descriptor", "R2 from h_G"])
        for i in order:
            writer.writerow([names[i], f"{learned[i]:.4f}" if np.isfinite(learned[i]) else ""])


@torch.no_grad()
def probed(module: MoleculeGraph2D, train: Sequence[str], test: Sequence[str]) -> dict[str, float]:
    """Learned features of a module against classical ones; each process looks at all molecules.

    Writes ``probes.csv`` to the folder of the run.
    """
    h, bits, values = [], [], []
    for smiles in (train, test):
        parts = [smiles[i : i + _PROBED] for i in range(0, len(smiles), _PROBED)]
        graphs = (graphs_of(part, module.features, module.hparams["chirality"]) for part in parts)
        dtype = next(module.network.parameters()).dtype
        prints = [module.network.embed(graph.to(module.device, dtype)) for graph in graphs]
        h.append(torch.cat(prints).double().cpu().numpy())
        bits.append(descriptors_of(smiles, "ecfp", False))
        values.append(descriptors_of(smiles, "rdkit", False))
    scale = Standardiser("rdkit")
    scale.fit(values[0])
    known = [scale(v).double().numpy() for v in values]
    learned = ridge_r2(h[0], known[0], h[1], known[1])
    learned = np.where(scale.kept.numpy(), learned, np.nan)
    back = ridge_r2(known[0], h[0], known[1], h[1])
    if module.trainer.log_dir is not None and module.trainer.is_global_zero:
        write_probes(Path(module.trainer.log_dir) / "probes.csv", scale.names, learned)
    # |a|^2 of the test molecule is the same for all its neighbours
    nearness = 2 * h[1] @ h[0].T - (h[0] ** 2).sum(axis=1)
    return {
        "cka_ecfp": linear_cka(h[1], bits[1]),
        "cka_rdkit": linear_cka(h[1], known[1]),
        "probe_descriptors": float(np.nanmedian(learned)),
        "probe_back": float(np.nanmedian(back)),
        "common_neighbours": common_neighbours(nearness, tanimoto(bits[1], bits[0])),
    }
