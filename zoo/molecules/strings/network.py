"""Language models of tokens: an LSTM, and a GPT whose blocks are those of GPT-2.

Both give the logits of a whole prefix at once, or, by ``begin`` and ``step``, of one position after the other
as :mod:`zoo.nn.decoding` walks them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.encoder_decoder import Encoded, MultiHeadAttention, State

_INIT = 0.02  # GPT-2's


def nothing_read(rows: int, device: torch.device) -> Encoded:
    """The source of a language model: none, in so many rows."""
    empty = torch.zeros((rows, 0), device=device)
    return Encoded(empty, empty.bool())


class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM, linear layer to the vocabulary (Segler et al. 2018; MOSES' char-RNN).

    Args:
        vocabulary: V.
        embedding: width of the embeddings; null is V, one-hot rows to begin with, as MOSES has them.
        width: of the hidden states.
        layers: of the LSTM.
        dropout: rate, between layers.
        pad: id.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int | None = 128,
        width: int = 512,
        layers: int = 3,
        dropout: float = 0.2,
        pad: int = 0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding or vocabulary, padding_idx=pad)
        if embedding is None:
            with torch.no_grad():
                self.embedding.weight.copy_(torch.eye(vocabulary))
                self.embedding.weight[pad] = 0
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(embedding or vocabulary, width, layers, batch_first=True, dropout=between)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``ids`` (B, T), which begin with BOS."""
        states, _ = self.lstm(self.embedding(ids))
        return self.head(states)

    def begin(self, encoded: Encoded) -> State:
        """A state before the first token of each row."""
        shape = (self.lstm.num_layers, len(encoded.states), self.lstm.hidden_size)
        zeros = self.head.weight.new_zeros(shape)
        return State(encoded, (zeros, zeros), 0, lambda past, rows: tuple(p[:, rows] for p in past))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, V) of the token after ``tokens`` (B,), and the state behind these."""
        states, past = self.lstm(self.embedding(tokens[:, None]), state.past)
        return self.head(states[:, 0]), dataclasses.replace(state, past=past, length=state.length + 1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + W_2 gelu(W_1 norm(x)): a block of GPT-2."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All positions at once, or, with the keys and values of the ``past``, the next one."""
        y, a = self.attention_norm(x), self.attention
        key, value = a.split(a.key(y)), a.split(a.value(y))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = x + self.dropout(a(y, key, value, None, past is None and x.shape[1] > 1))
        y = functional.gelu(self.inner(self.norm(x)), approximate="tanh")
        return x + self.dropout(self.outer(y)), (key, value)


class GPTLanguageModel(nn.Module):
    """A pre-norm causal Transformer with learned positions, the table of tokens tied to the head (GPT-2).

    Args:
        vocabulary: V.
        width: of the states.
        layers: blocks.
        heads: of each attention.
        dropout: rate.
        max_length: positions, BOS included.
        pad: id.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 256,
        layers: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
        max_length: int = 128,
        pad: int = 0,
    ) -> None:
        if width % heads:
            raise ValueError(f"the width must be a multiple of the heads, got {width} and {heads}")
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                into = name.endswith(("output.weight", "outer.weight"))  # scaled by depth, as GPT-2's
                nn.init.normal_(parameter, std=_INIT / (2 * layers) ** 0.5 if into else _INIT)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.tokens.weight[pad] = 0

    def _placed(self, ids: Tensor, first: int) -> Tensor:
        place = torch.arange(first, first + ids.shape[1], device=ids.device)
        return self.dropout(self.tokens(ids) + self.positions(place))

    def _logits(self, x: Tensor) -> Tensor:
        return functional.linear(self.norm(x), self.tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``ids`` (B, T), T at most ``max_length``."""
        x = self._placed(ids, 0)
        for block in self.blocks:
            x, _ = block(x)
        return self._logits(x)

    def begin(self, encoded: Encoded) -> State:
        """A state before the first token of each row."""
        past: list[Any] = [None for _ in self.blocks]
        return State(
            encoded, past, 0, lambda p, rows: [None if x is None else (x[0][rows], x[1][rows]) for x in p]
        )

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, V) of the token after ``tokens`` (B,), and the state behind these."""
        x, past = self._placed(tokens[:, None], state.length), []
        for block, before in zip(self.blocks, state.past, strict=True):
            x, kept = block(x, before)
            past.append(kept)
        return self._logits(x)[:, 0], dataclasses.replace(state, past=past, length=state.length + 1)
