"""The inner model: a graph convolutional network whose weights are one flat vector.

    X_l+1 = drop(relu(Ah X_l W_l)), logits = Ah X_L W_L,  Ah = D^-1/2 (A + I) D^-1/2

without biases and without input dropout (Kipf & Welling 2017, as LDS uses it). The optimiser state of the
inner problem is part of the differentiated recursion: weights and moments are vectors, not Parameters.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.lds.edges import Edges, Graph, propagate_along


class _SparseProduct(torch.autograd.Function):
    """X W for a constant sparse X; its backward is itself with X^T, so it differentiates twice."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        return matrix @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _SparseProduct.apply(gradients[0], ctx.transpose, ctx.matrix), None, None


class Features:
    """Node features X (N, F), as a sparse matrix where that is faster (bags of words).

    Args:
        x: (N, F).
        sparse_below: use the sparse product when this share of entries or less is not zero.
    """

    def __init__(self, x: Tensor, sparse_below: float = 0.1) -> None:
        self.shape = tuple(x.shape)
        self._dense: Tensor | None = x
        if x.numel() and float((x != 0).float().mean()) <= sparse_below:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*CSR tensor support is in beta.*")
                self._matrix, self._transpose = x.to_sparse_csr(), x.T.to_sparse_csr()
            self._dense = None

    @property
    def sparse(self) -> bool:
        """Whether the sparse product is used."""
        return self._dense is None

    def project(self, weight: Tensor) -> Tensor:
        """X W, (N, H)."""
        if self._dense is not None:
            return self._dense @ weight
        product: Tensor = _SparseProduct.apply(weight, self._matrix, self._transpose)
        return product


class GCN(nn.Module):
    """Sizes, initialisation and forward pass of the inner model; ``weights`` are those that are tested.

    Args:
        num_features: F.
        hidden: widths of the hidden layers, (16,) in the paper.
        num_classes: C.
        dropout: rate on the hidden layers, in inner training steps alone.
    """

    def __init__(
        self, num_features: int, hidden: Sequence[int], num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = [num_features, *hidden, num_classes]
        self.shapes = list(itertools.pairwise(widths))
        self.hidden, self.dropout = list(hidden), dropout
        self.size = sum(a * b for a, b in self.shapes)
        self.weights = nn.Parameter(torch.zeros(self.size), requires_grad=False)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Fresh flat weights, Glorot uniform: U(-b, b), b = sqrt(6 / (fan in + fan out)); (size,)."""
        device = self.weights.device
        return torch.cat(
            [
                (2 * torch.rand(a * b, generator=generator, device=device) - 1) * math.sqrt(6 / (a + b))
                for a, b in self.shapes
            ]
        )

    def matrices(self, weights: Tensor) -> list[Tensor]:
        """The weight matrices W_0, W_1, ... as views of the flat vector."""
        parts = weights.split([a * b for a, b in self.shapes])
        return [p.view(a, b) for p, (a, b) in zip(parts, self.shapes, strict=True)]

    def draw_dropout(self, num_nodes: int, generator: torch.Generator) -> list[Tensor]:
        """Inverted dropout masks of one training step, (N, width) each: 0 or 1 / (1 - rate)."""
        keep = 1 - self.dropout
        device = self.weights.device
        return [
            (torch.rand(num_nodes, width, generator=generator, device=device) < keep) / keep
            for width in self.hidden
        ]

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """Logits (N, C) of the tested weights on one graph, drawn or expected.

        Args:
            x: (N, F).
            edge_index: (2, E), both directions of each edge, no self-loops.
            edge_weight: (E,), 1 for each edge of a drawn graph.
        """
        matrices = self.matrices(self.weights)
        along = partial(propagate_along, edge_index[0], edge_index[1], edge_weight)
        return self._above(matrices, x @ matrices[0], along)

    def logits(
        self,
        weights: Tensor,
        x: Features,
        edges: Edges,
        leaf: Tensor | Graph,
        dropout: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Logits (N, C) on the graph of ``leaf``; ``dropout`` holds the masks of a training step."""
        matrices = self.matrices(weights)
        return self._above(matrices, x.project(matrices[0]), _along(edges, leaf), dropout)

    @staticmethod
    def _above(
        matrices: Sequence[Tensor],
        projected: Tensor,
        propagate: Callable[[Tensor], Tensor],
        dropout: Sequence[Tensor] | None = None,
    ) -> Tensor:
        hidden = propagate(projected)
        for i, matrix in enumerate(matrices[1:]):
            hidden = hidden.relu()
            if dropout is not None:
                hidden = hidden * dropout[i]
            # W before Ah: the signal that travels is as wide as the next layer, not as this one
            hidden = propagate(hidden @ matrix)
        return hidden

    def expected(
        self,
        weights: Tensor,
        x: Features,
        edges: Edges,
        leaves: Iterable[Tensor | Graph],
        output: Literal["logits", "probs"] = "logits",
    ) -> Tensor:
        """Mean output over graphs, as scores (N, C): mean logits, or the logarithm of mean probabilities."""
        matrices, total, count = self.matrices(weights), torch.zeros(()), 0
        projected = x.project(matrices[0])  # the same for all graphs
        for leaf in leaves:
            logits = self._above(matrices, projected, _along(edges, leaf))
            total, count = (
                total.to(logits) + (logits if output == "logits" else logits.softmax(dim=1)),
                count + 1,
            )
        return total / count if output == "logits" else (total / count).log()


def _along(edges: Edges, leaf: Tensor | Graph) -> Callable[[Tensor], Tensor]:
    return leaf.propagate if isinstance(leaf, Graph) else partial(edges.propagate, leaf)
