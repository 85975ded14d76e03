"""The optimisers of a pair's networks."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Optimizer

from zoo.ami.network import AMINetwork


def optimizers_of(
    network: AMINetwork,
    source: Any,
    forward: OptimizerCallable,
    backward: OptimizerCallable,
    noise: OptimizerCallable,
    pretrain: OptimizerCallable | None,
) -> tuple[list[Optimizer], list[int]]:
    """All optimisers in the order in which a checkpoint has them, and which of them MLE before the cycle has.

    Args:
        network: the pair.
        source: the model of S, or none.
        forward: makes that of theta.
        backward: of phi.
        noise: of psi, the last.
        pretrain: of theta and phi before the cycle, where they are others, and of the model of S.

    Returns:
        optimisers, and the places of those of theta, phi and, where there is one, the model of S.
    """
    pair = (network.forward_network, network.backward_network)
    made = [make(part.parameters()) for make, part in zip((forward, backward), pair, strict=True)]
    before = [0, 1]
    if pretrain is not None:
        before = [2, 3]
        made += [pretrain(part.parameters()) for part in pair]
    if source is not None:
        before.append(len(made))
        made.append((pretrain or backward)(source.parameters()))
    if network.noise is not None:
        made.append(noise(network.noise.parameters()))
    return made, before
