"""The paper's schedule: a cosine over the iterations of the set that training began with."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zoo.nn.ranges import Count, CountOrZero, LastEpoch, NonNegative, check_ranges


class CountedCosine(LRScheduler):
    """lr(t) = lr_min + (lr - lr_min) (1 + cos(pi t / (E n))) / 2, t = 0, 1, ...; lr_min after the last step.

    During a warm-up the rate of an epoch e is constant, warm_lr + (lr - warm_lr) e / warm-up; the cosine runs
    from step 0 all the same (timm's without ``warmup_prefix``).

    Args:
        steps_per_epoch: n, iterations of the first epoch.
        epochs: E.
        min_lr: lr_min.
        warmup_epochs: epochs of the warm-up.
        warmup_lr: warm_lr, of its first epoch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps_per_epoch: Count,
        epochs: Count,
        min_lr: NonNegative = 0.0,
        warmup_epochs: CountOrZero = 0,
        warmup_lr: NonNegative = 0.0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(CountedCosine, locals())
        self.steps_per_epoch, self.epochs, self.min_lr = steps_per_epoch, epochs, min_lr
        self.warmup_epochs, self.warmup_lr = warmup_epochs, warmup_lr
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, step: int) -> float:
        """At a counted step, of a base rate."""
        epoch = step // self.steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (base - self.warmup_lr) * epoch / self.warmup_epochs
        progress = min(1.0, step / (self.epochs * self.steps_per_epoch))
        return self.min_lr + (base - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def get_lr(self) -> list[float | Tensor]:
        return [self.rate(float(base), self.last_epoch) for base in self.base_lrs]


def counts(batch: int, counted: int, last: bool) -> bool:
    """Whether the schedule moves after batch ``batch`` (from 0) of an epoch.

    It moves ``counted`` times an epoch: after each of the first ``counted`` - 1 batches, and at the end of
    the epoch. What lies between, by which the set has grown, trains at the rate of the last counted one.
    """
    return batch < counted - 1 or last
