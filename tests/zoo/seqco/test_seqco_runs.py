"""Runs by the command line: a kill with a target network, two processes, what a prediction leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import of_data, of_model, of_trainer, run, summary
from covering import covering
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference

import zoo
from zoo.seqco.objective import Objective

SIZES = {
    "d_model": 16,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")},
    "max_position_embeddings": 32,
}
FLAGS = [
    *of_model(sizes=json.dumps(SIZES), weight_xy=0.5, weight_xyhat=0.5, restart_at=3),
    *of_data(batch_size=16),
    *of_trainer(max_steps=8, val_check_interval=4, log_every_n_steps=1, limit_val_batches=1),
    "--checkpoint.every_n_train_steps=2",
]


def fit(root: Path, *flags: str) -> Path:
    return run("fit", "seqco_procedural", root, *FLAGS, *flags)


def killed(root: Path, step: int, *flags: str) -> None:
    """A run that dies in the step after ``step`` updates, its summaries drawn."""
    original = Objective._contrast

    def contrast(self: Objective, found: Any, batch: Any, update: int, *args: Any) -> None:
        original(self, found, batch, update, *args)
        if update == step:
            raise Killed

    with mock.patch.object(Objective, "_contrast", contrast), pytest.raises(Killed):
        fit(root, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("step", covering([3, 5, 7], [5]))
def test_a_killed_run_goes_on_to_the_same_bits_target_and_all(step: int, whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, step)
    assert run_differences(whole, fit(tmp_path, "--ckpt_path=last")) == []
    state = torch.load(newest_checkpoint(whole), weights_only=True)["state_dict"]
    slow, fast = (
        state[f"network.{p}.layers.0.fc1.weight"] for p in ("target.encoder", "backbone.model.encoder")
    )
    assert float((slow - fast).abs().max()) > 0
    assert state["first_spread"] > 0


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_keys_of_earlier_updates(tmp_path: Path) -> None:
    more = of_model(similarity="queue", queue_size=40, weight_policy=0.0)
    whole = fit(tmp_path / "whole", *more)
    killed(tmp_path / "killed", 5, *more)
    assert run_differences(whole, fit(tmp_path / "killed", *more, "--ckpt_path=last")) == []
    state = torch.load(newest_checkpoint(whole), weights_only=True)["state_dict"]
    assert (state["network.queue.y_documents"] >= 0).all()


HALVES = """
from torch.utils.data import DataLoader
import datamodules
from datamodules.loading.loaders import as_is

class Split:
    def __init__(self, sampler): self.sampler = sampler
    def __len__(self): return 2 * len(self.sampler)
    def __iter__(self):
        for batch in self.sampler:
            yield batch[0::2]
            yield batch[1::2]

class Halves(datamodules.Summaries):
    def train_dataloader(self):
        loader = super().train_dataloader()
        return DataLoader(self.train_set, batch_sampler=Split(loader.batch_sampler), collate_fn=as_is)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    covering(
        [{"weight_policy": 0.2, "policy_baseline": "mean"}, {"similarity": "queue", "queue_size": 20}],
        [{"weight_policy": 0.2, "policy_baseline": "mean"}, {"similarity": "queue", "queue_size": 20}],
    ),
    ids=str,
)
def test_two_processes_train_what_one_does_on_the_same_micro_batches(
    variant: dict[str, Any], tmp_path: Path
) -> None:
    # a mean of each micro-batch: one process must see the halves that the two of them see
    (tmp_path / "halves.py").write_text(HALVES)
    sizes = {**SIZES, "dropout": 0.0, "attention_dropout": 0.0}
    flags = [
        *of_model(
            sizes=json.dumps(sizes), weight_xy=0.5, weight_xyhat=0.5, weight_yyhat=0.5, restart_at=0,
            contrast_reduction="token_sum", sample_length=8, **variant,
        ),
        *of_data(batch_size=8), *of_trainer(max_steps=4, val_check_interval=4, enable_progress_bar=False),
        "--checkpoint.every_n_train_steps=4", "--trainer.accelerator=cpu",
    ]  # fmt: skip
    ways = {
        "one": ["--data.class_path=halves.Halves", "--trainer.accumulate_grad_batches=2"],
        "two": ["--config=trainer/ddp", "--trainer.devices=2"],
    }
    found, tested = {}, {}
    for name, more in ways.items():
        command = [sys.executable, str(CLI), "fit", "--config=seqco_procedural", *flags, *more]
        command.append(f"--trainer.default_root_dir={tmp_path / name}")
        if name == "one":
            command += of_trainer(val_check_interval=8)
        done = subprocess.run(
            command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        folder = tmp_path / name / "seqco_procedural/version_0"
        found[name] = torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
        tested[name] = json.loads((folder / "summary.json").read_text())["final"]
    for state in found.values():
        del state["vocabulary._extra_state"]
        del state["first_spread"]  # of the first micro-batch of a process
    assert largest_difference(*found.values()) < 1e-6
    slow, fast = (
        found["one"][f"network.{part}.layers.0.fc1.weight"]
        for part in ("target.encoder", "backbone.model.encoder")
    )
    assert (slow - fast).abs().max() > 1e-4  # both have moved
    for key in ("val/nll", "val/rouge1", "val/loss_xy", "val/encoder_spread"):
        assert tested["one"][key] == pytest.approx(tested["two"][key], abs=1e-5), key


def test_a_prediction_is_read_side_by_side_and_the_weights_know_their_words(tmp_path: Path) -> None:
    folder = run(
        "fit", "seqco_procedural", tmp_path, *FLAGS, *of_model(restart_at=1), "--trainer.max_steps=4"
    )
    weights = f"--weights={newest_checkpoint(folder)}"
    own = tmp_path / "mine.txt"
    own.write_text("the auto and sedan of a villa cottage <b>\n\nstorm gale\n")
    predicted = run(
        "predict", "seqco_procedural", tmp_path, weights, *of_data(format="jsonl", predict=own),
        *of_model(beams=2, candidates=2),
    ) / "predictions"  # fmt: skip
    rows = [json.loads(line) for line in (predicted / "summaries.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["mine.txt:1", "mine.txt:3"]
    assert "summary" not in rows[0]
    assert "2 beams" in rows[0]["protocol"]
    assert [row["row"] for row in rows] == [1, 3]
    one, two = (row["generated"] for row in rows)
    # line i of the input is line i of the output, a blank one too
    assert (predicted / "summaries.out").read_text().splitlines() == [one, "", two]
    candidates = (predicted / "candidates.out").read_text().splitlines()
    assert candidates == [*rows[0]["candidates"], "", "", *rows[1]["candidates"]]
    page = (predicted / "summaries.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    module = zoo.load(newest_checkpoint(folder))
    texts = ["the auto and sedan of a villa cottage", "storm gale"]
    assert module.summarize(texts) == [module.summarize([text])[0] for text in texts]
    with pytest.raises(ValueError, match="document 2 is empty"):
        module.summarize(["auto", " "])


def test_the_extractive_rows_need_no_weights(tmp_path: Path) -> None:
    data = ["--data=datamodules.Summaries", *of_data(format="aclsum", vocab_size=400, eval_batch_size=100)]
    found = {}
    for kind in ("lead", "oracle"):
        flags = ["--model=zoo.SummaryBaseline", *of_model(kind=kind, sentences=1), *data]
        command = ["test", *flags, f"--trainer.default_root_dir={tmp_path}", "--trainer.limit_test_batches=1"]
        import cli

        assert cli.main([*command, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]) == 0
        path = max(tmp_path.rglob("summary_test.json"), key=lambda p: p.stat().st_mtime_ns)
        found[kind] = json.loads(path.read_text())["final"]
    assert found["oracle"]["test/rouge1"] > found["lead"]["test/rouge1"] + 0.05
    assert found["lead"]["test/novel_2grams"] == 0


def test_a_test_says_how_its_numbers_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("fit", "seqco_procedural", tmp_path, *FLAGS, "--trainer.max_steps=2")
    capsys.readouterr()
    final = summary(
        "test", "seqco_procedural", tmp_path, f"--weights={newest_checkpoint(folder)}", *of_data(max_source=9)
    )["final"]
    said = capsys.readouterr().out
    assert "rouge_score 0.1.2" in said
    assert "greedy, 0 to 12 tokens" in said
    assert final["test/truncated_sources"] == 150
    (path,) = tmp_path.rglob("protocol_test.json")
    row = json.loads(path.read_text())["generated"]
    assert row["protocol"] in said
    assert (row["truncated_sources"], row["entries"]) == (150, 185)
    assert row["tokenizer"].startswith("sha256 ")
