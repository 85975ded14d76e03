"""Losses that are sums over tokens: their gradients are divided by all tokens of an optimiser step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.processes import place, total


class CountedUpdate:
    """Tokens of the micro-batches since the last optimiser step of this process.

    A mean over micro-batches or processes of means over tokens would give a token of a short batch more
    weight. The module's ``training_step`` returns :meth:`add`, its ``on_before_optimizer_step``, which runs
    before gradients are clipped, calls :meth:`divide`; ``divides_gradients = True`` tells the engine.
    """

    def __init__(self) -> None:
        self.counted = 0.0

    def add(self, module: Any, summed: Tensor, count: float) -> Tensor:
        """The loss to return of a sum over ``count`` tokens; Lightning divides it by the micro-batches."""
        self.counted += count
        return summed * module.trainer.accumulate_grad_batches

    def divide(self, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        """Divide summed gradients by the tokens of all micro-batches and processes. Processes have been
        averaged by then."""
        seen = total(torch.tensor(self.counted, dtype=torch.float32, device=device))
        factor = place()[1] / max(float(seen), 1.0)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        self.counted = 0.0
