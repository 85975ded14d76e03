"""The light tagger of Shen et al. (ICLR 2018, section 3): characters -> words -> tags.

Sentences stand as ``[BOS] w_1 .. w_n [EOS] [PAD]..`` in the encoders, T = n + 2 of the longest; the decoder
sees the n real words. Padded words are zeros before every convolution, so that what a sentence gets does not
depend on the others of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CharEncoderName = Literal["cnn", "lstm", "none"]
WordEncoderName = Literal["cnn", "lstm", "transformer"]
PAD, UNKNOWN, BEGIN, END = range(4)
"""Ids of the marks; words and characters of a vocabulary begin at :data:`FIRST`."""
FIRST = 4


@dataclass
class Encoded:
    """A batch as numbers.

    Attributes:
        words: int64 (B, T) with begin and end.
        characters: int64 (W, L) of each different word, with begin and end; row 0 is that of padding.
        forms: int64 (B, T) which of the W each word is.
        lengths: int64 (B,) real words n.
    """

    words: Tensor
    characters: Tensor
    forms: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Real words, bool (B, T - 2)."""
        return torch.arange(self.words.shape[1] - 2, device=self.lengths.device) < self.lengths[:, None]


def initialise(module: nn.Module) -> None:
    """Embeddings U(+-sqrt(3/dim)), forget gates 1 (in ``bias_ih``), other LSTM biases 0, Glorot elsewhere.

    With torch's N(0, 1) for embeddings the tagger stays on the plateau where every word is O.
    """
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            bound = (3 / part.embedding_dim) ** 0.5
            nn.init.uniform_(part.weight, -bound, bound)
            with torch.no_grad():
                part.weight[PAD].zero_()
        elif isinstance(part, nn.LSTM):
            for name, weight in part.named_parameters():
                if name.startswith("weight"):
                    nn.init.xavier_uniform_(weight)
                else:
                    nn.init.zeros_(weight)
                    if name.startswith("bias_ih"):
                        nn.init.ones_(weight.data[part.hidden_size : 2 * part.hidden_size])
        elif isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


class Convolutions(nn.Module):
    """Convolutions of one width, each ReLU and dropout, with residual connections where asked for.

    *Shapes*: (N, C, S), mask (N, 1, S) -> (N, filters, S). Masked positions are 0 before each convolution.
    """

    def __init__(
        self, channels: int, filters: int, kernel: int, layers: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        widths = [channels] + [filters] * (layers - 1)
        # an even kernel is padded by one more at the end
        self.pad = nn.ConstantPad1d(((kernel - 1) // 2, kernel // 2), 0.0)
        self.layers = nn.ModuleList(nn.Conv1d(w, filters, kernel) for w in widths)
        self.shortcuts = nn.ModuleList(
            (nn.Identity() if w == filters else nn.Conv1d(w, filters, 1)) for w in widths * residual
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x * mask
            y = self.dropout(torch.relu(layer(self.pad(x))))
            x = y + self.shortcuts[i](x) if self.shortcuts else y
        return x * mask


class Recurrent(nn.Module):
    """A bidirectional LSTM over the real positions alone. *Shapes*: (N, S, C), (N,) -> (N, S, 2 hidden)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States of all positions, and the last state of both directions (N, 2 hidden)."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0], last.transpose(
            0, 1
        ).flatten(1)


class CharEncoder(nn.Module):
    """Words from their characters. *Shapes*: int64 (W, L) -> (W, width)."""

    def __init__(
        self,
        kind: CharEncoderName,
        num_characters: int,
        dim: int,
        filters: int,
        kernel: int,
        layers: int,
        hidden: int,
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters + FIRST, dim, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.encoder: Convolutions | Recurrent
        if kind == "cnn":
            self.encoder = Convolutions(dim, filters, kernel, layers, dropout, residual)
            self.width = filters
        else:
            self.encoder = Recurrent(dim, hidden)
            self.width = 2 * hidden

    def forward(self, characters: Tensor) -> Tensor:
        mask = characters != PAD  # (W, L)
        x = self.dropout(self.embedding(characters))
        if isinstance(self.encoder, Recurrent):
            return self.encoder(x, mask.sum(1).clamp(min=1))[1]
        y = self.encoder(x.transpose(1, 2), mask[:, None].to(x.dtype))
        word = y.masked_fill(~mask[:, None], -torch.inf).amax(2)
        return torch.where(mask.any(1, keepdim=True), word, 0.0)  # of padded words nothing is left


class WordEncoder(nn.Module):
    """h_enc = [h^(l) ; w_full], w_full = [w_char ; w_emb]. *Shapes*: :class:`Encoded` -> (B, T - 2,
    width)."""

    def __init__(
        self,
        kind: WordEncoderName,
        characters: CharEncoder | None,
        num_words: int,
        dim: int,
        filters: int,
        kernel: int,
        layers: int,
        hidden: int,
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.characters = characters
        self.embedding = nn.Embedding(num_words + FIRST, dim, padding_idx=PAD)
        full = dim + (characters.width if characters else 0)
        self.dropout = nn.Dropout(dropout)
        self.encoder: Convolutions | Recurrent
        if kind == "cnn":
            self.encoder = Convolutions(full, filters, kernel, layers, dropout, residual)
            self.width = filters + full
        else:
            self.encoder = Recurrent(full, hidden)
            self.after = nn.Dropout(dropout)
            self.width = 2 * hidden + full

    def forward(self, batch: Encoded) -> Tensor:
        mask = (batch.words != PAD)[..., None]  # (B, T, 1)
        full = self.embedding(batch.words)
        if self.characters is not None:
            full = torch.cat([self.characters(batch.characters)[batch.forms], full], dim=2)
        full = self.dropout(full) * mask
        if isinstance(self.encoder, Recurrent):
            top = self.after(self.encoder(full, batch.lengths + 2)[0])
        else:
            top = self.encoder(full.transpose(1, 2), mask.transpose(1, 2).to(full.dtype)).transpose(1, 2)
        inner = torch.cat([top, full], dim=2)[:, 1:-1]
        return inner * batch.mask[..., None]


def drop_words(batch: Encoded, uniform: Tensor, rate: float) -> Encoded:
    """Replace the ids of real words by [UNK] where ``uniform`` (B, T - 2) is below ``rate``; characters
    stay."""
    words = batch.words.clone()
    inner = words[:, 1:-1]
    inner[(uniform < rate) & batch.mask] = UNKNOWN
    return replace(batch, words=words)
