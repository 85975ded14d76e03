"""Scale, centre and references of a training set, which a network need not learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.reports import say

if TYPE_CHECKING:
    from zoo.molecules.space.module import MoleculeRegressor3D


def take_units(module: MoleculeRegressor3D, train: Any, known: Mapping[int, float] | None) -> None:
    """Give a module's network the units of its training molecules.

    Args:
        module: whose settings say how.
        train: the training set, with ``targets``, ``compositions`` and ``force_rms``.
        known: references by atomic number that the data know.

    Raises:
        ValueError: if there is nothing to learn.
    """
    y, counts, h, units = train.targets(), train.compositions(), module.hparams, module.network.units
    references, mean = np.zeros(100), 0.0
    if module.head == "scalar":
        several = len(np.unique(counts, axis=0)) > 1
        if h["references"] == "auto" and known is not None and module.pool == "sum":
            references[list(known)] = list(known.values())
        elif h["references"] == "fit" or (h["references"] == "auto" and h["target"] == "energy" and several):
            references = np.linalg.lstsq(counts, y, rcond=None)[0]
        y = y - counts @ references
        sizes = counts.sum(axis=1) if module.per_atom else np.ones(len(y))
        mean = 0.0 if h["centre"] == "none" else float((y / sizes).mean())
        y = y - mean * sizes
    chosen = h["scale"]
    if chosen == "auto":
        chosen = "forces" if h["forces"] else "sd" if module.head == "scalar" else "none"
    scale = {
        "none": lambda: 1.0,
        "sd": lambda: float(y.std()),
        "mad": lambda: float(np.abs(y - y.mean()).mean()),
        "forces": train.force_rms,
    }[chosen]()
    if not scale or not np.isfinite(scale):
        raise ValueError("all training molecules have the same target: there is nothing to learn")
    units.references.copy_(torch.from_numpy(references))
    units.mean.fill_(mean)
    units.scale.fill_(scale)
    units.elements.copy_(torch.from_numpy(counts.sum(axis=0) > 0))
    whose = "atom" if module.per_atom else "molecule"
    words = "references subtracted, " if references.any() else ""
    say(f"target      {h['target']}: {words}mean by {whose} {mean:.6g}, scale {scale:.6g} {h['unit']}")
