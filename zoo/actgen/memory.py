"""Latents of earlier images by class, which later ones are to be unlike."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassMemory:
    """Final latents of guided images, on the CPU."""

    def __init__(self) -> None:
        self._held: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def copy(self) -> ClassMemory:
        """With the same latents."""
        found = ClassMemory()
        found._held = {label: list(held) for label, held in self._held.items()}
        return found

    def store(self, label: int, latent: Tensor) -> None:
        """Keep one (C, h, h)."""
        self._held.setdefault(label, []).append(latent.detach().float().cpu().flatten().clone())

    def of(self, label: int) -> list[Tensor]:
        """All of a class, in the order of their storing."""
        return self._held.get(label, [])

    def drawn(self, label: int, most: int, generator: torch.Generator) -> Tensor:
        """At most so many of a class, at random without replacement, (K, D); (0,) where there are none."""
        held = self.of(label)
        if not held:
            return torch.empty(0)
        if len(held) > most:
            chosen = torch.randperm(len(held), generator=generator)[:most].tolist()
            held = [held[i] for i in chosen]
        return torch.stack(held)

    def diversity(self) -> float | None:
        """Mean pairwise distance within the classes that have two or more; of at most 200 of each."""
        found = [torch.pdist(torch.stack(v[-200:])).mean() for v in self._held.values() if len(v) > 1]
        return float(torch.stack(found).mean()) if found else None
