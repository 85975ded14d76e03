"""Errors of energies and forces over all molecules and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_STATES = (
    "molecules",
    "t",
    "t2",
    "y",
    "y2",
    "per_atom",
    "components",
    "atoms",
    "f",
    "f2",
    "length",
    "known2",
)


class Errors(Metric):
    """Sums of errors: of the target (by molecule, and by atom), of force components and of force vectors.

    The mean error of force components depends on how the molecule lies; that of the vectors' length and the
    root mean square do not.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in _STATES:
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, **sums: Tensor | float) -> None:
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)

    def update(
        self, found: Tensor, target: Tensor, sizes: Tensor, forces: Tensor | None, wanted: Tensor | None
    ) -> None:
        """Add molecules.

        Args:
            found: predictions (B,).
            target: (B,); NaN is unknown and left out.
            sizes: atoms of each (B,).
            forces: predicted (N, 3), or None.
            wanted: true (N, 3), or None.
        """
        known = ~target.isnan()
        error = (found.double() - target.double())[known]
        self._add(
            molecules=known.sum(),
            t=target[known].double().sum(),
            t2=target[known].double().square().sum(),
            y=error.abs().sum(),
            y2=error.square().sum(),
            per_atom=(error.abs() / sizes[known]).sum(),
        )
        if forces is not None and wanted is not None:
            between, true = (forces - wanted).double(), wanted.double()
            self._add(
                atoms=len(between),
                components=between.numel(),
                f=between.abs().sum(),
                f2=between.square().sum(),
                length=torch.linalg.vector_norm(between, dim=1).sum(),
                known2=true.square().sum(),
            )

    def compute(self) -> dict[str, Tensor]:
        """``mae``, ``rmse``, ``mae_per_atom``, ``mae_over_sd`` of the targets, and of forces
        ``force_mae``, ``force_rmse``, ``force_vector``
        and ``force_rmse_percent`` of the true forces' root mean square."""
        s = {name: getattr(self, name) for name in _STATES}
        found: dict[str, Tensor] = {}
        if s["molecules"] > 0:
            found["mae"], found["rmse"] = s["y"] / s["molecules"], (s["y2"] / s["molecules"]).sqrt()
            found["mae_per_atom"] = s["per_atom"] / s["molecules"]
            variance = s["t2"] / s["molecules"] - (s["t"] / s["molecules"]).square()
            if variance > 0:
                found["mae_over_sd"] = found["mae"] / variance.sqrt()
        if s["components"] > 0:
            found["force_mae"], found["force_rmse"] = (
                s["f"] / s["components"],
                (s["f2"] / s["components"]).sqrt(),
            )
            found["force_vector"] = s["length"] / s["atoms"]
            if s["known2"] > 0:
                found["force_rmse_percent"] = 100 * (s["f2"] / s["known2"]).sqrt()
        return {name: value.float() for name, value in found.items()}
