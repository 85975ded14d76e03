"""What a policy reached over all batches of a test, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributed as dist

from zoo.caa.composition import Result

_NAMES = ("images", "accuracy", "robust_accuracy", "forward", "backward", "cpu_seconds")


@dataclass
class Tally:
    """Sums over batches, on the processor."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(len(_NAMES), dtype=torch.float64))

    def add(self, found: Result) -> None:
        """One batch."""
        right = [len(found.clean), int(found.clean.sum()), int(found.robust.sum())]
        cost = found.cost
        self.sums += torch.tensor([*right, cost.forward, cost.backward, cost.cpu_seconds]).double()

    def means(self, device: torch.device) -> dict[str, float]:
        """Per image, over all processes; ``passes`` are those forward and backward together."""
        sums = self.sums.to(device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        images, *others = sums.tolist()
        found = {name: value / images for name, value in zip(_NAMES[1:], others, strict=True)}
        return {**found, "passes": found["forward"] + found["backward"]}
