"""D-MPNN's sums by index against the straightforward loop over edge_index, on molecules of ESOL.

Forward and backward of the backbone, 300 wide, 3 steps, batch 50. The loop goes over the directed bonds, as
the equations read, with torch's operations inside; both sides are compared first.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.interleaved import interleaved, median, ratio
from datamodules import MoleculeNet
from zoo.molecules.graph.features import GraphBatch
from zoo.molecules.graph.featurised import graphs_of
from zoo.molecules.graph.network import DMPNN


def loop(model: DMPNN, graph: GraphBatch) -> Tensor:
    """The same states, bond by bond."""
    bonds = list(zip(*graph.edge_index.tolist(), strict=True))
    into: dict[int, list[int]] = {}
    for number, (_, w) in enumerate(bonds):
        into.setdefault(w, []).append(number)
    first = [model.W_i(torch.cat([graph.x[v], graph.edge_attr[e]])) for e, (v, _) in enumerate(bonds)]
    h = [value.relu() for value in first]
    nothing = torch.zeros(model.W_h.in_features)
    for _ in range(1, model.depth):
        messages = [sum((h[k] for k in into.get(v, ()) if bonds[k][0] != w), nothing) for v, w in bonds]
        h = [(first[e] + model.W_h(m)).relu() for e, m in enumerate(messages)]
    arriving = [sum((h[k] for k in into.get(v, ())), nothing) for v in range(len(graph.x))]
    return torch.stack([model.W_o(torch.cat([x, m])).relu() for x, m in zip(graph.x, arriving, strict=True)])


def test_molecules_a_second(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    quick = request.config.getoption("--quick")
    data = MoleculeNet("esol", batch_size=50)
    data.setup("fit")
    smiles = data.train_smiles[: 5 if quick else 50]
    torch.manual_seed(0)
    model = DMPNN(72, 300, 3, 0.0)
    graph = graphs_of(smiles, "v2", True)
    assert torch.allclose(model(graph), loop(model, graph), atol=1e-5)

    def step(states: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            states().sum().backward()

        return run

    sides = {"ours": step(lambda: model(graph)), "loop": step(lambda: loop(model, graph))}
    times = interleaved(sides, 2 if quick else 9)
    record("dmpnn/molecules_per_second", len(smiles) / median(times, "ours"))
    record("dmpnn/loop_over_ours", ratio(times, "loop", "ours"))
