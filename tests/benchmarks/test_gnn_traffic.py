"""A training step of DCRNN, STGCN and Graph WaveNet against the naive versions, with the same weights.

Naive DCRNN: as the popular PyTorch port, one diffusion after the other, of [x, h] for the gates and again
for the candidate, supports sparse. Naive STGCN: the port's graph convolution, the Chebyshev recursion on all
channels before the weights, by einsum.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.interleaved import interleaved, ratio
from zoo.graphs.traffic.dcrnn import DCRNN, DiffusionGRU
from zoo.graphs.traffic.stgcn import STGCN, GraphConvolution
from zoo.graphs.traffic.supports import transition


def graph(nodes: int) -> Tensor:
    """Directed, about eight edges a sensor, as METR-LA."""
    random = torch.Generator().manual_seed(0)
    weights = torch.rand(nodes, nodes, generator=random)
    return weights * (torch.rand(nodes, nodes, generator=random) < 8 / nodes) + torch.eye(nodes)


def joint(cell: DiffusionGRU, terms: int) -> tuple[Tensor, Tensor]:
    """The weights of [x, h] side by side."""
    hidden = cell.hidden
    of_x = cell.input_weight.view(terms, -1, 3 * hidden)
    of_h = [cell.gate_weight.view(terms, hidden, -1), cell.candidate_weight.view(terms, hidden, -1)]
    parts = (of_x[..., : 2 * hidden], of_x[..., 2 * hidden :])
    gates, candidate = (torch.cat([x, h], 1).flatten(0, 1) for x, h in zip(parts, of_h, strict=True))
    return gates, candidate


class NaiveDCRNN(nn.Module):
    """The loops of the port over the weights of ``network``."""

    def __init__(self, network: DCRNN, adjacency: Tensor) -> None:
        super().__init__()
        self.network = network
        self.walks = [transition(a).to_sparse() for a in (adjacency, adjacency.T)]

    def convolution(self, x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
        """x, h (B, N, C)."""
        both = torch.cat([x, h], dim=2)
        batch, nodes, channels = both.shape
        first = both.permute(1, 2, 0).reshape(nodes, channels * batch)
        terms = [first]
        for walk in self.walks:
            term = first
            for _ in range(self.network.order):
                term = torch.sparse.mm(walk, term)
                terms.append(term)
        stacked = torch.stack(terms).view(len(terms), nodes, channels, batch)
        return stacked.permute(3, 1, 0, 2).reshape(batch * nodes, -1) @ weight

    def cell(self, cell: DiffusionGRU, x: Tensor, h: Tensor) -> Tensor:
        hidden = cell.hidden
        gates, candidate = joint(cell, 1 + 2 * self.network.order)
        shape = (*h.shape[:2], -1)
        z = torch.sigmoid(self.convolution(x, h, gates) + cell.bias[: 2 * hidden]).view(shape)
        r, u = z.chunk(2, dim=-1)
        c = torch.tanh(self.convolution(x, r * h, candidate) + cell.bias[2 * hidden :]).view(shape)
        return u * h + (1 - u) * c

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        h = [x.new_zeros(len(x), x.shape[2], c.hidden) for c in network.encoder]  # type: ignore[misc]

        def step(cells: nn.ModuleList, signal: Tensor) -> Tensor:
            for i, cell in enumerate(cells):
                h[i] = signal = self.cell(cell, signal, h[i])  # type: ignore[arg-type]
            return signal

        for frame in x.unbind(1):
            step(network.encoder, frame)
        signal, out = x.new_zeros(len(x), x.shape[2], 1), []
        for _ in range(network.outputs):
            signal = network.projection(step(network.decoder, signal))
            out.append(signal[..., 0])
        return torch.stack(out, dim=1)


def naive_graph_convolution(layer: GraphConvolution, x: Tensor, support: Tensor) -> Tensor:
    """The port's: the Chebyshev terms of x', then the weights, both by einsum."""
    x = layer.align(x)
    frames = x.permute(0, 2, 3, 1)
    terms = [frames, torch.einsum("hi,btij->bthj", support, frames)]
    for _ in range(2, len(layer.cheb_graph_conv.weight)):
        terms.append(torch.einsum("hi,btij->bthj", 2 * support, terms[-1]) - terms[-2])
    stacked = torch.stack(terms, dim=2)
    y = torch.einsum("btkhi,kij->bthj", stacked, layer.cheb_graph_conv.weight) + layer.cheb_graph_conv.bias
    return y.permute(0, 3, 1, 2) + x


def step_of(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    return lambda: forward(x).square().mean().backward()


def test_dcrnn_step(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    nodes, batch, hidden = (12, 4, 8) if quick else (207, 16, 64)
    adjacency = graph(nodes)
    network = DCRNN(nodes, hidden=hidden)
    network.set_graph(adjacency)
    naive = NaiveDCRNN(network, adjacency)
    x = torch.randn(batch, 12, nodes, 2)
    with torch.no_grad():
        assert torch.allclose(network(x), naive(x), atol=1e-5)
    sides = {"ours": step_of(network, x), "naive": step_of(naive, x)}
    record("dcrnn/naive_over_ours", ratio(interleaved(sides, rounds=1 if quick else 3), "naive", "ours"))


def test_stgcn_graph_convolution_step(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    nodes, batch = (12, 4) if quick else (207, 50)
    network = STGCN(nodes)
    network.set_graph(graph(nodes))
    layer = network.st_blocks[0].graph_conv
    assert isinstance(layer, GraphConvolution)
    x = torch.randn(batch, 64, 10, nodes)
    with torch.no_grad():
        assert torch.allclose(
            layer(x, network.supports), naive_graph_convolution(layer, x, network.supports[1]), atol=1e-4
        )
    sides = {
        "ours": step_of(lambda v: layer(v, network.supports), x),
        "naive": step_of(lambda v: naive_graph_convolution(layer, v, network.supports[1]), x),
    }
    times = interleaved(sides, rounds=1 if quick else 9)
    record("stgcn_graph_convolution/naive_over_ours", ratio(times, "naive", "ours"))
