"""Summaries that the model draws while it learns, and the sequences that are fed to its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.randomness import generator

_DRAWS = 410  # first word of the keys of this method's draws


@dataclass(frozen=True)
class Special:
    """Ids of the tokens that are no text.

    Attributes:
        pad: fills up.
        eos: ends a sequence.
        bos: begins one, ``<s>`` of BART; None for T5 and PEGASUS.
        start: what a decoder begins with: ``</s>`` of BART, ``<pad>`` of T5 and PEGASUS.
        others: further ones that are taken out of what was drawn.
    """

    pad: int
    eos: int
    bos: int | None
    start: int
    others: tuple[int, ...] = ()

    @property
    def all(self) -> set[int]:
        """Every id that is no text."""
        return {self.pad, self.eos, self.start, *self.others, *([] if self.bos is None else [self.bos])}

    @property
    def fewest(self) -> int:
        """Tokens of a sequence without text."""
        return 1 if self.bos is None else 2


def wrapped(rows: Sequence[Sequence[int]], special: Special, width: int = 0) -> tuple[Tensor, Tensor]:
    """Ids as ``<s> tokens </s>`` (B, T), filled up to at least ``width``, and the mask of real positions."""
    begin = [] if special.bos is None else [special.bos]
    whole = [[*begin, *row, special.eos] for row in rows]
    ids = torch.full((len(whole), max([width, *map(len, whole)])), special.pad)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(whole):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = True
    return ids, mask


def ordinary(drawn: Tensor, special: Special) -> list[list[int]]:
    """The text of drawn sequences (B, T), which begin with the start token: up to the first ``</s>``, without
    any special id. A ``<pad>`` in the middle is taken out and cuts nothing."""
    rows = []
    for row in drawn[:, 1:].tolist():
        end = row.index(special.eos) if special.eos in row else len(row)
        rows.append([token for token in row[:end] if token not in special.all])
    return rows


def shifted(ids: Tensor, mask: Tensor, special: Special, keep_end: bool) -> tuple[Tensor, Tensor]:
    """The official form of a view, a decoder's input: the start token before it, its last one cut off.

    Args:
        ids: ``<s> tokens </s>`` (B, T).
        mask: of its real positions.
        special: the ids.
        keep_end: leave ``</s>`` in, as of generated summaries.

    Returns:
        (B, T), or (B, T + 1) where the end is kept, and the mask.
    """
    start = torch.full_like(ids[:, :1], special.start)
    if keep_end:
        return torch.cat([start, ids], dim=1), torch.cat([mask[:, :1], mask], dim=1)
    lengths = mask.sum(dim=1, keepdim=True)
    place = torch.arange(ids.shape[1], device=ids.device)
    moved = torch.cat([start, ids[:, :-1]], dim=1)
    kept = place < lengths  # one token more in front, one less at the end
    return moved.masked_fill(~kept, special.pad), kept


def uniform_draws(seed: int, update: int, index: Sequence[int], length: int) -> Tensor:
    """One number in [0, 1) for each token that may be drawn, (B, length).

    A function of (seed, update, document) alone: neither the number of processes nor how a batch is split
    changes what is drawn for a document.
    """
    rows = [torch.rand(length, generator=generator(_DRAWS, seed, update, i)) for i in index]
    return torch.stack(rows) if rows else torch.zeros(0, length)


class Draw:
    """A logits processor that draws from the softmax by given numbers: the token at which the cumulated
    probability passes u. Everything else becomes impossible, so that greedy decoding takes it."""

    def __init__(self, uniform: Tensor) -> None:
        self.uniform = uniform

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return chosen_only(scores, self.uniform[:, input_ids.shape[1] - 1])


def chosen_only(scores: Tensor, uniform: Tensor) -> Tensor:
    """Scores (B, V) with -inf everywhere but at the token that ``uniform`` (B,) in [0, 1) picks."""
    cumulated = scores.double().softmax(dim=-1).cumsum(dim=-1)
    # rounding may leave the sum a little short of 1
    wanted = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    token = torch.searchsorted(cumulated, wanted, right=True).clamp(max=scores.shape[-1] - 1)
    return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class WordsOnce:
    """A logits processor under which no token stands twice, but for those that are no text: transformers'
    own counts the ``</s>`` with which BART's decoder begins as said, so that no summary can end.

    Args:
        special: the ids.
    """

    def __init__(self, special: Special) -> None:
        self.special = sorted(special.all)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        said = torch.zeros_like(scores, dtype=torch.bool).scatter(1, input_ids, True)
        said[:, self.special] = False
        return scores.masked_fill(said, -torch.inf)


@contextmanager
def bare_generation(model: Any) -> Iterator[None]:
    """Without the model's own generation config: transformers fills what a given one leaves open from it, a
    forced first token, beams, minimal length and blocked n-grams of the evaluation among them."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode, each part put back as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def sample(
    model: Any,
    source: Tensor,
    mask: Tensor,
    special: Special,
    uniform: Tensor,
    top_p: float = 1.0,
    beams: int = 1,
    cache: bool = True,
) -> Tensor:
    """Summaries drawn from the full softmax at temperature 1 (B, at most 1 + T'), the start token first.

    No beam, no top-k, no length penalty; an unfinished one ends with ``</s>`` in the last place.

    Args:
        model: of transformers.
        source: documents (B, S).
        mask: of their real tokens.
        special: the ids.
        uniform: of :func:`uniform_draws`; its width is the longest summary without the start token.
        top_p: nucleus; 1 is everything.
        beams: more than 1 searches instead of drawing.
        cache: of keys and values; without it the same is drawn, slowly.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        min_length=0,
        no_repeat_ngram_size=0,
        max_length=uniform.shape[1] + 1,
        forced_eos_token_id=special.eos,
        decoder_start_token_id=special.start,
        pad_token_id=special.pad,
        eos_token_id=special.eos,
        bos_token_id=special.bos,
        use_cache=cache,
    )
    processors = LogitsProcessorList()
    if beams == 1:
        if top_p < 1:
            from transformers import TopPLogitsWarper

            processors.append(TopPLogitsWarper(top_p))
        processors.append(Draw(uniform.to(source.device)))
    with evaluating(model), bare_generation(model):
        found: Tensor = model.generate(
            source, attention_mask=mask.long(), generation_config=settings, logits_processor=processors
        )
    return found
