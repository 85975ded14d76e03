"""Gradient attackers on the loop of APGD (Croce & Hein, ICML 2020): PGD, MI, CW, MultiTargeted; FGSM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.caa.attack import Outcome, Setting, Start, last_of
from zoo.caa.balls import in_both, wide
from zoo.caa.draws import derived, normal, uniform
from zoo.caa.victim import Victim

_RHO = 0.75
_MOMENTUM = 0.75
MOST_TARGETS = 10
"""MultiTargeted aims at the classes ranked 2nd to 10th."""

RowLoss = Callable[[Tensor, Start, Tensor], Tensor]
"""Of logits (M, K), rows and targets (M,)."""


@dataclass(frozen=True)
class Checkpoints:
    """When the step size is looked at: first after 0.22 T iterations, then at ever shorter distances."""

    first: int
    least: int
    shorter: int

    @classmethod
    def of(cls, steps: int) -> Checkpoints:
        return cls(max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1))

    def counts(self, steps: int) -> list[int]:
        """Numbers of finished iterations at which there is a check: 22, 41, 57, 70, 80, 87, 93, 99 of 100."""
        found, distance, total = [], self.first, self.first
        while total <= steps:
            found.append(total)
            distance = max(distance - self.shorter, self.least)
            total += distance
        return found


@dataclass
class _Rows:
    """State of the loop, a row per image or per (image, target)."""

    owner: Tensor
    target: Tensor
    start: Start
    current: Tensor
    previous: Tensor
    gradient: Tensor
    step: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    checked_loss: Tensor
    reduced: Tensor
    history: Tensor  # (M, T)

    def keep(self, mask: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value.rows(mask) if isinstance(value, Start) else value[mask])


def random_start(start: Start, setting: Setting, keys: Tensor) -> Tensor:
    """x_k + mag t / max|t|, t ~ U(-1, 1); in l_2 x_k + mag t / |t|, t ~ N(0, I); inside the global ball."""
    shape = start.image.shape[1:]
    draws = uniform(keys, shape, -1, 1) if setting.ball.norm == "linf" else normal(keys, shape)
    return setting.ball.project(start.image + setting.local.scaled(draws), start.anchor)


def ascend(
    victim: Victim,
    start: Start,
    setting: Setting,
    loss: RowLoss,
    owner: Tensor,
    target: Tensor,
    keys: Tensor,
    momentum: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop: z = P_loc(x + step d), x' = P_glob(P_loc(x + a (z - x) + (1 - a) (x - x_prev))).

    A row is an image, or an image with one of its targets. a = 1, with momentum 0.75 but for the first
    iteration. The step starts at 2 mag and halves by APGD's rules, when the row goes on from its best point.

    Args:
        victim: the model.
        start: of each row, M.
        setting: magnitude, steps, global ball.
        loss: maximised.
        owner: number of each row's image, (M,).
        target: class that each row aims at, (M,).
        keys: of each row's draws.
        momentum: see above.

    Returns:
        images (N, C, H, W) of each owner, N = max(owner) + 1: the misclassified iterate (of later rows rather
        than earlier), else the row's start; whether one was misclassified (N,); and the point of greatest
        loss of each owner's last row.
    """
    count = int(owner.max()) + 1
    checks = set(Checkpoints.of(setting.steps).counts(setting.steps))
    current = random_start(start, setting, keys)
    result = current.new_zeros(count, *current.shape[1:])
    fooled = torch.zeros(count, dtype=torch.bool, device=current.device)
    result[owner] = current
    rows: _Rows | None = None
    best_points = result.clone()
    for i in range(-1, setting.steps):
        if rows is not None:
            current = _stepped(rows, setting, momentum and i > 0)
            rows.previous, rows.current = rows.current, current
        own = start if rows is None else rows.start
        aim = target if rows is None else rows.target
        logits, losses, gradient = _looked(victim, current, own, aim, loss, last=i == setting.steps - 1)
        if rows is None:
            rows = _first(owner, target, start, current, losses, gradient, setting)
        else:
            _noted(rows, losses, gradient, i)
        wrong = rows.start.reached(logits)
        if bool(wrong.any()):
            owners, chosen = last_of(rows.owner[wrong], wrong.nonzero()[:, 0], count)
            result[owners], fooled[owners] = current[chosen], True
        if i + 1 in checks and i >= 0:
            _check_steps(rows, i, i + 1 - max((c for c in checks if c <= i), default=0))
        if setting.rules.early_exit and bool(wrong.any()):
            rows.keep(~fooled[rows.owner])
            if not len(rows.owner):
                break
    if rows is not None and len(rows.owner):
        best_points[rows.owner] = rows.best
    return result, fooled, best_points


def _looked(
    victim: Victim, images: Tensor, start: Start, target: Tensor, loss: RowLoss, last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if last:  # nothing moves along the last gradient
        logits = victim.logits(images)
        return logits, loss(logits, start, target), torch.zeros_like(images)
    return victim.gradient(images, lambda z: loss(z, start, target))


def _first(
    owner: Tensor,
    target: Tensor,
    start: Start,
    images: Tensor,
    losses: Tensor,
    gradient: Tensor,
    setting: Setting,
) -> _Rows:
    # the start's loss is the best so far, but no row of the history, which begins as zeros
    return _Rows(
        owner=owner,
        target=target,
        start=start,
        current=images,
        previous=images,
        gradient=gradient,
        step=torch.full_like(losses, 2 * setting.magnitude),
        best=images,
        best_loss=losses,
        best_gradient=gradient,
        checked_loss=losses,
        reduced=torch.ones_like(losses, dtype=torch.bool),
        history=losses.new_zeros(len(losses), setting.steps),
    )


def _stepped(rows: _Rows, setting: Setting, momentum: bool) -> Tensor:
    x, inner = rows.current, setting.local
    official = setting.rules.official_l2_step and setting.ball.norm == "l2"
    step = rows.step[:1].expand_as(rows.step) if official else rows.step
    z = inner.project(x + wide(step, x) * inner.direction(rows.gradient), rows.start.image)
    a = _MOMENTUM if momentum else 1.0
    moved = x + a * (z - x) + (1 - a) * (x - rows.previous)
    return in_both(moved, rows.start.anchor, rows.start.image, setting.ball, inner)


def _noted(rows: _Rows, losses: Tensor, gradient: Tensor, i: int) -> None:
    rows.gradient = gradient
    rows.history[:, i] = losses
    better = losses > rows.best_loss
    rows.best = torch.where(wide(better, rows.best), rows.current, rows.best)
    rows.best_gradient = torch.where(wide(better, rows.best), gradient, rows.best_gradient)
    rows.best_loss = torch.where(better, losses, rows.best_loss)


def _check_steps(rows: _Rows, i: int, window: int) -> None:
    """Halve the step where the loss rose in at most 3/4 of the window's iterations, or where neither the
    step was halved at the last check nor the best loss has risen since; go on from the best point there."""
    steps = rows.history.shape[1]
    places = torch.arange(i, i - window, -1, device=rows.history.device)
    before = (places - 1) % steps  # row 0 is compared with the last row, which is still zero
    rises = (rows.history[:, places] > rows.history[:, before]).sum(dim=1)
    stuck = ~rows.reduced & (rows.checked_loss >= rows.best_loss)
    rows.reduced = (rises <= _RHO * window) | stuck
    rows.checked_loss = rows.best_loss
    rows.step = torch.where(rows.reduced, rows.step / 2, rows.step)
    mask = wide(rows.reduced, rows.current)
    rows.current = torch.where(mask, rows.best, rows.current)
    rows.gradient = torch.where(mask, rows.best_gradient, rows.gradient)


def _single(victim: Victim, start: Start, setting: Setting, loss: RowLoss, momentum: bool) -> Outcome:
    owner = torch.arange(len(start), device=start.image.device)
    result, fooled, best = ascend(
        victim, start, setting, loss, owner, start.label, derived(start.keys, 1), momentum
    )
    if setting.rules.carry == "best_loss":
        result = torch.where(wide(fooled, result), result, best)
    return Outcome(result, fooled)


def pgd(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Cross-entropy without momentum."""
    return _single(victim, start, setting, lambda z, rows, _: rows.entropy(z), momentum=False)


def mi(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Cross-entropy with momentum; on clean images and at full magnitude this is APGD-CE."""
    return _single(victim, start, setting, lambda z, rows, _: rows.entropy(z), momentum=True)


def cw(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """The hinge on the margin without momentum."""
    return _single(victim, start, setting, lambda z, rows, _: rows.hinge(z), momentum=False)


def targets_of(victim: Victim, start: Start) -> list[Tensor]:
    """What targeted attackers aim at, (N,) of each run: the classes ranked 2nd to 10th at x_k; a goal."""
    if start.goal is not None:
        return [start.goal]
    order = victim.logits(start.image).argsort(dim=1)
    return [order[:, -rank] for rank in range(2, min(order.shape[1], MOST_TARGETS) + 1)]


def multi_targeted(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """A run with momentum for each of the classes ranked 2nd to 10th at x_k, on the targeted DLR loss.

    An image that no run fools is handed on as it came in. On clean images and at full magnitude this is
    APGD-T. A goal is the only target.
    """
    aims = targets_of(victim, start)
    ranks = range(2, len(aims) + 2)
    result = start.image.clone()
    fooled = torch.zeros(len(start), dtype=torch.bool, device=result.device)
    everyone = torch.arange(len(start), device=result.device)
    runs = [tuple(ranks)] if setting.rules.batched_targets else [(r,) for r in ranks]
    for together in runs:
        left = everyone[~fooled] if setting.rules.early_exit else everyone
        if not len(left) or not together:
            break
        chosen = left.repeat(len(together))
        own = torch.arange(len(left), device=result.device).repeat(len(together))
        target = torch.cat([aims[r - 2][left] for r in together])
        keys = torch.cat([derived(start.keys[left], r) for r in together])
        found, wrong, _ = ascend(
            victim, start.rows(chosen), setting, lambda z, rows, t: rows.towards(z, t),
            own, target, keys, momentum=True,
        )  # fmt: skip
        result[left[wrong]] = found[wrong]
        fooled[left[wrong]] = True
    return Outcome(result, fooled)


def fgsm(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """x_k + mag sign(grad cross-entropy), clipped, inside the global ball (Goodfellow et al. 2015)."""
    _, _, gradient = victim.gradient(start.image, start.entropy)
    moved = (start.image + setting.magnitude * gradient.sign()).clamp(0, 1)
    return Outcome(setting.ball.project(moved, start.anchor))
