"""What the meter costs: its hooks beside a step, the batch whose FLOPs are counted, the start of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.engine.energy.callback import Energy
from zoo.engine.energy.counters import CpuTime
from zoo.nn.flops import FlopCounter


def step_of_digits() -> Callable[[], None]:
    """A training step of dtr_dit_digits at batch 128."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = zoo.load("dtr_dit_digits").network.train()
    optimiser = torch.optim.AdamW(network.parameters())
    x, t, y = torch.randn(128, 1, 8, 8), torch.randint(0, 1000, (128,)), torch.randint(0, 10, (128,))

    def step() -> None:
        optimiser.zero_grad()
        network(x, t, y).square().mean().backward()
        optimiser.step()

    return step


def test_the_meter_beside_a_step(
    tmp_path: Path, request: pytest.FixtureRequest, record: Callable[..., None]
) -> None:
    quick = request.config.getoption("--quick")
    step = step_of_digits()
    energy, module = Energy("cpu_time"), torch.nn.Linear(1, 1)
    facts: dict[str, Any] = {
        "strategy": SimpleNamespace(root_device=torch.device("cpu"), launcher=None),
        "default_root_dir": str(tmp_path),
        "loggers": [],
    }
    facts |= {"local_rank": 0, "world_size": 1, "is_global_zero": True, "global_step": 0, "current_epoch": 0}
    trainer: Any = SimpleNamespace(**facts)
    energy.setup(trainer, module, "fit")
    energy.counted_flops = {"step": 1, "source": "before"}
    energy.on_train_start(trainer, module)

    def hooks() -> None:
        for _ in range(100):
            energy.on_train_batch_start(trainer, module, None, 0)
            energy.on_train_batch_end(trainer, module)

    def epochs() -> None:
        for _ in range(100):
            energy.on_train_epoch_end(trainer, module)

    def rows() -> None:
        for _ in range(100):
            energy._row(trainer)

    source = CpuTime()

    def readings() -> None:
        for _ in range(100):
            source.read()

    sides = {"step": step, "hooks": hooks, "epochs": epochs, "rows": rows, "readings": readings}
    times = interleaved(sides, 2 if quick else 21, clock=time.process_time)
    record("energy/step/milliseconds", 1e3 * median(times, "step"))
    record("energy/hooks-step", ratio(times, "hooks", "step") / 100)
    record("energy/epoch-step", ratio(times, "epochs", "step") / 100)
    record("energy/row-step", ratio(times, "rows", "step") / 100)
    record("energy/reading/microseconds", 1e6 * median(times, "readings") / 100)


def test_the_batch_that_is_counted(request: pytest.FixtureRequest, record: Callable[..., None]) -> None:
    step = step_of_digits()
    counts: list[int] = []

    def counted() -> None:
        with FlopCounter() as counter:
            step()
        counts.append(counter.result().dense)

    quick = request.config.getoption("--quick")
    times = interleaved({"step": step, "counted": counted}, 2 if quick else 15, clock=time.process_time)
    assert len(set(counts)) == 1
    record("energy/counted-step", ratio(times, "counted", "step"))
