"""How language models begin: GPT-2's initial weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_INTO_RESIDUAL = (
    "attn.c_proj.weight",
    "mlp.c_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.down_proj.weight",
)


@torch.no_grad()
def initialise(model: nn.Module, layers: int, std: float = 0.02) -> None:
    """Matrices and tables from N(0, std), those that write into the residual stream from
    N(0, std / sqrt(2 L)); biases 0, gains of norms 1.

    Args:
        model: of transformers, GPT-2 or Llama.
        layers: L.
        std: of the others.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        if parameter.ndim > 1:
            into = name.endswith(_INTO_RESIDUAL)
            nn.init.normal_(parameter, std=std / (2 * layers) ** 0.5 if into else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)


def without_biases(model: nn.Module) -> None:
    """GPT-2 as nanoGPT builds it: neither linear layers nor norms have biases, so none is a parameter.

    Conv1D and LayerNorm add a bias that is a buffer of zeros.
    """
    for module in model.modules():
        bias = module._parameters.get("bias")
        if isinstance(bias, Tensor):
            del module._parameters["bias"]
            module.register_buffer("bias", torch.zeros_like(bias), persistent=False)
