"""Frechet distance between two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.hub.foreign import read_arrays
from zoo.nn.precision import keeping_dtype


def _symmetric_sqrt(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), scalar float64.

    The trace of the square root is that of the symmetric root of cov1^(1/2) cov2 cov1^(1/2), which has the
    same eigenvalues and stays real for singular covariances, so that ADM's 1e-6 on the diagonal is not
    needed. Means (F,), covariances (F, F).
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    root = _symmetric_sqrt(cov1)
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and unbiased covariance (F, F) of features (N, F), float64."""
    features = features.double()
    return features.mean(dim=0), features.T.cov()


def read_reference(path: str | Path, spatial: bool = False) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F), float64, of one of ADM's reference files.

    Args:
        path: for instance ``VIRTUAL_imagenet256_labeled.npz``, with ``mu``, ``sigma``, ``mu_s``, ``sigma_s``.
        spatial: statistics of sFID (7 channels of mixed_6/conv, F = 2023), not of FID (pool_3, 2048).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without these arrays, or with some of other shapes.
    """
    keys = ("mu_s", "sigma_s") if spatial else ("mu", "sigma")
    arrays = read_arrays(Path(path), *keys)
    found = [torch.from_numpy(arrays[k]).double() for k in keys if k in arrays]
    if len(found) < len(keys):
        with zipfile.ZipFile(path) as archive:
            held = sorted(name.removesuffix(".npy") for name in archive.namelist())
        raise ValueError(
            f"{path} holds {', '.join(held) or 'nothing'}, but a reference file has {' and '.join(keys)}"
        )
    mean, covariance = found
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: {keys[0]} {tuple(mean.shape)} and {keys[1]} {tuple(covariance.shape)} are not (F,) "
            "and (F, F)"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{path}: {keys[0]} or {keys[1]} holds NaN or infinity; write or download it anew")
    return mean, covariance


class FrechetDistance(Metric):
    """Frechet distance of generated features to real ones, or to stored reference statistics.

    Sums in float64 are the state, so that it streams and adds up over processes.

    Args:
        feature_size: F.
        **kwargs: of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(self, feature_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)
        self._reference: tuple[Tensor, Tensor] | None = None
        for kind in ("real", "fake"):
            self.add_state(f"{kind}_count", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")
            self.add_state(
                f"{kind}_sum", torch.zeros(feature_size, dtype=torch.float64), dist_reduce_fx="sum"
            )
            outer = torch.zeros(feature_size, feature_size, dtype=torch.float64)
            self.add_state(f"{kind}_outer", outer, dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> FrechetDistance:
        # Covariances are differences of sums: in a smaller type they are noise.
        super()._apply(keeping_dtype(fn), exclude_state)
        return self

    def set_reference(self, mean: Tensor, covariance: Tensor) -> None:
        """Compare with these statistics instead of with real features."""
        self._reference = (mean.double(), covariance.double())

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, F)."""
        kind, features = "real" if real else "fake", features.double()
        setattr(self, f"{kind}_count", getattr(self, f"{kind}_count") + len(features))
        setattr(self, f"{kind}_sum", getattr(self, f"{kind}_sum") + features.sum(dim=0))
        setattr(self, f"{kind}_outer", getattr(self, f"{kind}_outer") + features.T @ features)

    def _statistics(self, kind: str) -> tuple[Tensor, Tensor]:
        count = getattr(self, f"{kind}_count")
        if count < 2:
            raise ValueError(f"the Frechet distance needs at least two {kind} samples, got {int(count)}")
        mean = getattr(self, f"{kind}_sum") / count
        return mean, (getattr(self, f"{kind}_outer") - count * torch.outer(mean, mean)) / (count - 1)

    def compute(self) -> Tensor:
        """Scalar float64.

        Raises:
            ValueError: with fewer than two samples on a side.
        """
        mean, covariance = self._reference if self._reference is not None else self._statistics("real")
        fake_mean, fake_covariance = self._statistics("fake")
        return frechet_distance(mean.to(fake_mean), covariance.to(fake_mean), fake_mean, fake_covariance)
