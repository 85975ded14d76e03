"""FAB-T: the fast adaptive boundary attack on targets (Croce & Hein, ICML 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.balls import Ball, wide
from zoo.caa.gradient import targets_of
from zoo.caa.losses import at, best_other
from zoo.caa.victim import Victim

_ALPHA, _ETA, _BETA = 0.1, 1.05, 0.9
_TINY = 1e-12


def to_plane(points: Tensor, normal_vectors: Tensor, offsets: Tensor, norm: str) -> Tensor:
    """The smallest step d, in l_inf or l_2, to w (x + d) + b = 0 with x + d in [0, 1], (N, D).

    With d(s) = clip(-sign(w) s) in l_inf and clip(-w s) in l_2, x + d inside the box, w d(s) falls with s and
    is piecewise linear: sorted by where each coordinate meets the box, one piece crosses zero. Where no point
    of the box lies on the plane, the corner of the box nearest to it.

    Args:
        points: x (N, D).
        normal_vectors: w (N, D).
        offsets: b (N,).
        norm: ``linf`` or ``l2``.
    """
    sign = torch.where((normal_vectors * points).sum(1) + offsets >= 0, 1.0, -1.0)
    w, b = normal_vectors * sign[:, None], offsets * sign  # now w x + b >= 0: d goes along -w
    along = -(w.sign() if norm == "linf" else w)
    room = torch.where(along > 0, 1 - points, points)  # how far each coordinate may go
    speed, size = along.abs(), w.abs()
    value = (w * points).sum(1) + b
    meets = torch.where(speed > 0, room / speed, torch.inf)
    order = meets.argsort(dim=1)
    places, used = meets.gather(1, order), (size * room).gather(1, order)
    used = torch.where(places.isinf(), 0.0, used).cumsum(1)  # by those that have met the box
    slope = (
        (size * speed).gather(1, order).flip(1).cumsum(1).flip(1)
    )  # of those that go on, before each place
    reached = used + pad(slope[:, 1:], (0, 1)) * places.nan_to_num(0, 0, 0)
    done = (reached < value[:, None]).sum(dim=1)  # coordinates that stop before the plane
    last = done.clamp(max=w.shape[1] - 1)[:, None]
    before = pad(used, (1, 0)).gather(1, last)[:, 0]
    s = (value - before) / slope.gather(1, last)[:, 0].clamp(min=_TINY)
    s = torch.where((done < w.shape[1]) & s.isfinite(), s.clamp(min=0), torch.inf)
    return torch.minimum(torch.where(speed > 0, speed * s[:, None], 0.0), room) * along.sign()


def fab_targeted(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Steps to the linearised boundary between y and each of the classes ranked 2nd to 10th.

    x <- (1 - a)(x + 1.05 d) + a (x_k + 1.05 d_k), d and d_k the projections of x and x_k, a =
    min(|d| / (|d| + |d_k|), 0.1); where that is misclassified, x <- x_k + 0.9 (x - x_k) at once. The nearest
    misclassified image counts where it lies within ``magnitude`` of x_k and in the global ball. One run per
    target from x_k itself, as AutoAttack's standard version with its single restart. An iteration is a pass
    with a gradient and one without.
    """
    result = start.image.clone()
    fooled = torch.zeros(len(start), dtype=torch.bool, device=result.device)
    for target in targets_of(victim, start):
        left = (~fooled).nonzero()[:, 0]
        if not len(left):
            break
        found, wrong = _one_target(victim, start.rows(left), setting, target[left])
        result[left[wrong]], fooled[left[wrong]] = found[wrong], True
    return Outcome(result, fooled)


def _one_target(victim: Victim, start: Start, setting: Setting, target: Tensor) -> tuple[Tensor, Tensor]:
    ball, local = setting.ball, setting.local
    best = start.image.clone()
    nearest = start.image.new_full((len(start),), torch.inf)
    done = torch.zeros(len(start), dtype=torch.bool, device=best.device)
    rows = torch.arange(len(start), device=best.device)
    x = start.image.clone()
    for _ in range(setting.steps):
        own, aim = start.rows(rows), target[rows]

        def gap(z: Tensor, own: Start = own, aim: Tensor = aim) -> Tensor:
            return at(z, aim) - (at(z, own.label) if own.goal is None else best_other(z, own.goal))

        _, value, gradient = victim.gradient(x, gap)
        x = _towards(x, value, gradient, own, ball)
        wrong, size = own.reached(victim.logits(x)), ball.size(x - own.image)
        closer = wrong & (size < nearest[rows])
        best[rows[closer]], nearest[rows[closer]] = x[closer], size[closer]
        x = torch.where(wide(wrong, x), own.image + _BETA * (x - own.image), x)
        if setting.rules.early_exit:
            inside = closer & (size <= local.radius) & (ball.size(best[rows] - own.anchor) <= ball.radius)
            done[rows[inside]] = True
            rows, x = rows[~inside], x[~inside]
            if not len(rows):
                break
    inside = (nearest <= local.radius) & (ball.size(best - start.anchor) <= ball.radius)
    return best, inside | done


def _towards(x: Tensor, value: Tensor, gradient: Tensor, start: Start, ball: Ball) -> Tensor:
    """The biased step to the plane value + gradient (x' - x) = 0."""
    flat, w, centre = x.flatten(1), gradient.flatten(1), start.image.flatten(1)
    offset = value - (w * flat).sum(1)
    points = torch.cat([flat, centre])
    step, back = to_plane(points, w.repeat(2, 1), offset.repeat(2), ball.norm).chunk(2)
    near, far = (ball.size(d.view_as(x)).clamp(min=1e-8) for d in (step, back))
    a = (near / (near + far)).clamp(max=_ALPHA)[:, None]
    moved = (1 - a) * (flat + _ETA * step) + a * (centre + _ETA * back)
    return moved.clamp(0, 1).view_as(x)
