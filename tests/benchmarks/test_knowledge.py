"""Filtered ranks of the zoo against the loops of torch-geometric's ComplEx, on UMLS.

torch-geometric's ``test`` goes through the triples one by one, scores all entities as tails and does not
filter; its loss takes one corrupted triple for each. Before the clock starts both sides are given the same
weights, and the unfiltered ranks must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch_geometric.nn.kge import ComplEx

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from datamodules import KnowledgeGraph
from zoo.knowledge.scores import filtered_ranks


def test_ranks_and_a_step_against_pyg(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    data = KnowledgeGraph()
    data.setup("fit")
    module: Any = zoo.KGEmbedding()
    theirs = ComplEx(num_nodes=135, num_relations=92, hidden_channels=128)
    with torch.no_grad():
        e, r = module.network.entity.weight, module.network.relation.weight
        theirs.node_emb.weight.copy_(e[:, :128])
        theirs.node_emb_im.weight.copy_(e[:, 128:])
        theirs.rel_emb.weight.copy_(r[:, :128])
        theirs.rel_emb_im.weight.copy_(r[:, 128:])
    rows = data.test_set.rows[::2]  # tails, as theirs
    head, relation, tail = (torch.from_numpy(rows[:, i].copy()) for i in range(3))
    nothing = torch.zeros(len(head), 135, dtype=torch.bool)
    known = data.test_set.known.mask(rows[:, 0], rows[:, 1])

    def ranks(mask: Tensor) -> Tensor:
        with torch.no_grad():
            return filtered_ranks(module(head, relation), tail, mask)

    def pyg_ranks() -> Any:
        return theirs.test(head, relation, tail, batch_size=4096, log=False)

    mean_rank, *_ = pyg_ranks()
    assert float(ranks(nothing).mean()) - 1 == pytest.approx(mean_rank, abs=0.01)  # theirs begins at 0

    optimizers = {
        name: torch.optim.Adam(m.parameters(), 0.01) for name, m in (("zoo", module), ("pyg", theirs))
    }
    batch = data.train_set.__getitems__([(0, i) for i in range(256)])

    def step(name: str, loss: Callable[[], Tensor]) -> None:
        optimizers[name].zero_grad()
        loss().backward()
        optimizers[name].step()

    def zoo_step() -> None:
        with mock.patch.multiple(zoo.KGEmbedding, log=mock.DEFAULT):
            step("zoo", lambda: module.training_step(batch, 0))

    def pyg_step() -> None:
        step("pyg", lambda: theirs.loss(batch["head"], batch["relation"], batch["tail"]))

    rounds = 2 if request.config.getoption("--quick") else 20
    times = interleaved({"zoo": lambda: ranks(known), "pyg": pyg_ranks}, rounds, warmup=2)
    record("ranks/milliseconds", 1000 * median(times, "zoo"))
    record("ranks/pyg", ratio(times, "pyg", "zoo"))
    times = interleaved({"zoo": zoo_step, "pyg": pyg_step}, rounds, warmup=2)
    record("step/milliseconds", 1000 * median(times, "zoo"))
    record("step/pyg", ratio(times, "pyg", "zoo"))
