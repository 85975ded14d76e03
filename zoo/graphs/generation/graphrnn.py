"""GraphRNN: a graph as the sequence of its nodes, each with its links to the M nodes before it.

You et al., "GraphRNN: Generating Realistic Graphs with Deep Auto-regressive Models", ICML 2018. Row i of a
graph holds the links of node i + 1 to the nodes i, i - 1, ..., i - M + 1 before it, the nearest first
(section 2.3.4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def encode(adjacency: Tensor, bandwidth: int) -> Tensor:
    """Rows (B, N - 1, M) of ordered adjacency matrices (B, N, N): [b, i, j] = A[b, i + 1, i - j].

    Entries before the first node are zero. Edges farther than ``bandwidth`` apart are lost:
    :func:`edges_out_of_band` counts them.
    """
    nodes = adjacency.shape[1]
    i = torch.arange(1, nodes, device=adjacency.device)[:, None]
    j = i - 1 - torch.arange(bandwidth, device=adjacency.device)
    return adjacency[:, i, j.clamp(min=0)] * (j >= 0)


def decode(rows: Tensor) -> Tensor:
    """Symmetric adjacency matrices (B, N, N) of rows (B, N - 1, M): the inverse of :func:`encode`."""
    graphs, steps, bandwidth = rows.shape
    i = torch.arange(1, steps + 1, device=rows.device)[:, None]
    j = i - 1 - torch.arange(bandwidth, device=rows.device)
    below = rows.new_zeros(graphs, steps + 1, steps + 1)
    inside = j >= 0
    below[:, i.expand_as(j)[inside], j[inside]] = rows[:, inside]
    return below + below.mT


def edges_out_of_band(adjacency: Tensor, bandwidth: int) -> Tensor:
    """Edges (B,) of (B, N, N) that join nodes more than ``bandwidth`` apart."""
    return adjacency.long().tril(-bandwidth - 1).sum(dim=(1, 2))


class Sequences(NamedTuple):
    """What a step of teacher forcing sees of a batch; T = N steps, the last one of a graph says stop.

    Attributes:
        inputs: S_{i-1} (B, T, M); ones at the first step (SOS).
        targets: S_i (B, T, M); the row after a graph's last is all zero (EOS).
        valid: bool (B, T, M); false after the stop and for entries before the first node.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor


def sequences(adjacency: Tensor, nodes: Tensor, bandwidth: int) -> Sequences:
    """Teacher forcing of ordered adjacency matrices (B, N, N) with ``nodes`` (B,) nodes, the rest padding."""
    rows = encode(adjacency, bandwidth).float()
    edge = rows.new_zeros(len(rows), 1, bandwidth)
    step = torch.arange(adjacency.shape[1], device=rows.device)
    entry = torch.arange(bandwidth, device=rows.device)
    valid = (step < nodes[:, None])[:, :, None] & (entry <= step[:, None])
    return Sequences(torch.cat([edge + 1, rows], dim=1), torch.cat([rows, edge], dim=1), valid)


class Recurrent(nn.Module):
    """Linear, ReLU and a GRU, as in the authors' release: its weights Xavier, its biases .25.

    Args:
        inputs: width of an input row.
        embedding: width after the linear layer.
        hidden: of the GRU.
        layers: of the GRU.
    """

    def __init__(self, inputs: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, embedding)
        self.gru = nn.GRU(embedding, hidden, layers, batch_first=True)
        for name, parameter in self.gru.named_parameters():
            if "bias" in name:
                nn.init.constant_(parameter, 0.25)
            else:
                nn.init.xavier_uniform_(parameter)
        nn.init.xavier_uniform_(self.embed.weight, gain=2**0.5)

    def forward(self, rows: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, inputs), state (L, B, H) -> outputs (B, T, H), state."""
        output, state = self.gru(functional.relu(self.embed(rows)), state)
        return output, state


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear."""
    network = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=2**0.5)
    return network


class GraphRNN(nn.Module):
    """h_i = GRU(h_{i-1}, S_{i-1}); the links of node i from h_i, all at once (S) or one after the other.

    GraphRNN-S: M logits by an MLP. GraphRNN: a second GRU over the entries of the row, whose first layer
    starts with a projection of h_i and whose input is the entry before (1 at first).

    Args:
        bandwidth: M.
        hidden: of the node GRU.
        embedding: width of embedded rows, and of the hidden layer of the output network.
        layers: of both GRUs.
        edge_hidden: of the edge GRU; 0 is GraphRNN-S.
        edge_embedding: width of its embedded entries and of its output's hidden layer.
    """

    def __init__(
        self,
        bandwidth: int,
        hidden: int = 128,
        embedding: int = 64,
        layers: int = 4,
        edge_hidden: int = 0,
        edge_embedding: int = 8,
    ) -> None:
        super().__init__()
        self.bandwidth, self.layers, self.edge_hidden = bandwidth, layers, edge_hidden
        self.node = Recurrent(bandwidth, embedding, hidden, layers)
        self.output = two_layers(hidden, embedding, edge_hidden or bandwidth)
        if edge_hidden:
            self.edge = Recurrent(1, edge_embedding, edge_hidden, layers)
            self.edge_output = two_layers(edge_hidden, edge_embedding, 1)

    def forward(self, inputs: Tensor, targets: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Logits (B, T, M) of every entry under teacher forcing, 0 in rows without a valid entry.

        GraphRNN-S needs the inputs alone.
        """
        h = self.output(self.node(inputs)[0])
        if not self.edge_hidden:
            return h
        if targets is None or valid is None:
            raise ValueError("GraphRNN's rows are sequences: it needs targets and valid too")
        real = valid[:, :, 0]
        # the edge GRU runs over the rows of all graphs and nodes at once
        entries = targets[real]
        before = torch.cat([torch.ones_like(entries[:, :1]), entries[:, :-1]], dim=1)
        output, _ = self.edge(before[:, :, None], self._edge_state(h[real]))
        found = self.edge_output(output)[:, :, 0]
        return found.new_zeros(targets.shape).masked_scatter(real[:, :, None].expand_as(targets), found)

    def _edge_state(self, h: Tensor) -> Tensor:
        rest = h.new_zeros(self.layers - 1, *h.shape)
        return torch.cat([h[None], rest])

    @torch.no_grad()
    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw graphs: entry j of row i is 1 where its probability exceeds ``uniform[:, i, j]``.

        A graph ends before its first all-zero row, or when it has as many nodes as ``uniform`` has room for.

        Args:
            uniform: in [0, 1), (B, N - 1, M): all the chance of B graphs of at most N nodes.

        Returns:
            rows: (B, N - 1, M), zero after the end of a graph.
            nodes: int64 (B,).
        """
        graphs, steps, bandwidth = uniform.shape
        rows = uniform.new_zeros(graphs, steps, bandwidth)
        nodes = torch.ones(graphs, dtype=torch.long, device=uniform.device)
        alive = torch.arange(graphs, device=uniform.device)
        row, state = uniform.new_ones(graphs, 1, bandwidth), None
        for step in range(steps):
            output, state = self.node(row, state)
            drawn = self._draw_row(self.output(output[:, 0]), uniform[alive, step], min(step + 1, bandwidth))
            goes_on = drawn.any(dim=1)
            alive, drawn, state = alive[goes_on], drawn[goes_on], state[:, goes_on].contiguous()
            if not len(alive):
                break
            rows[alive, step] = drawn
            nodes[alive] += 1
            row = drawn[:, None]
        return rows, nodes

    def _draw_row(self, h: Tensor, uniform: Tensor, count: int) -> Tensor:
        """The first ``count`` entries of a row, the others zero; (B, M)."""
        row = torch.zeros_like(uniform)
        if not self.edge_hidden:
            row[:, :count] = (uniform[:, :count] < h[:, :count].sigmoid()).to(row.dtype)
            return row
        entry, state = row.new_ones(len(row), 1, 1), self._edge_state(h)
        for j in range(count):
            output, state = self.edge(entry, state)
            row[:, j] = (uniform[:, j] < self.edge_output(output[:, 0])[:, 0].sigmoid()).to(row.dtype)
            entry = row[:, j, None, None]
        return row


def masked_bce(logits: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the binary cross-entropy over the valid entries, in nats, and their number."""
    losses = functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (losses * valid).sum(), valid.sum()
