"""Contrastive bounds of (conditional) mutual information as pure functions of score matrices (DEMI).

Everything is in nats, to be *maximised*, and averaged over the rows; losses are the negatives. A critic's
scores are (B, K), a row's own partner in column 0 and K - 1 negatives behind it, or (B, B) with the partners
on the diagonal and the other columns of the row as negatives (K = B). Which of both is said by ``positives``
and never read off the shape: a (K, K) matrix with the partner in column 0 is legal. K counts the partner.

Notation: x'' is the less informed subview, x' the more informed one, y the other view; psi(x'', y) is the
critic of the first term, phi(x'', x', y) that of the conditional one. Computed in float32 at least, also
where autocast gives the scores in 16 bits.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Positives = Literal["first", "diagonal"]
SATURATED = 0.95
"""Share of log K from which an estimate says more about K than about the data."""


def info_nce(scores: Tensor, positives: Positives = "first") -> Tensor:
    """I_NCE = E[f_1 - log((1/K) sum_k e^{f_k})] <= min(I(x; y), log K) (van den Oord et al. 2018).

    Args:
        scores: f(x, y_k), (B, K) or (B, B).
        positives: where the partners stand.

    Raises:
        ValueError: for fewer than two columns, or a diagonal of what is not square.
    """
    return pointwise(scores, positives).mean()


def conditional_nce(phi: Tensor, positives: Positives = "first") -> Tensor:
    """I_CNCE <= min(I(x'; y | x''), log K): the formula of :func:`info_nce`, negatives from **p(y | x'')**.

    With negatives from p(y) it is no bound of the conditional information: a trained phi then converges to
    log p(y|x', x'') / p(y), the value to I(x', x''; y).
    """
    return info_nce(phi, positives)


def variational_nce(phi: Tensor, kl: Tensor | float, positives: Positives = "first") -> Tensor:
    """I_VAR = E[phi_1 - log((1/K) sum_k e^{phi_k})] - E KL(p(y|x'') || tau(y|x'')), negatives from tau.

    A bound of I(x'; y | x'') for every tau of full support. Without the divergence it is none.

    Args:
        phi: scores of the partner, and of samples of tau.
        kl: the divergence, one number or one of each row; its mean is subtracted.
        positives: where the partners stand.
    """
    divergence = torch.as_tensor(kl, dtype=torch.float64).mean()
    value = info_nce(phi, positives)
    return value - divergence.to(value)


def importance_nce(phi: Tensor, psi: Tensor, positives: Positives = "first") -> Tensor:
    """I_IS: negatives from p(y), each weighted by how likely it is under p(y | x'') (Proposition 3).

    w_k = e^{psi_k} / sum_{j=2..K} e^{psi_j} over the negatives alone, and
    I_IS = E[phi_1 - log((1/K) (e^{phi_1} + (K - 1) sum_{k=2..K} w_k e^{phi_k}))] <= log K.

    Tight for K to infinity where psi is optimal; at finite K it may lie above I(x'; y | x''), and with a bad
    psi anywhere. psi gets no gradient: it would learn to hide the negatives that are hard to tell apart.
    """
    return pointwise_importance(phi, psi, positives).mean()


def boosted_nce(phi: Tensor, psi: Tensor, positives: Positives = "first") -> Tensor:
    """I_BO: :func:`info_nce` of psi + phi with negatives from p(y), psi without gradient.

    An objective for phi, whose optimum is log p(y|x', x'') / p(y|x''). Its *value* goes to I(x', x''; y), so
    added to I_NCE(x''; y) it would count that twice: evaluate phi by :func:`importance_nce`, or by
    :func:`conditional_nce` where p(y | x'') can be sampled.
    """
    _alike(phi, psi)
    return info_nce(_widened(phi) + _widened(psi).detach(), positives)


def donsker_varadhan(scores: Tensor, positives: Positives = "first") -> Tensor:
    """I_DV = E[f_1] - log E[e^{f_k}], k over the negatives of all rows (Belghazi et al. 2018, MINE).

    A lower bound in expectation over unlimited negatives; of a batch, the log of a mean makes it an estimate
    that may pass the truth, without a ceiling and with a variance that grows as e^I.
    """
    return pointwise_ratio(scores, positives).mean()


def nguyen_wainwright_jordan(scores: Tensor, positives: Positives = "first") -> Tensor:
    """I_NWJ = E[f_1] - E[e^{f_k - 1}] <= I(x; y) (Nguyen et al. 2010); f* = 1 + log p(y|x) / p(y)."""
    return pointwise_nwj(scores, positives).mean()


def smile(scores: Tensor, clip: float, positives: Positives = "first") -> Tensor:
    """I_SMILE = E[f_1] - log E[clip(e^{f_k}, e^-tau, e^tau)] (Song & Ermon 2020): an estimate, no bound.

    f is trained by :func:`jensen_shannon`.

    Args:
        scores: of the partner and of negatives.
        clip: tau.
        positives: where the partners stand.
    """
    return pointwise_ratio(scores, positives, clip).mean()


def jensen_shannon(scores: Tensor, positives: Positives = "first") -> Tensor:
    """-E[softplus(-f_1)] - E[softplus(f_k)], whose optimum is log p(y|x) / p(y) (Nowozin et al. 2016)."""
    own, others = _split(_checked(scores, positives), positives)
    return -functional.softplus(-own).mean() - functional.softplus(others).mean()


def pointwise_ratio(scores: Tensor, positives: Positives = "first", clip: float | None = None) -> Tensor:
    """The part of each row (B,) in :func:`donsker_varadhan`, or, clipped, in :func:`smile`."""
    own, others = _split(_checked(scores, positives), positives)
    others = others if clip is None else others.clamp(-clip, clip)
    return own[:, 0] - others.flatten().logsumexp(dim=0) + math.log(others.numel())


def pointwise_nwj(scores: Tensor, positives: Positives = "first") -> Tensor:
    """The part of each row (B,) in :func:`nguyen_wainwright_jordan`."""
    own, others = _split(_checked(scores, positives), positives)
    return own[:, 0] - (others - 1).exp().mean(dim=1)


def log_weights(psi: Tensor, positives: Positives = "first") -> Tensor:
    """log w_k of the K - 1 negatives of each row, (B, K - 1); e^. of a row sums to one. Without gradient."""
    psi = _checked(psi, positives)
    return _split(psi.detach(), positives)[1].log_softmax(dim=1)


def effective_sample_size(psi: Tensor, positives: Positives = "first") -> Tensor:
    """1 / sum_k w_k^2, the mean over rows: K - 1 where the weights are equal, 1 where one has everything."""
    return (-(2 * log_weights(psi, positives)).logsumexp(dim=1)).exp().mean()


def saturation(estimate: Tensor | float, columns: int, terms: int = 1) -> float:
    """An estimate as a share of the most that it could be, ``terms`` x log K: from .95 on it is saturated."""
    return float(estimate) / (terms * math.log(columns))


def pointwise(scores: Tensor, positives: Positives = "first") -> Tensor:
    """f_1 - log((1/K) sum_k e^{f_k}) of each row (B,), whose mean is :func:`info_nce`."""
    scores = _checked(scores, positives)
    return _partners(scores, positives) - scores.logsumexp(dim=1) + math.log(scores.shape[1])


def pointwise_importance(phi: Tensor, psi: Tensor, positives: Positives = "first") -> Tensor:
    """The part of each row (B,) in :func:`importance_nce`, which is their mean."""
    phi = _checked(phi, positives)
    _alike(phi, psi)
    own, others = _split(phi, positives)
    weighted = others + log_weights(psi, positives) + math.log(phi.shape[1] - 1)
    logits = torch.cat([own, weighted], dim=1)
    return own[:, 0] - logits.logsumexp(dim=1) + math.log(phi.shape[1])


def _widened(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _checked(scores: Tensor, positives: Positives) -> Tensor:
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores):
        raise ValueError(f"scores must be (B, K) with K of at least 2, got {tuple(scores.shape)}")
    if positives not in ("first", "diagonal"):
        raise ValueError(f"positives must be first or diagonal, got {positives!r}")
    if positives == "diagonal" and scores.shape[0] != scores.shape[1]:
        raise ValueError(f"positives on the diagonal need square scores, got {tuple(scores.shape)}")
    return _widened(scores)


def _alike(phi: Tensor, psi: Tensor) -> None:
    if phi.shape != psi.shape:
        raise ValueError(f"scores of one set of y are alike: phi {tuple(phi.shape)}, psi {tuple(psi.shape)}")


def _partners(scores: Tensor, positives: Positives) -> Tensor:
    return scores[:, 0] if positives == "first" else scores.diagonal()


def _split(scores: Tensor, positives: Positives) -> tuple[Tensor, Tensor]:
    """Partners (B, 1) and negatives (B, K - 1)."""
    if positives == "first":
        return scores[:, :1], scores[:, 1:]
    size = len(scores)
    # without its first element a square matrix has the diagonal in its last column of size + 1
    others = scores.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
    return scores.diagonal()[:, None], others
