"""CausalLM by the command line: a user's own texts, the same update in parts, a kill, two processes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run, summary
from interruption import Killed, newest_checkpoint, run_differences
from lightning.pytorch import Trainer
from processes import CLI, environment, largest_difference
from torch import Tensor

import zoo

SMALL = ("--model.init_args.width=16", "--model.init_args.layers=1", "--model.init_args.hidden=32",
         "--model.init_args.context=32", "--data.init_args.context=32", "--data.init_args.batch_size=16",
         "--data.init_args.layout=files", "--model.init_args.max_new_tokens=8",
         "--trainer.max_steps=6", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=3",
         "--trainer.log_every_n_steps=1", "--model.init_args.lr_scheduler=null")  # fmt: skip
SGD = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.5}}"


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Documents of one to sixty letters: the rows of a batch score different numbers of tokens."""
    draw, folder = random.Random(0), tmp_path / "texts"
    folder.mkdir()
    lines = ["".join(draw.choices("abcé ", k=draw.randint(1, 60))) for _ in range(900)]
    (folder / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    return f"--data.init_args.root={folder}"


LINES = "--data.init_args.unit=line"


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
    return state


def trained(
    batches: list[dict[str, Tensor]], parts: int, clip: float | None = 0.05
) -> tuple[dict[str, Tensor], float]:
    """Weights after one update, clipped or not, and the loss that was logged."""
    torch.manual_seed(0)
    module = zoo.CausalLM(
        width=16, layers=1, heads=2, hidden=32, context=32, vocab_size=64,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_steps=1, accumulate_grad_batches=parts, gradient_clip_val=clip, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if not batches:
        return module.state_dict(), 0.0
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return module.state_dict(), float(trainer.callback_metrics["train/loss"])


@pytest.mark.filterwarnings("ignore")
def test_an_update_in_ragged_parts_is_that_of_the_whole() -> None:
    """A mean of the parts' means would weigh the tokens of the short rows nine times as much."""
    ids = torch.randint(3, 64, (8, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[4:, 3:] = -100
    whole = {"input_ids": ids, "labels": labels}
    parts = [{k: v[i : i + 2] for k, v in whole.items()} for i in range(0, 8, 2)]
    (one, loss), (four, mean) = trained([whole], 1), trained(parts, 4)
    assert largest_difference(one, four) < 1e-6
    assert loss == pytest.approx(mean, rel=1e-6)
    # and, not clipped, by the definition
    (before, _), (after, _) = trained([], 1, None), trained(parts, 4, None)
    module = zoo.CausalLM(width=16, layers=1, heads=2, hidden=32, context=32, vocab_size=64)
    module.load_state_dict(before)
    logits = module(ids)[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(after[name], before[name] - 0.5 * parameter.grad, atol=1e-6)


def test_own_texts_become_text(texts: str, tmp_path: Path) -> None:
    own = (*SMALL, texts, LINES, SGD)
    whole = run("fit", "causal_lm_stdlib", tmp_path / "whole", *own)
    best = f"--weights={whole / 'checkpoints' / 'best.ckpt'}"
    found = summary("test", "causal_lm_stdlib", tmp_path, *own[:-1], best)["final"]
    assert 0 < found["test/ece"] < 1
    assert found["test/perplexity"] == pytest.approx(2.718281828 ** found["test/loss"], rel=1e-4)
    folder = run("predict", "causal_lm_stdlib", tmp_path, *own[:-1], best, "--data.init_args.predict=ab")
    (line,) = (folder / "predictions" / "generated.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert said["prompt"] == "ab"
    module: Any = zoo.load(whole / "checkpoints" / "best.ckpt")
    settings = {"decoding": "sample", "temperature": 0.7}
    assert module.complete("ab", 8, seed=0, **settings) == "ab" + said["generated"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(texts: str, tmp_path: Path) -> None:
    own = (*SMALL, texts, LINES, "--model.init_args.dropout=0.1", "--trainer.accumulate_grad_batches=2")
    whole = run("fit", "causal_lm_stdlib", tmp_path / "whole", *own)
    original = zoo.CausalLM.training_step

    def killed(self: zoo.CausalLM, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 4:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(zoo.CausalLM, "training_step", killed), pytest.raises(Killed):
        run("fit", "causal_lm_stdlib", tmp_path / "killed", *own)
    resumed = run("fit", "causal_lm_stdlib", tmp_path / "killed", *own, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
def test_two_processes_train_and_measure_what_one_does(texts: str, tmp_path: Path) -> None:
    own = (*SMALL, texts, LINES, SGD, "--trainer.accumulate_grad_batches=2")
    one = run("fit", "causal_lm_stdlib", tmp_path / "one", *own)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=causal_lm_stdlib", *own, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "causal_lm_stdlib").glob("version_*")
    assert largest_difference(weights(one), weights(other)) <= 1e-6
    first, second = (json.loads((f / "summary.json").read_text())["final"] for f in (one, other))
    assert first["val/tokens"] == second["val/tokens"]
    for name in ("val/loss", "val/bits_per_byte", "train/loss", "train/tokens"):
        assert first[name] == pytest.approx(second[name], rel=1e-6), name
