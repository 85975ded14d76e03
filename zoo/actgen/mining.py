"""Which held-out images a classifier needs variants of, and what each round makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.actgen.guidance import Curriculum, adversarial_share, random_share, tiled
from zoo.randomness import derived_seed, generator

Select = Literal["wrong", "loss", "margin", "entropy"]
NoneWrong = Literal["skip", "loss"]
Generation = Literal["none", "random", "image", "mask", "contrastive", "adversarial", "full", "real_guidance"]
Kind = Literal["random", "guided", "image_to_image"]
GUIDED: tuple[Generation, ...] = ("image", "mask", "contrastive", "adversarial", "full")
MASKED: tuple[Generation, ...] = ("mask", "contrastive", "adversarial", "full")
CONTRASTIVE: tuple[Generation, ...] = ("contrastive", "full")
ADVERSARIAL: tuple[Generation, ...] = ("adversarial", "full")
# first words of the keys of draws: none of them depends on another's number of draws, or on the processes
_CHOICE, _KIND, _ADVERSARIAL, _NOISE, _GUIDE, MEMORY = 761, 762, 763, 764, 765, 766


@dataclass
class Mined:
    """What a classifier makes of the held-out images, in their order; float32 and int64 (N,).

    Attributes:
        loss: cross entropy with the true label.
        margin: probability of the true label less the largest other one.
        entropy: of the probabilities, in nats.
        wrong: whether another class has the largest score.
        label: true.
    """

    loss: Tensor
    margin: Tensor
    entropy: Tensor
    wrong: Tensor
    label: Tensor


def mined(scores: Tensor, label: Tensor) -> Mined:
    """Of class scores (N, K)."""
    scores = scores.float()
    log_p = F.log_softmax(scores, dim=1)
    p = log_p.exp()
    own = p.gather(1, label[:, None])[:, 0]
    others = p.scatter(1, label[:, None], -1.0).amax(dim=1)
    return Mined(
        F.cross_entropy(scores, label, reduction="none"),
        own - others,
        -(p * log_p.nan_to_num(neginf=0.0)).sum(dim=1),
        scores.argmax(dim=1) != label,
        label,
    )


def choose(
    found: Mined, count: int, select: Select, seed: int, round_: int, none_wrong: NoneWrong, balanced: bool
) -> list[int]:
    """``count`` held-out images of a round, by their number.

    ``wrong``: a random permutation of the misclassified ones, tiled where they are fewer; the others take
    those of the largest loss, the smallest margin or the largest entropy, right or wrong.

    Args:
        found: of all held-out images.
        count: K, of all processes together.
        select: see above.
        seed: of the permutation, with the round.
        round_: from 0.
        none_wrong: what follows where nothing is wrong: nothing, or the images of the largest loss.
        balanced: take classes in turn, each in the order it has.

    Returns:
        Empty where there is nothing to choose.
    """
    if select == "wrong":
        wrong = found.wrong.nonzero().flatten()
        if not len(wrong) and none_wrong == "loss":
            order = found.loss.argsort(descending=True, stable=True).tolist()[:count]
        else:
            shuffled = torch.randperm(len(wrong), generator=generator(_CHOICE, seed, round_))
            order = wrong[shuffled].tolist()
    else:
        key = {"loss": -found.loss, "margin": found.margin, "entropy": -found.entropy}[select]
        order = key.argsort(stable=True).tolist()
    if balanced:
        order = in_turn(order, found.label.tolist())
    return tiled(order, count)


def in_turn(order: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The first of each class, then the second of each, and so on; classes in the order of their first."""
    queues: dict[int, list[int]] = {}
    for item in order:
        queues.setdefault(labels[item], []).append(item)
    longest = max(map(len, queues.values()), default=0)
    return [queue[i] for i in range(longest) for queue in queues.values() if i < len(queue)]


@dataclass(frozen=True)
class Planned:
    """An image to be made.

    Attributes:
        position: in the round, over all processes.
        guide: number of the held-out image, or, of RealGuidance, of the training image.
        label: its class.
        kind: plain, guided, or image to image.
        adversarial: whether it is pushed against the classifier.
        contrastive: whether it is kept from earlier images of its class.
        seed: of its noise.
    """

    position: int
    guide: int
    label: int
    kind: Kind
    adversarial: bool
    contrastive: bool
    seed: int


def plan(
    chosen: Sequence[int],
    labels: Sequence[int],
    generation: Generation,
    seed: int,
    epoch: int,
    epochs: int,
    random_rate: float | None = None,
    curriculum: Curriculum = "code",
) -> list[Planned]:
    """Kind and seed of each image of a round, a function of (seed, epoch, position).

    Args:
        chosen: guides.
        labels: of the guides.
        generation: what the images are.
        seed: of the run.
        epoch: e of the training that has ended.
        epochs: E.
        random_rate: share of plain images; None is r_e.
        curriculum: of the share of adversarial ones among the guided.
    """
    rate = random_share(epoch, epochs) if random_rate is None else random_rate
    share = adversarial_share(epoch, epochs, curriculum)
    items = []
    for position, (guide, label) in enumerate(zip(chosen, labels, strict=True)):
        kind: Kind = "random" if generation == "random" else "image_to_image"
        if generation in GUIDED:
            kind = "random" if _uniform(_KIND, seed, epoch, position) < rate else "guided"
        guided = kind == "guided"
        adversarial = guided and generation in ADVERSARIAL
        adversarial = adversarial and _uniform(_ADVERSARIAL, seed, epoch, position) < share
        noise = derived_seed(_NOISE, seed, epoch, position)
        contrastive = guided and generation in CONTRASTIVE
        items.append(Planned(position, guide, label, kind, adversarial, contrastive, noise))
    return items


def asked(generation: Generation, labels: Sequence[int], seeds: Sequence[int]) -> list[Planned]:
    """A variant of each image, all of the kind that ``generation`` is, none kept from earlier ones."""
    kind: Kind = "guided" if generation in GUIDED else "image_to_image"
    if generation == "random":
        kind = "random"
    return [
        Planned(i, i, label, kind, generation in ADVERSARIAL, False, seed)
        for i, (label, seed) in enumerate(zip(labels, seeds, strict=True))
    ]


def random_guides(labels: Sequence[int], count: int, seed: int, round_: int) -> list[int]:
    """Training images for RealGuidance, uniform, whatever the classifier thinks of them."""
    order = torch.randperm(len(labels), generator=generator(_GUIDE, seed, round_)).tolist()
    return tiled(order, count)


def _uniform(*key: int) -> float:
    return float(torch.rand((), generator=generator(*key), dtype=torch.float64))
