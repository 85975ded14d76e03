"""Generated pairs whose information is known, fresh ones in every epoch."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arguments import check_choice
from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Depth, Many, Positive, Rate, Share, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_seeds
from datamodules.loading.variants import Uses, check_variants
from datamodules.tabular.draws import normals, uniforms
from datamodules.tabular.families import Family, Pairs, pairs_of

_TRAIN, _VAL, _TEST = 0, 2**33 + 1, 2**33 + 2  # streams; seeds of a training lie below 2^32
_MOST = 10.0
OTHERS = ("student_t", "spiral", "half_cube", "additive_noise", "mixture")


class FreshItems(BatchItems):
    """Items that are drawn when they are asked for, a function of (stream, epoch, index).

    Args:
        items: number of items of an epoch.
        stream: of the numbers; None is the training's, which has the global seed.
        count: uniform numbers that an item takes.
        made: uniform (B, count) -> the batch.
    """

    def __init__(self, items: int, stream: int | None, count: int, made: Any) -> None:
        self.items, self.stream, self.count, self.made = items, stream, count, made

    def __len__(self) -> int:
        return self.items

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        stream = global_seed() if self.stream is None else self.stream
        found = self.made(uniforms(item_seeds(stream, epochs, index), self.count))
        batch = {name: torch.from_numpy(np.ascontiguousarray(x)).float() for name, x in found.items()}
        return {**batch, "index": torch.from_numpy(index)}


class KnownInformation(SplitModule):
    """Pairs of a known mutual information, with subviews of x.

    Batch: ``subviews`` float32 (B, n, d), x_1 .. x_n from the least to the most informed, ``y`` float32
    (B, d), ``index`` int64 (B,). ``gaussian`` adds ``mean`` (B, n, d) and ``variance`` (B, n), those of y
    given x_1 .. x_i, with which exact negatives and optimal critics can be had. Training items are fresh in
    every epoch, a function of (seed, epoch, index); those of validation and test are fixed.

    ``gaussian``: y = sum_i r_i u_i + noise with independent u_i, x_1 = u_1 and
    x_i = corr x_{i-1} + sqrt(1 - corr^2) u_i, so that I(x_i; y | x_1 .. x_{i-1}) = split_i x total_mi for
    every ``corr``. The other families have x_n = x, which y depends on, and before it
    x_i = x + noises_i x noise.

    Args:
        family: of the pairs, see :mod:`datamodules.tabular.families`.
        total_mi: I(x_1 .. x_n; y), in nats.
        dim: d of each subview and of y.
        subviews: n of ``gaussian``.
        split: shares of ``total_mi`` of each subview given those before it, n numbers with sum 1; null is
            equal ones.
        corr: correlation of neighbouring subviews of ``gaussian``.
        degrees: of freedom of ``student_t``.
        speed: of ``spiral``, radians by the square of the norm.
        noises: deviations of the noise on x_1 .. x_{n-1} of the other families, falling; null is one of 1.
        items_per_epoch: fresh items of a training epoch.
        val_items: fixed items of the validation.
        test_items: fixed items of the test.
        batch_size: global training batch, over all devices.
        eval_batch_size: batch of validation and test, whose rows are each other's negatives.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = (
        "family",
        "total_mi",
        "dim",
        "subviews",
        "split",
        "corr",
        "degrees",
        "speed",
        "noises",
    )
    of_variants: ClassVar[dict[str, Uses]] = {
        "family": {
            **dict.fromkeys(("subviews", "split", "corr"), ("gaussian",)),
            "degrees": ("student_t",),
            "speed": ("spiral",),
            "noises": OTHERS,
        }
    }

    def __init__(
        self,
        family: Family = "gaussian",
        total_mi: Positive = 10.0,
        dim: Size = 20,
        subviews: Depth = 2,
        split: list[Share] | None = None,
        corr: Rate = 0.0,
        degrees: Positive = 10.0,
        speed: Positive = 0.5,
        noises: list[Positive] | None = None,
        items_per_epoch: Many = 12_800,
        val_items: Many = 2_560,
        test_items: Many = 12_800,
        batch_size: Many = 128,
        eval_batch_size: Many = 128,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(KnownInformation, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("family", family, Family)
        check_variants(KnownInformation, locals())
        if total_mi / dim > _MOST:
            raise ValueError(
                f"data.init_args.total_mi is {total_mi} in dim {dim}: more than {_MOST:g} nats a component "
                "is less noise than single precision shows"
            )
        self.family, self.truth, self.dim, self.y_dim, self.corr = family, float(total_mi), dim, dim, corr
        self.items = (items_per_epoch, val_items, test_items)
        if family == "gaussian":
            self.subviews = subviews
            self.shares = _shares(split, subviews)
            self.count, self.made = (subviews + 1) * dim, self._gaussian
        else:
            self.noises = falling(noises)
            self.subviews = len(self.noises) + 1
            self.pairs: Pairs = pairs_of(family, self.truth, dim, degrees, speed)
            self.count, self.made = self.pairs.uniforms + len(self.noises) * dim, self._pairs

    def setup(self, stage: str) -> None:
        train, val, test = self.items
        self.train_set = FreshItems(train, None, self.count, self.made)
        self.val_set = FreshItems(val, _VAL, self.count, self.made)
        self.test_set = FreshItems(test, _TEST, self.count, self.made)

    @property
    def loadings(self) -> list[float]:
        """r_i of ``gaussian``: the variance that is left after i subviews falls by e^(-2 T_i / d)."""
        left, found = 1.0, []
        for share in self.shares:
            after = left * math.exp(-2 * share * self.truth / self.dim)
            found.append(math.sqrt(left - after))
            left = after
        return found

    def _gaussian(self, u: np.ndarray[Any, Any]) -> dict[str, Any]:
        z = normals(u).reshape(len(u), self.subviews + 1, self.dim)
        fresh, noise = z[:, :-1], z[:, -1]
        r = np.array(self.loadings)
        mean = np.cumsum(r[:, None] * fresh, axis=1)
        left = 1 - np.cumsum(r**2)
        x = fresh.copy()
        for i in range(1, self.subviews):
            x[:, i] = self.corr * x[:, i - 1] + math.sqrt(1 - self.corr**2) * fresh[:, i]
        variance = np.tile(left, (len(u), 1))
        return {
            "subviews": x,
            "y": mean[:, -1] + math.sqrt(left[-1]) * noise,
            "mean": mean,
            "variance": variance,
        }

    def _pairs(self, u: np.ndarray[Any, Any]) -> dict[str, Any]:
        x, y = self.pairs.draw(u[:, : self.pairs.uniforms])
        noise = normals(u[:, self.pairs.uniforms :])
        return {"subviews": corrupted(x, self.noises, noise), "y": y}


def corrupted(x: np.ndarray[Any, Any], noises: list[float], noise: np.ndarray[Any, Any]) -> Any:
    """x with noise of each deviation, then x itself: subviews (B, n, d), which lose nothing of x.

    Args:
        x: (B, d).
        noises: n - 1 deviations.
        noise: standard normal, (B, (n - 1) d).
    """
    parts = noise.reshape(len(x), len(noises), x.shape[1]) * np.array(noises)[:, None]
    return np.concatenate([x[:, None] + parts, x[:, None]], axis=1)


def falling(noises: list[float] | None) -> list[float]:
    """``noises``, which must fall; one of 1 where there are none given.

    Raises:
        ValueError: for none or for what does not.
    """
    if noises is None:
        return [1.0]
    if not noises or any(a <= b for a, b in itertools.pairwise(noises)):
        raise ValueError(f"data.init_args.noises must be one number or several that fall, got {noises}")
    return list(noises)


def _shares(split: list[float] | None, subviews: int) -> list[float]:
    if split is None:
        return [1 / subviews] * subviews
    if len(split) != subviews or abs(sum(split) - 1) > 1e-6:
        raise ValueError(
            f"data.init_args.split must be {subviews} shares with sum 1, one a subview, got {split}"
        )
    return list(split)
