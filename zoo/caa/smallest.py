"""Attackers that look for the smallest perturbation in l_2: CWL2 and DDN."""

from __future__ import annotations

import math

import torch

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.balls import lengths, rounded, wide
from zoo.caa.draws import derived, normal
from zoo.caa.victim import Victim

_CW_RATE, _CW_WEIGHT = 0.01, 2.0
_GAMMA = 0.05
_TINY = 1e-12
_LEAST = 1e-30  # of a gradient that is not zero


def cwl2(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Adam on 2 |delta|^2 + max(z_y - max_j z_j, -20) (Carlini & Wagner, S&P 2017), T steps from delta = 0.

    The model sees x_k + delta unclipped. The end is clipped to [0, 1] first, then shrunk to ``magnitude``
    around x_k where it is longer, then put into the global ball.
    """
    delta = torch.zeros_like(start.image)
    optimizer = torch.optim.Adam([delta], lr=_CW_RATE)
    for _ in range(setting.steps):
        _, _, gradient = victim.gradient(start.image + delta, start.carlini_wagner)
        delta.grad = gradient + 2 * _CW_WEIGHT * delta
        optimizer.step()
    moved = (start.image + delta).clamp(0, 1)
    moved = setting.local.project(moved, start.image, clip=False)
    # the last shrinking leaves values 3e-8 outside of [0, 1] in float32
    return Outcome(setting.ball.project(moved, start.anchor, clip=False).clamp(0, 1))


def ddn(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Decoupled direction and norm (Rony et al., CVPR 2019): a step along the gradient, then the norm shrinks
    by 5 % where the image is misclassified and grows by 5 % where it is not.

    The result is the smallest adversarial delta, zero where there is none, shrunk to the global radius around
    x_k where it is longer; ``magnitude`` is not used. With an early exit an image leaves once a misclassified
    iterate lies in both balls.
    """
    image = start.image
    found = torch.zeros_like(image)
    fooled = torch.zeros(len(start), dtype=torch.bool, device=image.device)
    rows = torch.arange(len(start), device=image.device)
    delta, norm = torch.zeros_like(image), image.new_ones(len(start))
    smallest = lengths(torch.maximum(image, 1 - image))
    outer = setting.ball
    for i in range(setting.steps):
        x, own = image[rows], start.rows(rows)
        logits, _, gradient = victim.gradient(x + delta, own.entropy)
        wrong, length = own.reached(logits), lengths(delta)
        better = wrong & (length < smallest[rows])
        found[rows[better]], smallest[rows[better]] = delta[better], length[better]
        if setting.rules.early_exit:
            inside = (length <= outer.radius) & _unmoved(x + delta, start.anchor[rows], setting)
            done = better & inside
            fooled[rows[done]] = True
            keep = ~done
            rows, x, delta, norm, gradient, wrong = (t[keep] for t in (rows, x, delta, norm, gradient, wrong))
            if not len(rows):
                break
        size = lengths(gradient)
        direction = gradient / wide(size.clamp(min=_LEAST), gradient)
        if bool((size == 0).any()):
            drawn = normal(derived(start.keys[rows], 1, i), image.shape[1:])
            direction = torch.where(wide(size == 0, gradient), drawn, direction)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * i / setting.steps)) / 2
        delta = delta + rate * direction
        norm = norm * torch.where(wrong, 1 - _GAMMA, 1 + _GAMMA)
        delta = delta * wide(norm / lengths(delta).clamp(min=_TINY), delta)
        moved = x + delta
        delta = (rounded(moved) if setting.rules.eight_bit else moved).clamp(0, 1) - x
    shrunk = outer.project(image + found, image, clip=False)
    final = torch.where(wide(fooled, image), image + found, outer.project(shrunk, start.anchor))
    return Outcome(final.clamp(0, 1), fooled if setting.rules.early_exit and bool(fooled.all()) else None)


def _unmoved(images: torch.Tensor, anchor: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Whether the global ball and [0, 1] leave images as they are, (N,)."""
    within = setting.ball.size(images - anchor) <= setting.ball.radius
    return within & ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
