"""What the micro-batches of an update add up to, and what its gradients are divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.seqco.objective import Parts
from zoo.seqco.queue import Keys

if TYPE_CHECKING:
    from zoo.seqco.module import SeqCo


class Update:
    """Tokens, sequences and keys of the micro-batches since the last optimiser step of a process."""

    def __init__(self) -> None:
        self.counted = 0.0
        self.parts = 0
        self.keys: list[Keys] = []

    def add(self, found: Parts) -> None:
        """Count a micro-batch."""
        self.counted += found.counted
        self.parts += 1
        if found.keys:
            self.keys.append(found.keys)

    def divide(self, module: SeqCo) -> None:
        """Divide the summed gradients by what all micro-batches and processes have counted; log both weights.

        A weight of ``token_sum`` acts, by the mean loss of a token, as weight * micro-batches / counted.
        """
        seen = torch.tensor([self.counted, float(self.parts)], dtype=torch.float64, device="cpu")
        both = module.trainer.strategy.reduce(seen.float().to(module.device), reduce_op="sum")
        count, parts = both.tolist() if isinstance(both, Tensor) else seen.tolist()
        factor = module.trainer.world_size / max(count, 1.0)
        for parameter in module.network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        summed = module.hparams["contrast_reduction"] == "token_sum"
        module.log("train/tokens", count)
        for pair, weight in module.objective.weights_at(module.trainer.global_step).items():
            module.log(f"train/weight_{pair}", weight)
            module.log(f"train/effective_weight_{pair}", weight * parts / count if summed else weight)
        self.counted, self.parts = 0.0, 0

    def fill_queue(self, module: SeqCo) -> None:
        """After the step its keys become negatives of later ones."""
        if self.keys:
            module.network.queue.add_update(self.keys, module.all_gather)
        self.keys = []
