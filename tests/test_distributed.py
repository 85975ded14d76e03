"""Two processes give what one gives: DDP and FSDP2 over gloo on a CPU, started as a user starts them.

Tolerance: the gradient of a batch is summed in another order when two processes hold a half each, so float32
values differ in their last bits. Measured after 12 steps, DDP and FSDP2 alike: weights 1.1e-7, averaged
weights 7.5e-8, optimiser 3.0e-8.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import TINY, differences, fit, newest, newest_checkpoint

import cli
import zoo

CLI = Path(cli.__file__).resolve()
TOLERANCE = 1e-6
# A short warm-up and a fast average, so that weights, averages and log-variances have moved by 1e-2 and more.
FLAGS = (
    "--trainer.accelerator=cpu",
    "--model.init_args.lr_scheduler.init_args.warmup_steps=2",
    "--ema.decay=0.5",
    "--checkpoint.every_n_train_steps=4",
)
STEPS = "--trainer.max_steps=12"  # past the end of the first epoch, which has 10 batches
TWO = "--trainer.devices=2"
SECONDS = 150


def environment() -> dict[str, str]:
    """This process's, without what Lightning left in it."""
    stale = ("PL_", "ZOO_", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(stale)}
    path = os.pathsep.join([str(CLI.parent), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def command(verb: str, root: Path, *flags: str) -> list[str]:
    return [str(CLI), verb, *TINY, *FLAGS, f"--trainer.default_root_dir={root}", *flags]


def launch(verb: str, root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """``python cli.py VERB ...``, which starts the second process itself."""
    root.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, *command(verb, root, *flags)],
        env=environment(),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def launched(verb: str, root: Path, *flags: str) -> str:
    result = launch(verb, root, *flags)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


def content(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    return saved


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference between the tensors of two nested values of equal structure."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((largest_difference(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return max((largest_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    assert a == b
    return 0.0


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process."""
    return fit(tmp_path_factory.mktemp("one"), *FLAGS, STEPS)


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes."""
    root = tmp_path_factory.mktemp(request.param)
    output = launched("fit", root, f"--config=trainer/{request.param}", TWO, STEPS)
    assert "effective batch 128 (64 per device), 2 x cpu" in output
    assert output.count("zoo: fit ") == 1
    assert "Warning" not in output
    assert "deprecated" not in output
    assert "recommended" not in output
    return newest(root)


def test_two_processes_train_what_one_trains(one: Path, two: Path) -> None:
    a, b = content(one), content(two)
    assert a["global_step"] == b["global_step"] == 12
    for what, x, y in (
        ("weights", a["state_dict"], b["state_dict"]),
        ("averaged weights", a["callbacks"]["EMA"]["shadow"], b["callbacks"]["EMA"]["shadow"]),
        ("optimiser", a["optimizer_states"], b["optimizer_states"]),
        ("schedule", a["lr_schedulers"], b["lr_schedulers"]),
        ("progress", a["loops"], b["loops"]),
    ):
        distance = largest_difference(x, y)
        print(f"{two.parents[1].name}: {what} {distance:.1e}")
        assert distance <= TOLERANCE, what
    name = "uncertainty.log_variances"
    assert a["state_dict"][name].abs().min() > 1e-3
    moved = a["state_dict"]["network.blocks.0.attn.qkv.weight"]
    assert (moved - a["callbacks"]["EMA"]["shadow"]["network.blocks.0.attn.qkv.weight"]).abs().max() > 1e-4


def test_two_processes_log_what_one_logs(one: Path, two: Path) -> None:
    a, b = rows(one), rows(two)
    assert [list(row) for row in a] == [list(row) for row in b]
    assert sum(row["val/mse"] != "" for row in a) == 2
    for x, y in zip(a, b, strict=True):
        for key in x:
            assert (x[key] == "") == (y[key] == "")
            if x[key]:
                assert float(y[key]) == pytest.approx(float(x[key]), rel=1e-6, abs=1e-6), key


def test_ranks_have_random_states_of_their_own(two: Path) -> None:
    ranks = content(two)["callbacks"]["ResumableRandomness"]["ranks"]
    assert len(ranks) == 2
    for kind in ("torch", "numpy", "python"):
        assert differences(ranks[0][kind], ranks[1][kind]), kind


def test_two_processes_use_one_folder(one: Path, two: Path) -> None:
    assert [p.name for p in two.parent.iterdir()] == ["version_0"]
    files = {p.relative_to(two).as_posix() for p in two.rglob("*") if p.is_file()}
    alone = {p.relative_to(one).as_posix() for p in one.rglob("*") if p.is_file()}
    assert files == alone | {"curves.png"}


def test_the_checkpoint_of_two_processes_loads_in_one(two: Path) -> None:
    model = zoo.load(newest_checkpoint(two))
    shadow = content(two)["callbacks"]["EMA"]["shadow"]
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in shadow.items())
