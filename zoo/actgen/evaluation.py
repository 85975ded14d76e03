"""The mechanism by itself: variants of images by several kinds of guidance, from the same noise, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.actgen.generator import Generator
from zoo.actgen.making import Batch, Maker
from zoo.actgen.memory import ClassMemory
from zoo.actgen.mining import ADVERSARIAL, CONTRASTIVE, Generation, Planned
from zoo.randomness import derived_seed, generator

_VARIANTS, _EARLIER, _DRAWN = 781, 782, 783
_BLACK = -0.99  # of pixels in [-1, 1]


def check_guides(h: Mapping[str, Any], images: Tensor, labels: Sequence[int]) -> None:
    """Refuse images that are no guides.

    Raises:
        ValueError: for another shape, values that are out of range or not finite, labels that are no classes.
    """
    shape = (h["channels"], h["image_size"], h["image_size"])
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) != len(labels) or not labels:
        raise ValueError(f"images must be (B, {', '.join(map(str, shape))}) with as many labels")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie in [0, 1] and be finite")
    if bad := [y for y in labels if not 0 <= y < h["num_classes"]]:
        raise ValueError(f"labels must lie in 0..{h['num_classes'] - 1}, got {bad[0]}")


def variants_of(
    h: Mapping[str, Any],
    model: Generator,
    network: torch.nn.Module,
    judge: torch.nn.Module | None,
    images: Tensor,
    labels: Sequence[int],
    generation: Generation,
    seed: int,
) -> Batch:
    """Variants of images as a round in which all are guided, and of ``adversarial`` kinds all are pushed.

    The noise of an image is a function of (seed, place), whatever the kind. What ``contrastive`` kinds are
    kept from are variants of the same images with masks alone and other noise.

    Args:
        h: hyperparameters.
        model: frozen.
        network: the classifier.
        judge: independent classifier.
        images: guides (B, C, S, S) in [0, 1].
        labels: their classes.
        generation: kind of guidance.
        seed: of the noise.
    """
    memories: list[Tensor] = []
    if generation in CONTRASTIVE:
        earlier = _made(h, model, network, judge, images, labels, "mask", (_EARLIER, seed), ())
        memory = ClassMemory()
        for label, latent in zip(labels, earlier.latents, strict=True):
            memory.store(label, latent)
        memories = [
            memory.drawn(label, h["memory_size"], generator(_DRAWN, seed, i))
            for i, label in enumerate(labels)
        ]
    return _made(h, model, network, judge, images, labels, generation, (_VARIANTS, seed), memories)


def _made(
    h: Mapping[str, Any],
    model: Generator,
    network: torch.nn.Module,
    judge: torch.nn.Module | None,
    images: Tensor,
    labels: Sequence[int],
    generation: Generation,
    key: tuple[int, int],
    memories: Sequence[Tensor],
) -> Batch:
    maker = Maker({**h, "generation": generation}, model, network, judge)
    pushed, kept = generation in ADVERSARIAL, generation in CONTRASTIVE
    kind: Any = {"random": "random", "real_guidance": "image_to_image"}.get(generation, "guided")
    parts = []
    for first in range(0, len(labels), h["generation_batch"]):
        rows = range(first, min(first + h["generation_batch"], len(labels)))
        items = [Planned(i, i, labels[i], kind, pushed, kept, derived_seed(*key, i)) for i in rows]
        own = [memories[i] for i in rows] if memories else [torch.empty(0)] * len(items)
        parts.append(maker.make(items, images[first : rows.stop], own))
    return joined(parts)


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches as one."""
    tensors = {
        name: torch.cat([getattr(p, name) for p in parts])
        for name in ("images", "masks", "latents", "hardness", "predicted", "judged")
    }
    prompts = [text for p in parts for text in p.prompts]
    return Batch(**tensors, prompts=prompts, centres=[c for p in parts for c in p.centres])


def measured(made: Batch, guides: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """What guidance is to do, means over the images.

    ``hardness`` for the classifier; ``background``, the mean squared distance to the guide, in [-1, 1], over
    the guide's black pixels; ``distance``, the same over all pixels; ``consistency``, the share whose label
    an independent classifier confirms, where there is one.
    """
    own, theirs = 2 * made.images - 1, 2 * guides.cpu() - 1
    error = (own - theirs) ** 2 if own.shape == theirs.shape else torch.full_like(theirs, torch.nan)
    black = (theirs < _BLACK).float()
    found = {
        "hardness": float(made.hardness.mean()),
        "distance": float(error.mean()),
        "background": float((error * black).sum() / black.sum().clamp(min=1)),
    }
    if bool((made.judged >= 0).all()):
        found["consistency"] = float((made.judged == torch.tensor(list(labels))).float().mean())
    return {k: v for k, v in found.items() if v == v}
