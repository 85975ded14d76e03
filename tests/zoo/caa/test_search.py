"""The search: what a generation does, where it goes on, and that processes do not change it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
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
from zoo.caa import greedy, nsga
from zoo.caa.archive import Archive, genome_of, key_of
from zoo.caa.module import CAA
from zoo.caa.policy import Policy, Step
from zoo.caa.space import Space
from zoo.caa.victim import Victim
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
    assert nsga.hypervolume(module.archive.points()) >= nsga.hypervolume(module.objectives())


def test_a_policy_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = CAA.attack

    def counting(self: CAA, policy: Any, batch: dict[str, Tensor]) -> Any:
        calls.append(policy.word)
        return plain(self, policy, batch)

    monkeypatch.setattr(CAA, "attack", counting)
    module = searched(4, batch=24, crossover=0.0, mutation=0.0)  # children are copies of their parents
    assert len(calls) == len(set(calls)) == len(module.archive) <= 5


def test_images_that_the_loader_leaves_out_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for drop, told in ((True, 1), (False, 0)):
        trainer = quiet_trainer(max_epochs=2, limit_val_batches=0)
        data = datamodules.LabelledImages(train_items=24, batch_size=20, drop_last=drop)
        trainer.fit(CAA(**{**SMALL, "longest": 2}), data)
        assert capsys.readouterr().out.count("attacks 20 of 24 training images") == told


def test_random_search_measures_as_many_as_it_may() -> None:
    module = searched(9, batch=24, strategy="random", max_evaluations=8)
    assert len(module.archive) == 8
    assert int(module.generation) == 2  # it ends there
    keys = [key_of(module.space.canonical(np.array(genome_of(k)))) for k in module.archive]
    assert len(set(keys)) == 8
    few = searched(2, batch=24, strategy="random", max_evaluations=3)
    assert len(few.archive) == 3


def test_what_is_drawn_anew_was_not_tried() -> None:
    space, random = Space("l2", length=1, longest=1), np.random.default_rng(0)
    every = sorted({key_of(space.canonical(g)) for g in space.random(3000, random)})
    archive = Archive(1000.0, {key: [1, 2, 3] for key in every[2:]})
    drawn = {key_of(space.canonical(g)) for g in archive.untried(space, 60, random)}
    assert drawn == set(every[:2])
    assert len(archive.untried(space, 1, random)) == 1


def test_greedy_takes_the_attacker_of_most_new_successes_per_backward_pass() -> None:
    space = Space("l2", length=2, longest=8, mode="union")
    names = [a.name for a in space.attackers]
    pgd, ddn, skip = (names.index(n) for n in ("PGD", "DDN", "Skip"))
    tried = greedy.candidates(space)
    assert len(tried) == 1 + 6 * 8  # the prefix, then six attackers of eight lengths
    assert str(space.policy(tried[0])) == "Skip"
    # of 100 images 90 are right; PGD(1) takes 5 for 1 pass, PGD(8) 30 for 8, DDN(40) 60 for 40
    archive = {key_of(space.canonical(g)): [90, 100, space.policy(g).backward(10)] for g in tried}
    taken = {(pgd, 7, 0): 5, (pgd, 7, 7): 30, (ddn, 0, 7): 60}
    for genes, images in taken.items():
        archive[key_of((*genes, skip, 0, 0))][0] -= images
    assert greedy.choose(space, tried, archive) == (pgd, 7, 0, skip, 0, 0)
    archive[key_of((pgd, 7, 0, skip, 0, 0))][0] += 2  # 3 for 1 pass is less than 30 for 8
    first = greedy.choose(space, tried, archive)
    assert first == (pgd, 7, 7, skip, 0, 0)
    after = greedy.candidates(space, first[:3])
    archive |= {key_of(space.canonical(g)): [60, 100, space.policy(g).backward(10)] for g in after}
    assert greedy.choose(space, after, archive) is None  # nothing fools another image
    archive[key_of((pgd, 7, 7, ddn, 0, 1))][0] = 50
    assert greedy.choose(space, after, archive) == (pgd, 7, 7, ddn, 0, 1)

    module = CAA(threat="l2", eps=1.0, longest=4, length=2, strategy="greedy", mode="union")
    trainer = quiet_trainer(max_epochs=9, limit_val_batches=0)
    trainer.fit(module, datamodules.LabelledImages(train_items=24, batch_size=24))
    right = [module.archive[key_of(g)][0] for g in (module.space.canonical(h) for h in tried[:1])]
    best = module.archive[key_of(module.space.canonical(module.chosen.numpy()))][0]
    assert int(module.generation) <= 2
    assert best < right[0]
    assert best <= module.archive[key_of((*module.chosen[:3].tolist(), skip, 0, 0))][0]
    assert module.best() == module.space.policy(module.chosen.numpy())


def test_a_hopeless_policy_is_measured_no_further_and_the_front_stays() -> None:
    whole, cut = (searched(7, batch=4, longest=4, stop_hopeless=stop) for stop in (False, True))
    short = {k: v for k, v in cut.archive.items() if v[1] < 24}
    assert short
    assert {k: v for k, v in cut.archive.items() if k in whole.archive and k not in short} == {
        k: v for k, v in whole.archive.items() if k in cut.archive and k not in short
    }
    for key, (right, _, cost) in short.items():
        assert any(n == 24 and c <= right and b <= cost for c, n, b in cut.archive.values()), key
        if key in whole.archive:
            assert whole.archive[key][0] >= right
    rows = list(cut.archive.values())
    assert all(rows[i][1] == 24 for i in nsga.fronts(cut.archive.points())[0])


def test_only_what_saw_all_images_makes_another_hopeless() -> None:
    module = CAA(**SMALL, stop_hopeless=True)
    module._held = [Victim(lambda x: x.flatten(1)[:, :10])]
    genome = module.space.canonical(np.zeros(6, dtype=int))
    key, cost = key_of(genome), module.space.policy(genome).backward(10)
    module.images.fill_(24)
    module.seen[0], module.correct[0] = 12, 9
    for entry, hopeless in (
        ([8, 24, cost], True), ([9, 24, cost - 1], True), ([9, 24, cost], False), ([10, 24, 0], False),
        ([8, 24, cost + 1], False), ([0, 12, 0], False),
    ):  # fmt: skip
        module.archive = Archive(1000.0, {"other": entry})
        assert module._hopeless(0, key) is hopeless, entry


def test_each_policy_has_draws_of_its_own_and_images_outside_the_range_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[int]] = []
    monkeypatch.setattr("zoo.caa.module.run_policy", lambda *a: given.append(a[4].tolist()))
    module = CAA(**SMALL)
    module._held = [Victim(torch.nn.Flatten().eval())]
    batch = {"image": torch.rand(3, 1, 8, 8), "label": torch.zeros(3).long(), "index": torch.arange(3)}
    for steps in (5, 6, 5):
        module.attack(Policy((Step("PGD", 1.0, steps),)), batch)
    assert given[0] == given[2]
    assert not set(given[0]) & set(given[1])
    for image, words in (
        (2 * batch["image"] - 1, r"run from -.* needs \[0, 1\]"),
        (batch["image"] * 9, "needs"),
    ):
        with pytest.raises(ValueError, match=words):
            module.attack(Policy((Step("PGD", 1.0, 5),)), {**batch, "image": image})


def test_single_attackers_are_tested_at_the_cost_of_the_best_policy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = searched(2)
    best = module.best()
    found = {}
    for tested in ("best", "single"):
        module.hparams["tested"] = tested
        data = datamodules.LabelledImages(eval_batch_size=40)
        trainer = quiet_trainer(limit_test_batches=2)
        found[tested] = trainer.test(module, data, verbose=False)[0]
    assert found["best"]["test/nominal_backward"] == best.backward(10)
    assert found["single"]["test/accuracy"] == found["best"]["test/accuracy"]
    cost = [found["best"][f"test/{name}"] for name in ("forward", "backward", "passes")]
    assert cost[2] == pytest.approx(cost[0] + cost[1])
    said = re.findall(r"alone at its cost, (\w+)\(.*: robust accuracy ([.\d]+)", capsys.readouterr().out)
    assert [name for name, _ in said] == ["PGD", "MI", "CW", "MultiTargeted", "CWL2", "DDN"]
    lowest = min(float(value) for _, value in said)
    assert lowest == pytest.approx(found["single"]["test/robust_accuracy"], abs=1e-4)
    costs = {p.steps[0].attacker: p.backward(10) for p in module.tested()}
    assert all(abs(c - best.backward(10)) <= 9 for c in costs.values())
    assert costs["PGD"] == best.backward(10)


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
    assert capsys.readouterr().out.count("pareto.png") == 1  # not once for each batch
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
        ({"strategy": "greedy", "population": 9}, "greedy tries the whole pool"),
        ({"tested": "all"}, "tested must be"),
        ({"threat": "l1"}, "threat must be linf or l2"),
        ({"carry": "all"}, "carry must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CAA(**given)


def killed_amid_a_generation(root: Path, flags: list[str]) -> Path:
    """Folder of a search that SIGKILL ended between the batches of a generation, of three steps each."""
    command = [sys.executable, str(CLI), "fit", "--config=caa_search_digits", *flags]
    command += of_trainer(default_root_dir=root, accelerator="cpu", enable_progress_bar=False)
    folder = root / "caa_search_digits/version_0"
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            steps = [s for s in range(4, 40) if list(folder.glob(f"checkpoints/*{s:08d}.ckpt"))]
            if steps and max(steps) % 3:
                process.kill()
            time.sleep(0.005)
        assert process.returncode == -signal.SIGKILL
    return folder


@pytest.mark.slow
def test_a_search_that_was_killed_amid_a_generation_has_the_archive_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    flags = [*FLAGS, *of_trainer(max_epochs=8), "--model.init_args.longest=40"]
    whole = run("fit", "caa_search_digits", tmp_path / "whole", *flags)
    killed = killed_amid_a_generation(tmp_path / "part", flags)
    amid = content(killed)
    assert int(amid["state_dict"]["seen"].max()) in (8, 16)
    again = run("fit", "caa_search_digits", tmp_path / "part", *flags, "--ckpt_path=last")
    first, second = content(whole), content(again)
    assert len(json.loads(amid["caa_archive"])) < len(json.loads(second["caa_archive"]))
    assert first["caa_archive"] == second["caa_archive"]
    assert largest_difference(first["state_dict"], second["state_dict"]) == 0.0


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
