"""Encoder-decoders over token sequences, with a memory that can be changed between encoder and decoder.

``encode`` gives an :class:`Encoded`, ``decode`` the logits of a whole prefix at once, ``begin`` and ``step``
those of one position after the other, with what is needed of the past kept in a :class:`State`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6  # OpenNMT's


@dataclass
class Encoded:
    """What a decoder reads of a source.

    Attributes:
        states: memory of the attention (B, S, d).
        mask: (B, S) bool, true for positions that are read.
        start: initial state of a recurrent decoder, tensors (L, B, d); none of a Transformer.
    """

    states: Tensor
    mask: Tensor
    start: tuple[Tensor, ...] = ()

    def perturbed(self, noise: Tensor) -> Encoded:
        """K rows for each: ``noise`` (K, B, S, d) added to the memory; row k B + b is the k-th of source b.

        An initial state stays clean, as in the released code.
        """
        copies = len(noise)
        states = (self.states + noise).flatten(0, 1)
        start = tuple(s.repeat(1, copies, 1) for s in self.start)
        return Encoded(states, self.mask.repeat(copies, 1), start)

    def repeated(self, copies: int) -> Encoded:
        """Each row ``copies`` times, one after the other: row b copies + i is the i-th of source b."""
        start = tuple(s.repeat_interleave(copies, dim=1) for s in self.start)
        rows = [x.repeat_interleave(copies, dim=0) for x in (self.states, self.mask)]
        return Encoded(rows[0], rows[1], start)


@dataclass
class State:
    """What a decoder keeps of the positions before: ``past`` is its own matter.

    Attributes:
        encoded: the source.
        past: of the network.
        length: positions so far.
        select_past: gives ``past`` of other rows.
    """

    encoded: Encoded
    past: Any
    length: int
    select_past: Callable[[Any, Tensor], Any]

    def select(self, rows: Tensor) -> State:
        """Those of ``rows`` (B',), some of them more than once: beams that go on."""
        e = self.encoded
        chosen = Encoded(e.states[rows], e.mask[rows], tuple(s[:, rows] for s in e.start))
        return dataclasses.replace(self, encoded=chosen, past=self.select_past(self.past, rows))


def source_mask(ids: Tensor, pad: int) -> Tensor:
    """(B, S) true up to the last token that is no pad; an empty source counts its first pad."""
    place = torch.arange(ids.shape[1], device=ids.device)
    last = ((ids != pad) * (place + 1)).amax(dim=1).clamp(min=1)
    return place < last[:, None]


class Generator(nn.Module):
    """A linear layer to the vocabulary; tied, its weights are the table of words that it is called with."""

    def __init__(self, width: int, vocabulary: int, tied: bool) -> None:
        super().__init__()
        made = nn.Linear(width, vocabulary)
        self.weight = None if tied else made.weight
        self.bias = made.bias

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return functional.linear(x, table if self.weight is None else self.weight, self.bias)


class EncoderDecoder(nn.Module):
    """What all have: source and target embeddings, and a generator, a linear layer to the vocabulary.

    Args:
        vocabulary: V, that of source and target.
        width: d of the hidden states and the embeddings.
        dropout: rate.
        pad: id.
        tied: one table of source and target words, also the generator's weights.
    """

    def __init__(self, vocabulary: int, width: int, dropout: float, pad: int, tied: bool = False) -> None:
        super().__init__()
        self.vocabulary, self.width, self.pad = vocabulary, width, pad
        self.source_embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        # a tied table has one name in the state dict, which safetensors asks for
        self.target_embedding = None if tied else nn.Embedding(vocabulary, width, padding_idx=pad)
        self.generator = Generator(width, vocabulary, tied)
        self.dropout = nn.Dropout(dropout)

    def target_words(self, ids: Tensor) -> Tensor:
        """Embeddings of target words (..., d)."""
        table = self.source_embedding if self.target_embedding is None else self.target_embedding
        return table(ids)

    def generated(self, x: Tensor) -> Tensor:
        """Logits (..., V) of states (..., d)."""
        return self.generator(x, self.source_embedding.weight)

    def word_table(self) -> Tensor:
        """Embeddings of the source words (V, d), without positions and scale."""
        return self.source_embedding.weight

    def encode(self, ids: Tensor, extra: Tensor | None = None) -> Encoded:
        """The memory of sources.

        Args:
            ids: (B, S), padded on the right.
            extra: (B, S, d), added to the word embeddings: how a gradient reaches words that were chosen.
        """
        raise NotImplementedError

    def decode(self, prefix: Tensor, encoded: Encoded) -> Tensor:
        """Logits (B, T, V) of the token after each of ``prefix`` (B, T), which begins with BOS."""
        raise NotImplementedError

    def begin(self, encoded: Encoded) -> State:
        """A state before the first token."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, V) of the token after ``tokens`` (B,), and the state behind these."""
        raise NotImplementedError


# --- Transformer ------------------------------------------------------------------------------------------


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """sin and cos of OpenNMT's position encoding (P,) -> (P, d): even features sines, odd ones cosines."""
    rate = torch.exp(torch.arange(0, width, 2, device=positions.device) * -(math.log(10000.0) / width))
    angle = positions[:, None].float() * rate
    table = positions.new_zeros((len(positions), width), dtype=torch.float32)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()[:, : width // 2]
    return table


class MultiHeadAttention(nn.Module):
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_h)) V with h heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, h, T, d / h)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """x (B, T, d) reads keys and values (B, h, S, d / h); mask (B, 1, 1, S) or None."""
        found = functional.scaled_dot_product_attention(
            self.split(self.query(x)),
            key,
            value,
            attn_mask=mask,
            dropout_p=self.rate if self.training else 0.0,
            is_causal=causal,
        )
        return self.output(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """x + W_2 relu(W_1 norm(x))."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.outer(self.dropout(self.inner(self.norm(x)).relu())))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention, then feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y, a = self.norm(x), self.attention
        x = x + self.dropout(a(y, a.split(a.key(y)), a.split(a.value(y)), mask, False))
        return self.feed_forward(x)


Pair = tuple[Tensor, Tensor]


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, attention to the memory, feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.self_attention = MultiHeadAttention(width, heads, dropout)
        self.memory_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.memory_attention = MultiHeadAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def memory(self, states: Tensor) -> Pair:
        """Keys and values of the memory."""
        a = self.memory_attention
        return a.split(a.key(states)), a.split(a.value(states))

    def forward(self, x: Tensor, memory: Pair, mask: Tensor, past: Pair | None = None) -> tuple[Tensor, Pair]:
        """All positions at once, or, with the keys and values of the ``past``, the next one."""
        y, a = self.self_norm(x), self.self_attention
        key, value = a.split(a.key(y)), a.split(a.value(y))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = x + self.dropout(a(y, key, value, None, past is None and x.shape[1] > 1))
        x = x + self.dropout(self.memory_attention(self.memory_norm(x), *memory, mask, False))
        return self.feed_forward(x), (key, value)


class Transformer(EncoderDecoder):
    """OpenNMT's pre-norm Transformer: sinusoidal positions, embeddings times sqrt(d), norms behind the
    stacks.

    Args:
        vocabulary: V.
        width: d.
        layers: of each stack.
        heads: of each attention.
        hidden: width of the feed-forward layers.
        dropout: rate.
        pad: id.
        tied: see :class:`EncoderDecoder`.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        pad: int = 1,
        tied: bool = False,
    ) -> None:
        if width % heads or width % 2:
            raise ValueError(f"the width must be even and a multiple of the heads, got {width} and {heads}")
        super().__init__(vocabulary, width, dropout, pad, tied)
        sizes = (width, heads, hidden, dropout)
        self.encoder = nn.ModuleList([EncoderLayer(*sizes) for _ in range(layers)])
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder = nn.ModuleList([DecoderLayer(*sizes) for _ in range(layers)])
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        for parameter in self.parameters():  # Xavier uniform, also of the tables: param_init_glorot
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def _placed(self, embedded: Tensor, first: int = 0) -> Tensor:
        place = torch.arange(first, first + embedded.shape[1], device=embedded.device)
        scaled = embedded * math.sqrt(self.width)
        return self.dropout(scaled + sinusoids(place, self.width).to(embedded.dtype))

    def encode(self, ids: Tensor, extra: Tensor | None = None) -> Encoded:
        mask = source_mask(ids, self.pad)
        embedded = self.source_embedding(ids)
        x = self._placed(embedded if extra is None else embedded + extra)
        for layer in self.encoder:
            x = layer(x, mask[:, None, None])
        return Encoded(self.encoder_norm(x), mask)

    def decode(self, prefix: Tensor, encoded: Encoded) -> Tensor:
        x, mask = self._placed(self.target_words(prefix)), encoded.mask[:, None, None]
        layers: Any = self.decoder
        for layer in layers:
            x, _ = layer(x, layer.memory(encoded.states), mask)
        return self.generated(self.decoder_norm(x))

    def begin(self, encoded: Encoded) -> State:
        layers: Any = self.decoder
        past = [(layer.memory(encoded.states), None) for layer in layers]
        return State(encoded, past, 0, _select_pairs)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        x = self._placed(self.target_words(tokens[:, None]), state.length)
        mask, past = state.encoded.mask[:, None, None], []
        for layer, (memory, before) in zip(self.decoder, state.past, strict=True):
            x, kept = layer(x, memory, mask, before)
            past.append((memory, kept))
        logits = self.generated(self.decoder_norm(x))[:, 0]
        return logits, dataclasses.replace(state, past=past, length=state.length + 1)


def _select_pairs(past: Any, rows: Tensor) -> Any:
    return [
        tuple(None if pair is None else (pair[0][rows], pair[1][rows]) for pair in layer) for layer in past
    ]


# --- recurrent --------------------------------------------------------------------------------------------


def attend(query: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """Dot attention: queries (B, T, d) read the memory (B, S, d), giving contexts (B, T, d)."""
    scores = (query @ memory.transpose(1, 2)).masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(dim=-1) @ memory


class GRU(EncoderDecoder):
    """One-layer GRU encoder and decoder with dot attention: tanh(W [c; s]) goes to the generator.

    Args:
        vocabulary: V.
        width: d.
        dropout: rate.
        pad: id.
        tied: see :class:`EncoderDecoder`.
    """

    def __init__(
        self, vocabulary: int, width: int = 64, dropout: float = 0.0, pad: int = 1, tied: bool = False
    ) -> None:
        super().__init__(vocabulary, width, dropout, pad, tied)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.combine = nn.Linear(2 * width, width)

    def encode(self, ids: Tensor, extra: Tensor | None = None) -> Encoded:
        mask = source_mask(ids, self.pad)
        embedded = self.source_embedding(ids)
        x = self.dropout(embedded if extra is None else embedded + extra)
        states, last = _packed(self.encoder, x, mask)
        return Encoded(states, mask, (last,))

    def decode(self, prefix: Tensor, encoded: Encoded) -> Tensor:
        x = self.dropout(self.target_words(prefix))
        hidden, _ = self.decoder(x, encoded.start[0].contiguous())
        return self._logits(hidden, encoded)

    def _logits(self, hidden: Tensor, encoded: Encoded) -> Tensor:
        context = attend(hidden, encoded.states, encoded.mask)
        return self.generated(self.dropout(self.combine(torch.cat([context, hidden], dim=-1)).tanh()))

    def begin(self, encoded: Encoded) -> State:
        return State(encoded, encoded.start[0].contiguous(), 0, lambda past, rows: past[:, rows].contiguous())

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        x = self.dropout(self.target_words(tokens[:, None]))
        hidden, past = self.decoder(x, state.past)
        logits = self._logits(hidden, state.encoded)[:, 0]
        return logits, dataclasses.replace(state, past=past, length=state.length + 1)


def _packed(network: Any, x: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
    """Outputs (B, S, d) of a recurrent encoder and its state behind the last token of each row."""
    lengths = mask.sum(dim=1).cpu()
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, last = network(packed)
    states, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
    return states, last


class RNN(EncoderDecoder):
    """OpenNMT's LSTM encoder-decoder: general attention (Luong et al. 2015), input feeding.

    At each step the decoder reads [embedding; attentional vector of the step before]; the attentional vector
    is tanh(W_out [c; s]) of scores s^T W_in h.

    Args:
        vocabulary: V.
        width: d, also of the embeddings.
        layers: of encoder and decoder.
        dropout: rate, between layers and on the attentional vector.
        pad: id.
        tied: see :class:`EncoderDecoder`.
        init: weights begin uniform in [-init, init].
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 500,
        layers: int = 2,
        dropout: float = 0.3,
        pad: int = 1,
        tied: bool = False,
        init: float = 0.1,
    ) -> None:
        super().__init__(vocabulary, width, dropout, pad, tied)
        between = dropout if layers > 1 else 0.0
        self.encoder = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
        cells = [nn.LSTMCell(2 * width if i == 0 else width, width) for i in range(layers)]
        self.decoder = nn.ModuleList(cells)
        self.attention_in = nn.Linear(width, width, bias=False)
        self.attention_out = nn.Linear(2 * width, width, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init)

    def encode(self, ids: Tensor, extra: Tensor | None = None) -> Encoded:
        mask = source_mask(ids, self.pad)
        embedded = self.source_embedding(ids)
        states, last = _packed(self.encoder, embedded if extra is None else embedded + extra, mask)
        return Encoded(states, mask, last)

    def decode(self, prefix: Tensor, encoded: Encoded) -> Tensor:
        state, fed = self.begin(encoded), []
        for word in self.target_words(prefix).unbind(dim=1):
            state = self._next(word, state)
            fed.append(state.past[0])
        return self.generated(torch.stack(fed, dim=1))

    def begin(self, encoded: Encoded) -> State:
        hidden, cell = encoded.start
        past = (hidden.new_zeros(hidden.shape[1:]), hidden, cell)
        return State(encoded, past, 0, lambda past, rows: (past[0][rows], past[1][:, rows], past[2][:, rows]))

    def _next(self, word: Tensor, state: State) -> State:
        """Behind one word (B, d)."""
        fed, hidden, cell = state.past
        x, hiddens, cells = torch.cat([word, fed], dim=1), [], []
        for number, layer in enumerate(self.decoder):
            h, c = layer(x, (hidden[number], cell[number]))
            hiddens.append(h)
            cells.append(c)
            x = self.dropout(h) if number + 1 < len(self.decoder) else h
        encoded = state.encoded
        scores = torch.einsum("bd,bsd->bs", self.attention_in(x), encoded.states)
        share = scores.masked_fill(~encoded.mask, float("-inf")).softmax(dim=1)
        context = torch.einsum("bs,bsd->bd", share, encoded.states)
        fed = self.dropout(self.attention_out(torch.cat([context, x], dim=1)).tanh())
        past = (fed, torch.stack(hiddens), torch.stack(cells))
        return dataclasses.replace(state, past=past, length=state.length + 1)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        state = self._next(self.target_words(tokens), state)
        return self.generated(state.past[0]), state
