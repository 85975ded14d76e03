"""The search: what a generation does, where it goes on, and that processes do not change it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import of_data, of_model, of_trainer, run
from processes import CLI, environment, largest_difference
from quiet import quiet_trainer
from torch import Tensor

import datamodules
import zoo
from zoo.caa import nsga
from zoo.caa.module import CAA, genome_of, key_of
from zoo.engine.checkpoint import step_checkpoints

SMALL: dict[str, Any] = {"threat": "l2", "eps": 1.0, "population": 5, "longest": 8, "length": 2}
FLAGS = [
    *of_model(population=5, longest=8, length=2),
    *of_data(train_items=24, batch_size=8),
    *of_trainer(max_epochs=3),
    "--checkpoint.every_n_train_steps=1",
]


def searched(epochs: int, batch: int = 12, **more: Any) -> CAA:
    module = CAA(**{**SMALL, **more})
    trainer = quiet_trainer(max_epochs=epochs, limit_val_batches=0)
    trainer.fit(module, datamodules.LabelledImages(train_items=24, batch_size=batch))
    return module


def content(folder: Path, step: int | None = None) -> dict[str, Any]:
    found = step_checkpoints(folder / "checkpoints")
    path = found[0] if step is None else next(p for p in found if f"{step:08d}" in p.name)
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def test_the_archive_holds_what_each_policy_reaches_whatever_the_batch() -> None:
    module = searched(3)
    assert int(module.generation) == 3
    data = datamodules.LabelledImages(train_items=24)
    data.setup("fit")
    batch = {**data.train_set.__getitems__(range(24)), "index": torch.arange(24)}
    for key, (correct, images, backward) in list(module.archive.items())[:4]:
        policy = module.space.policy(genome_of(key))
        assert (int(module.attack(policy, batch).robust.sum()), 24) == (correct, images)
        assert policy.backward(10) == backward
    other = searched(3, batch=24)
    assert module.archive == other.archive
    assert torch.equal(module.genomes, other.genomes)
    # what survived is the best of all that was measured
    best = min((c, b) for c, _, b in module.archive.values())
    assert best in [tuple(s) for s in module.scores.tolist()]
    assert module.best().backward(10) == best[1]
    assert nsga.hypervolume(module.points()) >= nsga.hypervolume(module.objectives())


def test_a_policy_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = CAA.attack

    def counting(self: CAA, policy: Any, batch: dict[str, Tensor]) -> Any:
        calls.append(policy.word)
        return plain(self, policy, batch)

    monkeypatch.setattr(CAA, "attack", counting)
    module = searched(4, batch=24, crossover=0.0, mutation=0.0)  # children are copies of their parents
    assert len(calls) == len(set(calls)) == len(module.archive) <= 5


def test_random_search_measures_as_many_as_it_may() -> None:
    module = searched(9, batch=24, strategy="random", max_evaluations=8)
    assert len(module.archive) == 8
    assert int(module.generation) == 2  # it ends there
    keys = [key_of(module.space.canonical(np.array(genome_of(k)))) for k in module.archive]
    assert len(set(keys)) == 8
    few = searched(2, batch=24, strategy="random", max_evaluations=3)
    assert len(few.archive) == 3


def test_a_search_goes_on_amid_a_generation_to_the_bit(tmp_path: Path) -> None:
    whole = run("fit", "caa_search_digits", tmp_path / "whole", *FLAGS)
    part = tmp_path / "part"
    run("fit", "caa_search_digits", part, *FLAGS, "--trainer.max_steps=5")  # 3 steps are a generation
    amid = content(part / "caa_search_digits/version_0")
    assert int(amid["state_dict"]["seen"].max()) == 16
    assert len(json.loads(amid["caa_archive"])) == len(set(json.loads(amid["caa_archive"]))) > 2
    again = run("fit", "caa_search_digits", part, *FLAGS, "--ckpt_path=last")
    first, second = content(whole), content(again)
    assert first["caa_archive"] == second["caa_archive"]
    assert largest_difference(first["state_dict"], second["state_dict"]) == 0.0


def test_another_space_is_refused_and_a_search_leaves_its_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("fit", "caa_search_digits", tmp_path, *FLAGS)
    checkpoint = step_checkpoints(folder / "checkpoints")[0]
    loaded = torch.load(checkpoint, weights_only=True)
    with pytest.raises(ValueError, match="another space, ball, target or rules"):
        CAA(**{**SMALL, "eps": 0.5}).on_load_checkpoint(loaded)
    assert "target" not in loaded["hyper_parameters"]  # a checkpoint names no code
    left = run(
        "predict", "caa_search_digits", tmp_path, f"--ckpt_path={checkpoint}", *of_data(eval_batch_size=40)
    )
    rows = (left / "predictions/archive.csv").read_text().splitlines()
    assert len(rows) == 1 + len(json.loads(loaded["caa_archive"]))
    policy = json.loads((left / "predictions/policy.json").read_text())
    assert policy["mode"] == "sequence"
    assert (left / "predictions/pareto.png").stat().st_size > 5000
    weights = zoo.load(checkpoint)
    assert json.loads(weights.best().to_json()) == policy
    with pytest.raises(ValueError, match="no finished generation"):
        CAA(**SMALL).best()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"strategy": "random", "mutation": 0.1}, "are of strategy: nsga2"),
        ({"threat": "l1"}, "threat must be linf or l2"),
        ({"carry": "all"}, "carry must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CAA(**given)


@pytest.mark.slow
def test_two_processes_make_the_archive_of_one(tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        root = tmp_path / str(count)
        ddp = ["--config=trainer/ddp", f"--trainer.devices={count}"] if count > 1 else []
        flags = [*FLAGS, *of_trainer(default_root_dir=root, accelerator="cpu", enable_progress_bar=False)]
        command = [sys.executable, str(CLI), "fit", "--config=caa_search_digits", *ddp, *flags]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        found.append(content(root / "caa_search_digits/version_0"))
    assert found[0]["caa_archive"] == found[1]["caa_archive"]
    assert largest_difference(found[0]["state_dict"], found[1]["state_dict"]) == 0.0
