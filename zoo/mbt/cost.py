"""What a forward pass costs, counted by torch on the meta device: no memory, no time."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.mbt.network import build


def macs(**arguments: Any) -> int:
    """Multiply-accumulates of one sample's forward pass, embedding and head included.

    Args:
        **arguments: of :class:`~zoo.mbt.network.FusionNetwork`.
    """
    with torch.device("meta"):
        network = build(**arguments).eval()
        inputs = network.example_inputs(1)
    counter: Any = FlopCounterMode(display=False)
    # The fused kernels of a CPU count as nothing.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(**inputs)
    return int(counter.get_total_flops()) // 2
