"""Critics of pairs of vectors, and the proposal of the variational bound."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Critic = Literal["separable", "joint", "oracle"]
Undivided = Literal["infonce", "dv", "nwj", "smile"]
Curve = Literal["infonce", "dv", "nwj", "smile", "bo", "is", "exact", "var"]
UNDIVIDED: tuple[Undivided, ...] = get_args(Undivided)


def mlp(inputs: int, outputs: int, hidden: int, layers: int) -> nn.Sequential:
    """``layers`` hidden layers with ReLU, the last layer linear."""
    sizes = [inputs, *[hidden] * layers]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(sizes[-1], outputs))


class SeparableCritic(nn.Module):
    """f(a, y) = g(a) . h(y). At d = 20 with 2 x 256 -> 32 it has 158,784 parameters."""

    def __init__(self, inputs: int, y_dim: int, hidden: int, layers: int, embedding: int) -> None:
        super().__init__()
        self.g = mlp(inputs, embedding, hidden, layers)
        self.h = mlp(y_dim, embedding, hidden, layers)

    def forward(self, a: Tensor, y: Tensor) -> Tensor:
        """Scores (B, K) of a (B, D) with candidates y: (K, d) for all rows, or (B, K, d)."""
        z = self.g(a)
        return z @ self.h(y).T if y.ndim == 2 else torch.einsum("be,bke->bk", z, self.h(y))


class JointCritic(nn.Module):
    """f(a, y) = MLP([a, y]), on every pair."""

    def __init__(self, inputs: int, y_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.f = mlp(inputs + y_dim, 1, hidden, layers)

    def forward(self, a: Tensor, y: Tensor) -> Tensor:
        """Scores (B, K), as those of :class:`SeparableCritic`."""
        shape = (len(a), y.shape[-2])
        pairs = [a[:, None].expand(*shape, -1), y.expand(*shape, -1)]
        return self.f(torch.cat(pairs, dim=-1)).squeeze(-1)


class Proposal(nn.Module):
    """tau(y | a) = N(mean, diag) by an MLP."""

    def __init__(self, inputs: int, y_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.f = mlp(inputs, 2 * y_dim, hidden, layers)

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, d) each; the variance is at least e^-10."""
        mean, log_variance = self.f(a).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)


class Estimators(nn.Module):
    """The critics of every curve; nothing is shared, except psi, which all decompositions train alike.

    Args:
        dim: d of a subview.
        y_dim: of y.
        subviews: n.
        curves: which are trained.
        critic: ``separable`` or ``joint``.
        hidden: width.
        layers: hidden layers.
        embedding: of ``separable``.
    """

    def __init__(
        self,
        dim: int,
        y_dim: int,
        subviews: int,
        curves: Sequence[Curve],
        critic: Critic,
        hidden: int,
        layers: int,
        embedding: int,
    ) -> None:
        super().__init__()

        def made(known: int) -> nn.Module:
            if critic == "joint":
                return JointCritic(known * dim, y_dim, hidden, layers)
            return SeparableCritic(known * dim, y_dim, hidden, layers, embedding)

        conditional = [c for c in curves if c not in UNDIVIDED]
        self.undivided = nn.ModuleDict({c: made(subviews) for c in curves if c in UNDIVIDED})
        self.first = made(1) if conditional else None
        self.terms = nn.ModuleDict(
            {c: nn.ModuleList(made(i) for i in range(2, subviews + 1)) for c in conditional}
        )
        self.proposals = nn.ModuleList(
            Proposal(i * dim, y_dim, hidden, layers) for i in range(1, subviews) if "var" in curves
        )
