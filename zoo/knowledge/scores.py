"""What a triple scores, the losses of a score, and its rank among all entities: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def transe(query: Tensor, tails: Tensor, norm: int) -> Tensor:
    """-|h + r - t|_p (Bordes et al. 2013).

    Args:
        query: h + r, (B, D).
        tails: (N, D), the same for all queries, or (B, K, D).
        norm: p, 1 or 2.

    Returns:
        (B, N) or (B, K).
    """
    if tails.ndim == 2:
        return -torch.cdist(query, tails, p=float(norm))
    return -(query[:, None] - tails).norm(p=norm, dim=-1)


def complex_query(heads: Tensor, relations: Tensor) -> Tensor:
    """(B, 2 D), the real parts before the imaginary ones, so that its product with t is Re<h, r, conj t>.

    Args:
        heads: (B, 2 D), real parts first.
        relations: likewise (Trouillon et al. 2016, eq. 11).
    """
    (a, b), (c, d) = heads.chunk(2, dim=-1), relations.chunk(2, dim=-1)
    return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


def n3(*factors: Tensor) -> Tensor:
    """Nuclear 3-norm: sum of |x|^3 over the complex components of all factors (B, 2 D), mean over B
    (Lacroix et al. 2018, eq. 6)."""
    moduli = [torch.stack(x.chunk(2, dim=-1)).norm(dim=0) for x in factors]
    return torch.stack([(m**3).sum(dim=-1).mean() for m in moduli]).sum()


def cross_entropy(scores: Tensor, tail: Tensor) -> Tensor:
    """-log softmax over all entities (B, N) at ``tail`` (B,), a mean."""
    return functional.cross_entropy(scores, tail)


def margin_loss(right: Tensor, wrong: Tensor, margin: float) -> Tensor:
    """Mean of [margin - s + s']_+ over right triples (B,) and their corruptions (B, K)."""
    return functional.relu(margin - right[:, None] + wrong).mean()


def logistic_loss(right: Tensor, wrong: Tensor, offset: float) -> Tensor:
    """Half of softplus(-(s + offset)) and half of the mean of softplus(s' + offset) over corruptions.

    A distance is never positive: ``offset`` is RotatE's gamma (Sun et al. 2019, eq. 5).
    """
    positive = functional.softplus(-(right + offset)).mean()
    return (positive + functional.softplus(wrong + offset).mean()) / 2


def filtered_ranks(scores: Tensor, tail: Tensor, known: Tensor) -> Tensor:
    """Ranks (B,), float64, of the right answers among all entities that are no other known answer.

    An entity that scores the same counts half: (best + worst) / 2. What is optimistic about ties calls a
    network that gives one score to all perfect.

    Args:
        scores: (B, N).
        tail: the right answer of each query (B,).
        known: bool (B, N), all entities that answer the query; the right one may be among them.

    Raises:
        ValueError: for scores that are no numbers, which have no rank.
    """
    if bool(scores.isnan().any()):
        raise ValueError("scores are NaN: the weights diverged; lower the learning rate")
    right = scores.gather(1, tail[:, None])
    others = ~known
    others.scatter_(1, tail[:, None], False)
    better = ((scores > right) & others).sum(dim=1)
    equal = ((scores == right) & others).sum(dim=1)
    return 1 + better.double() + equal.double() / 2
