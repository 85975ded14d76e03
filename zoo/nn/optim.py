"""Learning-rate schedules that torch lacks, and how they reach Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zoo.nn.ranges import Count, CountOrZero, Fraction, LastEpoch, Positive, Size, check_ranges


def with_schedule(
    optimizer: Optimizer,
    lr_scheduler: Callable[[Optimizer], Any] | None,
    interval: Literal["step", "epoch"] = "step",
) -> Any:
    """What ``configure_optimizers`` returns: the optimizer, with a scheduler where one is asked for."""
    if lr_scheduler is None:
        return optimizer
    schedule = {"scheduler": lr_scheduler(optimizer), "interval": interval}
    return {"optimizer": optimizer, "lr_scheduler": schedule}


class WarmupStableDecay(LRScheduler):
    """Linear warm-up, constant plateau, cosine tail to zero (WSD). Step it every optimiser step.

    Args:
        total_steps: step at which the rate reaches zero; set it to ``trainer.max_steps``.
        warmup_steps: steps of the linear rise.
        decay_fraction: share of ``total_steps`` that the cosine tail takes.

    Raises:
        ValueError: when warm-up and tail overlap.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Count,
        warmup_steps: CountOrZero = 0,
        decay_fraction: Fraction = 0.3,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(WarmupStableDecay, locals())
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.decay_start = total_steps * (1 - decay_fraction)
        if warmup_steps > self.decay_start:
            raise ValueError(
                f"warmup_steps is {warmup_steps}, which overlaps the decay from step {self.decay_start:.0f}"
            )
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at ``step``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step <= self.decay_start or self.decay_start >= self.total_steps:
            return 1.0
        progress = min(1.0, (step - self.decay_start) / (self.total_steps - self.decay_start))
        return 0.5 * (1 + math.cos(math.pi * progress))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``total_steps`` follows those."""
        shape = ("total_steps", "warmup_steps", "decay_start")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class Triangular(LRScheduler):
    """Rises to the base rate and falls again, set once per epoch: 1 - |2 (e + 1) / (E + 1) - 1|.

    Step it every epoch (``lr_interval: epoch`` of :class:`zoo.RAS`).

    Args:
        epochs: E of the training.
    """

    def __init__(self, optimizer: Optimizer, epochs: Count, last_epoch: LastEpoch = -1) -> None:
        check_ranges(Triangular, locals())
        self.epochs = epochs
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """Multiplier of the base rate in ``epoch``, from 0."""
        return max(0.0, 1 - abs(2 * (epoch + 1) / (self.epochs + 1) - 1))

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class WarmupCosine(LRScheduler):
    """lr(k) = base min(1, k / warm-up) (1 + cos(pi k / total)) / 2: the cosine runs from step 0, not from the
    end of the warm-up (Scenic's compound schedule). Step it every optimiser step; the first step's rate is 0.

    Args:
        total_steps: step at which the rate reaches zero; set it to ``trainer.max_steps``.
        warmup_steps: steps of the linear factor.

    Raises:
        ValueError: for a warm-up longer than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Count,
        warmup_steps: CountOrZero = 0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(WarmupCosine, locals())
        if warmup_steps > total_steps:
            raise ValueError(f"warmup_steps must be at most total_steps = {total_steps}, got {warmup_steps}")
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at ``step``."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``total_steps`` follows those."""
        shape = ("total_steps", "warmup_steps")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class WarmupLinear(LRScheduler):
    """lr(u) = base u / warm-up up to u = warm-up, then base (total - u) / (total - warm-up), 0 afterwards:
    fairseq's polynomial decay of power 1. Step it every optimiser step; the first update's rate is 0.

    Args:
        total_steps: update at which the rate reaches zero; set it to ``trainer.max_steps``.
        warmup_steps: updates of the linear rise.

    Raises:
        ValueError: for a warm-up that is not shorter than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Count,
        warmup_steps: CountOrZero = 0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(WarmupLinear, locals())
        if warmup_steps >= total_steps:
            raise ValueError(
                f"warmup_steps must be less than total_steps = {total_steps}, got {warmup_steps}"
            )
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at update ``step``, from 0."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps if self.warmup_steps else 1.0
        return max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``total_steps`` follows those."""
        shape = ("total_steps", "warmup_steps")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class Noam(LRScheduler):
    """lr(k) = base factor width^-0.5 min(k^-0.5, k warm-up^-1.5) at step k, from 1 (Vaswani et al. 2017).

    The base rate is 1 in the recipes. Step it every optimiser step.

    Args:
        width: d of the model.
        factor: of the rate.
        warmup_steps: steps of the linear rise, at whose end the rate is largest.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        width: Size = 512,
        factor: Positive = 1.0,
        warmup_steps: Count = 4000,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(Noam, locals())
        self.width, self.scale, self.warmup_steps = width, factor, warmup_steps
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate before step ``step`` + 1."""
        k = step + 1
        return self.scale * self.width**-0.5 * min(k**-0.5, k * self.warmup_steps**-1.5)

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class Halving(LRScheduler):
    """Halves the base rate at step ``start`` and every ``every`` steps after it (OpenNMT's decay).

    Args:
        start: step of the first halving.
        every: steps between halvings.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start: CountOrZero = 50_000,
        every: Count = 10_000,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(Halving, locals())
        self.start, self.every = start, every
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at ``step``."""
        return 1.0 if step < self.start else 0.5 ** ((step - self.start) // self.every + 1)

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]
