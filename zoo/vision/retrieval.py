"""Retrieval between pictures and texts over a whole set: ranks, recall at k, what chance would have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.vision.pair_losses import sigmoid_loss, softmax_loss

RECALLED = (1, 5, 10)
_BLOCK = 1024


@dataclass
class Gallery:
    """A set of pairs as different pictures and different texts.

    Attributes:
        image: unit features (P, D) of the pictures, each once.
        text: of the texts (T, D), each once.
        pairs: (M, 2) which picture has which text, each once.
        first_image: place in the set where each picture comes first, (P,).
        first_text: likewise of each text, (T,).
        score: how alike they are, (P, T), where that is not the product of the features.
    """

    image: Tensor
    text: Tensor
    pairs: Tensor
    first_image: Tensor
    first_text: Tensor
    score: Tensor | None = None

    @classmethod
    def of(cls, image: Tensor, text: Tensor, image_id: Tensor, caption_id: Tensor) -> Gallery:
        """From N pairs, one row each; the rows of a picture or a text that comes again are left out."""
        (image_rows, image_place), (text_rows, text_place) = _firsts(image_id), _firsts(caption_id)
        pairs = torch.unique(torch.stack([image_place, text_place], dim=1), dim=0)
        return cls(image[image_rows], text[text_rows], pairs, image_rows, text_rows)

    def similarity(self, rows: Tensor, texts: bool) -> Tensor:
        """Of the pictures of ``rows`` to all texts, (B, T); or of texts to all pictures, (B, P)."""
        if self.score is not None:
            return (self.score if texts else self.score.T)[rows]
        queries, answers = (self.image, self.text) if texts else (self.text, self.image)
        return queries[rows] @ answers.T

    def right(self, rows: Tensor, texts: bool) -> Tensor:
        """Which texts belong to the pictures of ``rows``, bool (B, T); or pictures to texts."""
        query, answer = (0, 1) if texts else (1, 0)
        found = torch.zeros(len(rows), len(self.text if texts else self.image), dtype=torch.bool)
        place = torch.full((len(self.image if texts else self.text),), -1)
        place[rows] = torch.arange(len(rows))
        there = place[self.pairs[:, query]] >= 0
        found[place[self.pairs[there, query]], self.pairs[there, answer]] = True
        return found


def _firsts(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows where each number comes first, in their order, and each row's place among those."""
    known: dict[int, int] = {}
    place = [known.setdefault(i, len(known)) for i in ids.tolist()]
    rows = torch.full((len(known),), len(ids))
    places = torch.tensor(place)
    rows.scatter_reduce_(0, places, torch.arange(len(ids)), "amin")
    return rows, places


def ranks(similarity: Tensor, right: Tensor) -> Tensor:
    """Rank of each query's best right answer among the wrong ones, from 1; a tie counts half.

    Args:
        similarity: (B, N).
        right: bool (B, N).

    Raises:
        ValueError: for NaN, which has no rank.
    """
    if bool(similarity.isnan().any()):
        raise ValueError("features are NaN: the training has diverged")
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    above, level = ((f(similarity, best) & ~right).sum(dim=1) for f in (torch.gt, torch.eq))
    return 1 + above + level / 2


def retrieval(gallery: Gallery) -> dict[str, float]:
    """Recall at 1, 5 and 10 and the median rank, both ways, in [0, 1], with what chance would have at 1."""
    found: dict[str, float] = {}
    for name, texts in (("image_to_text", True), ("text_to_image", False)):
        queries, answers = (gallery.image, gallery.text) if texts else (gallery.text, gallery.image)
        every, chances = [], []
        for rows in torch.arange(len(queries)).split(_BLOCK):
            right = gallery.right(rows, texts)
            every.append(ranks(gallery.similarity(rows, texts), right))
            chances.append(right.sum(dim=1) / len(answers))
        rank = torch.cat(every)
        found |= {f"{name}_r{k}": float((rank <= k).double().mean()) for k in RECALLED}
        found[f"{name}_median_rank"] = float(rank.median())
        found[f"{name}_chance_r1"] = float(torch.cat(chances).double().mean())
    return found


def loss_of_all(gallery: Gallery, scale: float, bias: float | None) -> float:
    """The training's loss with the whole set as one batch, its positives all that belong together.

    Args:
        gallery: of the set.
        scale: exp(s) or exp(t').
        bias: b of SigLIP; None is CLIP's loss.
    """
    total = 0.0
    for texts in (True, False)[: 1 if bias is not None else 2]:
        summed, count = 0.0, len(gallery.image if texts else gallery.text)
        for rows in torch.arange(count).split(_BLOCK):
            logits, right = scale * gallery.similarity(rows, texts), gallery.right(rows, texts)
            one = softmax_loss(logits, right) if bias is None else sigmoid_loss(logits + bias, right)
            summed += float(one) * len(rows)
        total += summed / count * (0.5 if bias is None else 1.0)
    return total if math.isfinite(total) else math.nan


def nearest_name(
    pixels: Tensor,
    names: Sequence[Sequence[int]],
    gallery_pixels: Tensor,
    gallery_names: Sequence[Sequence[int]],
) -> Tensor:
    """How alike N pictures are to M texts by what needs no training, (N, M): the training picture of the
    nearest pixels lends its words, of which the texts share more or less (Jaccard).

    Args:
        pixels: (N, F) of the queries.
        names: words of the M texts.
        gallery_pixels: (K, F) of the training pictures.
        gallery_names: their words.
    """
    words = sorted({w for name in (*names, *gallery_names) for w in name})
    column = {w: i for i, w in enumerate(words)}

    def bags(rows: Sequence[Sequence[int]]) -> Tensor:
        found = torch.zeros(len(rows), len(words))
        for i, row in enumerate(rows):
            found[i, [column[w] for w in row]] = 1
        return found

    nearest = torch.cdist(pixels, gallery_pixels).argmin(dim=1)
    lent, told = bags(gallery_names)[nearest], bags(names)
    shared = lent @ told.T
    return shared / (lent.sum(dim=1, keepdim=True) + told.sum(dim=1) - shared).clamp(min=1)
