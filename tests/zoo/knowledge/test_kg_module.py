"""KGEmbedding by the command line: what it answers, how it goes on, one process and two."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run, summary
from fakes.knowledge import fake_knowledge
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference
from torch import Tensor

import zoo

FLAGS = ("--trainer.max_steps=9", "--trainer.val_check_interval=3", "--model.init_args.dim=8",
         "--data.init_args.batch_size=512", "--checkpoint.every_n_train_steps=3")  # fmt: skip
MARGIN = ("--model.init_args.model=transe", "--model.init_args.loss=margin")


def test_frequency_counts_one_epoch_and_ranks_by_it(tmp_path: Path) -> None:
    flags = ("--model.init_args.model=relation_frequency", "--data.init_args.batch_size=256",
             "--trainer.max_steps=60", "--trainer.val_check_interval=60",
             "--checkpoint.every_n_train_steps=60")  # fmt: skip
    folder = run("fit", "kg_umls", tmp_path, *flags)
    state = torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
    assert float(state["network.counts"].sum()) == 2 * 5216  # not of the second epoch
    tested = summary("test", "kg_umls", tmp_path, *flags[:1], f"--weights={newest_checkpoint(folder)}")[
        "final"
    ]
    # the ranking of a relation's tails by their frequency, of the same splits elsewhere: .661, .506, .882
    assert tested["test/mrr"] == pytest.approx(0.661, abs=0.002)
    assert tested["test/hits_1"] == pytest.approx(0.506, abs=0.02)
    assert tested["test/hits_10"] == pytest.approx(0.882, abs=0.005)
    assert tested["test/mrr"] == pytest.approx((tested["test/mrr_head"] + tested["test/mrr_tail"]) / 2)


def test_own_triples_become_answers(tmp_path: Path) -> None:
    root = fake_knowledge(tmp_path / "files")
    flags = ("--data.init_args.graph=splits", f"--data.init_args.root={root}", "--model.init_args.dim=16",
             "--data.init_args.batch_size=64", "--trainer.max_steps=150", "--trainer.val_check_interval=50",
             "--checkpoint.every_n_train_steps=50")  # fmt: skip
    folder = run("fit", "kg_umls", tmp_path, *flags)
    best = folder / "checkpoints" / "best.ckpt"
    asked = f"--data.init_args.queries={root / 'queries.tsv'}"
    predicted = run("predict", "kg_umls", tmp_path, *flags[:2], f"--weights={best}", asked)
    with (predicted / "predictions" / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [tuple(r[k] for k in ("head", "relation", "tail", "asked", "known", "rank")) for r in rows] == [
        ("/m/000", "/is/0", "?", "tail", "1", ""),
        ("?", "/is/1", "/m/003", "head", "1", ""),
    ]
    # one on, and two back: the graph has it already
    assert all(r[f"answer{i}"] not in ("", "/m/001") for r in rows for i in range(1, 11))
    model = zoo.load(str(best))
    found: Any = model.answers("/m/000", "/is/0", count=3)
    assert found[0].entity == "/m/001"
    assert len(found) == 3
    assert found[1].entity == rows[0]["answer1"]
    assert found[1].probability == pytest.approx(float(rows[0]["probability1"]), abs=1e-5)
    assert model.answers("?", "/is/1", "/m/003")[0].entity == "/m/001"
    for arguments, said in ((("/m/000", "/is/9"), "no relation of the 3"), (("?", "/is/0"), "either a head")):
        with pytest.raises(ValueError, match=said):
            model.answers(*arguments)
    with pytest.raises(ValueError, match="count is -1"):
        model.answers("/m/000", "/is/0", count=-1)
    tested = run("predict", "kg_umls", tmp_path, *flags[:2], f"--weights={best}")
    assert (tested / "predictions" / "ranks.png").is_file()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "rescal"}, "model must be transe, complex, relation_frequency"),
        ({"norm": 2}, "norm is 2, which model: complex does not use"),
        ({"n3_weight": 0.1, "model": "transe"}, "n3_weight"),
        ({"negatives": 3}, "negatives is 3, which loss: cross_entropy does not use"),
        ({"entities": ["a"]}, "num_entities is 135, but model.init_args.entities has 1 names"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        zoo.KGEmbedding(**settings)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = run("fit", "kg_umls", tmp_path / "whole", *FLAGS, *MARGIN)
    original = zoo.KGEmbedding.training_step

    def killed(self: zoo.KGEmbedding, batch: Any, batch_idx: int) -> Tensor | None:
        if self.trainer.global_step == 5:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(zoo.KGEmbedding, "training_step", killed), pytest.raises(Killed):
        run("fit", "kg_umls", tmp_path / "killed", *FLAGS, *MARGIN)
    resumed = run("fit", "kg_umls", tmp_path / "killed", *FLAGS, *MARGIN, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), MARGIN], ids=["cross_entropy", "margin"])
def test_two_processes_train_what_one_does(more: tuple[str, ...], tmp_path: Path) -> None:
    sgd = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}"
    one = run("fit", "kg_umls", tmp_path / "one", *FLAGS, *more, sgd)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=kg_umls", *FLAGS, *more, sgd, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "kg_umls").glob("version_*")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True) for f in (one, other))
    assert largest_difference(a["state_dict"], b["state_dict"]) <= 1e-6
