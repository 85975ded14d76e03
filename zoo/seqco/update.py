"""What the micro-batches of an update add up to, what its gradients are divided by, what follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.reports import say
from zoo.seqco.objective import Parts
from zoo.seqco.queue import Keys

if TYPE_CHECKING:
    from zoo.seqco.module import SeqCo


_COLLAPSED = 0.1  # of the first spread


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

    def finish(self, module: SeqCo, optimizer: Any) -> None:
        """After the step: its keys become negatives of later ones, xi = beta xi + (1 - beta) theta; at the
        restart xi = theta, and the optimiser's moments start anew."""
        network, restart = module.network, module.hparams["restart_at"]
        if self.keys:
            network.queue.add_update(self.keys, module.all_gather)
        self.keys = []
        done = module.trainer.global_step + 1
        if network.compared and done > restart:
            network.move_target(module.hparams["ema_decay"])
        if restart and done == restart:
            getattr(optimizer, "optimizer", optimizer).state.clear()
            if network.compared:
                network.reset_target()


class Collapse:
    """Whether the features become one: told once, below a tenth of their first spread."""

    def __init__(self) -> None:
        self.told = False

    def watch(self, module: SeqCo, states: Tensor, features: Tensor, rows: int) -> None:
        """Log how far states and features are spread; say when the latter collapse."""
        module.log("train/encoder_spread", states, batch_size=rows, sync_dist=True)
        module.log("train/feature_spread", features, batch_size=rows, sync_dist=True)
        if not module.first_spread:
            module.first_spread.copy_(features)
        elif features < _COLLAPSED * module.first_spread and not self.told:
            self.told = True
            say(
                f"the features collapse: their spread is {float(features):.2g} at step "
                f"{module.trainer.global_step}, {float(module.first_spread):.2g} at the first contrastive one"
            )
