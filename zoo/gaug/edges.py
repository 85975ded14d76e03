r"""GAug-O's sampled graph: from edge logits M = Z Z^T and the given adjacency to the adjacency of one step.

Paper: Zhao et al., Data Augmentation for Graph Neural Networks, AAAI 2021, section 3.3.
Dense functions take (N, N) matrices, sparse ones candidate pairs i < j; equal noise on all pairs gives equal
graphs. All run in float32, also under autocast: 2^-23 is no number of bfloat16.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.gaug.adjacency import EdgeList

Sampler = Literal["relaxed", "add_round", "rand", "edge"]
SAMPLERS: tuple[Sampler, ...] = ("relaxed", "add_round", "rand", "edge")
ProbabilityScale = Literal["max", "sigmoid"]
EPS = torch.finfo(torch.float32).eps


class _StraightThrough(torch.autograd.Function):
    """``hard`` forward, the identity on ``soft`` backward: exactly binary, unlike soft + (hard - soft)."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The values of ``hard`` with the gradient of ``soft`` (d hard / d soft = 1)."""
    result: Tensor = _StraightThrough.apply(hard.detach(), soft)
    return result


def edge_probabilities(
    logits: Tensor,
    adjacency: Tensor,
    alpha: float,
    scale: ProbabilityScale = "max",
    largest: Tensor | None = None,
) -> Tensor:
    """Step 1: P = alpha M / max(M) + (1 - alpha) A~, entries in [0, 1] for M >= 0.

    The released code divides by the maximum here and has the paper's sigmoid in the loss alone
    (``scale="sigmoid"`` is the paper's text). The gradient flows through the maximum too. All logits 0 (a
    dead ReLU) give M / max(M) = 0.

    Args:
        logits: M, (N, N) or of candidate pairs (K,).
        adjacency: A~ at the same places, 0/1.
        alpha: weight of the prediction, 0..1.
        scale: ``max`` or ``sigmoid``.
        largest: max(M) over all N^2 entries where ``logits`` holds a part of them.
    """
    if scale == "sigmoid":
        predicted = torch.sigmoid(logits)
    else:
        top = logits.max() if largest is None else largest
        predicted = logits / torch.where(top > 0, top, torch.ones_like(top))
    return predicted if alpha >= 1 else alpha * predicted + (1 - alpha) * adjacency


def relaxed_bernoulli(probabilities: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Step 2: straight-through samples of a relaxed Bernoulli (Maddison et al. 2017), 0/1.

    Rounding sigmoid((logit P + logit u) / T) is exactly Bernoulli(P) for any T; T changes gradients alone.

    Args:
        probabilities: P.
        uniform: u ~ U(0, 1), of the same shape.
        temperature: T > 0.
    """
    p, u = probabilities.clamp(EPS, 1 - EPS), uniform.clamp(EPS, 1 - EPS)
    soft = torch.sigmoid((p.log() - (-p).log1p() + u.log() - (-u).log1p()) / temperature)
    soft = soft.clamp(EPS, 1 - EPS)
    return straight_through(soft.round(), soft)


def rounded(probabilities: Tensor) -> Tensor:
    """The ``add_round`` sampler: round(P), straight-through."""
    return straight_through(probabilities.round(), probabilities)


def random_control(uniform: Tensor) -> Tensor:
    """The ``rand`` sampler: every pair with probability 1/2, whatever was predicted."""
    return (uniform < 0.5).to(uniform.dtype)


def change_count(entries: int, alpha: float) -> int:
    """k = int(nnz(A~) alpha / 2) of the ``edge`` sampler; nnz counts both directions *and* the self-loops."""
    return int(entries * alpha / 2)


def rank_edit(logits: Tensor, adjacency: Tensor, alpha: float) -> Tensor:
    """The ``edge`` sampler: remove the k existing pairs with the lowest M, add the k others with the highest.

    Only pairs with M > 0 are candidates, on both sides; ties at the threshold all change. Straight-through on
    M scaled by its largest entry above the diagonal, with gradient 1 on added and -1 on removed pairs.

    Args:
        logits: M (N, N), non-negative.
        adjacency: A~ (N, N), symmetric with a diagonal of ones.
        alpha: share of the edges that changes.

    Returns:
        0/1 (N, N), above the diagonal alone.
    """
    upper = logits.triu(1)
    edges = adjacency.triu(1)
    return _edited(upper, edges, change_count(int(adjacency.count_nonzero()), alpha))


def rank_edit_pairs(logits: Tensor, edges: Tensor, nodes: int, alpha: float) -> Tensor:
    """:func:`rank_edit` over candidate pairs i < j: ``logits`` and 0/1 ``edges`` (K,), with all edges."""
    return _edited(logits, edges, change_count(2 * int(edges.count_nonzero()) + nodes, alpha))


def _edited(logits: Tensor, edges: Tensor, count: int) -> Tensor:
    top = logits.max()
    scaled = logits / torch.where(top > 0, top, torch.ones_like(top))
    removed = _extreme(scaled.detach(), edges > 0, count, largest=False)
    added = _extreme(scaled.detach(), edges == 0, count, largest=True)
    hard = edges - removed + added
    return straight_through(hard, scaled * (added - removed))


def _extreme(values: Tensor, among: Tensor, count: int, largest: bool) -> Tensor:
    """0/1 where ``values`` > 0 belong to the ``count`` most extreme of ``among``, ties included."""
    among = among & (values > 0)
    candidates = values[among]
    count = min(count, len(candidates))
    if count == 0:
        return torch.zeros_like(values)
    threshold = candidates.topk(count, largest=largest).values[-1]
    chosen = values >= threshold if largest else values <= threshold
    return (among & chosen).to(values.dtype)


def symmetrised(sample: Tensor) -> Tensor:
    """Step 3: the entries above the diagonal, mirrored, with a diagonal of ones; (N, N).

    A new tensor: the sample that goes into a log keeps its own diagonal.
    """
    upper = sample.triu(1)
    return upper + upper.T + torch.eye(len(sample), dtype=sample.dtype, device=sample.device)


def symmetrised_pairs(sample: Tensor, pairs: Tensor, nodes: int) -> EdgeList:
    """Step 3 of the sparse path: values (K,) of pairs i < j (2, K), mirrored, with a diagonal of ones."""
    diagonal = torch.arange(nodes, device=pairs.device).expand(2, -1)
    index = torch.cat([pairs, pairs.flip(0), diagonal], dim=1)
    return EdgeList(index, torch.cat([sample, sample, sample.new_ones(nodes)]), nodes)


def sample_pairs(
    sampler: Sampler,
    logits: Tensor,
    edges: Tensor,
    uniform: Tensor,
    nodes: int,
    alpha: float,
    temperature: float,
    scale: ProbabilityScale = "max",
    largest: Tensor | None = None,
) -> Tensor:
    """Steps 1 and 2 on candidate pairs: their 0/1 values (K,). ``edges`` is A~ of the pairs."""
    if sampler == "rand":
        return random_control(uniform)
    if sampler == "edge":
        return rank_edit_pairs(logits, edges, nodes, alpha)
    probabilities = edge_probabilities(logits, edges, alpha, scale, largest)
    if sampler == "add_round":
        return rounded(probabilities)
    return relaxed_bernoulli(probabilities, uniform, temperature)


def sample_dense(
    sampler: Sampler,
    logits: Tensor,
    adjacency: Tensor,
    uniform: Tensor,
    alpha: float,
    temperature: float,
    scale: ProbabilityScale = "max",
) -> Tensor:
    """Steps 1 and 2 on all pairs: 0/1 (N, N), of which the entries above the diagonal count."""
    if sampler == "rand":
        return random_control(uniform)
    if sampler == "edge":
        return rank_edit(logits, adjacency, alpha)
    probabilities = edge_probabilities(logits, adjacency, alpha, scale)
    if sampler == "add_round":
        return rounded(probabilities)
    return relaxed_bernoulli(probabilities, uniform, temperature)


def warmup_factor(epoch: int, epochs: int, warmup: float) -> float:
    """g_e of the predictor's learning rate: sigmoid(-w + 2 w e / (E - 1)) rescaled to g_0 = 0, g_{E-1} = 1.

    Args:
        epoch: e of the joint training, from 0; later than E - 1 stays at 1.
        epochs: E.
        warmup: w; 0 is no warm-up (factor 1 from the start).
    """
    if warmup <= 0 or epochs < 2 or epoch >= epochs - 1:
        return 1.0
    low, high = _logistic(-warmup), _logistic(warmup)
    return (_logistic(-warmup + 2 * warmup * epoch / (epochs - 1)) - low) / (high - low)


def _logistic(x: float) -> float:
    import math

    return 1 / (1 + math.exp(-x))
