"""The classifiers: hand-written layers over an adjacency with gradients (GAug-O) and PyG layers (GAug-M).

Everything is 128 wide. They differ on purpose, as the two released programs do: initialisation, where GAT has
dropout, and how often GraphSAGE counts the node itself.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, GCNConv, JumpingKnowledge, SAGEConv
from torch_geometric.utils import softmax

from zoo.gaug.adjacency import (
    Adjacency,
    EdgeList,
    feature_product,
    row_normalised,
    symmetrically_normalised,
    with_self_loops,
)
from zoo.gaug.predictor import EdgePredictor, glorot

Backbone = Literal["gcn", "gsage", "gat", "jknet"]
BACKBONES: tuple[Backbone, ...] = ("gcn", "gsage", "gat", "jknet")


def dropout_rate(backbone: Backbone, given: float | None) -> float:
    """``given``, or the paper's: .6 of GAT, .5 of the others."""
    if given is not None:
        return given
    return 0.6 if backbone == "gat" else 0.5


def normalised_for(backbone: Backbone, adjacency: Adjacency) -> Adjacency:
    """A~ as the backbone wants it: GCN symmetric, GraphSAGE and JK-Net by rows, GAT as it is."""
    if backbone == "gcn":
        return symmetrically_normalised(adjacency)
    return adjacency if backbone == "gat" else row_normalised(adjacency)


class DenseGraphLayer(nn.Module):
    """A (H W) + b (GCN), or W (A H) without bias (GraphSAGE's "gcn" aggregator; the same product)."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = glorot(inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """(N, F) -> (N, H)."""
        out = adjacency @ feature_product(x, self.weight)
        return out if self.bias is None else out + self.bias


class DenseAttentionLayer(nn.Module):
    r"""Heads that share W, W h and the bias; only the attention vectors l and r are per head.

    h'_i = sum_j a_ij W h_j + b with a_ij = softmax_j leaky_relu(l . W h_i + r . W h_j) over the non-zero
    entries j of row i of A: the adjacency is a mask alone, no gradient reaches it. (N, F) -> (N, heads H),
    head by head.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = glorot(inputs, outputs)
        self.left = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, outputs)))
        self.right = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, outputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        h = feature_product(x, self.weight)  # (N, H)
        receives, sends = h @ self.left.T, h @ self.right.T  # (N, heads)
        attend = self._listed if isinstance(adjacency, EdgeList) else self._dense
        return attend(h, receives, sends, adjacency)

    def _dense(self, h: Tensor, receives: Tensor, sends: Tensor, adjacency: Any) -> Tensor:
        empty = adjacency == 0
        outputs = []
        for left, right in zip(receives.T, sends.T, strict=True):
            scores = functional.leaky_relu(left[:, None] + right[None, :], 0.2)
            attention = scores.masked_fill(empty, -torch.inf).softmax(dim=1)
            outputs.append(functional.dropout(attention, self.dropout, self.training) @ h + self.bias)
        return torch.cat(outputs, dim=1)

    def _listed(self, h: Tensor, receives: Tensor, sends: Tensor, adjacency: Any) -> Tensor:
        index = adjacency.index[:, adjacency.weight != 0]
        scores = functional.leaky_relu(receives[index[0]] + sends[index[1]], 0.2)  # (E, heads)
        attention = softmax(scores, index[0], num_nodes=adjacency.nodes)
        attention = functional.dropout(attention, self.dropout, self.training)
        return torch.cat([EdgeList(index, a, adjacency.nodes) @ h + self.bias for a in attention.T], dim=1)


class AugmentedClassifier(nn.Module):
    """GAug-O's classifier: GCN, GraphSAGE, GAT or JK-Net over an adjacency from :func:`normalised_for`.

    Args:
        backbone: ``gcn``, ``gsage``, ``gat`` or ``jknet``.
        features: F.
        classes: C.
        hidden: width of a hidden layer.
        heads: of GAT's first layer, each hidden / 8 wide (also with 2 heads, for large graphs).
        dropout: of the features before all layers but the first, and of GAT's attention.
        layers: null is the paper's, 2, of JK-Net 3.
        batch_norm: after each hidden layer's product, as in the release's mini-batch variant.
    """

    def __init__(
        self,
        backbone: Backbone,
        features: int,
        classes: int,
        hidden: int = 128,
        heads: int = 8,
        dropout: float = 0.5,
        layers: int | None = None,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.dropout = backbone, dropout
        self.layers = nn.ModuleList()
        self.output: nn.Module | None = None
        if backbone == "gat":
            head = hidden // 8
            self.layers.append(DenseAttentionLayer(features, head, heads, dropout))
            self.layers.append(DenseAttentionLayer(head * heads, classes, 1, dropout))
            widths = [head * heads]
        else:
            jumping = backbone == "jknet"
            count = layers or (3 if jumping else 2)
            widths = [hidden] * (count if jumping else count - 1)
            sizes = [features, *widths, *([] if jumping else [classes])]
            for inputs, outputs in itertools.pairwise(sizes):
                self.layers.append(DenseGraphLayer(inputs, outputs, bias=backbone == "gcn"))
            if jumping:
                self.output = nn.Linear(sum(widths), classes)
        self.norms = nn.ModuleList([nn.BatchNorm1d(w) for w in widths]) if batch_norm else None

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Class scores (N, C)."""
        return self.embed(x, adjacency)[1]

    def embed(self, x: Tensor, adjacency: Adjacency) -> tuple[Tensor, Tensor]:
        """What the last layer sees, (N, H) before its propagation, and class scores (N, C)."""
        activation = functional.elu if self.backbone == "gat" else functional.relu
        hidden: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            h = functional.dropout(hidden[-1], self.dropout, self.training) if hidden else x
            if i + 1 == len(self.layers) and self.output is None:
                return hidden[-1], layer(h, adjacency)
            h = layer(h, adjacency)
            hidden.append(activation(h if self.norms is None else self.norms[i](h)))
        assert self.output is not None
        jumped = torch.cat(hidden, dim=1)
        return jumped, self.output(jumped)


class ModifiedClassifier(nn.Module):
    """GAug-M's classifier, of PyG's layers, over ``edge_index`` (2, E) without self-loops.

    GraphSAGE is DGL's "gcn" aggregator on a graph that already has self-loops: the node counts twice,
    (sum of neighbours + 2 self) / (degree + 2). The weights of GCN and its bias start at U(+-1 / sqrt(out)).
    Arguments as in :class:`AugmentedClassifier`; GAT drops the features before both layers.
    """

    def __init__(
        self,
        backbone: Backbone,
        features: int,
        classes: int,
        hidden: int = 128,
        heads: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone, self.dropout = backbone, dropout
        self.jump: Any = None
        self.output: nn.Module | None = None
        layers: list[nn.Module]
        if backbone == "gat":
            head = hidden // 8
            layers = [
                GATConv(features, head, heads, dropout=dropout),
                GATConv(head * heads, classes, 1, dropout=dropout),
            ]
        elif backbone == "gcn":
            layers = [GCNConv(features, hidden), GCNConv(hidden, classes)]
            for layer in layers:
                _uniform_by_outputs(layer)
        else:
            sizes = [features, hidden, hidden, hidden] if backbone == "jknet" else [features, hidden, classes]
            layers = [SAGEConv(a, b, aggr="mean", root_weight=False) for a, b in itertools.pairwise(sizes)]
            if backbone == "jknet":
                self.jump, self.output = JumpingKnowledge("cat"), nn.Linear(3 * hidden, classes)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Class scores (N, C)."""
        return self.embed(x, edge_index)[1]

    def embed(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer sees, (N, H) before its propagation, and class scores (N, C)."""
        if self.backbone in ("gsage", "jknet"):
            loop = torch.arange(x.shape[0], device=x.device).expand(2, -1)  # len(x) would fix N in an export
            edge_index = torch.cat([edge_index, loop, loop], dim=1)
        activation = functional.elu if self.backbone == "gat" else functional.relu
        hidden: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            h = hidden[-1] if hidden else x
            if hidden or self.backbone == "gat":
                h = functional.dropout(h, self.dropout, self.training)
            if i + 1 == len(self.layers) and self.output is None:
                return hidden[-1], layer(h, edge_index)
            hidden.append(activation(layer(h, edge_index)))
        assert self.output is not None
        jumped = self.jump(hidden)
        return jumped, self.output(jumped)


class GAugONetwork(nn.Module):
    """What GAug-O trains together."""

    def __init__(self, classifier: AugmentedClassifier, predictor: EdgePredictor) -> None:
        super().__init__()
        self.classifier, self.predictor = classifier, predictor

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Class scores (N, C) on the given graph, its edges in both directions (2, E)."""
        looped = with_self_loops(edge_index, x.shape[0])
        scores: Tensor = self.classifier(x, normalised_for(self.classifier.backbone, looped))
        return scores


class GAugMNetwork(nn.Module):
    """What GAug-M trains one after the other; the baselines have no predictor."""

    def __init__(self, classifier: ModifiedClassifier, predictor: EdgePredictor | None) -> None:
        super().__init__()
        self.classifier, self.predictor = classifier, predictor

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Class scores (N, C) on a graph, modified or not, its edges in both directions (2, E)."""
        scores: Tensor = self.classifier(x, edge_index)
        return scores


def _uniform_by_outputs(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        bound = 1 / math.sqrt(parameter.shape[0])  # PyG keeps (out, in) and (out,)
        nn.init.uniform_(parameter, -bound, bound)
