"""Graph WaveNet (Wu et al., IJCAI 2019): dilated gated convolutions and graph convolutions with a learned
graph.

Signals are (N, B, T, C): a graph convolution is one matrix product over the nodes, a dilated convolution of
kernel 2 one over the channels of two frames side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.graphs.traffic.supports import transition
from zoo.nn.batch_norm import GlobalBatchNorm1d


class Layer(nn.Module):
    """tanh(filter) * sigmoid(gate), then the graph convolution, residual and batch norm.

    Args:
        channels: of the residual path.
        dilation: frames between the two taps.
        skip: channels of the skip path.
        matrices: number of powers of supports, the identity among them; None leaves out the graph
            convolution. Nothing reads it after the last layer, whose skip is taken before.
        dropout: after the graph convolution.
    """

    def __init__(self, channels: int, dilation: int, skip: int, matrices: int | None, dropout: float) -> None:
        super().__init__()
        self.dilation, self.dropout = dilation, dropout
        self.taps = nn.Linear(2 * channels, 2 * channels)  # of [x_{t - d}, x_t]: filter, gate
        self.skip = nn.Linear(channels, skip)
        if matrices is not None:
            self.graph = nn.Linear(matrices * channels, channels)
            self.norm = GlobalBatchNorm1d(channels)

    def gated(self, x: Tensor) -> Tensor:
        """(N, B, T, C) -> (N, B, T - dilation, C)."""
        pair = torch.cat([x[:, :, : -self.dilation], x[:, :, self.dilation :]], dim=-1)
        filtered, gate = self.taps(pair).chunk(2, dim=-1)
        return torch.tanh(filtered) * torch.sigmoid(gate)

    def spread(self, y: Tensor, residual: Tensor, supports: Tensor, order: int) -> Tensor:
        """Graph convolution of the gated signal over powers 0..order of each support, plus the residual."""
        nodes, *rest = y.shape
        flat = y.reshape(nodes, -1)
        powers, last = [y], flat.expand(len(supports), -1, -1)
        for _ in range(order):
            last = torch.bmm(supports, last)
            powers += [p.view(nodes, *rest) for p in last]
        out = functional.dropout(self.graph(torch.cat(powers, dim=-1)), self.dropout, self.training)
        out = out + residual[:, :, -out.shape[2] :]
        return self.norm(out.flatten(0, 2)).view_as(out)


class GraphWaveNet(nn.Module):
    """Eight layers of dilations 1, 2, 1, 2, ...; predicts all steps at once.

    Z = sum_k P_f^k X W_k1 + P_b^k X W_k2 + A^k X W_k3 with A = softmax(relu(E_1 E_2^T)), the identity once.
    The released code multiplies by the transposed matrices and keeps weights that nothing reads (309,400 for
    METR-LA; 8 residual convolutions and the last graph convolution with its norm are 15,712 of them).

    Args:
        num_nodes: N, to which the node embeddings belong.
        outputs: steps of the forecast.
        channels: of the input.
        hidden: channels of the residual path.
        skip: channels of the skip path.
        end: channels before the output.
        dilations: one layer each.
        order: powers of each support.
        embedding: size of E_1 and E_2; 0 has no learned graph.
        dropout: after each graph convolution.
    """

    supports: Tensor

    def __init__(
        self,
        num_nodes: int,
        outputs: int = 12,
        channels: int = 2,
        hidden: int = 32,
        skip: int = 256,
        end: int = 512,
        dilations: Sequence[int] = (1, 2) * 4,
        order: int = 2,
        embedding: int = 10,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.order, self.receptive_field = order, 1 + sum(dilations)
        if embedding:
            self.source = nn.Parameter(torch.randn(num_nodes, embedding))
            self.target = nn.Parameter(torch.randn(num_nodes, embedding))
        self.embedding = embedding
        self.start = nn.Linear(channels, hidden)
        matrices = 1 + order * (3 if embedding else 2)
        last = len(dilations) - 1
        self.layers = nn.ModuleList(
            Layer(hidden, d, skip, None if i == last else matrices, dropout) for i, d in enumerate(dilations)
        )
        self.end = nn.Sequential(nn.ReLU(), nn.Linear(skip, end), nn.ReLU(), nn.Linear(end, outputs))
        self.register_buffer("supports", torch.zeros(2, num_nodes, num_nodes))

    def set_graph(self, adjacency: Tensor) -> None:
        """Take the graph (N, N) with [i, j] the weight of i -> j."""
        self.supports.copy_(torch.stack([transition(adjacency), transition(adjacency.T)]))

    def adaptive(self) -> Tensor:
        """The learned graph, rows sum to 1; (N, N)."""
        return torch.softmax((self.source @ self.target.T).relu(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, lags, N, C) -> (B, outputs, N)."""
        missing = self.receptive_field - x.shape[1]
        x = x.permute(2, 0, 1, 3)  # (N, B, T, C)
        if missing > 0:
            x = functional.pad(x, (0, 0, missing, 0))
        supports = torch.cat([self.supports, self.adaptive()[None]]) if self.embedding else self.supports
        x = self.start(x)
        skip: Tensor | float = 0.0
        for layer in self.layers:
            y = layer.gated(x)  # type: ignore[operator]
            skip = skip + layer.skip(y[:, :, -1])  # type: ignore[operator]
            if layer is not self.layers[-1]:
                x = layer.spread(y, x, supports, self.order)  # type: ignore[operator]
        return self.end(skip).permute(1, 2, 0)
