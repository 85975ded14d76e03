"""Networks of molecular graphs: GIN with bond features, D-MPNN, AttentiveFP, with descriptors beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.molecules.graph.features import BOND_WIDTH, GraphBatch
from zoo.nn.batch_norm import GlobalBatchNorm1d

Backbone = Literal["gin", "dmpnn", "attentivefp", "none"]
Readout = Literal["mean", "sum", "norm"]
_NORM = 100.0  # chemprop's: a sum whose size does not grow with molecules of usual size
_TIMESTEPS = 2


def summed(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows of equal index added up: (count, F) of (N, F)."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)


class DMPNN(nn.Module):
    """Directed message passing (Yang et al. 2019): states live on directed bonds, none hears its own echo.

    ``h0_vw = W_i [x_v, e_vw]``, ``h = relu(h0)``; depth - 1 times ``m_vw = sum_{k in N(v) - w} h_kv`` and
    ``h_vw = relu(h0_vw + W_h m_vw)``; then ``h_v = relu(W_o [x_v, sum_w h_wv])``. h0 is added before its
    relu, as the authors' code has it and the paper's text has not.

    Args:
        atoms: F, atom features.
        hidden: width.
        depth: T, steps with the first.
        dropout: behind each step and of the atoms' states.
    """

    def __init__(self, atoms: int, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.W_i = nn.Linear(atoms + BOND_WIDTH, hidden, bias=False)
        self.W_h = nn.Linear(hidden, hidden, bias=False)
        self.W_o = nn.Linear(atoms + hidden, hidden)
        self.depth, self.dropout = depth, nn.Dropout(dropout)

    def forward(self, graph: GraphBatch) -> Tensor:
        """States of the atoms (N, hidden)."""
        source, target = graph.edge_index
        first = self.W_i(torch.cat([graph.x[source], graph.edge_attr], dim=1))  # (E, hidden)
        h = first.relu()
        for _ in range(1, self.depth):
            # into v, without the bond's own other direction: bond e and bond e ^ 1 stand side by side
            echo = h.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            message = summed(h, target, len(graph.x))[source] - echo
            h = self.dropout((first + self.W_h(message)).relu())
        arriving = summed(h, target, len(graph.x))
        return self.dropout(self.W_o(torch.cat([graph.x, arriving], dim=1)).relu())


class _GINLayer(nn.Module):
    """``MLP((1 + eps) h_i + sum_j relu(h_j + Lin(e_ij)))``, added to ``h_i``."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.edge = nn.Linear(BOND_WIDTH, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, hidden),
            GlobalBatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, graph: GraphBatch) -> Tensor:
        source, target = graph.edge_index
        heard = summed((h[source] + self.edge(graph.edge_attr)).relu(), target, len(h))
        return h + self.dropout(self.mlp((1 + self.eps) * h + heard))


class GIN(nn.Module):
    """Graph isomorphism network with bond features (GINE, Hu et al. 2020), residual.

    Args:
        atoms: F, atom features.
        hidden: width.
        depth: layers.
        dropout: behind each layer.
    """

    def __init__(self, atoms: int, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(atoms, hidden)
        self.layers = nn.ModuleList(_GINLayer(hidden, dropout) for _ in range(depth))

    def forward(self, graph: GraphBatch) -> Tensor:
        """States of the atoms (N, hidden)."""
        h: Tensor = self.embed(graph.x)
        for layer in self.layers:
            h = layer(h, graph)
        return h


class MoleculeNetwork(nn.Module):
    """Outputs of a molecule from its graph, its descriptors, or both: ``FFN([h_G, d])``.

    Args:
        backbone: ``gin``, ``dmpnn``, ``attentivefp`` (PyG's, with its own readout), or ``none``: d alone.
        atoms: F, atom features.
        descriptors: D.
        outputs: numbers per molecule.
        hidden: width of the atoms' states.
        depth: layers or steps.
        readout: of the atoms: mean, sum, or sum / 100.
        dropout: in the backbone and between the layers of the FFN.
        ffn_hidden: width of the FFN.
        ffn_layers: its layers, with the last.
    """

    def __init__(
        self,
        backbone: Backbone,
        atoms: int,
        descriptors: int,
        outputs: int,
        hidden: int,
        depth: int,
        readout: Readout,
        dropout: float,
        ffn_hidden: int,
        ffn_layers: int,
    ) -> None:
        super().__init__()
        self.readout: Readout = readout
        self.backbone: nn.Module | None = None
        if backbone == "attentivefp":
            from torch_geometric.nn.models import AttentiveFP

            self.backbone = AttentiveFP(atoms, hidden, hidden, BOND_WIDTH, depth, _TIMESTEPS, dropout)
        elif backbone != "none":
            self.backbone = (GIN if backbone == "gin" else DMPNN)(atoms, hidden, depth, dropout)
        width = (0 if backbone == "none" else hidden) + descriptors
        layers: list[nn.Module] = []
        for _ in range(ffn_layers - 1):
            layers += [nn.Linear(width, ffn_hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = ffn_hidden
        self.ffn = nn.Sequential(*layers, nn.Linear(width, outputs))

    def embed(self, graph: GraphBatch) -> Tensor:
        """h_G (B, hidden)."""
        assert self.backbone is not None
        if not isinstance(self.backbone, GIN | DMPNN):
            return self.backbone(graph.x, graph.edge_index, graph.edge_attr, graph.batch)
        total = summed(self.backbone(graph), graph.batch, graph.count)
        if self.readout == "mean":
            return total / torch.bincount(graph.batch, minlength=graph.count).unsqueeze(1)
        return total / _NORM if self.readout == "norm" else total

    def forward(self, graph: GraphBatch | None, descriptors: Tensor) -> Tensor:
        """(B, outputs); descriptors (B, D), D may be 0."""
        if self.backbone is None or graph is None:
            return self.ffn(descriptors)
        return self.ffn(torch.cat([self.embed(graph), descriptors], dim=1))


class MoleculeEnsemble(nn.Module):
    """Networks of one shape and other first weights, each trained on every batch.

    Args:
        members: networks.
    """

    def __init__(self, members: Sequence[MoleculeNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, graph: GraphBatch | None, descriptors: Tensor) -> Tensor:
        """(M, B, outputs)."""
        return torch.stack([member(graph, descriptors) for member in self.members])

    def embed(self, graph: GraphBatch) -> Tensor:
        """The fingerprints h_G of all members side by side, (B, M hidden)."""
        return torch.cat([member.embed(graph) for member in self.members], dim=1)  # type: ignore[operator]
