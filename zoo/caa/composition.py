"""How a policy runs: what each attacker is given of a batch, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.caa.attack import Rules, Setting, Start
from zoo.caa.attackers import ATTACKERS
from zoo.caa.balls import Ball, Norm
from zoo.caa.draws import derived
from zoo.caa.policy import Mode, Policy, Step
from zoo.caa.victim import Cost, Victim

_ALONE = 77  # word of the keys of an attacker's run from the clean image


@dataclass
class Result:
    """What a policy made of a batch.

    Attributes:
        image: the adversarial images, clean ones of which were misclassified at once, (N, C, H, W).
        clean: whether the clean image is classified right, (N,).
        robust: whether it still is, in every way that the mode counts, (N,).
        after: number of images that are right after each attacker.
        fooled_by: number of the attacker, from 0, that fooled each image; -1 for none, (N,).
        cost: measured.
        cost_of: of each attacker.
    """

    image: Tensor
    clean: Tensor
    robust: Tensor
    after: list[int]
    fooled_by: Tensor
    cost: Cost
    cost_of: list[Cost] = field(default_factory=list)


def run_policy(
    victim: Victim,
    policy: Policy,
    image: Tensor,
    label: Tensor,
    keys: Tensor,
    norm: Norm,
    eps: float,
    rules: Rules | None = None,
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
    """
    victim.spent()
    ball = Ball(norm, eps)
    with torch.inference_mode(False), torch.autocast(image.device.type, enabled=False):
        image, label, keys = image.clone().float(), label.clone(), keys.clone()
        with victim.timed():
            clean = victim.right(image, label)
        state = _State(victim, image, label, keys, clean)
        total, parts, after = victim.spent(), [], []
        for place, step in enumerate(policy.steps):
            setting = _setting(step, ball, rules or Rules())
            with victim.timed():
                state.attack(step, setting, place, policy.mode)
            parts.append(victim.spent())
            total = total + parts[-1]
            after.append(int((state.fooled_by < 0)[clean].sum()))
    robust = clean & (state.fooled_by < 0)
    return Result(state.result, clean, robust, after, state.fooled_by, total, parts)


def _setting(step: Step, ball: Ball, rules: Rules) -> Setting:
    kind = ATTACKERS[step.attacker]
    magnitude = step.magnitude if kind.magnitude == "severity" else step.magnitude * ball.radius
    return Setting(magnitude, step.steps, ball, rules)


class _State:
    """Where each image of a policy's batch stands."""

    def __init__(self, victim: Victim, image: Tensor, label: Tensor, keys: Tensor, clean: Tensor) -> None:
        self.victim, self.image, self.label, self.keys = victim, image, label, keys
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
        )
        kind = ATTACKERS[step.attacker]
        outcome = kind.run(self.victim, start, setting)
        fooled = outcome.fooled
        if fooled is None:
            fooled = ~self.victim.right(outcome.image, start.label)
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
