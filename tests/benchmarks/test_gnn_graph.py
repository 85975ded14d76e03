"""Graph classification: an epoch of GIN against PyG's own loader and model, and ECC against PyG's NNConv.

Sides are taken in turns and do the same work on the same batches; what counts is the ratio.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GIN, NNConv, global_add_pool
from torch_geometric.utils import to_undirected

from benchmarks.interleaved import interleaved, ratio
from datamodules import SyntheticGraphs
from zoo.graphs.graph.network import EdgeConditionedConv, GraphNetwork

Record = Callable[[str, float], None]


def test_an_epoch_against_pygs_loop(record: Record, request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    data = SyntheticGraphs(graphs=80 if quick else 600)
    data.setup("fit")
    index = data.train_set.index
    each = data.store.batch(index).to_data_list()
    torch.manual_seed(0)
    ours = GraphNetwork("gin", 1, 4, 64, 5, "sum", layers="last", dropout=0.0)
    theirs = nn.ModuleDict({"encoder": GIN(1, 64, 5, jk=None), "head": nn.Linear(64, 4)})
    losses: dict[str, float] = {}

    def pyg_scores(batch: object) -> torch.Tensor:
        x = theirs["encoder"](batch.x, batch.edge_index).relu()  # type: ignore[attr-defined]
        return theirs["head"](global_add_pool(x, batch.batch, batch.num_graphs))  # type: ignore[attr-defined]

    def epoch(name: str, batches: object, network: nn.Module, scores: Callable[..., torch.Tensor]) -> None:
        optimizer, total, last = torch.optim.SGD(network.parameters(), lr=1e-4), 0.0, 0
        for batch in batches:  # type: ignore[attr-defined]
            loss = nn.functional.cross_entropy(scores(batch), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, last = total + float(loss.detach()), last + 1
        losses[name] = total / last

    def start() -> None:
        encoder = ours.encoder.nodes.state_dict()
        theirs["encoder"].load_state_dict(encoder)
        theirs["head"].load_state_dict(ours.head[1].state_dict())

    start()
    chunks = [index[i : i + 32] for i in range(0, len(index), 32)]
    sides = {
        "zoo": lambda: epoch(
            "zoo",
            (data.store.batch(c) for c in chunks),
            ours,
            lambda b: ours(b.x, b.edge_index, b.batch, b.num_graphs),
        ),
        "pyg": lambda: epoch("pyg", DataLoader(each, batch_size=32), theirs, pyg_scores),
        "zoo_batches": lambda: [data.store.batch(c) for c in chunks],
        "pyg_batches": lambda: list(DataLoader(each, batch_size=32)),
    }
    times = interleaved(sides, 1 if quick else 9)
    record("gnn_graph/epoch_ratio", ratio(times, "pyg", "zoo"))
    record("gnn_graph/batches_ratio", ratio(times, "pyg_batches", "zoo_batches"))
    # as many epochs of the same batches from the same weights: the same losses
    assert losses["zoo"] == pytest.approx(losses["pyg"], rel=1e-3)


def test_edge_conditioned_convolution_against_pygs(record: Record, request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    nodes, width = (100, 16) if quick else (1000, 64)
    torch.manual_seed(0)
    edges = to_undirected(torch.randint(nodes, (2, 2 * nodes)))
    x, attr = torch.randn(nodes, width, requires_grad=True), torch.randn(edges.shape[1], 4)
    ours = EdgeConditionedConv(width, width, 4)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, width * width))
    theirs = NNConv(width, width, network, aggr="mean")
    theirs.load_state_dict(ours.state_dict())
    found = {}

    def side(name: str, conv: nn.Module) -> Callable[[], None]:
        def run() -> None:
            out = conv(x, edges, attr)
            out.sum().backward()
            found[name] = out.detach()

        return run

    times = interleaved({"zoo": side("zoo", ours), "pyg": side("pyg", theirs)}, 1 if quick else 9)
    record("gnn_graph/ecc_ratio", ratio(times, "pyg", "zoo"))
    assert torch.allclose(found["zoo"], found["pyg"], atol=1e-3)
