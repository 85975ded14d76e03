"""Two processes give what one gives: DDP and FSDP2 over gloo on a CPU, started as a user starts them.

Tolerance: the gradient of a batch is summed in another order when two processes hold a half each, so float32
values differ in their last bits. Measured after 12 steps, DDP and FSDP2 alike: weights 1.1e-7, averaged
weights 7.5e-8, optimiser 3.0e-8.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covering import covering
from interruption import TINY, differences, fit, newest, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference, rows

import cli
import zoo

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


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process."""
    return fit(tmp_path_factory.mktemp("one"), *FLAGS, STEPS)


@pytest.fixture(scope="module", params=covering(["ddp", "fsdp"], ["ddp"]))
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes."""
    root = tmp_path_factory.mktemp(request.param)
    # watts of the machine, which one of its processes counts
    idle = ("--energy.source=cpu_time", "--energy.watts_per_core=0", "--energy.idle_watts=100")
    output = launched("fit", root, f"--config=trainer/{request.param}", TWO, STEPS, *idle)
    assert "effective batch 128 (64 per device), 2 x cpu" in output
    assert output.count("zoo: fit ") == 1
    for part in ("Warning", "deprecated", "recommended"):
        assert part not in output
    return newest(root)


def test_two_processes_count_the_flops_of_one_and_their_machine_once(one: Path, two: Path) -> None:
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    assert a["flops"]["step"] == b["flops"]["step"] > 0
    assert b["energy"]["joules"] == pytest.approx(100 * b["energy"]["seconds"], rel=0.02)


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
    assert ([list(row) for row in a], sum(row["val/mse"] != "" for row in a)) == ([list(row) for row in b], 2)
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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_processes_go_on_to_the_bit(strategy: str, tmp_path: Path) -> None:
    flags = (f"--config=trainer/{strategy}", TWO, "--trainer.max_steps=60")
    launched("fit", tmp_path / "calm", *flags)

    killed = tmp_path / "killed"
    killed.mkdir()
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command("fit", killed, *flags)],
            env=environment(),
            cwd=killed,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + SECONDS
        while not list(killed.rglob("step=00000008.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)  # both: the second process is in the group of the first
        process.wait()
    died_at = int(newest_checkpoint(newest(killed)).stem.removeprefix("step="))
    assert 8 <= died_at < 60

    output_text = launched("fit", killed, *flags, "--ckpt_path=last")
    assert f"resumed at step {died_at}" in output_text
    assert newest(killed).name == "version_0"
    assert run_differences(newest(tmp_path / "calm"), newest(killed)) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_evaluate_and_sample_what_one_does(strategy: str, one: Path, tmp_path: Path) -> None:
    # 99 images in batches of 32 leave 3 for the last: two on one process, one on the other
    flags = [f"--ckpt_path={newest_checkpoint(one)}", "--data.init_args.test_passes=1"]
    flags += ["--data.init_args.eval_batch_size=32", "--data.init_args.predict_samples=99"]
    flags += ["--model.init_args.sampling_steps=10", "--model.init_args.clip_denoised=false"]
    places = ("alone", "shared")
    for verb in ("predict", "test"):
        assert cli.main(command(verb, tmp_path / "alone" / verb, *flags)[1:]) == 0
        launched(verb, tmp_path / "shared" / verb, *flags, f"--config=trainer/{strategy}", TWO)

    images = [np.load(newest(tmp_path / p / "predict") / "predictions" / "samples.npz") for p in places]
    assert np.array_equal(images[0]["arr_1"], images[1]["arr_1"])
    distance = np.abs(images[0]["arr_0"].astype(int) - images[1]["arr_0"].astype(int))
    print(f"{strategy}: images differ by {distance.max()} in {np.mean(distance > 0):.1e} of the pixels")
    assert len(images[0]["arr_0"]) == 99
    assert distance.max() <= 1  # a sample at the edge between two grey levels
    assert np.mean(distance > 0) < 1e-3
    metrics = [json.loads((newest(tmp_path / p / "test") / "summary_test.json").read_text()) for p in places]
    alone, shared = (m["final"] for m in metrics)
    print(strategy, alone, shared)
    assert {"test/mse", "test/frechet_distance", "test/class_accuracy"} <= set(alone)
    assert shared == pytest.approx(alone, rel=1e-5)
    for place in places:
        for verb in ("predict", "test"):
            assert newest(tmp_path / place / verb).name == "version_0"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_batch_that_the_devices_cannot_share_is_one_line(strategy: str, tmp_path: Path) -> None:
    uneven = ("--data.init_args.batch_size=129", "--model.init_args.loss_weight=constant")
    result = launch("fit", tmp_path, f"--config=trainer/{strategy}", TWO, *uneven, STEPS)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("zoo: error: data.init_args.batch_size is global and must be a positive mult")
    assert not list(tmp_path.rglob("*.ckpt"))


SKIPPING = """
from dataclasses import dataclass

import torch
from lightning import LightningModule

from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.sampling import batch_keys


class Items(BatchItems):
    def __len__(self):
        return 8

    def __getitems__(self, keys):
        index = [int(i) for i in batch_keys(keys)[1]]
        bad = [i for i in index if i % 8 in BAD]
        batch = {"x": torch.tensor([i for i in index if i not in bad])}
        return {**batch, "skipped": [f"item {i} is damaged" for i in bad]} if bad else batch


class Data(SplitModule):
    def __init__(self):
        super().__init__(batch_size=4, eval_batch_size=4)

    def setup(self, stage):
        self.test_set = Items()


@dataclass
class Nothing:
    def write(self, folder):
        return []


class Model(LightningModule):
    def predict_step(self, batch, batch_idx):
        return Nothing()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "said"), [
    ("{2, 3, 5}", "3 of 8 items cannot be read and are skipped: "),
    ("{3}", "1 of 8 items cannot be read and are skipped: item 3 is damaged"),
    ("range(8)", "none of the 8 items can be read: "),
])  # fmt: skip
def test_what_two_processes_skip_is_counted_together_and_told_once(
    bad: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "skipping.py").write_text(f"BAD = {bad}\n{SKIPPING}")
    flags = ["--model=skipping.Model", "--data=skipping.Data", "--weights=none", "--config=trainer/ddp", TWO]
    result = subprocess.run(
        [sys.executable, str(CLI), "predict", *flags, "--trainer.accelerator=cpu"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == ("none of" in said), output
    assert output.count(said) == output.count("is damaged") == 1, output


FAILING = """
from lightning.pytorch import Callback

class Failing(Callback):
    def __init__(self, rank: int = 0):
        self.rank = rank

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_rank == self.rank and trainer.global_step == 3:
            raise ValueError(f"what stopped rank {self.rank}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_fails_says_why(rank: int, tmp_path: Path) -> None:
    """Not the other one, which only sees its connection go."""
    (tmp_path / "failing.py").write_text(FAILING)
    flags = ("--trainer.callbacks=failing.Failing", f"--trainer.callbacks.rank={rank}")
    result = launch("fit", tmp_path, "--config=trainer/ddp", TWO, STEPS, *flags)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines == [f"zoo: error: what stopped rank {rank}"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_torchrun_uses_one_folder(strategy: str, one: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = command("fit", tmp_path, f"--config=trainer/{strategy}", TWO, STEPS)
    for _ in range(2):  # the second finds the first one's folder
        result = subprocess.run(
            [*torchrun, *arguments],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        assert result.stdout.count("zoo: fit ") == 1
    parent = newest(tmp_path).parent
    assert sorted(p.name for p in parent.iterdir()) == ["version_0", "version_1"]
    for folder in parent.iterdir():
        assert largest_difference(content(one)["state_dict"], content(folder)["state_dict"]) <= TOLERANCE
        assert (folder / "config.yaml").is_file()


@pytest.mark.slow
def test_two_machines_of_torchrun_are_one_run(one: Path, tmp_path: Path) -> None:
    """Two of torchrun's agents on this machine, a process each."""
    arguments = command("fit", tmp_path, "--config=trainer/multinode", STEPS)
    place, port = environment(), environment()["MASTER_PORT"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    launcher += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    flags = ["--trainer.devices=1", "--trainer.num_nodes=2"]
    started = [
        subprocess.Popen(
            [*launcher, f"--node_rank={node}", *arguments, *flags],
            env=place,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    outputs = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert [out.count("zoo: fit ") for out, _ in outputs] == [1, 0]
    assert (
        largest_difference(content(one)["state_dict"], content(newest(tmp_path))["state_dict"]) <= TOLERANCE
    )


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(one: Path, two: Path, tmp_path: Path) -> None:
    """12 steps of two processes and 2 of one are 14 of one."""
    alone = fit(tmp_path / "alone", *FLAGS, "--trainer.max_steps=14")
    resumed = fit(
        tmp_path / "mixed", *FLAGS, "--trainer.max_steps=14", f"--ckpt_path={newest_checkpoint(two)}"
    )
    for key in ("state_dict", "optimizer_states"):
        assert largest_difference(content(alone)[key], content(resumed)[key]) <= TOLERANCE
    shadows = [content(f)["callbacks"]["EMA"]["shadow"] for f in (alone, resumed)]
    assert largest_difference(*shadows) <= TOLERANCE


FOUR_WEIGHTS = """
import json
from pathlib import Path

import torch
from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from zoo.nn.parallel import shard_blocks


class FourWeights(LightningModule):
    # The loss is the weights' sum, of which rank 0 sees a half and rank 1 one and a half.

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.zeros_(self.linear.weight)
        self.seen = []

    def configure_model(self):
        shard_blocks(self, [self.linear])

    def training_step(self, batch, batch_idx):
        return (0.5 + self.global_rank) * self.linear(torch.ones(1, 4)).sum()

    def on_train_batch_end(self, *args):
        weight = self.linear.weight.detach()
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        self.seen.append(whole.flatten().tolist())

    def on_train_end(self):
        if self.global_rank == 0:
            Path("seen.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Batches(LightningDataModule):
    batch_size = 2

    def train_dataloader(self):
        return DataLoader(torch.zeros(8), batch_size=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_take_equal_steps_at_the_end_of_an_epoch(
    strategy: str, clip: float | None, tmp_path: Path
) -> None:
    """8 batches, three to a step: the third step sees two and is as long as the others."""
    (tmp_path / "four.py").write_text(FOUR_WEIGHTS)
    flags = ["--model=four.FourWeights", "--data=four.Batches", f"--config=trainer/{strategy}", TWO]
    flags += ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.accumulate_grad_batches=3"]
    flags += [f"--trainer.gradient_clip_val={clip}"] if clip else []
    result = subprocess.run(
        [sys.executable, str(CLI), "fit", *flags],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    step = 0.1 if clip is None else 0.075  # of the gradient's norm 2; the short step's is 4 / 3
    steps = [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6]
    seen = torch.tensor(json.loads((tmp_path / "seen.json").read_text()))
    expected = torch.tensor([[-step * n] * 4 for n in steps])
    assert torch.allclose(seen, expected, atol=1e-6), seen
