"""Two processes that share rows (FSDP2) or tensors give what one gives, and each other's checkpoints go on.

Started as a user starts them. Tolerance: sums in another order. Measured after six clipped steps of two
micro-batches: 6.6e-8 sharing rows, 1.2e-7 sharing tensors, while the weights move by 3e-3.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CLI, environment, largest_difference, rows

import zoo

pytestmark = pytest.mark.slow
TOLERANCE = 1e-6
TINY = """
model:
  class_path: zoo.CausalLM
  init_args:
    width: 32
    layers: 2
    heads: 4
    kv_heads: 2
    hidden: 64
    context: 64
    optimizer: {class_path: torch.optim.AdamW}
data:
  class_path: datamodules.TextStream
  init_args: {layout: files, context: 64, batch_size: 4, val_share: 0.2, test_share: 0.2}
trainer:
  max_steps: 6
  accumulate_grad_batches: 2
  gradient_clip_val: 0.1
  val_check_interval: 6
  check_val_every_n_epoch: null
  limit_val_batches: 2
  enable_progress_bar: false
  accelerator: cpu
  log_every_n_steps: 1
checkpoint: {every_n_train_steps: 3}
"""
GLOO = "--trainer.strategy.process_group_backend=gloo"
LAYOUTS = {
    "one": [],
    "rows": ["--config=trainer/fsdp", "--trainer.devices=2", GLOO],
    "tensors": ["--config=trainer/tensor_parallel", "--trainer.devices=2", GLOO],
}
SHARDS = "--trainer.strategy.save_distributed_checkpoint=true"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and a folder of short texts of different lengths: ragged rows."""
    home = tmp_path_factory.mktemp("sharded")
    texts = home / "texts"
    texts.mkdir()
    for i in range(60):
        (texts / f"{i:02}.txt").write_text(" ".join(f"word{i * j % 17}" for j in range(3 + 7 * i % 60)))
    (home / "tiny.yaml").write_text(TINY)
    return home


def fit(home: Path, name: str, layout: str, *flags: str) -> Path:
    root = home / name
    command = [sys.executable, str(CLI), "fit", f"--config={home / 'tiny.yaml'}", *LAYOUTS[layout]]
    command += [f"--data.init_args.root={home / 'texts'}", f"--trainer.default_root_dir={root}", *flags]
    result = subprocess.run(
        command, env=environment(), cwd=home, capture_output=True, text=True, timeout=150, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    for part in ("recommended", "deprecated"):
        assert part not in result.stdout + result.stderr
    return root / "tiny" / "version_0"


def saved(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "step=00000006.ckpt", weights_only=True)
    return found


def distance(a: Path, b: Path) -> float:
    x, y = saved(a), saved(b)
    found = [largest_difference(x[k], y[k]) for k in ("state_dict", "optimizer_states", "loops")]
    print(f"{b.parents[1].name}: {found}")
    return max(found)


@pytest.fixture(scope="module")
def one(home: Path) -> Path:
    return fit(home, "one", "one")


@pytest.mark.parametrize("layout", ["rows", "tensors"])
def test_two_processes_train_and_log_what_one_does(home: Path, one: Path, layout: str) -> None:
    two = fit(home, layout, layout)
    assert distance(one, two) <= TOLERANCE
    fresh = saved(one)["state_dict"]
    start = zoo.load(one / "checkpoints" / "step=00000003.ckpt").state_dict()
    assert max(float((fresh[k] - start[k]).abs().max()) for k in fresh if "weight" in k) > 1e-4
    for x, y in zip(rows(one), rows(two), strict=True):
        for key in x:
            assert (x[key] == "") == (y[key] == ""), key
            if x[key]:
                assert float(y[key]) == pytest.approx(float(x[key]), rel=1e-6, abs=1e-6), key


@pytest.mark.parametrize(
    ("before", "after", "shards"),
    [
        ("one", "tensors", False),
        ("tensors", "rows", False),
        ("rows", "tensors", True),
        ("tensors", "one", True),
        ("rows", "rows", True),
    ],
)
def test_a_checkpoint_of_any_layout_goes_on_under_any_other(
    home: Path, one: Path, before: str, after: str, shards: bool
) -> None:
    name = f"{before}_{after}_{shards}"
    first = fit(home, f"{name}_first", before, "--trainer.max_steps=3", *([SHARDS] if shards else []))
    checkpoint = first / "checkpoints" / "step=00000003.ckpt"
    assert checkpoint.is_dir() == shards
    loaded = zoo.load(checkpoint).state_dict()  # also a folder of shards
    assert (
        largest_difference(loaded, zoo.load(one / "checkpoints" / "step=00000003.ckpt").state_dict())
        < TOLERANCE
    )
    assert distance(one, fit(home, name, after, f"--ckpt_path={checkpoint}")) <= TOLERANCE
