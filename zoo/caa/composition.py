"""How a policy runs: what each attacker is given of a batch, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.caa.attack import Rules, Setting, Start
from zoo.caa.attackers import ATTACKERS
from zoo.caa.balls import Ball, Norm
from zoo.caa.draws import derived, image_keys
from zoo.caa.policy import GoalRule, Mode, Policy, Step, Threat, chosen_policy
from zoo.caa.victim import Cost, Victim

_ALONE = 77  # word of the keys of an attacker's run from the clean image


@dataclass
class Result:
    """What a policy made of a batch.

    Attributes:
        image: the adversarial images, clean ones of which were misclassified at once, (N, C, H, W).
        clean: whether the clean image is classified right, (N,).
        robust: whether it still is, in every way that the mode counts, (N,); on a goal, whether no attacker
            made the model take it for that class.
        after: number of images that are right after each attacker.
        fooled_by: number of the attacker, from 0, that fooled each image; -1 for none, (N,).
        cost: measured.
        cost_of: of each attacker.
        goal: the class that each image was to be taken for, (N,); None: any other than its own.
    """

    image: Tensor
    clean: Tensor
    robust: Tensor
    after: list[int]
    fooled_by: Tensor
    cost: Cost
    cost_of: list[Cost] = field(default_factory=list)
    goal: Tensor | None = None


def run_policy(
    victim: Victim,
    policy: Policy,
    image: Tensor,
    label: Tensor,
    keys: Tensor,
    norm: Norm,
    eps: float,
    rules: Rules | None = None,
    goal: GoalRule | int | None = None,
) -> Result:
    """Attack a batch.

    Args:
        victim: the model.
        policy: see :class:`Policy`.
        image: (N, C, H, W) in [0, 1].
        label: (N,).
        keys: of each image's draws, int64 (N,).
        norm: of the global ball.
        eps: its radius.
        rules: see :class:`Rules`.
        goal: see :func:`goals`.
    """
    victim.spent()
    ball = Ball(norm, eps)
    with torch.inference_mode(False), torch.autocast(image.device.type, enabled=False):
        image, label, keys = image.clone().float(), label.clone(), keys.clone()
        with victim.timed():
            logits = victim.logits(image)
        clean, aim = logits.argmax(dim=1) == label, goals(goal, label, logits)
        state = _State(victim, image, label, keys, clean if aim is None else clean & (aim != label), aim)
        total, parts, after = victim.spent(), [], []
        for place, step in enumerate(policy.steps):
            setting = _setting(step, ball, rules or Rules())
            with victim.timed():
                state.attack(step, setting, place, policy.mode)
            parts.append(victim.spent())
            total = total + parts[-1]
            after.append(int((state.fooled_by < 0)[clean].sum()))
    robust = clean & (state.fooled_by < 0)
    return Result(state.result, clean, robust, after, state.fooled_by, total, parts, aim)


def goals(goal: GoalRule | int | None, labels: Tensor, logits: Tensor) -> Tensor | None:
    """The class that each image shall be taken for, (N,).

    Args:
        goal: a class; ``next``: y + 1, of the last class 0; ``least_likely``: that of lowest score on the
            clean image; None: any but its own.
        labels: (N,).
        logits: of the clean images (N, K).

    Raises:
        ValueError: for a class that the model does not know.
    """
    classes = logits.shape[1]
    if goal is None:
        return None
    if goal == "next":
        return (labels + 1) % classes
    if goal == "least_likely":
        return logits.argmin(dim=1)
    if not isinstance(goal, int) or isinstance(goal, bool) or not 0 <= goal < classes:
        raise ValueError(
            f"the goal is {goal!r}, but must be next, least_likely or one of the {classes} classes that the "
            f"model knows, 0 to {classes - 1}"
        )
    return torch.full_like(labels, goal)


def attack_images(
    classify: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    policy: str | Sequence[Mapping[str, Any]] = "caa_linf",
    eps: float = 8 / 255,
    threat: Threat | None = None,
    mode: Mode | None = None,
    seed: int = 0,
    rules: Rules | None = None,
    goal: GoalRule | int | None = None,
) -> Result:
    """Attack images in one call: what :class:`zoo.RobustEvaluation` does to a batch.

    Args:
        classify: an ``nn.Module`` in evaluation mode or any callable, images (N, C, H, W) in [0, 1] -> logits
            (N, K); what :func:`zoo.caa.target.load_target` gives, for example.
        images: (N, C, H, W), floats in [0, 1].
        labels: whole numbers (N,).
        policy: a preset's name, or a list of ``{"attacker": "PGD", "magnitude": 1.0, "steps": 100}``.
        eps: radius of the ball.
        threat: ``linf``, ``l2`` or ``unrestricted``; None takes the preset's.
        mode: see :class:`zoo.caa.policy.Policy`; None takes the preset's.
        seed: of the random numbers.
        rules: see :class:`Rules`.
        goal: a class that all images shall be taken for, ``next`` or ``least_likely``, see :func:`goals`.

    Raises:
        ValueError: for images, labels or settings that make no sense.
    """
    chosen, steps = chosen_policy(policy, threat, mode)
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; floats (N, C, H, W) are needed")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the images run from {low:g} to {high:g}; [0, 1] is needed")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; whole numbers ({len(images)},) are needed"
        )
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps is {eps}, but must be above 0")
    victim, labels = Victim(classify), labels.to(images.device).long()
    classes = victim.classes_of(images)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the model knows {classes} "
            "classes"
        )
    keys = image_keys(seed, torch.arange(len(images), device=images.device))
    norm: Norm = "l2" if chosen == "l2" else "linf"
    return run_policy(
        victim, steps, images, labels, keys, norm, 1.0 if chosen == "unrestricted" else eps, rules, goal
    )


def _setting(step: Step, ball: Ball, rules: Rules) -> Setting:
    kind = ATTACKERS[step.attacker]
    magnitude = step.magnitude if kind.magnitude == "severity" else step.magnitude * ball.radius
    return Setting(magnitude, step.steps, ball, rules)


class _State:
    """Where each image of a policy's batch stands."""

    def __init__(
        self, victim: Victim, image: Tensor, label: Tensor, keys: Tensor, clean: Tensor, goal: Tensor | None
    ) -> None:
        self.victim, self.image, self.label, self.keys, self.goal = victim, image, label, keys, goal
        self.current, self.anchor = image.clone(), image.clone()
        self.result = image.clone()  # what the mode counts as the worst
        self.chain_right = clean.clone()  # classified right where the sequence stands
        self.clean = clean
        self.fooled_by = torch.full_like(label, -1)

    def attack(self, step: Step, setting: Setting, place: int, mode: Mode) -> None:
        if step.attacker == "Skip":  # the identity, from wherever
            return
        early, chained = setting.rules.early_exit, mode != "union"
        in_chain = self.chain_right if chained else torch.zeros_like(self.chain_right)
        from_clean = (
            self.clean if mode == "union" or (mode == "subpolicies" and place) else self.clean & False
        )
        if early:  # what is fooled in one way needs no other
            unfooled = self.fooled_by < 0
            in_chain, from_clean = in_chain & unfooled, from_clean & unfooled
        chain, lone = in_chain.nonzero()[:, 0], from_clean.nonzero()[:, 0]
        if not len(chain) + len(lone):
            return
        keys = torch.cat([derived(self.keys[chain], place), derived(self.keys[lone], place, _ALONE)])
        owner = torch.cat([chain, lone])
        start = Start(
            torch.cat([self.current[chain], self.image[lone]]),
            torch.cat([self.anchor[chain], self.image[lone]]),
            self.label[owner],
            keys,
            None if self.goal is None else self.goal[owner],
        )
        kind = ATTACKERS[step.attacker]
        outcome = kind.run(self.victim, start, setting)
        fooled = outcome.fooled
        if fooled is None:
            fooled = start.reached(self.victim.logits(outcome.image))
        self._note(chain, outcome.image[: len(chain)], fooled[: len(chain)], place, outcome.free, True)
        self._note(lone, outcome.image[len(chain) :], fooled[len(chain) :], place, outcome.free, False)

    def _note(
        self, rows: Tensor, image: Tensor, fooled: Tensor, place: int, free: bool, chained: bool
    ) -> None:
        if chained:
            self.current[rows] = image
            self.chain_right[rows] = ~fooled
            if free:
                self.anchor[rows] = image
        unfooled = self.fooled_by[rows] < 0
        # a fooled image stays what fooled it; others are where the sequence stands
        shown = (fooled | torch.full_like(fooled, chained)) & unfooled
        self.result[rows[shown]] = image[shown]
        self.fooled_by[rows[unfooled & fooled]] = place
