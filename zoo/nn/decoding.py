"""Sequences out of an encoder-decoder: greedy, sampled, beam search.

All walk a network's ``begin`` and ``step`` (:mod:`zoo.nn.encoder_decoder`). PAD and BOS are never chosen. A
sequence ends with EOS, which it contains, or at ``max_length`` without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.nn.encoder_decoder import Encoded

_NEVER = float("-inf")


def forbid(logits: Tensor, *ids: int) -> Tensor:
    """Logits (..., V) under which ``ids`` are never chosen."""
    out = logits.float().clone()
    out[..., sorted({*ids})] = _NEVER
    return out


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """One draw a row of softmax(logits) (B, V), a function of ``uniform`` (B,) in [0, 1)."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    # the last sum may be 1 - eps: the scale keeps every draw inside
    found = torch.searchsorted(cumulated, (uniform.double() * cumulated[:, -1])[:, None], right=True)
    return found[:, 0].clamp(max=logits.shape[-1] - 1)


def top_k_logits(logits: Tensor, top_k: int | None) -> Tensor:
    """-inf for all but the ``top_k`` largest; null keeps all."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits
    least = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, _NEVER)


def top_p_logits(logits: Tensor, top_p: float) -> Tensor:
    """-inf outside of the nucleus: the fewest likeliest tokens whose probabilities sum to ``top_p`` or more
    (Holtzman et al. 2020); the likeliest one is always in it."""
    if top_p >= 1:
        return logits
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    share = ordered.double().softmax(dim=-1)
    before = share.cumsum(dim=-1) - share  # of likelier tokens
    return logits.masked_fill(
        torch.empty_like(places, dtype=torch.bool).scatter(-1, places, before >= top_p), _NEVER
    )


@torch.no_grad()
def generate(
    network: Any,
    encoded: Encoded,
    max_length: int,
    bos: int,
    eos: int,
    pad: int,
    uniform: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    never: Sequence[int] = (),
) -> Tensor:
    """One sequence for each row of ``encoded``: the likeliest token each time, or, with ``uniform``, a draw.

    Args:
        network: an :class:`zoo.nn.encoder_decoder.EncoderDecoder`.
        encoded: the sources.
        max_length: most tokens, EOS included.
        bos: id.
        eos: id.
        pad: id.
        uniform: (max_length, B) in [0, 1): the draws are a function of these numbers.
        temperature: logits are divided by it before a draw.
        top_k: draw among so many likeliest tokens.
        top_p: draw from the nucleus, see :func:`top_p_logits`.
        never: further ids that are not chosen.

    Returns:
        (B, T) with EOS where a sequence ended, pads behind, without BOS.
    """
    rows = len(encoded.states)
    token = encoded.mask.new_full((rows,), bos, dtype=torch.long)
    done = torch.zeros_like(token, dtype=torch.bool)
    state, found = network.begin(encoded), []
    for place in range(max_length):
        logits, state = network.step(token, state)
        logits = forbid(logits, pad, bos, *never)
        if uniform is None:
            token = logits.argmax(dim=-1)
        else:
            nucleus = top_p_logits(top_k_logits(logits / temperature, top_k), top_p)
            token = inverse_cdf(nucleus, uniform[place])
        found.append(token.where(~done, pad))
        done = done | (token == eos)
        if bool(done.all()):
            break
    return torch.stack(found, dim=1)


def gnmt_penalty(alpha: float, length: int) -> float:
    """((5 + length) / 6)^alpha (Wu et al. 2016), by which log p is divided."""
    return float(((5 + length) / 6) ** alpha)


def _power(penalty: float, length: int) -> float:
    return float(length) ** penalty


@torch.no_grad()
def beam_search(
    network: Any,
    encoded: Encoded,
    beams: int,
    max_length: int,
    bos: int,
    eos: int,
    pad: int,
    length_penalty: float | Callable[[int], float] = 0.0,
    never: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """The ``beams`` likeliest sequences that a beam search finds, best first.

    A source is finished when its worst finished sequence is better than what its best open one can become.

    Args:
        network: as for :func:`generate`.
        encoded: the sources (B rows).
        beams: width, and number of sequences.
        max_length: most tokens, EOS included.
        bos: id.
        eos: id.
        pad: id.
        length_penalty: scores are log p / length^penalty; 0 compares sums, as the released code. A function
            of the length, which must not fall, takes the place of the power: :func:`gnmt_penalty`.
        never: further ids that are not chosen.

    Returns:
        sequences (B, beams, T) and scores (B, beams).
    """
    sources = len(encoded.states)
    if callable(length_penalty):
        norm_of, grows = length_penalty, True
    else:
        norm_of, grows = partial(_power, length_penalty), length_penalty > 0
    state = network.begin(encoded.repeated(beams))
    device = encoded.states.device
    token = torch.full((sources * beams,), bos, dtype=torch.long, device=device)
    scores = torch.full((sources, beams), _NEVER, device=device)
    scores[:, 0] = 0.0  # all beams of a source are the same at first
    open_rows = torch.full((sources, beams, max_length), pad, dtype=torch.long, device=device)
    ended, ended_scores = open_rows.clone(), torch.full_like(scores, _NEVER)
    first = torch.arange(sources, device=device)[:, None] * beams
    for place in range(max_length):
        logits, state = network.step(token, state)
        logp = forbid(logits, pad, bos, *never).log_softmax(dim=-1).view(sources, beams, -1)
        words = logp.shape[-1]
        total = (scores[:, :, None] + logp).flatten(1)
        best, index = total.topk(min(2 * beams, total.shape[1]), dim=1)
        beam, word = index // words, index % words
        rows = open_rows.gather(1, beam[:, :, None].expand(-1, -1, max_length)).clone()
        rows[:, :, place] = word
        ends = word == eos
        norm = norm_of(place + 1)
        # those of the best candidates that end join the finished ones; what ends further down is dropped
        finished = ends & (torch.arange(ends.shape[1], device=device) < beams)
        pool = torch.cat([ended_scores, torch.where(finished, best / norm, _NEVER)], dim=1)
        ended_scores, kept = pool.topk(beams, dim=1)
        ended = torch.cat([ended, rows], dim=1).gather(1, kept[:, :, None].expand(-1, -1, max_length))
        scores, chosen = torch.where(ends, _NEVER, best).topk(beams, dim=1)
        open_rows = rows.gather(1, chosen[:, :, None].expand(-1, -1, max_length))
        token = word.gather(1, chosen).flatten()
        state = state.select((first + beam.gather(1, chosen)).flatten())
        reachable = scores[:, 0] / (norm_of(max_length) if grows else norm)
        if bool((ended_scores[:, -1] >= reachable).all()):
            break
    pool = torch.cat([ended_scores, scores / norm], dim=1)
    scores, kept = pool.topk(beams, dim=1)
    every = torch.cat([ended, open_rows], dim=1).gather(1, kept[:, :, None].expand(-1, -1, max_length))
    longest = max(int(((every != pad).sum(dim=-1)).max()), 1)
    return every[:, :, :longest], scores
