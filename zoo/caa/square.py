"""Square attack: random search with square patches, no gradient (Andriushchenko et al., ECCV 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.balls import lengths, wide
from zoo.caa.draws import derived, signs, uniform
from zoo.caa.victim import Victim

_SHARE = 0.8
_TINY = 1e-12
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 iterations


def share_of(i: int, steps: int) -> float:
    """Share of the pixels in the square at iteration ``i``: 0.8, halved at fixed places of the schedule."""
    place = int(i / steps * 10000)
    return _SHARE / 2 ** sum(place > h for h in _HALVINGS)


def square(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """A patch is kept where it lowers the margin z_y - max_{j != y} z_j; an image leaves once it is
    misclassified. l_inf: stripes of +-eps, then squares of +-2 eps per channel, inside the ball. l_2: the
    mass of one window moves to another.
    """
    rows = torch.arange(len(start), device=start.image.device)
    result = start.image.clone()
    fooled = torch.zeros(len(start), dtype=torch.bool, device=result.device)
    own = start
    x = _inside(_first(own, setting), own, setting)
    loss = -own.lead(victim.logits(x))
    for i in range(setting.steps):
        hit = loss < 0
        result[rows], fooled[rows[hit]] = x, True
        if bool(hit.any()):
            rows, own, x, loss = rows[~hit], own.rows(~hit), x[~hit], loss[~hit]
        if not len(rows):
            break
        height, width = x.shape[2:]
        side = max(round(math.sqrt(share_of(i, setting.steps) * height * width)), 1)
        keys = derived(own.keys, 5, i)
        if setting.ball.norm == "linf":
            tried = _patched(x, own, setting, min(side, height - 1 or 1, width - 1 or 1), keys)
        else:
            tried = _moved_mass(x, own, setting, max(side, 3), keys)
        tried = _inside(tried, own, setting)
        new = -own.lead(victim.logits(tried))
        better = new < loss
        x, loss = torch.where(wide(better, x), tried, x), torch.where(better, new, loss)
    if len(rows):
        hit = loss < 0
        result[rows], fooled[rows[hit]] = x, True
    return Outcome(torch.where(wide(fooled, result), result, start.image), fooled)


def _inside(images: Tensor, start: Start, setting: Setting) -> Tensor:
    return setting.ball.project(setting.local.project(images, start.image), start.anchor)


def _first(start: Start, setting: Setting) -> Tensor:
    """l_inf: a stripe in each column and channel. l_2: a chessboard of bumps."""
    channels, height, width = start.image.shape[1:]
    keys = derived(start.keys, 4)
    if setting.ball.norm == "linf":
        return start.image + setting.magnitude * signs(keys, (channels, 1, width))
    side = max(height // 5, 1)
    bump = _bumps(side, side, start.image)
    count = -(-height // side), -(-width // side)
    sign = signs(keys, (channels, *count)).repeat_interleave(side, 2).repeat_interleave(side, 3)
    delta = (sign * bump.repeat(*count))[..., :height, :width]
    return start.image + delta / wide(lengths(delta) + _TINY, delta) * setting.magnitude


def _corners(x: Tensor, side: tuple[int, int], keys: Tensor) -> tuple[Tensor, Tensor]:
    height, width = x.shape[2:]
    draws = uniform(keys, (2,))
    return tuple(
        (draws[:, a] * (n - side[a] + 1)).long().clamp(max=n - side[a]) for a, n in ((0, height), (1, width))
    )  # type: ignore[return-value]


def _window(x: Tensor, top: Tensor, left: Tensor, side: tuple[int, int]) -> Tensor:
    """Where each image's window is, bool (N, 1, H, W)."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    down = (rows >= top[:, None]) & (rows < top[:, None] + side[0])
    along = (columns >= left[:, None]) & (columns < left[:, None] + side[1])
    return (down[:, :, None] & along[:, None, :])[:, None]


def _patched(x: Tensor, start: Start, setting: Setting, side: int, keys: Tensor) -> Tensor:
    top, left = _corners(x, (side, side), derived(keys, 1))
    sign = signs(derived(keys, 2), (x.shape[1], 1, 1))
    return torch.where(_window(x, top, left, (side, side)), x + 2 * setting.magnitude * sign, x)


def _bumps(height: int, width: int, like: Tensor) -> Tensor:
    """Two bumps of opposite sign, one above the other, of length 1, (height, width)."""

    def one(h: int, w: int) -> Tensor:
        delta = like.new_zeros(h, w)
        top, left = h // 2, w // 2
        for k in range(1, max(h, w) // 2 + 2):
            rows, columns = slice(max(top - k + 1, 0), top + k), slice(max(left - k + 1, 0), left + k)
            delta[rows, columns] += 1 / k**2
        return delta / delta.norm().clamp(min=_TINY)

    half = height // 2
    both = torch.cat([one(half, width), -one(height - half, width)]) if half else one(height, width)
    return both / both.norm().clamp(min=_TINY)


def _moved_mass(x: Tensor, start: Start, setting: Setting, side: int, keys: Tensor) -> Tensor:
    """The l_2 mass of a second window, and what is left of the radius, goes into bumps in the first."""
    height, width = x.shape[2:]
    side = min(side | 1, height - 1 + height % 2, width - 1 + width % 2)  # odd
    size = (side, side)
    delta = x - start.image
    first = _window(x, *_corners(x, size, derived(keys, 1)), size)
    top, left = _corners(x, size, derived(keys, 1))
    second = _window(x, *_corners(x, size, derived(keys, 2)), size)
    whole = lengths(delta)
    per_channel = (delta**2 * (first | second)).flatten(2).sum(2)  # (N, C)
    spare = (setting.magnitude**2 - whole**2).clamp(min=0)[:, None] / x.shape[1]
    sign = signs(derived(keys, 3), (x.shape[1],))
    turn = uniform(derived(keys, 4), (1,))[:, 0] < 0.5
    bump = torch.where(wide(turn, x), _bumps(*size, x).T, _bumps(*size, x))  # (N, 1, s, s)
    inside = (delta * first).flatten(2).norm(dim=2)[..., None, None]
    new = torch.zeros_like(x)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    places = (
        top[:, None] + torch.arange(side, device=x.device),
        left[:, None] + torch.arange(side, device=x.device),
    )
    old = delta.permute(0, 2, 3, 1)[batch, places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)
    mixed = bump * sign[..., None, None] + old / (inside + _TINY)
    mixed = (
        mixed
        / (mixed.flatten(2).norm(dim=2)[..., None, None] + _TINY)
        * (per_channel + spare).sqrt()[..., None, None]
    )
    target = new.permute(0, 2, 3, 1)
    target[batch, places[0][:, :, None], places[1][:, None, :]] = mixed.permute(0, 2, 3, 1)
    delta = torch.where(first, new, torch.where(second, torch.zeros_like(delta), delta))
    return start.image + delta / wide(lengths(delta) + _TINY, delta) * setting.magnitude
