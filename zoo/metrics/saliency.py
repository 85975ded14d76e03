"""Metrics of saliency maps, equal to those of ``pysodmetrics``, summed over images and processes.

A map is compared with a mask of its own size. It is stretched to [0, 1] by its least and largest value first,
unless it is constant; integers count as /255. A mask is foreground where it is above 128 of 255 (an 8-bit
picture), above 0.5 (a float) or true. Curves over thresholds are averaged over images before their mean or
maximum is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

Array = np.ndarray[Any, Any]
THRESHOLDS = 256
BETA_SQUARED = 0.3
_EPS = float(np.spacing(1))
_HALF_LIFE = 5.0  # pixels over which the weight of a false alarm grows from 1 to 1.5


# --- maps and masks ---------------------------------------------------------------------------------------


def stretch(prediction: Tensor | Array) -> Array:
    """A map (H, W) as float64 in [0, 1]: its minimum becomes 0 and its maximum 1; a constant one is kept."""
    p = np.asarray(prediction.detach().cpu() if isinstance(prediction, Tensor) else prediction)
    p = p / 255 if np.issubdtype(p.dtype, np.integer) else p.astype(np.float64)
    low, high = p.min(), p.max()
    return (p - low) / (high - low) if high != low else p


def binarise(mask: Tensor | Array) -> Array:
    """A mask (H, W) as bool."""
    g = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if g.dtype == bool:
        return g
    return g > 128 if np.issubdtype(g.dtype, np.integer) else g > 0.5


def threshold_counts(p: Array, g: Array) -> tuple[Array, Array]:
    """Pixels of the foreground, and of the background, that are at or above t of 255, for t = 0..255."""
    levels = (p * 255).astype(np.uint8)
    inside = np.bincount(levels[g], minlength=THRESHOLDS)
    outside = np.bincount(levels[~g], minlength=THRESHOLDS)
    return inside[::-1].cumsum()[::-1], outside[::-1].cumsum()[::-1]


def _adaptive(p: Array) -> Array:
    """The map above twice its mean, at most 1."""
    return p >= min(2 * p.mean(), 1)


# --- one image --------------------------------------------------------------------------------------------


def precision_recall(p: Array, g: Array) -> tuple[Array, Array]:
    """Precision and recall (256,) at thresholds 0..255; 0/0 is 0."""
    hits, false = threshold_counts(p, g)
    return hits / np.maximum(hits + false, 1), hits / max(g.sum(), 1)


def f_measure(precision: Array, recall: Array) -> Array:
    """(1 + b2) P R / (b2 P + R) with b2 = 0.3, 0 where P R is."""
    above = (1 + BETA_SQUARED) * precision * recall
    return above / np.where(above == 0, 1, BETA_SQUARED * precision + recall)


def adaptive_f_measure(p: Array, g: Array) -> float:
    """F at the threshold min(2 mean(p), 1) of the float map."""
    found = _adaptive(p)
    hits = np.count_nonzero(found & g)
    if hits == 0:
        return 0.0
    precision = hits / np.count_nonzero(found)
    recall = hits / np.count_nonzero(g)
    return float(f_measure(np.array(precision), np.array(recall)))


def weighted_f_measure(p: Array, g: Array) -> float:
    """Weighted F, b2 = 1 (Margolin et al., CVPR 2014): errors depend on their neighbours and on the distance
    to the object. 0 for a mask without an object."""
    from scipy.ndimage import convolve, distance_transform_edt

    if not g.any():
        return 0.0
    distance, nearest = distance_transform_edt(~g, return_indices=True)
    error = np.abs(p - g)
    dependent = np.where(g, error, error[nearest[0], nearest[1]])
    offsets = np.arange(-3, 4)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 5.0**2))
    smooth = convolve(dependent, kernel / kernel.sum(), mode="constant", cval=0)
    least = np.where(g & (smooth < error), smooth, error)
    weighted = least * np.where(g, 1.0, 2 - np.exp(np.log(0.5) / _HALF_LIFE * distance))
    hits, false = g.sum() - weighted[g].sum(), weighted[~g].sum()
    recall, precision = 1 - weighted[g].mean(), hits / (hits + false + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))


def structure_measure(p: Array, g: Array) -> float:
    """S-measure with alpha = 0.5 (Fan et al., ICCV 2017)."""
    share = g.mean()
    if share == 0:
        return float(1 - p.mean())
    if share == 1:
        return float(p.mean())
    objects = share * _object_score(p[g]) + (1 - share) * _object_score(1 - p[~g])
    return float(max(0.0, 0.5 * objects + 0.5 * _region_score(p, g)))


def _object_score(x: Array) -> float:
    mean = x.mean()
    deviation = x.std(ddof=1) if x.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + _EPS))


def _region_score(p: Array, g: Array) -> float:
    """Similarity of the four blocks around the mask's centre of mass, weighted by their areas.

    An empty block (the centre lies in the last row or column) has weight 0 and is left out; pysodmetrics
    gives NaN there.
    """
    height, width = g.shape
    y, x = (int(c) + 1 for c in np.argwhere(g).mean(axis=0).round())  # half to even, then Matlab's 1:x
    score = 0.0
    for rows in (slice(0, y), slice(y, height)):
        for columns in (slice(0, x), slice(x, width)):
            block = g[rows, columns]
            if block.size:
                score += _similarity(p[rows, columns], block) * block.size / g.size
    return score


def _similarity(p: Array, g: Array) -> float:
    x, y, n = p.mean(), g.mean(), p.size - 1 + _EPS
    dx, dy = p - x, g - y
    above = 4 * x * y * (dx * dy).sum() / n
    below = (x**2 + y**2) * ((dx**2).sum() / n + (dy**2).sum() / n)
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0


def alignment(hits: Array, false: Array, g: Array) -> Array:
    """E-measure of binary maps (Fan et al., IJCAI 2018) from the numbers of their hits and false alarms.

    ((1 + phi)^2 / 4) summed over pixels and divided by N - 1, phi = 2ab / (a^2 + b^2) of map and mask minus
    their means: a perfect map has N / (N - 1). For an empty or full mask the pixels that agree, over N - 1.
    """
    n, inside = g.size, int(g.sum())
    found = hits + false
    if inside == 0:
        total: Array = (n - found).astype(np.float64)
    elif inside == n:
        total = found.astype(np.float64)
    else:
        mean_found, mean_mask = found / n, inside / n
        total = np.zeros(np.shape(found))
        for pixels, a, b in (
            (hits, 1 - mean_found, 1 - mean_mask),
            (false, 1 - mean_found, -mean_mask),
            (inside - hits, -mean_found, 1 - mean_mask),
            (n - inside - false, -mean_found, -mean_mask),
        ):
            phi = 2 * a * b / (a**2 + b**2 + _EPS)
            total = total + pixels * (1 + phi) ** 2 / 4
    return total / (n - 1 + _EPS)


def alignment_measure(p: Array, g: Array) -> tuple[Array, float]:
    """E at thresholds 0..255, and at the adaptive one."""
    found = _adaptive(p)
    hits, false = np.count_nonzero(found & g), np.count_nonzero(found & ~g)
    return alignment(*threshold_counts(p, g), g), float(alignment(np.array(hits), np.array(false), g))


def edge_band(g: Array, width: int = 5) -> Array:
    """Pixels within ``width`` of the border between object and background, bool (H, W)."""
    from scipy.ndimage import distance_transform_edt

    if not g.any() or g.all():
        return np.zeros_like(g)
    inside, outside = distance_transform_edt(g), distance_transform_edt(~g)
    return np.where(g, inside, outside) <= width


# --- metrics ----------------------------------------------------------------------------------------------


class _MeanOverImages(Metric):
    """Values of each image, summed; the mean is exact over any split into batches and processes."""

    is_differentiable = False
    full_state_update = False
    values = 1
    total: Tensor
    images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(self.values, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def of_image(self, p: Array, g: Array) -> Array | float | None:
        """The values (``values``,) of a stretched map and a mask; None leaves the image out."""
        raise NotImplementedError

    def update(self, prediction: Tensor | Array, mask: Tensor | Array) -> None:
        """Add one image: map and mask (H, W).

        Raises:
            ValueError: for two sizes: evaluation is at the mask's own.
        """
        p, g = stretch(prediction), binarise(mask)
        if p.shape != g.shape:
            raise ValueError(f"the map is {list(p.shape)}, its mask {list(g.shape)}; resize the map")
        found = self.of_image(p, g)
        if found is not None:
            self.total += torch.as_tensor(np.atleast_1d(found), device=self.total.device)
            self.images += 1

    def mean(self) -> Tensor:
        """The mean over images (``values``,); NaN without any."""
        return self.total / self.images

    def compute(self) -> Any:
        return self.mean()[0].float()


class SaliencyMAE(_MeanOverImages):
    """Mean absolute error of the stretched map."""

    def of_image(self, p: Array, g: Array) -> float:
        return float(np.abs(p - g).mean())


class BoundaryMAE(_MeanOverImages):
    """Mean absolute error within ``width`` pixels of the object's border; images without one are left out."""

    def __init__(self, width: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def of_image(self, p: Array, g: Array) -> float | None:
        band = edge_band(g, self.width)
        return float(np.abs(p - g)[band].mean()) if band.any() else None


class FMeasure(_MeanOverImages):
    """F-measure, b2 = 0.3, and the curve of precision and recall.

    ``compute`` gives ``max_f_mean_first`` (F of the mean precision and recall: the evaluation code of ECCV
    2018 and most tables of 2015-18), ``max_f_f_first`` (maximum of the mean F: pysodmetrics), ``mean_f``,
    ``adaptive_f``, and the curves ``precision``, ``recall`` and ``f`` (256,) at thresholds 0..255.
    """

    values = 3 * THRESHOLDS + 1

    def of_image(self, p: Array, g: Array) -> Array:
        precision, recall = precision_recall(p, g)
        return np.concatenate([precision, recall, f_measure(precision, recall), [adaptive_f_measure(p, g)]])

    def compute(self) -> dict[str, Tensor]:
        precision, recall, f = self.mean()[:-1].view(3, THRESHOLDS)
        of_means = torch.as_tensor(f_measure(precision.cpu().numpy(), recall.cpu().numpy()))
        values = {
            "max_f_mean_first": of_means.max().to(f.device),
            "max_f_f_first": f.max(),
            "mean_f": f.mean(),
            "adaptive_f": self.mean()[-1],
        }
        return {k: v.float() for k, v in values.items()} | {"precision": precision, "recall": recall, "f": f}


class PrecisionRecallCurve(_MeanOverImages):
    """Mean precision and recall at thresholds 0..255: ``compute`` gives both, (256,) each."""

    values = 2 * THRESHOLDS

    def of_image(self, p: Array, g: Array) -> Array:
        return np.concatenate(precision_recall(p, g))

    def compute(self) -> tuple[Tensor, Tensor]:
        precision, recall = self.mean().view(2, THRESHOLDS)
        return precision, recall


class WeightedFMeasure(_MeanOverImages):
    """See :func:`weighted_f_measure`."""

    def of_image(self, p: Array, g: Array) -> float:
        return weighted_f_measure(p, g)


class StructureMeasure(_MeanOverImages):
    """See :func:`structure_measure`."""

    def of_image(self, p: Array, g: Array) -> float:
        return structure_measure(p, g)


class AlignmentMeasure(_MeanOverImages):
    """E-measure: ``max_e``, ``mean_e``, ``adaptive_e`` and the curve ``e`` (256,) at thresholds 0..255."""

    values = THRESHOLDS + 1

    def of_image(self, p: Array, g: Array) -> Array:
        curve, adaptive = alignment_measure(p, g)
        return np.append(curve, adaptive)

    def compute(self) -> dict[str, Tensor]:
        curve = self.mean()[:-1]
        values = {"max_e": curve.max(), "mean_e": curve.mean(), "adaptive_e": self.mean()[-1]}
        return {k: v.float() for k, v in values.items()} | {"e": curve}


class EmptyMasks(Metric):
    """Number of images whose mask has no object: their F is 0 whatever the map."""

    full_state_update = False
    empty: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("empty", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Tensor | Array, mask: Tensor | Array) -> None:
        """Count one image."""
        self.empty += int(not binarise(mask).any())

    def compute(self) -> Tensor:
        return self.empty.float()
