"""The latent noise sampler psi, and what the target network makes of a noisy memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Noise = Literal["learned", "gaussian", "none"]


class NoiseSampler(nn.Module):
    """n = mu(h) + sigma(h) eps with mu an MLP and sigma = softplus(mu), the same network (released code).

    Args:
        width: d of the memory h.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, memory: Tensor, normal: Tensor) -> Tensor:
        """memory (B, S, d) and draws of N(0, 1) (K, B, S, d) -> noise (K, B, S, d)."""
        mu = self.mu(memory)
        return mu + functional.softplus(mu) * normal


def straight_through(logits: Tensor, table: Tensor, temperature: float = 1.0) -> Tensor:
    """What is added to the embeddings of the likeliest words so that a gradient reaches the logits.

    Its value is 0; its gradient is that of softmax(logits / temperature) @ table (straight-through estimator,
    Bengio et al. 2013).

    Args:
        logits: (B, T, V).
        table: word embeddings (V, d) of the network that reads the words.
        temperature: of the softmax.

    Returns:
        (B, T, d).
    """
    soft = (logits.float() / temperature).softmax(dim=-1)
    return (soft - soft.detach()).to(table.dtype) @ table


def placed(extra: Tensor, before: Tensor, length: Tensor, width: int) -> Tensor:
    """``extra`` (B, T, d) of a reply, where :func:`zoo.ami.information.join_rows` has put its tokens.

    Args:
        extra: of the tokens of the reply.
        before: tokens in front of it, (B,).
        length: of the reply (B,); what is behind it is left out.
        width: of the joined rows.
    """
    place = torch.arange(extra.shape[1], device=extra.device)
    inside = (place < length[:, None]).unsqueeze(-1)
    column = (before[:, None] + place).clamp(max=width - 1)
    out = extra.new_zeros(len(extra), width, extra.shape[2])
    return out.scatter_add(1, column.unsqueeze(-1).expand_as(extra), extra * inside)
