"""The pool: 6 attackers in l_inf, 6 in l_2, 19 without a ball, the identity; AutoAttack's four beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.caa import corruptions, fab, gradient, smallest, square, steered, unrestricted
from zoo.caa.attack import Outcome, Run, Setting, Start
from zoo.caa.gradient import MOST_TARGETS
from zoo.caa.victim import Victim

Magnitude = Literal["radius", "severity", "none"]


@dataclass(frozen=True)
class Attacker:
    """An entry of the pool.

    Attributes:
        name: as policies spell it.
        run: what it does.
        norms: balls that it knows; empty: it needs none.
        magnitude: what the number means.
        steps: how many it may take; 1 where it takes one, 0 where it reads none.
        longest: factor of T_max.
        backward: passes of an image, of (steps, classes), whatever an early exit saves.
        forward: passes of an image without a gradient, of (steps, classes); those that come with backward
            passes are counted by it.
        extra: not in the pool of the search unless asked for.
    """

    name: str
    run: Run
    norms: tuple[str, ...] = ()
    magnitude: Magnitude = "radius"
    steps: Literal["any", "one", "none"] = "any"
    longest: int = 1
    backward: Callable[[int, int], int] = lambda steps, classes: steps
    forward: Callable[[int, int], int] = lambda steps, classes: 0
    extra: bool = False


def skip(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """The identity."""
    return Outcome(start.image)


def targets(classes: int) -> int:
    """Runs of a targeted attacker: 9 for 10 classes and for more."""
    return min(classes, MOST_TARGETS) - 1


def _none(steps: int, classes: int) -> int:
    return 0


def _targeted(steps: int, classes: int) -> int:
    return targets(classes) * steps


_BOTH = ("linf", "l2")
_ENTRIES = (
    Attacker("FGSM", gradient.fgsm, ("linf",), steps="one", backward=lambda s, k: 1),
    Attacker("PGD", gradient.pgd, _BOTH),
    Attacker("MI", gradient.mi, _BOTH),
    Attacker("CW", gradient.cw, _BOTH),
    Attacker("MultiTargeted", gradient.multi_targeted, _BOTH, backward=_targeted),
    *(
        Attacker(f"ODI-{name}", run, ("linf",), backward=lambda s, k: steered.DIVERSE_STEPS + s)
        for name, run in (
            ("cos", steered.odi_cosine),
            ("cyclical", steered.odi_cyclical),
            ("step", steered.odi_step),
        )
    ),
    Attacker("CWL2", smallest.cwl2, ("l2",)),
    Attacker("DDN", smallest.ddn, ("l2",), magnitude="none", longest=5),
    *(
        Attacker(name, run, magnitude="severity", steps="one", backward=_none)
        for name, run in corruptions.ATTACKERS.items()
    ),
    Attacker(
        "SPSA", unrestricted.spsa, magnitude="none", steps="none", backward=_none,
        forward=lambda s, k: 2 * unrestricted.SPSA_DIRECTIONS * unrestricted.SPSA_STEPS,
    ),
    Attacker(
        "Spatial", unrestricted.spatial, magnitude="none", steps="none", backward=_none,
        forward=lambda s, k: unrestricted.SPATIAL_TRIALS,
    ),
    Attacker("Skip", skip, magnitude="none", steps="none", backward=_none),
    Attacker("APGD-CE", gradient.mi, _BOTH, extra=True),
    Attacker("APGD-T", gradient.multi_targeted, _BOTH, backward=_targeted, extra=True),
    Attacker("FAB-T", fab.fab_targeted, _BOTH, backward=_targeted, extra=True),
    Attacker(
        "Square", square.square, _BOTH, backward=_none, forward=lambda s, k: s + 1, longest=50, extra=True
    ),
)  # fmt: skip
ATTACKERS: Mapping[str, Attacker] = {entry.name: entry for entry in _ENTRIES}
_ODI_VARIANTS = ("ODI-cyclical", "ODI-step")


def pool(threat: str, extra: bool = False) -> list[Attacker]:
    """Attackers that a search may choose from under a threat model: ``linf``, ``l2`` or ``unrestricted``.

    The identity is in each; ODI's three schedules are variants of one entry, of which ``cos`` stands here.

    Args:
        threat: the model.
        extra: AutoAttack's four too.
    """
    free = threat == "unrestricted"
    return [
        a
        for a in ATTACKERS.values()
        if a.name == "Skip"
        or (
            a.name not in _ODI_VARIANTS
            and (extra or not a.extra)
            and (not a.norms if free else threat in a.norms)
        )
    ]
