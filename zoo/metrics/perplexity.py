"""Perplexity and bits per byte: sums over all batches and processes first, then one quotient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenLikelihood(Metric):
    """Likelihood of a text whose tokens were scored in batches.

    perplexity = exp(sum NLL / tokens), not the mean of batches' perplexities; bits per byte =
    sum NLL / (ln 2 * bytes of the text in UTF-8), which tokenizers with other tokens share. What has no
    tokens or no bytes is NaN.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    nll: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("nll", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("bytes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, nll: Tensor, tokens: Tensor | int, text_bytes: Tensor | int = 0) -> None:
        """Add texts.

        Args:
            nll: -log p in nats, of any shape: summed.
            tokens: how many were scored, summed likewise.
            text_bytes: that they stand for, summed likewise.
        """
        self.nll += nll.detach().double().sum()
        self.tokens += torch.as_tensor(tokens).sum()
        self.bytes += torch.as_tensor(text_bytes).sum()

    def compute(self) -> dict[str, Tensor]:
        """``loss`` in nats a token, ``perplexity``, ``bits_per_byte``, ``byte_perplexity``, ``tokens``."""
        loss = self.nll / self.tokens
        byte = self.nll / self.bytes if self.bytes else torch.full_like(self.nll, math.nan)
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": byte / math.log(2),
            "byte_perplexity": byte.exp(),
            "tokens": self.tokens.double(),
        }
