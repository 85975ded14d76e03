"""The node architectures of the graph survey behind one signature, of PyG's layers where PyG has them.

Layers are named as in ``torch_geometric.nn.models.BasicGNN`` (``convs.i``, ``norms.i``, ``lin``), whose
weights load as they are for gcn, sage, gin, gat, gatv2 and pna.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import (
    APPNP,
    MLP,
    GATConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GMMConv,
    JumpingKnowledge,
    PNAConv,
)
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.nn.resolver import normalization_resolver
from torch_geometric.utils import add_self_loops, get_laplacian, remove_self_loops

from zoo.graphs.node.operators import (
    ChebyshevConv,
    NarrowGINConv,
    NarrowSAGEConv,
    RecurrentGatedGraph,
    activation,
    degree_coordinates,
    largest_eigenvalues,
    normalised,
    sparse_dropout,
    thin,
)
from zoo.nn.ranges import Depth, Finite, Fraction, NonNegative, Rate

NodeArch = Literal[
    "gcn",
    "cheb",
    "sage",
    "gat",
    "gatv2",
    "gin",
    "sgc",
    "appnp",
    "monet",
    "gcnii",
    "pna",
    "ggnn",
    "mlp",
]
NODE_ARCHS: tuple[NodeArch, ...] = get_args(NodeArch)
Activation = Literal["relu", "elu", "prelu", "tanh", "leaky_relu", "gelu"]
Norm = Literal["batch", "layer", "graph", "instance", "pair"]
Jumping = Literal["last", "cat", "max", "lstm"]
Aggregation = Literal["mean", "sum", "max"]

ACCEPTS: dict[NodeArch, frozenset[str]] = {
    arch: frozenset({"edge_weight"} if arch in ("gcn", "cheb", "sgc", "appnp", "gcnii", "ggnn") else ())
    | frozenset({"edge_attr"} if arch in ("gat", "gatv2", "pna") else ())
    for arch in NODE_ARCHS
}
"""What an architecture takes beside ``x`` and ``edge_index``; ``mlp`` looks at neither edges nor weights."""

_NORM: dict[str | None, dict[str, Any]] = {"batch": {"allow_single_element": True}}  # by running statistics
_STACKED = ("gcn", "cheb", "sage", "gat", "gatv2", "gin", "monet", "pna", "mlp")
_NORMALISED = ("gcn", "sgc", "appnp", "gcnii", "cheb")
_HEADS = 8
_ATTENTION = ("gat", "gatv2")
OPTIONS: dict[str, tuple[str, ...]] = {
    "heads": _ATTENTION,
    "K": ("cheb", "sgc", "appnp"),
    "alpha": ("appnp", "gcnii"),
    "theta": ("gcnii",),
    "aggr": ("sage", "gin"),
    "eps": ("gin",),
    "train_eps": ("gin",),
    "kernels": ("monet",),
    "lambda_max": ("cheb",),
    "out_heads": _ATTENTION,
    "attention_dropout": _ATTENTION,
    "residual": _ATTENTION,
    "edge_dim": (*_ATTENTION, "pna"),
    "towers": ("pna",),
    "degree_histogram": ("pna",),
    "share_weights": ("ggnn",),
    "act": tuple(a for a in NODE_ARCHS if a not in ("sgc", "ggnn")),
    "norm": _STACKED,
    "jk": _STACKED,
}
"""Options of :class:`NodeNetwork` and the architectures that have them."""


class ArchOptions(TypedDict, total=False):
    """What node, graph and link level may say of an architecture; what is left out or null is its own choice.

    Attributes:
        heads: of gat and gatv2 (8).
        act: activation, ``relu``, of gat and gatv2 ``elu``.
        norm: normalisation after each hidden layer; ``gin`` has it inside its MLP as well. Null has none.
        jk: jumping knowledge: a linear layer on the last, concatenated, maximal or attended hidden states.
        K: terms of ``cheb`` (3), powers of ``sgc`` (its number of layers), steps of ``appnp`` (10).
        alpha: teleport of ``appnp`` and initial residual of ``gcnii`` (.1).
        theta: lambda of ``gcnii`` (.5), beta_l = log(theta / l + 1).
        aggr: of the neighbours, of ``sage`` (mean) and ``gin`` (sum).
        eps: of ``gin`` (0), its start where ``train_eps``.
        train_eps: learn ``eps`` of ``gin``.
        kernels: Gaussian kernels of ``monet`` (3).
        lambda_max: of ``cheb``: ``two``, the bound, or ``graph``, the true value of each graph in the batch.
        out_heads: heads of the last attention layer, averaged (1); PyG's ``BasicGNN`` keeps ``heads``.
        attention_dropout: of the attention weights of gat and gatv2 (the dropout between layers).
        residual: a linear skip connection around each layer of gat and gatv2.
        towers: of ``pna`` (1).
        share_weights: of ``ggnn``: all steps share one matrix (true), or PyG's one per step.
    """

    heads: Depth | None
    act: Activation | None
    norm: Norm | None
    jk: Jumping | None
    K: Depth | None
    alpha: Fraction | None
    theta: NonNegative | None
    aggr: Aggregation | None
    eps: Finite | None
    train_eps: bool | None
    kernels: Depth | None
    lambda_max: Literal["two", "graph"] | None
    out_heads: Depth | None
    attention_dropout: Rate | None
    residual: bool | None
    towers: Depth | None
    share_weights: bool | None


@dataclass
class Structure:
    """What the layers of an architecture read of a graph, computed once by :meth:`NodeNetwork.prepare`.

    Attributes:
        edge_index: (2, E), with self-loops where the layers want them.
        edge_weight: (E,), normalised where the layers want it.
        edge_attr: (E, D), features of edges, or MoNet's pseudo-coordinates.
        batch: graph of each node (N,).
        features: takes the place of x where given: as a sparse matrix (:meth:`NodeNetwork.keep_features`), or
            A^^K X of ``sgc``.
    """

    edge_index: Tensor
    edge_weight: Tensor | None = None
    edge_attr: Tensor | None = None
    batch: Tensor | None = None
    features: Tensor | None = None


class NodeNetwork(nn.Module):
    r"""A graph network from node features to node outputs, one ``arch`` for another.

    With A~ = A + I, A^ = D~^-1/2 A~ D~^-1/2, messages from ``edge_index[0]`` to ``edge_index[1]``:

    - ``gcn``: A^ X W (Kipf and Welling, 2017); ``sgc``: A^^K X W (Wu et al., 2019); ``cheb``:
      sum_k<K T_k(2 L / lambda_max - I) X W_k (Defferrard et al., 2016);
    - ``appnp``: an MLP, then K times Z <- (1 - alpha) A^ Z + alpha H (Gasteiger et al., 2019); ``gcnii``
      (Chen et al., 2020); ``mlp``: no graph;
    - ``sage``: W_1 mean x_u + b + W_2 x_v (Hamilton et al., 2017); ``gin``: MLP((1 + eps) x_v + sum x_u) (Xu
      et al., 2019); ``pna`` (Corso et al., 2020);
    - ``gat``, ``gatv2``: attention over the neighbours and the node itself (Velickovic et al., 2018; Brody et
      al., 2022);
    - ``monet``: Gaussian kernels on (deg_u^-1/2, deg_v^-1/2) (Monti et al., 2017);
    - ``ggnn``: a GRU, ``num_layers`` steps (Li et al., 2016).

    Layers but the last are followed by norm, activation and dropout. ``out_channels`` None makes an encoder:
    the last layer is ``hidden_channels`` wide, like the others.

    Args:
        arch: the architecture.
        in_channels: F.
        hidden_channels: width of the hidden layers; of GAT over all its heads together.
        out_channels: C, or None.
        num_layers: message passing layers; of ``ggnn`` its steps, of ``appnp`` and ``mlp`` linear layers;
            ``sgc`` has one, and K = ``num_layers`` where K is not given.
        dropout: before each layer but the first.
        input_dropout: of the features.
        input_linear: a linear layer F -> hidden with activation before the first (``pna`` is slow without).
        act_last: norm, activation and dropout after an encoder's last layer too.
        edge_dim: D of the edge features of gat, gatv2 and pna.
        degree_histogram: of ``pna``: number of training nodes by in-degree; see :meth:`set_degrees`.
        **options: see :class:`ArchOptions`.

    Raises:
        ValueError: for impossible settings, and for options the architecture does not have.
    """

    def __init__(
        self,
        arch: NodeArch,
        in_channels: int,
        hidden_channels: int,
        out_channels: int | None = None,
        num_layers: int = 2,
        dropout: float = 0.5,
        input_dropout: float = 0.0,
        input_linear: bool = False,
        act_last: bool = False,
        edge_dim: int | None = None,
        degree_histogram: Sequence[int] | None = None,
        **options: Unpack[ArchOptions],
    ) -> None:
        super().__init__()
        given = {"edge_dim": edge_dim, "degree_histogram": degree_histogram, **all_options(options)}
        self.options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.options.get("heads") == _HEADS:  # once stored for all architectures
            del self.options["heads"]
        self.heads: int = self.options.get("heads", _HEADS)
        _check(arch, num_layers, dropout, input_dropout, self.options)
        self.arch, self.num_layers = arch, num_layers
        self.in_channels, self.hidden_channels = in_channels, hidden_channels
        self.out_channels = hidden_channels if out_channels is None else out_channels
        act, norm, jk = options.get("act"), options.get("norm"), options.get("jk")
        self.dropout, self.input_dropout = dropout, input_dropout
        self.act = activation(act or ("elu" if arch in _ATTENTION else "relu"))
        self.jk_mode, self.act_last = jk, act_last
        # a layer that maps to the outputs is no state
        self._states = num_layers - 1 if out_channels is not None and jk is None else num_layers
        self.input: nn.Module | None = None
        width = in_channels
        if input_linear or arch == "gcnii" or (arch == "ggnn" and in_channels > hidden_channels):
            self.input = nn.Linear(in_channels, hidden_channels)
            width = hidden_channels
        self.norms = nn.ModuleList()
        self.propagation: nn.Module | None = None
        self.convs = self._layers(width, out_channels)
        self._add_norms(norm)
        self.lin: nn.Module | None = None
        if jk is not None or (out_channels is not None and arch in ("gcnii", "ggnn")):
            wide = num_layers * hidden_channels if jk == "cat" else hidden_channels
            self.lin = nn.Linear(wide, self.out_channels)
        if jk is not None and jk != "last":
            self.jk = JumpingKnowledge(jk, hidden_channels, num_layers)

    # --- layers -----------------------------------------------------------------------------------------

    def _layers(self, width: int, out_channels: int | None) -> nn.ModuleList:
        hidden, o = self.hidden_channels, self.options
        if self.arch == "ggnn":
            return nn.ModuleList([RecurrentGatedGraph(hidden, self.num_layers, o.get("share_weights", True))])
        if self.arch == "gcnii":
            alpha, theta = o.get("alpha", 0.1), o.get("theta", 0.5)
            return nn.ModuleList(
                GCN2Conv(hidden, alpha, theta, i + 1, normalize=False) for i in range(self.num_layers)
            )
        if self.arch == "sgc":
            return nn.ModuleList([nn.Linear(width, self.out_channels)])
        if self.arch == "appnp":
            self.propagation = APPNP(o.get("K", 10), o.get("alpha", 0.1), normalize=False)
        direct = out_channels is not None and self.jk_mode is None  # the last layer maps to the outputs
        layers = []
        for i in range(self.num_layers):
            last = direct and i + 1 == self.num_layers
            layers.append(self._layer(width, self.out_channels if last else hidden, last))
            width = hidden
        return nn.ModuleList(layers)

    def _layer(self, inputs: int, outputs: int, last: bool) -> nn.Module:
        """One layer; ``last`` is the one that maps to the outputs."""
        o = self.options
        if self.arch == "gcn":
            return GCNConv(inputs, outputs, normalize=False)
        if self.arch == "cheb":
            return ChebyshevConv(inputs, outputs, o.get("K", 3))
        if self.arch == "sage":
            return NarrowSAGEConv(inputs, outputs, aggr=o.get("aggr", "mean"))
        if self.arch in _ATTENTION:
            heads = o.get("out_heads", 1) if last else self.heads
            if not last and outputs % heads:
                raise ValueError(f"{heads} heads do not divide the width {outputs} of {self.arch}'s layers")
            layer: nn.Module = (GATConv if self.arch == "gat" else GATv2Conv)(
                inputs,
                outputs if last else outputs // heads,
                heads,
                concat=not last,
                dropout=o.get("attention_dropout", self.dropout),
                add_self_loops=False,  # `prepare` adds them, once for all layers
                edge_dim=o.get("edge_dim"),
                residual=o.get("residual", False),
            )
            return layer
        if self.arch == "gin":
            norm = o.get("norm")
            mlp = MLP([inputs, outputs, outputs], act=self.act, norm=norm, norm_kwargs=_NORM.get(norm))
            return NarrowGINConv(
                mlp, o.get("eps", 0.0), o.get("train_eps", False), aggr=o.get("aggr", "sum")
            )  # re-initialises the MLP
        if self.arch == "monet":
            return GMMConv(inputs, outputs, dim=2, kernel_size=o.get("kernels", 3))
        if self.arch == "pna":
            histogram = torch.tensor(o.get("degree_histogram", [0, 1]), device="cpu")
            return PNAConv(
                inputs,
                outputs,
                ["mean", "min", "max", "std"],
                ["identity", "amplification", "attenuation"],
                histogram,
                edge_dim=o.get("edge_dim"),
                towers=1 if last else o.get("towers", 1),
            )
        return nn.Linear(inputs, outputs)

    def _add_norms(self, norm: str | None) -> None:
        if norm is None:
            return
        self.norms.extend(
            normalization_resolver(norm, self.hidden_channels, **_NORM.get(norm, {}))
            for _ in range(self._activated())
        )

    def _activated(self) -> int:
        """Number of layers that norm, activation and dropout follow."""
        if self.jk_mode is not None or self.act_last:
            return self.num_layers
        return self.num_layers - 1

    def set_degrees(self, histogram: Tensor) -> None:
        """Scale ``pna`` by the degrees of the training graphs: number of nodes by in-degree (D,).

        The averages are buffers: they are saved with the weights.
        """
        d, n = torch.arange(len(histogram)), histogram.double().cpu()
        for conv in self.convs:
            scaler: Any = conv.aggr_module
            scaler.avg_deg_lin.fill_(float((d * n).sum() / n.sum()))
            scaler.avg_deg_log.fill_(float(((d + 1).log() * n).sum() / n.sum()))

    def parameter_parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the ``first`` layer (the one that sees the features), the ``middle`` and the
        ``last``; recipes decay them differently. A single layer is the first."""
        layers: list[nn.Module] = [] if self.input is None else [self.input]
        layers += [*self.convs] + ([] if self.lin is None else [self.lin])
        parts: dict[str, list[nn.Parameter]] = {"first": [], "middle": [], "last": []}
        seen: set[int] = set()
        for i, layer in enumerate(layers):
            name = "first" if i == 0 else "last" if i + 1 == len(layers) else "middle"
            parts[name] += layer.parameters()
            seen |= {id(p) for p in layer.parameters()}
        parts["middle"] += [p for p in self.parameters() if id(p) not in seen]
        return parts

    # --- forward ----------------------------------------------------------------------------------------

    def prepare(
        self,
        edge_index: Tensor,
        nodes: int,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Structure:
        """Self-loops and normalisation, once for all layers; the result may be kept while the graph stays.

        Raises:
            ValueError: for edge weights or features that the architecture has no use for.
        """
        for name, value in (("edge_weight", edge_weight), ("edge_attr", edge_attr)):
            if value is not None and self.arch != "mlp" and name not in ACCEPTS[self.arch]:
                able = ", ".join(a for a in NODE_ARCHS if name in ACCEPTS[a])
                raise ValueError(f"{self.arch} takes no {name}; {able} do")
        if edge_attr is not None and self.options.get("edge_dim") is None and self.arch != "mlp":
            raise ValueError(f"{self.arch} was given edge_attr: set edge_dim to its width")
        if edge_weight is not None and self.arch in _NORMALISED:
            _check_weights(self.arch, edge_weight)
        if self.arch in ("gcn", "sgc", "appnp", "gcnii"):
            # loops that the data already has are kept, not doubled
            index, weight = gcn_norm(edge_index, edge_weight, nodes)
            return Structure(index, weight, batch=batch)
        if self.arch == "cheb":
            edge_index, edge_weight = remove_self_loops(edge_index, edge_weight)
            largest: Tensor | float = 2.0
            if self.options.get("lambda_max") == "graph":
                largest = largest_eigenvalues(edge_index, edge_weight, nodes, batch)
            index, weight = get_laplacian(edge_index, edge_weight, "sym", num_nodes=nodes)
            if isinstance(largest, Tensor):
                largest = largest[0] if batch is None else largest[batch[index[0]]]
            return Structure(index, 2 * weight / largest - (index[0] == index[1]).float(), batch=batch)
        if self.arch in _ATTENTION:
            index, attr = remove_self_loops(edge_index, edge_attr)
            index, attr = add_self_loops(index, attr, "mean", nodes)
            return Structure(index, edge_attr=attr, batch=batch)
        if self.arch == "monet":
            return Structure(edge_index, edge_attr=degree_coordinates(edge_index, nodes), batch=batch)
        return Structure(edge_index, edge_weight, edge_attr, batch)

    def keep_features(self, x: Tensor, graph: Structure) -> None:
        """Add to a kept structure what stays the same while the features x (N, F) stay: A^^K X of ``sgc``,
        else x as a sparse matrix where it is thin and the first layer takes one."""
        if self.arch == "sgc":
            if not self.input_dropout and self.input is None:
                graph.features = self._spread(x, graph)
            return
        first = self.convs[0]
        if self.input is not None or self.arch in (*_ATTENTION, "gcn", "monet", "mlp", "appnp"):
            graph.features = thin(x)
        elif self.arch in ("cheb", "sage", "gin") and getattr(first, "aggr", None) != "max":
            narrow = self.hidden_channels if self._states else self.out_channels
            graph.features = thin(x) if self.in_channels > narrow else None

    def _input(self, x: Tensor, graph: Structure) -> Tensor:
        kept = graph.features
        if kept is not None and not kept.is_sparse_csr:
            return kept
        if kept is None or torch.is_autocast_enabled(x.device.type):  # sparse products know no half precision
            return functional.dropout(x, self.input_dropout, self.training)
        return sparse_dropout(kept, self.input_dropout) if self.training and self.input_dropout else kept

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | Structure,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Outputs (N, C) of x (N, F), edge_index (2, E), edge_weight (E,), batch (N,), edge_attr (E, D).

        ``edge_index`` may be what :meth:`prepare` returned; the other arguments are then in it.
        """
        return self.embed(x, edge_index, edge_weight, batch, edge_attr)[1]

    def embed(
        self,
        x: Tensor,
        edge_index: Tensor | Structure,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Hidden states in order, each (N, :attr:`hidden_widths`), and the outputs (N, C).

        A stacked architecture has one state a layer, behind its activation and dropout, but not of the layer
        that maps to the outputs; an encoder's last state is its output.
        """
        if isinstance(edge_index, Structure):
            graph = edge_index
        else:
            graph = self.prepare(edge_index, x.shape[0], edge_weight, batch, edge_attr)
        x = self._input(x, graph)
        if self.arch == "gcnii":
            return self._initial_residual(x, graph)
        if self.input is not None:
            x = self._drop(self.act(self.input(x)))
        if self.arch == "ggnn":
            states = self.convs[0](x, graph.edge_index, graph.edge_weight)
            return states, states[-1] if self.lin is None else self.lin(self._drop(states[-1]))
        if self.arch == "sgc":
            x = x if graph.features is not None else self._spread(x, graph)
            return [x], self.convs[0](x)
        return self._stack(x, graph)

    @property
    def hidden_widths(self) -> list[int]:
        """Widths of the states that :meth:`embed` gives."""
        if self.arch == "sgc":
            return [self.hidden_channels if self.input is not None else self.in_channels]
        stacked = self.arch in (*_STACKED, "appnp")
        return [self.hidden_channels] * (self._states if stacked else self.num_layers)

    def _stack(self, x: Tensor, graph: Structure) -> tuple[list[Tensor], Tensor]:
        states: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            x = self._convolve(conv, x, graph)
            if i < self._activated():
                if self.norms:
                    x = normalised(self.norms[i], x, graph.batch)
                x = self._drop(self.act(x))
            if i < self._states:
                states.append(x)
        if self.propagation is not None:
            x = self.propagation(x, graph.edge_index, graph.edge_weight)
            if self._states == self.num_layers:
                states[-1] = x
        if self.lin is not None:
            x = states[-1] if self.jk_mode == "last" else self.jk(states)
            x = self.lin(x)
        return states, x

    def _convolve(self, conv: nn.Module, x: Tensor, graph: Structure) -> Tensor:
        out: Tensor
        if self.arch in ("mlp", "appnp"):
            out = conv(x)
        elif self.arch in ("gcn", "cheb"):
            out = conv(x, graph.edge_index, graph.edge_weight)
        elif self.arch == "gin":
            out = conv(x, graph.edge_index, graph.batch)
        elif self.arch == "sage":
            out = conv(x, graph.edge_index)
        else:
            out = conv(x, graph.edge_index, graph.edge_attr)
        return out

    def _initial_residual(self, x: Tensor, graph: Structure) -> tuple[list[Tensor], Tensor]:
        assert self.input is not None
        x = first = self.act(self.input(x))
        states = []
        for conv in self.convs:
            x = self.act(conv(self._drop(x), first, graph.edge_index, graph.edge_weight))
            states.append(x)
        return states, x if self.lin is None else self.lin(self._drop(x))

    def _spread(self, x: Tensor, graph: Structure) -> Tensor:
        """A^^K X."""
        assert graph.edge_weight is not None
        source, target = graph.edge_index
        for _ in range(self.options.get("K", self.num_layers)):
            x = torch.zeros_like(x).index_add(0, target, x[source] * graph.edge_weight[:, None])
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def _check_weights(arch: str, weight: Tensor) -> None:
    wrong = ~(weight >= 0) | weight.isinf()
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"{arch} divides by square roots of sums of edge weights, which must be finite and not below 0: "
            f"edge {at} of the data has edge_weight {float(weight[at]):g}; change them, or take ggnn, which "
            "multiplies alone"
        )


def _check(arch: str, layers: int, dropout: float, input_dropout: float, given: dict[str, Any]) -> None:
    if arch not in NODE_ARCHS:
        raise ValueError(f"arch must be one of {', '.join(NODE_ARCHS)}, got {arch!r}")
    if layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {layers}")
    for name, value in (("dropout", dropout), ("input_dropout", input_dropout)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")
    for name, value in given.items():
        if arch not in OPTIONS[name]:
            raise ValueError(
                f"{arch} has no option {name} (given: {value}); {', '.join(OPTIONS[name])} have it"
            )
    least = 1 if arch == "cheb" else 0
    if given.get("K", least) < least:
        raise ValueError(f"K of {arch} must be at least {least}, got {given['K']}")
    if not 0 <= given.get("alpha", 0) <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {given['alpha']}")


def all_options(options: ArchOptions) -> ArchOptions:
    """Every option, null where it is not given: a checkpoint then says so, and wins over a config beside it.

    Raises:
        TypeError: for an unknown one, which ``**options`` lets through.
    """
    known = ArchOptions.__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"no argument {name!r}; {hint}")
    every: Any = {**dict.fromkeys(known), **options}
    return cast(ArchOptions, every)
