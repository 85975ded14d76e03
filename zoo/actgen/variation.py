"""Images of a round: made in batches of one kind, judged, written, and told in rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.actgen.files import RoundFiles
from zoo.actgen.making import Batch, Maker
from zoo.actgen.manifest import Row
from zoo.actgen.memory import ClassMemory
from zoo.actgen.mining import MEMORY, Mined, Planned
from zoo.actgen.refusals import Status, status_of
from zoo.randomness import generator


def in_batches(items: Sequence[Planned], size: int) -> Iterator[list[Planned]]:
    """Images of one kind together, at most ``size``, in the order of their positions within a kind."""
    for kind in ("guided", "image_to_image", "random"):
        own = (item for item in items if item.kind == kind)
        while batch := list(itertools.islice(own, size)):
            yield batch


class Variation:
    """Makes the images of a round.

    Args:
        h: hyperparameters.
        data: with ``guides`` and ``near_pixels``.
        maker: for the classifier that asks.
        found: what that makes of the held-out images; None where they are not looked at.
        memory: latents that images are kept from.
        files: of the round.
    """

    def __init__(
        self,
        h: Mapping[str, Any],
        data: Any,
        maker: Maker,
        found: Mined | None,
        memory: ClassMemory,
        files: RoundFiles,
    ) -> None:
        self.h, self.data, self.maker, self.found = h, data, maker, found
        self.memory, self.files = memory, files

    def rows(self, batch: Sequence[Planned]) -> list[Row]:
        """Images of one kind, on the disk where they are pictures."""
        real = batch[0].kind == "image_to_image"
        guides, _ = self.data.guides([item.guide for item in batch], held_out=not real)
        memories = [self._memory_of(item) for item in batch]
        made = self.maker.make(batch, guides, memories, self._centres(batch))
        return [self._row(item, made, i, guides[i], len(memories[i])) for i, item in enumerate(batch)]

    def _memory_of(self, item: Planned) -> Tensor:
        if not item.contrastive:
            return torch.empty(0)
        return self.memory.drawn(item.label, self.h["memory_size"], generator(MEMORY, item.seed))

    def _centres(self, batch: Sequence[Planned]) -> list[float] | None:
        h, found = self.h, self.found
        if not h["centre_by_loss"] or found is None:
            return None
        mean = float(found.loss[found.wrong].mean()) if bool(found.wrong.any()) else float(found.loss.mean())
        return [
            h["guidance_centre"] + h["centre_by_loss"] * (float(found.loss[i.guide]) - mean) for i in batch
        ]

    def _status(self, label: int, image: Tensor, guide: Tensor) -> Status:
        """Of an image against its guide and all training images of its class, at the classifier's size."""
        distance = self.h["duplicate_distance"]
        seen = F.interpolate(image[None], size=guide.shape[-2:], mode="bilinear", align_corners=False)[0]
        known = guide[None]
        if distance > 0:
            known = torch.cat([known, self.data.near_pixels(label, seen, distance)])
        return status_of(seen, known, distance)

    def _row(self, item: Planned, made: Batch, i: int, guide: Tensor, stored: int) -> Row:
        h, settings, files = self.h, self.maker.settings, self.files
        image = made.images[i]
        status = self._status(item.label, image, guide)
        path, digest = files.name(item), ""
        if status != "nan":
            latent = made.latents[i] if item.kind == "guided" else None
            digest = files.write(item, image, guide, latent)
        strength = made.centres[i] if item.kind == "guided" else 0.0
        return Row(
            path=path,
            label=item.label,
            epoch=files.epoch,
            position=item.position,
            guide=item.guide,
            kind=item.kind,
            adversarial=int(item.adversarial),
            contrastive=stored,
            seed=item.seed,
            strength=float(h["strength"] if item.kind == "image_to_image" else strength),
            guidance=float(settings.scale),
            steps=settings.steps,
            step_size=float(settings.step_size),
            hardness=float(made.hardness[i]),
            predicted=int(made.predicted[i]),
            judged=int(made.judged[i]),
            status=status,
            prompt=made.prompts[i],
            sha256=digest,
            round_key=files.key,
        )
