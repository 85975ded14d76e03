"""What is refused in several processes, each in one line that says what to set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zoo.nn.parallel import (
    FSDP2,
    predict_in_one_process,
    refuse_processes,
    refuse_sharding,
    refuse_whole_graph_in_parts,
)


class LDS:
    def __init__(self, **trainer: Any) -> None:
        self.trainer = SimpleNamespace(**{"world_size": 1, "accumulate_grad_batches": 1, **trainer})


@pytest.mark.parametrize(("refusal", "trainer", "text"), [
    (refuse_sharding, {"strategy": FSDP2()}, "zoo.LDS is not sharded: use trainer/ddp, not trainer/fsdp"),
    (lambda m: refuse_processes(m, "fits one model", "; wait"), {"world_size": 3},
     "zoo.LDS fits one model: 3 processes would do the same work; set trainer.devices: 1 and "
     "trainer.num_nodes: 1; wait"),
    (refuse_whole_graph_in_parts, {"accumulate_grad_batches": 2},
     "zoo.LDS makes one optimiser step per batch, which is the whole graph; set "
     "trainer.accumulate_grad_batches: 1"),
    (lambda m: predict_in_one_process(m, "predict"), {"world_size": 2},
     "zoo.LDS draws its predictions in one picture: set trainer.devices: 1 for predict"),
])  # fmt: skip
def test_refusals_are_one_line(refusal: Any, trainer: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        refusal(LDS(**trainer))
    assert str(caught.value) == text
    refusal(LDS(strategy=None))
    predict_in_one_process(LDS(world_size=2), "test")  # type: ignore[arg-type]
