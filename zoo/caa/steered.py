"""ODI: output-diversified initialisation, then sign steps on the margin (Tashiro et al., NeurIPS 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.draws import derived, uniform
from zoo.caa.victim import Victim

DIVERSE_STEPS = 10
_LARGE, _MIDDLE, _SMALL = 0.031, 0.0031, 0.00031
_OF_EPS = 8 / 255  # for which the step sizes were chosen


def cosine(i: int, steps: int) -> float:
    """From 0.031 down to 0.00031 along half a cosine."""
    return _SMALL + (_LARGE - _SMALL) * (1 + math.cos(math.pi * i / steps)) / 2


def cyclical(i: int, steps: int) -> float:
    """Three triangles from 0.00031 up to 0.031 and down again."""
    cycle = math.floor(1 + i / (steps / 3))
    place = abs(i / (steps / 6) - 2 * cycle + 1)
    return _SMALL + (_LARGE - _SMALL) * max(0.0, 1 - place)


def stepwise(i: int, steps: int) -> float:
    """0.031 for 50 steps, 0.0031 for the next 50, then 0.00031."""
    return _LARGE if i < 50 else _MIDDLE if i < 100 else _SMALL


def odi(
    victim: Victim, start: Start, setting: Setting, schedule: Callable[[int, int], float] = cosine
) -> Outcome:
    """10 sign steps up <w, z>, w ~ U(-1, 1)^K, then T up max_{j != y} z_j - z_y; the last iterate counts.

    Only the global ball binds: ``magnitude`` is that of the noise at the start. Step sizes are those of eps
    8/255, scaled with eps unless the rules say ``official_steps``.
    """
    scale = 1.0 if setting.rules.official_steps else setting.ball.radius / _OF_EPS
    noise = uniform(derived(start.keys, 2), start.image.shape[1:], -1, 1)
    image = (start.image + setting.magnitude * noise).clamp(0, 1)
    direction = uniform(derived(start.keys, 1), (victim.classes_of(image),), -1, 1)
    for i in range(DIVERSE_STEPS + setting.steps):
        if i < DIVERSE_STEPS:
            _, _, gradient = victim.gradient(image, lambda z: (direction * z).sum(dim=1))
            step = _LARGE
        else:
            _, _, gradient = victim.gradient(image, start.lead)
            step = schedule(i - DIVERSE_STEPS, setting.steps)
        image = setting.ball.project(image + step * scale * gradient.sign(), start.anchor)
    return Outcome(image)


odi_cosine = partial(odi, schedule=cosine)
odi_cyclical = partial(odi, schedule=cyclical)
odi_step = partial(odi, schedule=stepwise)
