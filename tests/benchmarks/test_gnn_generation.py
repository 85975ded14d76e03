"""Graph generation: a batched training step against a loop over graphs, and batched against single sampling.

Both sides of a row do the same work: the same gradient, the same graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.interleaved import interleaved, median, ratio
from datamodules import GraphSet
from zoo import GraphGenerator
from zoo.graphs.generation.graphrnn import GraphRNN, masked_bce, sequences

ARCHS = ("graphrnn_s", "graphrnn")


def step(network: GraphRNN, adjacency: torch.Tensor, nodes: torch.Tensor, size: int = 0) -> torch.Tensor:
    """One backward pass; ``size`` is the number of valid entries of the whole batch."""
    parts = sequences(adjacency, nodes, network.bandwidth)
    total, count = masked_bce(network(*parts), parts.targets, parts.valid)
    (total / (size or count)).backward()
    return count


def gradient(network: GraphRNN) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("arch", ARCHS)
def test_training_step(
    arch: str, record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    data = GraphSet("community_small", bfs_draws=0)
    data.setup("fit")
    batch = data.sets["train"].__getitems__([(0, i) for i in range(4 if quick else 32)])
    torch.manual_seed(0)
    network = GraphRNN(18, 64, 32, 2, 16 if arch == "graphrnn" else 0)
    graphs = [
        (a[None, :n, :n], torch.tensor([n]))
        for a, n in zip(batch["adjacency"], batch["nodes"].tolist(), strict=True)
    ]
    size = int(sequences(batch["adjacency"], batch["nodes"], 18).valid.sum())

    def batched() -> None:
        network.zero_grad()
        step(network, batch["adjacency"], batch["nodes"])

    def loop() -> None:
        network.zero_grad()
        for adjacency, nodes in graphs:
            step(network, adjacency, nodes, size)

    batched()
    expected = gradient(network).clone()
    loop()
    assert torch.allclose(gradient(network), expected, atol=1e-5)
    times = interleaved({"batched": batched, "loop": loop}, 2 if quick else 9)
    record(f"{arch}/step/milliseconds", 1000 * median(times, "batched"))
    record(f"{arch}/step/loop", ratio(times, "loop", "batched"))


@pytest.mark.parametrize("arch", ARCHS)
def test_sampling(arch: str, record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    count = 4 if quick else 64
    torch.manual_seed(0)
    module = GraphGenerator(
        arch=arch,  # type: ignore[arg-type]
        max_nodes=20,
        bandwidth=18,
        hidden=64,
        embedding=32,
        num_layers=2,
    )

    def batched() -> torch.Tensor:
        return module.sample(count)[0]

    def single() -> torch.Tensor:
        return torch.cat([module.sample([i])[0] for i in range(count)])

    assert torch.equal(batched(), single())
    times = interleaved({"batched": batched, "single": single}, 1 if quick else 5)
    record(f"{arch}/sampling/graphs-per-second", count / median(times, "batched"))
    record(f"{arch}/sampling/single", ratio(times, "single", "batched"))
