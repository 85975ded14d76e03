"""The bilevel problem of LDS: inner training steps, and the gradient of the outer loss through them.

    min over theta of E[F(w_T, A)],   s_t+1 = Phi(s_t, A_t),   s = (w, m, v),   A_t ~ Bernoulli(theta)

:func:`hypergradient` goes back through stored states (memory of one step), :func:`unrolled_hypergradient` is
the textbook version that keeps the graph of all steps. They agree; the second serves tests and benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoo.lds.edges import Edges, Factors, Graph
from zoo.lds.network import GCN, Features

InnerOptimizer = Literal["adam", "sgd"]
LR_RANGE = (1e-4, 0.05)
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-5


@dataclass(frozen=True)
class Draw:
    """What is random in one inner step: the graph (or its leaf) and the dropout masks."""

    leaf: Tensor | Graph
    dropout: Sequence[Tensor] | None


@dataclass(frozen=True)
class Problem:
    """Data, model and constants of the bilevel problem.

    Attributes:
        network: sizes and forward pass; its own weights are not used here.
        x: features.
        labels: classes (N,).
        train: node indices of the inner loss.
        val: node indices of the outer loss.
        edges: the pairs that the leaves live on.
        l2: coefficient of (1/2) ||W_0||^2 in the inner loss, first layer only.
        optimizer: of the inner problem.
    """

    network: GCN
    x: Features
    labels: Tensor
    train: Tensor
    val: Tensor
    edges: Edges
    l2: float = 5e-4
    optimizer: InnerOptimizer = "adam"

    def inner_loss(self, weights: Tensor, draw: Draw) -> Tensor:
        """L = mean cross-entropy of the training nodes + l2 / 2 ||W_0||^2."""
        logits = self.network.logits(weights, self.x, self.edges, draw.leaf, draw.dropout)
        first = self.network.matrices(weights)[0]
        loss = functional.cross_entropy(logits[self.train], self.labels[self.train])
        return loss + 0.5 * self.l2 * first.pow(2).sum()

    def outer_loss(self, weights: Tensor, leaf: Tensor | Graph) -> Tensor:
        """F = mean cross-entropy of the validation nodes; no dropout, no regulariser."""
        logits = self.network.logits(weights, self.x, self.edges, leaf)
        return functional.cross_entropy(logits[self.val], self.labels[self.val])

    def fresh_state(self, weights: Tensor) -> Tensor:
        """s_0 = (w, 0, 0), (3, size)."""
        return torch.stack([weights, torch.zeros_like(weights), torch.zeros_like(weights)])

    def step(
        self, state: Tensor, number: int, draw: Draw, rate: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor]:
        """s_t+1 = Phi(s_t, A_t) of Adam (or SGD), and the inner loss before the update.

        Args:
            state: (3, size), weights and moments.
            number: t = 1, 2, ... of Adam's step, counted from the last re-initialisation.
            rate: learning rate, a scalar tensor.
            differentiable: keep the graph of the gradient itself.
        """
        weights, mean, square = state.unbind()
        if not (differentiable and weights.requires_grad):
            weights = weights.detach().requires_grad_()
        loss = self.inner_loss(weights, draw)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=differentiable)
        if self.optimizer == "sgd":
            return torch.stack([weights - rate * gradient, mean, square]), loss.detach()
        mean = _BETA1 * mean + (1 - _BETA1) * gradient
        square = _BETA2 * square + (1 - _BETA2) * gradient**2
        step = rate * (1 - _BETA2**number) ** 0.5 / (1 - _BETA1**number)
        # epsilon inside the root: outside, the derivative of sqrt(v) is infinite at v = 0
        weights = weights - step * mean / (square + _EPSILON**2).sqrt()
        return torch.stack([weights, mean, square]), loss.detach()


@dataclass(frozen=True)
class Hypergradient:
    """Gradients of the outer loss.

    Attributes:
        leaf: G with respect to every entry of the leaf, independently.
        rate: with respect to the inner learning rate, a scalar.
        loss: the outer loss.
    """

    leaf: Tensor
    rate: Tensor
    loss: Tensor


def hypergradient(
    problem: Problem,
    states: Sequence[Tensor],
    final: Tensor,
    first_number: int,
    draws: Callable[[int], Draw],
    last_leaf: Tensor | Graph,
    rate: Tensor,
    truncation: int,
) -> Hypergradient:
    """Gradient through the last ``truncation`` of the stored inner steps, in reverse.

    With p_T = dF/ds and G = dF/dA at (s_T, A_T), for t = T-1, ..., T-truncation:
    G += p_t+1 dPhi/dA(s_t, A_t); p_t = p_t+1 dPhi/ds(s_t, A_t). Each step is computed anew from its stored
    state, so the memory is that of one step, whatever T is; G stays factors until the end.

    Args:
        states: s_0 .. s_T-1 of the chunk, (3, size) each.
        final: s_T.
        first_number: Adam's t of the step from ``states[0]``.
        draws: gives the draw of step k of the chunk again.
        last_leaf: A_T, a fresh draw.
        rate: inner learning rate.
        truncation: steps to go back; 0 is the direct term alone.
    """
    factors, graph = Factors(), _graph(problem.edges, last_leaf)
    weights = final[0].detach().requires_grad_()
    loss = problem.outer_loss(weights, graph)
    with graph.noting(factors):
        adjoint_weights, from_degree = torch.autograd.grad(loss, (weights, graph.degree))
    factors.rows.append(from_degree)
    adjoint = problem.fresh_state(adjoint_weights)
    rate_gradient = torch.zeros_like(rate)
    for k in range(len(states) - 1, max(-1, len(states) - 1 - truncation), -1):
        draw = draws(k)
        graph = _graph(problem.edges, draw.leaf)
        state, free = states[k].detach().requires_grad_(), rate.detach().requires_grad_()
        after, _ = problem.step(state, first_number + k, Draw(graph, draw.dropout), free, True)
        with graph.noting(factors):
            adjoint, from_rate, from_degree = torch.autograd.grad(after, (state, free, graph.degree), adjoint)
        factors.rows.append(from_degree)
        rate_gradient = rate_gradient + from_rate
    return Hypergradient(problem.edges.gradient(factors), rate_gradient, loss.detach())


def _graph(edges: Edges, leaf: Tensor | Graph) -> Graph:
    return leaf if isinstance(leaf, Graph) else edges.graph(leaf.detach())


def unrolled_hypergradient(
    problem: Problem,
    start: Tensor,
    first_number: int,
    draws: Sequence[Draw],
    last_leaf: Tensor,
    rate: Tensor,
    truncation: int,
) -> Hypergradient:
    """The same by automatic differentiation through all steps at once; memory grows with their number."""
    given = [d.leaf for d in draws if isinstance(d.leaf, Tensor)]
    if len(given) < len(draws):
        raise ValueError("the unrolled version differentiates leaves that are tensors")
    leaves = [leaf.detach().requires_grad_() for leaf in given]
    last, free = last_leaf.detach().requires_grad_(), rate.detach().requires_grad_()
    state = start.detach()
    for k, draw in enumerate(draws):
        inside = k >= len(draws) - truncation
        used = Draw(leaves[k] if inside else given[k].detach(), draw.dropout)
        state, _ = problem.step(state, first_number + k, used, free if inside else rate.detach(), inside)
        state = state if inside else state.detach()
    loss = problem.outer_loss(state[0], last)
    inside_leaves = leaves[len(draws) - truncation :] if truncation else []
    gradients = torch.autograd.grad(loss, (last, *inside_leaves, free), allow_unused=True)
    rate_gradient = torch.zeros_like(rate) if gradients[-1] is None else gradients[-1]
    return Hypergradient(sum(gradients[1:-1], gradients[0]), rate_gradient, loss.detach())


def learning_rate(logit: Tensor) -> Tensor:
    """a + (b - a) sigmoid(lambda) in (1e-4, 0.05): the inner learning rate as an outer variable."""
    low, high = LR_RANGE
    return low + (high - low) * logit.sigmoid()


def initial_logit(start: float) -> float:
    """lambda_0 = -log((b - a) / (c - a) - 0.99) of the release: 0.02 gives -0.417089, so lr 0.019921."""
    low, high = LR_RANGE
    return -math.log((high - low) / (start - low) - 0.99)


@dataclass
class DecreaseWatch:
    """Stops an inner training whose loss has ceased to fall.

    A loss above (1 - least) best counts, else it becomes the best and the count starts again.
    """

    patience: int
    least: float = 1e-3
    best: float = float("inf")
    count: int = 0

    def exhausted(self, loss: float) -> bool:
        """Take a loss; whether ``patience`` in a row brought no decrease."""
        if loss > (1 - self.least) * self.best:
            self.count += 1
        else:
            self.best, self.count = loss, 0
        return self.count >= self.patience
