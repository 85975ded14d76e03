"""The loss of an update is a mean over its tokens: over all micro-batches and processes at once."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch import distributed as dist


class TokenMean:
    """Divides summed gradients by the tokens of an update.

    A module's ``training_step`` gives the *sum* of the losses of its tokens (:meth:`add`), and its
    ``on_before_optimizer_step``, which comes before gradients are clipped, calls :meth:`divide`. It says
    ``divides_gradients = True``. A mean of means would weigh the tokens of short micro-batches more.
    """

    def __init__(self) -> None:
        self.loss = 0.0
        self.tokens = 0.0
        self._pending: list[Tensor] = []

    def add(self, module: LightningModule, total: Tensor, tokens: Tensor) -> Tensor:
        """Count a micro-batch; what ``training_step`` returns.

        Args:
            module: that trains.
            total: sum of the losses.
            tokens: how many.
        """
        self._pending.append(torch.stack([total.detach().float(), tokens.float()]))
        return total * module.trainer.accumulate_grad_batches  # by which Lightning divides

    def divide(self, module: LightningModule) -> tuple[float, float]:
        """Scale the gradients to the mean over all tokens; (loss of the update a token, tokens)."""
        seen = torch.stack(self._pending).sum(dim=0)
        self._pending = []
        group, processes = data_parallel(module)
        if processes > 1:
            dist.all_reduce(seen, group=group)
        loss, tokens = seen.tolist()
        # gradients are means over these processes already
        factor = processes / max(tokens, 1.0)
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss / max(tokens, 1.0), tokens


def data_parallel(module: LightningModule) -> tuple[Any, int]:
    """The group of processes that see different rows, and how many they are."""
    mesh = getattr(module, "device_mesh", None)
    if mesh is not None:
        rows = mesh["data_parallel"]
        return rows.get_group(), int(rows.size())
    return None, int(module.trainer.world_size)


def decay_groups(network: nn.Module, embeddings: bool = True) -> list[dict[str, Any]]:
    """Trainable parameters in two groups for an optimizer: with its weight decay those of two axes and more,
    without it biases and gains (nanoGPT's grouping).

    Args:
        network: whose parameters.
        embeddings: whether tables of tokens and positions, also as output layers, are decayed.
    """
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim < 2 or (not embeddings and id(parameter) in tables)
            (free if is_free else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
