"""A VGAE training step of the zoo against PyG's own example loop, on the block model and on Cora.

Encode, draw, sample non-edges, both losses, backward, Adam; the Trainer around it is not measured. PyG's
side is examples/autoencoder.py with ``VGAE``, ``cached=True`` and ``negative_sampling``. Before the clock
starts both sides are given the same weights and must give the same code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import VGAE, GCNConv

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from datamodules import LinkSplit, Planetoid
from zoo.randomness import generator

CORA = Path(os.environ.get("ZOO_DATA", "nowhere")) / "graphs" / "planetoid" / "Cora" / "raw"


class Example(nn.Module):
    """The variational encoder of PyG's example."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = GCNConv(features, 32, cached=True)
        self.conv_mu, self.conv_logstd = GCNConv(32, 16, cached=True), GCNConv(32, 16, cached=True)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x, edge_index).relu()
        return self.conv_mu(x, edge_index), self.conv_logstd(x, edge_index)


def sides(graph: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """(our step, PyG's step), from the same weights."""
    features = graph.x.shape[1]
    module: Any = zoo.LinkPredictor(features=features, model="vgae")
    example = Example(features)
    pyg = VGAE(example)
    first, last = (c.state_dict() for c in module.network.encoder.convs)
    example.conv1.load_state_dict(first)
    example.conv_mu.load_state_dict({k: v[:16] for k, v in last.items()})
    example.conv_logstd.load_state_dict({k: v[16:] for k, v in last.items()})
    pyg.eval()
    torch.testing.assert_close(module.embed(graph), pyg.encode(graph.x, graph.edge_index), rtol=0, atol=1e-5)
    pyg.train()
    ours = torch.optim.Adam(module.network.parameters(), lr=0.01)
    theirs = torch.optim.Adam(pyg.parameters(), lr=0.01)
    steps = iter(range(10**9))

    def zoo_step() -> None:
        patches = {"step_generator": lambda *_: generator(0, next(steps))}
        with (
            mock.patch.multiple("zoo.graphs.link.module", **patches),
            mock.patch.multiple(zoo.LinkPredictor, log=mock.DEFAULT, log_dict=mock.DEFAULT),
        ):
            loss = module.training_step(graph, 0)
        ours.zero_grad()
        loss.backward()
        ours.step()

    def pyg_step() -> None:
        theirs.zero_grad()
        z = pyg.encode(graph.x, graph.edge_index)
        loss = pyg.recon_loss(z, graph.train_edges) + pyg.kl_loss() / len(graph.x)
        loss.backward()
        theirs.step()

    return zoo_step, pyg_step


@pytest.mark.parametrize("name", ["sbm", "cora"])
def test_a_step_against_pygs_example(
    name: str, record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    if name == "cora" and not CORA.is_dir():
        pytest.skip("needs $ZOO_DATA/graphs/planetoid/Cora")
    data = LinkSplit(Planetoid("Cora", normalize_features=False) if name == "cora" else None)
    data.setup("fit")
    zoo_step, pyg_step = sides(data.graph)
    rounds = 3 if request.config.getoption("--quick") else 60
    times = interleaved({"zoo": zoo_step, "pyg": pyg_step}, rounds, warmup=2)
    record(f"{name}/milliseconds", 1000 * median(times, "zoo"))
    record(f"{name}/pyg", ratio(times, "pyg", "zoo"))
