"""How fast latents are read: full-size items in random order, files in the page cache.

    pytest tests/benchmarks/test_latent_loading.py -s [--manifest docs/results/latents.json]

``per_cpu_second`` counts the processor time of one process without loader workers, which other programs on
the machine do not change much; ``per_second`` is the clock. No test here fails for being slow.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.latents import fake_latents

from datamodules.latents import LAYOUTS, ImageNetLatents, open_latents

ITEMS, BATCH, BATCHES = 4096, 256, 24
Record = Callable[[str, float], None]


def measure(read: Callable[[list[tuple[int, int]]], object], items: int) -> tuple[float, float]:
    """Items per second of processor time and of the clock, best of three passes of BATCHES batches."""
    batch = min(BATCH, items)
    order = torch.randperm(items * (BATCHES * batch // items + 1)) % items
    keys = [[(e, int(i)) for i in order[e * batch : (e + 1) * batch]] for e in range(BATCHES)]
    read(keys[0])
    cpu, clock = [], []
    for _ in range(3):
        start, started = time.process_time(), time.perf_counter()
        for batch_keys in keys:
            read(batch_keys)
        cpu.append(time.process_time() - start)
        clock.append(time.perf_counter() - started)
    return BATCHES * batch / min(cpu), BATCHES * batch / min(clock)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout: str, tmp_path: Path, record: Record) -> None:
    root = fake_latents(tmp_path / layout, layout, ITEMS, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = open_latents(root, layout)  # type: ignore[arg-type]
    cpu, clock = measure(data.__getitems__, ITEMS)
    record(f"{layout}/per_cpu_second", cpu)
    record(f"{layout}/per_second", clock)


def test_packed_draws(tmp_path: Path, record: Record) -> None:
    """Without moments: no noise to make."""
    data = open_latents(fake_latents(tmp_path / "x", "packed", ITEMS, 32, moments=False), "packed")
    cpu, clock = measure(data.__getitems__, ITEMS)
    record("packed_draws/per_cpu_second", cpu)
    record("packed_draws/per_second", clock)


def test_training_loader(tmp_path: Path, record: Record) -> None:
    """The loader of ``zoo fit`` with two workers, three epochs."""
    root = fake_latents(tmp_path / "x", "packed", ITEMS, 32)
    data = ImageNetLatents(root=str(root), batch_size=BATCH, num_workers=2)
    data.setup("fit")
    loader = data.train_dataloader()
    list(loader)
    start = time.perf_counter()
    count = sum(len(batch["label"]) for _ in range(3) for batch in loader)
    record("loader_2_workers/per_second", count / (time.perf_counter() - start))
