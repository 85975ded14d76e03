"""Networks of graph classification: node encoder, readout, classifier."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing, NNConv
from torch_geometric.utils import degree

from zoo.graphs.graph.readout import FLAT, DiffPool, Pooled, Readout, SortPool, TopK, flat_readout
from zoo.graphs.node.network import ACCEPTS, NodeArch, NodeNetwork
from zoo.nn.batch_norm import make_batch_norms_global

GraphArch = Literal[
    "gcn", "cheb", "sage", "gat", "gatv2", "gin", "sgc", "appnp", "monet", "gcnii", "pna", "ggnn", "mlp",
    "dgcnn", "ecc", "mpnn", "none",
]  # fmt: skip
GRAPH_ARCHS: tuple[GraphArch, ...] = get_args(GraphArch)
NODE_ARCHS: tuple[NodeArch, ...] = get_args(NodeArch)
EDGE_ARCHS: tuple[str, ...] = ("ecc", "mpnn", *(a for a in NODE_ARCHS if "edge_attr" in ACCEPTS[a]))
"""Architectures whose messages may depend on edge features."""
Layers = Literal["last", "cat", "sum"]
_EDGE_HIDDEN = 16


class EdgeConditionedConv(NNConv):
    r"""Edge-conditioned convolution, :math:`x'_i = W x_i + b + mean_j x_j \Theta(e_{ij})` (Simonovsky and
    Komodakis, CVPR 2017), with a filter network Linear-ReLU-Linear of 16 hidden units.

    The same function and weights as PyG's ``NNConv``, which writes a matrix (F, F') per edge. Since Theta is
    linear in the hidden units, messages here are their outer product with x_j, and the matrix comes after
    the sum. Without edge features every edge has the feature 1.

    Shapes: x (N, F), edge_index (2, E), edge_attr (E, D) -> (N, F').
    """

    def __init__(self, inputs: int, outputs: int, edge_dim: int = 1, root: bool = True) -> None:
        network = nn.Sequential(
            nn.Linear(edge_dim, _EDGE_HIDDEN), nn.ReLU(), nn.Linear(_EDGE_HIDDEN, inputs * outputs)
        )
        super().__init__(inputs, outputs, network, aggr="mean", root_weight=root)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        if edge_attr is None:
            matrix = self.nn(x.new_ones(1, self.nn[0].in_features)).view(self.in_channels, self.out_channels)
            out = self.aggr_module(x[edge_index[0]], edge_index[1], dim_size=x.shape[0], dim=0) @ matrix
        else:
            first, second = self.nn[0], self.nn[2]
            # (H + 1, F F'): the bias of the second layer belongs to a hidden unit that is always 1
            filters = torch.cat([second.weight.T, second.bias[None]])
            hidden = first(edge_attr).relu()
            hidden = torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], dim=1)
            message = (hidden[:, :, None] * x[edge_index[0]][:, None]).flatten(1)  # (E, (H + 1) F)
            out = self.aggr_module(message, edge_index[1], dim_size=x.shape[0], dim=0)
            out = out @ filters.view(-1, self.out_channels)
        if self.root_weight:
            out = out + self.lin(x)
        return out + self.bias


class RandomWalkConv(MessagePassing):
    r"""DGCNN's layer before its tanh, :math:`D~^{-1} A~ X W + b` (Zhang et al., AAAI 2018).

    Rows of D~^-1 A~ sum to 1, hence the bias comes first. Shapes: x (N, F), edge_index (2, E) -> (N, F').
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(aggr="sum")
        self.lin = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.lin(x)
        scale = 1 / (degree(edge_index[1], len(x), dtype=x.dtype) + 1)
        out: Tensor = (self.propagate(edge_index, x=x) + x) * scale[:, None]
        return out


class GraphEncoder(nn.Module):
    """Node states, one tensor (N, H) per layer, of a node architecture or of those that only live here.

    - ``dgcnn``: tanh(D~^-1 A~ X W), and one more layer with a single channel, which SortPool sorts by;
    - ``ecc``: edge-conditioned convolutions with batch norm and ReLU;
    - ``mpnn``: messages of an edge network into a GRU, ``num_layers`` steps (Gilmer et al., ICML 2017);
    - ``none``: the features themselves.
    """

    def __init__(
        self,
        arch: GraphArch,
        inputs: int,
        hidden: int,
        num_layers: int,
        dropout: float,
        edge_dim: int,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.arch, self.dropout = arch, dropout
        self.widths = [hidden] * num_layers
        self.uses_edge_attr = edge_dim > 0 and arch in EDGE_ARCHS
        if arch == "dgcnn":
            self.widths = [*self.widths, 1]
            pairs = zip([inputs, *self.widths], self.widths, strict=False)
            self.convs = nn.ModuleList(RandomWalkConv(a, b) for a, b in pairs)
        elif arch == "ecc":
            pairs = zip([inputs, *self.widths], self.widths, strict=False)
            self.convs = nn.ModuleList(EdgeConditionedConv(a, b, max(1, edge_dim)) for a, b in pairs)
            self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in self.widths)
        elif arch == "mpnn":
            self.input = nn.Linear(inputs, hidden)
            self.conv = EdgeConditionedConv(hidden, hidden, max(1, edge_dim), root=False)
            self.rnn = nn.GRUCell(hidden, hidden)
        elif arch == "none":
            self.widths = [inputs]
        else:
            if self.uses_edge_attr:
                options = {**options, "edge_dim": edge_dim}
            self.nodes = NodeNetwork(
                arch, inputs, hidden, None, num_layers, dropout=dropout, act_last=True, **options
            )
            self.widths = [*self.nodes.hidden_widths[:-1], hidden]

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_attr: Tensor | None = None
    ) -> list[Tensor]:
        attr = edge_attr if self.uses_edge_attr else None
        if self.arch == "none":
            return [x]
        if self.arch == "mpnn":
            states, h = [], self.input(x).relu()
            for _ in self.widths:
                h = self.rnn(self.conv(h, edge_index, attr).relu(), h)
                states.append(h)
            return states
        if self.arch in ("dgcnn", "ecc"):
            states = []
            for i, conv in enumerate(self.convs):
                if self.arch == "dgcnn":
                    x = conv(x, edge_index).tanh()
                else:
                    x = self.norms[i](conv(x, edge_index, attr)).relu()
                    x = nn.functional.dropout(x, self.dropout, self.training)
                states.append(x)
            return states
        states, out = self.nodes.embed(x, edge_index, batch=batch, edge_attr=attr)
        return [*states[:-1], out]  # appnp and sgc have their last word after their states


class GraphNetwork(nn.Module):
    """Node encoder, readout and classifier; the parameters are those of :class:`zoo.GraphClassifier`.

    Args:
        readout: see :mod:`zoo.graphs.graph.readout`.
        pool_nodes: nodes that ``sort`` keeps, clusters that ``diffpool`` makes.
        layers: what is read out: the ``last`` states; all layers' ``cat``enated; or GIN's ``sum``: each
            layer's graph vectors (the features' too) have a linear classifier, whose scores are added.
        head: hidden units of the classifier; 0 is a linear one.
    """

    def __init__(
        self,
        arch: GraphArch,
        inputs: int,
        classes: int,
        hidden: int,
        num_layers: int,
        readout: Readout,
        layers: Layers = "cat",
        head: int = 0,
        dropout: float = 0.5,
        node_dropout: float = 0.0,
        edge_dim: int = 0,
        pool_nodes: int = 0,
        pool_ratio: float = 0.5,
        pool_levels: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        shared = (arch, inputs, hidden, num_layers, node_dropout, edge_dim, options or {})
        self.kind, self.layers, self.dropout = readout, layers, dropout
        self.encoder = GraphEncoder(*shared)
        widths = self.encoder.widths
        channels = sum(widths) if layers == "cat" else widths[-1]
        self.assign: nn.ModuleList | None = None
        self.readout: nn.Module | None = None
        if readout == "sort":
            self.readout = SortPool(channels, pool_nodes)
        elif readout == "diffpool":
            encoder = GraphEncoder(*shared)
            self.assign = nn.ModuleList([encoder, nn.Linear(sum(encoder.widths), pool_nodes)])
            self.readout = DiffPool(channels, pool_nodes, hidden, pool_levels, pool_ratio)
        elif readout not in FLAT:
            self.readout = TopK(channels, pool_ratio, attention=readout == "sagpool")
        width = channels if self.readout is None else int(self.readout.width)
        if layers == "sum":
            self.heads = nn.ModuleList(nn.Linear(w, classes) for w in [inputs, *widths])
        elif head:
            self.head = nn.Sequential(
                nn.Linear(width, head), nn.ReLU(), nn.Dropout(dropout), nn.Linear(head, classes)
            )
        else:
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, classes))
        make_batch_norms_global(self)

    def encoders(self) -> list[GraphEncoder]:
        """The encoder, and the one of DiffPool's clusters."""
        return [m for m in self.modules() if isinstance(m, GraphEncoder)]

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        graphs: int | Tensor,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Class scores (B, C); ``graphs`` is B, or a tensor of B entries (for ``zoo export``)."""
        count = graphs.shape[0] if isinstance(graphs, Tensor) else graphs
        return self.embed(x, edge_index, batch, count, edge_attr)[0]

    def embed(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: int, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Class scores (B, C), graph vectors (B, W) and the auxiliary losses."""
        states = self.encoder(x, edge_index, batch, edge_attr)
        if self.layers == "sum":
            vectors = [flat_readout(h, batch, graphs, self.kind) for h in [x, *states]]
            scores = [
                nn.functional.dropout(linear(v), self.dropout, self.training)
                for linear, v in zip(self.heads, vectors, strict=True)
            ]
            return torch.stack(scores).sum(dim=0), torch.cat(vectors, dim=1), {}
        h = torch.cat(states, dim=1) if self.layers == "cat" else states[-1]
        if self.readout is None:
            pooled = Pooled(flat_readout(h, batch, graphs, self.kind))
        elif self.assign is not None:
            encoder, linear = self.assign
            logits = linear(torch.cat(encoder(x, edge_index, batch, edge_attr), dim=1))
            pooled = self.readout(h, logits, edge_index, batch, graphs)
        else:
            pooled = self.readout(h, edge_index, batch, graphs)
        return self.head(pooled.vectors), pooled.vectors, pooled.losses
