"""What an attacker is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.caa.balls import Ball
from zoo.caa.losses import (
    carlini_wagner,
    carlini_wagner_to,
    cross_entropy,
    hinge,
    hinge_to,
    margin,
    rival,
    targeted_dlr,
)
from zoo.caa.victim import Victim

Carry = Literal["best_loss", "official"]


@dataclass(frozen=True)
class Rules:
    """How attackers work, where the paper's code and a better way part.

    Attributes:
        carry: what PGD, MI and CW hand on of an image that they could not fool: its ``best_loss`` point, or,
            as the ``official`` code, its random start.
        early_exit: an image leaves an attack at its first misclassified iterate. The same images are fooled
            (each has its own draws and step size), by the first such iterate instead of the last.
        batched_targets: MultiTargeted runs all targets in one batch; else one after the other, of which an
            early exit leaves out more.
        eight_bit: DDN rounds its iterates to 8 bits, as its code; not for images that are no 8-bit data.
        official_l2_step: image 0's step size for all images in l_2, as in the official code (a bug).
        official_steps: ODI's step sizes as written, for eps 8/255, instead of scaled with eps.
        official_mirror_bug: corruptions mirror the image, as in the official code.
    """

    carry: Carry = "best_loss"
    early_exit: bool = True
    batched_targets: bool = False
    eight_bit: bool = True
    official_l2_step: bool = False
    official_steps: bool = False
    official_mirror_bug: bool = False


@dataclass
class Start:
    """Images that enter an attacker; all are classified right there, and none as its goal.

    Attributes:
        image: x_k, the centre of the local ball, (N, C, H, W) in [0, 1].
        anchor: x_0 = x_k - p_k, the centre of the global one.
        label: (N,).
        keys: of each image's draws, int64 (N,).
        goal: the class that each image shall be taken for, (N,); None: any but its own.
    """

    image: Tensor
    anchor: Tensor
    label: Tensor
    keys: Tensor
    goal: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, chosen: Tensor) -> Start:
        """Those of an index or mask."""
        goal = None if self.goal is None else self.goal[chosen]
        return Start(self.image[chosen], self.anchor[chosen], self.label[chosen], self.keys[chosen], goal)

    # what an attack climbs, of logits (N, K) -> (N,)

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the attack is through: misclassified, or taken for the goal."""
        return logits.argmax(dim=1) != self.label if self.goal is None else logits.argmax(dim=1) == self.goal

    def entropy(self, logits: Tensor) -> Tensor:
        """The cross-entropy of y; on a goal t minus that of t."""
        return cross_entropy(logits, self.label) if self.goal is None else -cross_entropy(logits, self.goal)

    def lead(self, logits: Tensor) -> Tensor:
        """max_{j != y} z_j - z_y, on a goal z_t - max_{j != t} z_j: above 0 where it is reached."""
        return margin(logits, self.label) if self.goal is None else -margin(logits, self.goal)

    def hinge(self, logits: Tensor) -> Tensor:
        """Of CW."""
        return hinge(logits, self.label) if self.goal is None else hinge_to(logits, self.goal)

    def carlini_wagner(self, logits: Tensor) -> Tensor:
        """Of CWL2, which minimises it."""
        if self.goal is None:
            return carlini_wagner(logits, self.label)
        return carlini_wagner_to(logits, self.goal)

    def towards(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The targeted DLR loss; on a goal the best other class stands for y."""
        own = self.label if self.goal is None else rival(logits, targets)
        return targeted_dlr(logits, own, targets)


@dataclass
class Outcome:
    """What an attacker made of its images.

    Attributes:
        image: x_{k+1}.
        fooled: where the attacker has seen them misclassified, (N,); None where it has not looked.
        free: the balls do not bind: the next attacker's global ball is around ``image``.
    """

    image: Tensor
    fooled: Tensor | None = None
    free: bool = False


@dataclass(frozen=True)
class Setting:
    """Of one call.

    Attributes:
        magnitude: radius of the local ball; the severity of a corruption.
        steps: iterations.
        ball: the global one.
        rules: see :class:`Rules`.
    """

    magnitude: float
    steps: int
    ball: Ball
    rules: Rules = Rules()

    @property
    def local(self) -> Ball:
        return self.ball.with_radius(self.magnitude)


Run = Callable[[Victim, Start, Setting], Outcome]


def last_of(owners: Tensor, rows: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Of rows (M,) that share owners (M,), the last row of each owner: (owners, rows)."""
    newest = torch.full((images,), -1, dtype=torch.long, device=rows.device)
    newest.scatter_reduce_(0, owners, rows, "amax")
    found = (newest >= 0).nonzero()[:, 0]
    return found, newest[found]
