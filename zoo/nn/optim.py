"""Learning-rate schedules that torch lacks, how they reach Lightning, and parameters without weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from zoo.nn.ranges import (
    Count,
    CountOrZero,
    Fraction,
    LastEpoch,
    NonNegative,
    Positive,
    Share,
    Size,
    check_ranges,
)


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


def decayed_groups(module: nn.Module, exempt: Collection[str] = ()) -> list[dict[str, Any]]:
    """Trainable parameters in two groups for an optimizer: those with its weight decay, and those without.

    Without it are parameters of at most one axis (biases, norms) and those of the names in ``exempt``.

    Args:
        module: whose parameters.
        exempt: last parts of names, for example ``("cls_token", "pos_embed")``.

    Raises:
        ValueError: for a name that no parameter has.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    ends = {name.rpartition(".")[2] for name, _ in named}
    if unknown := sorted(set(exempt) - ends):
        raise ValueError(f"{unknown[0]} is no trainable parameter of {type(module).__name__}")
    free = [p.ndim <= 1 or name.rpartition(".")[2] in exempt for name, p in named]
    groups: list[dict[str, Any]] = [
        {"params": [p for (_, p), f in zip(named, free, strict=True) if not f]},
        {"params": [p for (_, p), f in zip(named, free, strict=True) if f], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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

    ``after_warmup``: the cosine begins where the warm-up ends, and falls to ``floor``: base (floor +
    (1 - floor) (1 + cos(pi (k - warm-up) / (total - warm-up))) / 2), as language models are trained.

    Args:
        total_steps: step at which the rate reaches zero, or the floor; set it to ``trainer.max_steps``.
        warmup_steps: steps of the linear factor.
        after_warmup: see above.
        floor: last share of the base rate, of a cosine after the warm-up.

    Raises:
        ValueError: for a warm-up longer than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Count,
        warmup_steps: CountOrZero = 0,
        last_epoch: LastEpoch = -1,
        after_warmup: bool = False,
        floor: Fraction = 0.0,
    ) -> None:
        check_ranges(WarmupCosine, locals())
        if warmup_steps > total_steps:
            raise ValueError(f"warmup_steps must be at most total_steps = {total_steps}, got {warmup_steps}")
        if floor and not after_warmup:
            raise ValueError(
                f"floor is {floor}, which after_warmup: false does not use; set after_warmup: true"
            )
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.after_warmup, self.floor = after_warmup, floor
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at ``step``."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        if not self.after_warmup:
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.total_steps)))
        if step < self.warmup_steps:
            return warm
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``total_steps`` follows those."""
        shape = ("total_steps", "warmup_steps", "after_warmup", "floor")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class EpochWarmupCosine(LRScheduler):
    """Constant in each warm-up epoch, then a cosine of every step down to ``min_lr`` (image classification).

    lr = warmup_lr + e (base - warmup_lr) / W in epoch e < W, then min_lr + (base - min_lr)
    (1 + cos(pi k / K)) / 2 at step k of K = epochs x steps_per_epoch: the cosine runs from step 0, as timm's;
    with ``after_warmup`` from the end of the warm-up. Step it every optimiser step; steps beyond K keep
    ``min_lr``.

    Args:
        epochs: of the training.
        steps_per_epoch: optimiser steps of an epoch.
        warmup_epochs: W.
        warmup_lr: rate of the first epoch.
        min_lr: rate at the end.
        after_warmup: the cosine begins at the end of the warm-up (timm's ``warmup_prefix``).

    Raises:
        ValueError: for a warm-up that is not shorter than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        epochs: Count,
        steps_per_epoch: Count,
        warmup_epochs: CountOrZero = 0,
        warmup_lr: NonNegative = 0.0,
        min_lr: NonNegative = 0.0,
        after_warmup: bool = False,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(EpochWarmupCosine, locals())
        if warmup_epochs >= epochs:
            raise ValueError(f"warmup_epochs must be less than epochs = {epochs}, got {warmup_epochs}")
        self.epochs, self.steps_per_epoch, self.warmup_epochs = epochs, steps_per_epoch, warmup_epochs
        self.warmup_lr, self.min_lr, self.after_warmup = warmup_lr, min_lr, after_warmup
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float | Tensor) -> float | Tensor:
        """The rate of a group with the rate ``base`` at ``step``, from 0."""
        epoch = step // self.steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.warmup_lr + epoch * (base - self.warmup_lr) / self.warmup_epochs
        begin = self.warmup_epochs * self.steps_per_epoch if self.after_warmup else 0
        progress = min(1.0, (step - begin) / (self.epochs * self.steps_per_epoch - begin))
        return self.min_lr + (base - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``epochs`` follows those."""
        shape = ("epochs", "steps_per_epoch", "warmup_epochs", "warmup_lr", "min_lr", "after_warmup")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [self.rate(self.last_epoch, base) for base in self.base_lrs]


class WarmupLinear(LRScheduler):
    """lr(u) = base u / warm-up up to u = warm-up, then linear to ``floor`` times base at u = total, where it
    stays: fairseq's polynomial decay of power 1. Step it every optimiser step; the first update's rate is 0.

    Args:
        total_steps: update at which the rate reaches its end; set it to ``trainer.max_steps``.
        warmup_steps: updates of the linear rise.
        floor: share of the base rate at the end; ESM-2 has .1.

    Raises:
        ValueError: for a warm-up that is not shorter than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: Count,
        warmup_steps: CountOrZero = 0,
        last_epoch: LastEpoch = -1,
        floor: Fraction = 0.0,
    ) -> None:
        check_ranges(WarmupLinear, locals())
        if warmup_steps >= total_steps:
            raise ValueError(
                f"warmup_steps must be less than total_steps = {total_steps}, got {warmup_steps}"
            )
        self.total_steps, self.warmup_steps, self.floor = total_steps, warmup_steps, floor
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at update ``step``, from 0."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps if self.warmup_steps else 1.0
        left = max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))
        return self.floor + (1 - self.floor) * left

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with other ``total_steps`` follows those."""
        shape = ("total_steps", "warmup_steps", "floor")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in shape})

    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class WarmupExponential(LRScheduler):
    """lr(u) = base min(1, u / warm-up) rate^(u / decay steps): DimeNet's schedule. Step it every optimiser
    step; the first update's rate is 0.

    Args:
        decay_steps: updates after which the rate is ``decay_rate`` times what it would be.
        decay_rate: see there.
        warmup_steps: updates of the linear rise.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        decay_steps: Count,
        decay_rate: Share = 0.01,
        warmup_steps: CountOrZero = 0,
        last_epoch: LastEpoch = -1,
    ) -> None:
        check_ranges(WarmupExponential, locals())
        self.decay_steps, self.decay_rate, self.warmup_steps = decay_steps, decay_rate, warmup_steps
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        """Multiplier of the base rate at update ``step``, from 0."""
        rise = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return rise * float(self.decay_rate ** (step / self.decay_steps))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, not the shape: a resume with another shape follows that."""
        shape = ("decay_steps", "decay_rate", "warmup_steps")
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
