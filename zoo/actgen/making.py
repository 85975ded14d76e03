"""Images of a plan: guides in, pictures, latents and what the classifier says of them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.actgen.generator import Generator
from zoo.actgen.guidance import resized
from zoo.actgen.mining import Planned
from zoo.actgen.sampling import Job, Made, sample_guided, sample_image_to_image, sample_random
from zoo.actgen.settings import guidance_of


@dataclass
class Batch:
    """Images that were made together, in the order of their plan.

    Attributes:
        images: (B, C, S, S) in [0, 1], with the data's channels, at the generator's size.
        masks: mean mask over the steps (B, 1, S, S).
        latents: final ones (B, C, h, h).
        hardness: cross entropy of the classifier that asks, (B,).
        predicted: its class (B,).
        judged: class of an independent classifier, -1 without one (B,).
        prompts: what the generator was asked.
        centres: of each image's guidance.
    """

    images: Tensor
    masks: Tensor
    latents: Tensor
    hardness: Tensor
    predicted: Tensor
    judged: Tensor
    prompts: list[str]
    centres: list[float]


def in_channels(images: Tensor, channels: int) -> Tensor:
    """Grey as colour (three alike), colour as grey (their mean)."""
    if images.shape[1] == channels:
        return images
    return images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images.mean(dim=1, keepdim=True)


class Maker:
    """Makes images for a classifier.

    Args:
        h: hyperparameters.
        generator: frozen.
        network: classifier of images in [0, 1]; looked at in eval mode and left as it was.
        judge: independent classifier.
    """

    def __init__(
        self, h: Mapping[str, Any], generator: Generator, network: nn.Module, judge: nn.Module | None = None
    ) -> None:
        self.h, self.generator, self.network, self.judge = h, generator, network, judge
        latent = generator.latent_shape
        self.settings = guidance_of(h, latent[0] * latent[1] * latent[2])

    def make(
        self,
        items: Sequence[Planned],
        guides: Tensor,
        memories: Sequence[Tensor] = (),
        centres: Sequence[float] | None = None,
    ) -> Batch:
        """Images of one kind.

        Args:
            items: what is wanted.
            guides: (B, C, S, S) in [0, 1] at the classifier's size.
            memories: latents that each image is kept from.
            centres: of each image's guidance; None is the settings'.
        """
        training = [m for m in self.network.modules() if m.training]
        self.network.eval()
        try:
            with torch.inference_mode(False):  # prediction runs in it, where nothing has a gradient
                made = self._made(items, guides.clone(), [m.clone() for m in memories], centres)
                return self._seen(items, made, centres)
        finally:
            for part in training:
                part.training = True

    def _made(
        self,
        items: Sequence[Planned],
        guides: Tensor,
        memories: Sequence[Tensor],
        centres: Sequence[float] | None,
    ) -> Made:
        h, generator, kind = self.h, self.generator, items[0].kind
        labels, seeds = [i.label for i in items], [i.seed for i in items]
        if kind == "random":
            job = Job(labels, seeds)
            return sample_random(
                generator, job, self.settings.steps, self.settings.scale, h["random_sampler"]
            )
        channels, side, _ = generator.picture_shape
        pictures = resized(in_channels(guides.to(generator.device), channels), side) * 2 - 1
        if kind == "image_to_image":
            job = Job(labels, seeds, pictures)
            return sample_image_to_image(
                generator, job, self.settings.steps, self.settings.scale, h["strength"]
            )
        job = Job(labels, seeds, pictures, [i.adversarial for i in items], memories, centres)
        return sample_guided(generator, job, self.settings, self._scores, h["image_size"])

    def _scores(self, images: Tensor) -> Tensor:
        """Class scores of images at the classifier's size, with the generator's channels."""
        return self.network(in_channels(images, self.h["channels"]))

    @torch.no_grad()
    def _seen(self, items: Sequence[Planned], made: Made, centres: Sequence[float] | None) -> Batch:
        images = in_channels(made.images, self.h["channels"]).float()
        shown = resized(images, self.h["image_size"])
        with torch.autocast(images.device.type, enabled=False):
            scores = self.network(shown).float()
            judged = (
                self.judge(shown).argmax(dim=1) if self.judge is not None else scores.argmax(dim=1) * 0 - 1
            )
        labels = torch.tensor([i.label for i in items], device=images.device)
        side = images.shape[-1]
        return Batch(
            images.cpu(),
            resized(made.masks, side).cpu(),
            made.latents.float().cpu(),
            F.cross_entropy(scores, labels, reduction="none").cpu(),
            scores.argmax(dim=1).cpu(),
            judged.cpu(),
            made.prompts,
            list(centres) if centres is not None else [self.settings.centre] * len(items),
        )
