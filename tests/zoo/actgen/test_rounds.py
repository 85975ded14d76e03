"""Rounds inside one fit, through the command line: manifest, growth, schedule, kill and resume to the bit."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import of_model, of_trainer, run, words
from interruption import Killed, newest_checkpoint, run_differences
from torch import nn

import cli
import datamodules
import zoo
from zoo.actgen import manifest
from zoo.actgen.making import Maker
from zoo.actgen.manifest import Row
from zoo.actgen.mining import asked
from zoo.actgen.module import ActGen
from zoo.actgen.variation import Variation

# 6 epochs, 3 rounds of 5 images in batches of 2; 240 + 60 images, 7 batches an epoch in the beginning
FLAGS = (
    *of_model(images_per_round=5, generation_batch=2, steps=4, gradient_steps=2, guidance_centre=1.5),
    *of_model(random_rate=0.2),
    *of_trainer(max_epochs=6, log_every_n_steps=1),
    *words({"checkpoint.every_n_train_steps": 5}),
)


def fit(root: Path, *flags: str) -> Path:
    return run("fit", "actgen_digits", root, *FLAGS, *flags)


def rows_of(folder: Path) -> list[Row]:
    return manifest.read(folder / "generated" / "manifest.csv")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "generated" / "rounds.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


def test_each_image_has_a_row_that_tells_how_it_came_to_be(whole: Path) -> None:
    rows = rows_of(whole)
    assert [(r.epoch, r.position) for r in rows] == [(e, p) for e in range(3) for p in range(5)]
    assert len({r.seed for r in rows}) == 15
    assert {r.kind for r in rows} == {"random", "guided"}
    assert any(r.adversarial for r in rows)
    assert any(r.contrastive for r in rows)
    assert all(not r.contrastive for r in rows if r.epoch == 0 or r.kind == "random")
    for row in rows:
        path = whole / "generated" / row.path
        assert manifest.sha256_of(path) == row.sha256
        guided = row.kind == "guided"
        assert path.with_name(f"{path.stem}_ori.png").is_file() == guided
        assert path.with_suffix(".safetensors").is_file() == guided
        assert (row.strength, row.guidance, row.steps, row.step_size) == (1.5 * guided, 3.0, 4, 0.05)
        assert row.hardness > 0
        assert 0 <= row.predicted < 10
        assert 0 <= row.judged < 10
        assert row.prompt == f"[BOS, {row.label}, EOS, PAD]"


def test_the_set_grows_and_the_held_out_part_returns_once(whole: Path) -> None:
    state: dict[str, Any] = torch.load(newest_checkpoint(whole), weights_only=True)
    data = state["ActiveGeneration"]
    used = sum(r.used for r in rows_of(whole))
    # 240, 245, 250, 255, 255 and, with the 60, 315 images in batches of 32; half time is after epoch 3
    assert used == 15
    batches = [n // 32 for n in (240, 245, 250, 255)] + [315 // 32] * 2
    assert len(data.pop("split")) == 32  # a digest
    assert data == {
        "epochs_done": 6, "batches_before": sum(batches), "returned": True, "items": 240, "held_out": 60
    }  # fmt: skip
    assert state["global_step"] == sum(batches)
    # no frozen part, and the schedule has moved 7 times in each of 6 epochs
    assert not [k for k in state["state_dict"] if not k.startswith("network.body.")]
    assert state["lr_schedulers"][0]["last_epoch"] == 42
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-6)
    assert [(r["epoch"], r["made"], r["generated"]) for r in table(whole)] == [
        ("0", "5", "5"), ("1", "5", "10"), ("2", "5", "15")
    ]  # fmt: skip


def test_mining_leaves_the_classifier_as_it_was() -> None:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Flatten(), nn.Linear(144, 10)).train()
    norms[0].eval()  # a part that somebody froze
    before = {k: v.clone() for k, v in network.state_dict().items()}
    module = zoo.load("actgen_digits", steps=2, gradient_steps=1)
    assert isinstance(module, ActGen)
    maker = Maker(module.hparams, module.maker().generator, network)
    images = torch.rand(2, 1, 8, 8)
    maker.make(asked("full", [1, 2], [3, 4]), images)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    assert [m.training for m in network] == [True, False, True, True, True]
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 12, 16, 36])
def test_a_killed_run_goes_on_to_the_bit(step: int, whole: Path, tmp_path: Path) -> None:
    original = ActGen.training_step

    def training_step(self: ActGen, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(ActGen, "training_step", training_step), pytest.raises(Killed):
        fit(tmp_path)
    resumed = fit(tmp_path, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []
    assert rows_of(resumed) == rows_of(whole)


def test_a_kill_in_the_middle_of_a_round_loses_no_image_and_changes_none(whole: Path, tmp_path: Path) -> None:
    made: list[int] = []
    original = Variation.rows

    def rows(self: Variation, batch: Any) -> Any:
        if self.data.epochs_done == 1 and len(made) == 4:  # batches of the first round are three: 2, 2 and 1
            raise Killed
        made.append(len(batch))
        return original(self, batch)

    with mock.patch.object(Variation, "rows", rows), pytest.raises(Killed):
        fit(tmp_path)
    first = list(made)
    made.clear()
    with mock.patch.object(Variation, "rows", lambda self, b: made.append(len(b)) or original(self, b)):
        resumed = fit(tmp_path, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []
    assert rows_of(resumed) == rows_of(whole)
    assert sum(first) + sum(made) == 15  # none was made twice
    assert not list((resumed / "generated").rglob(".part_*"))


def test_a_picture_that_was_changed_is_not_gone_on_with(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "actgen_digits" / "version_0"
    shutil.copytree(whole, own)
    picture = own / "generated" / rows_of(own)[3].path
    picture.write_bytes(picture.read_bytes() + b" ")
    flags = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", *FLAGS]
    more = ["--trainer.max_epochs=8", "--ckpt_path=last", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", "--config", "actgen_digits", *flags, *more]) == 1
    assert "is not the picture that the run has trained on" in capsys.readouterr().err


def test_what_is_refused_is_counted_and_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a round's five images one is NaN, one black, one a copy of another training image than its guide."""
    original, spoilt = Maker.make, []

    def make(self: Maker, items: Any, *args: Any) -> Any:
        made = original(self, items, *args)
        for i, item in enumerate(items):
            if item.position == 0:
                made.images[i] = torch.nan
            elif item.position == 1:
                made.images[i] = 0.0
            elif item.position == 2:
                data = datamodules.ActiveGeneration()
                data.setup("fit")
                rows = [k for k, y in enumerate(data.training_labels()) if y == item.label]
                made.images[i] = data.guides(rows, held_out=False)[0][-1] + 0.01
                spoilt.append(item.label)
        return made

    with mock.patch.object(Maker, "make", make):
        folder = fit(tmp_path, "--trainer.max_epochs=2")
    assert len(spoilt) == 1
    assert [r.status for r in rows_of(folder)] == ["nan", "constant", "duplicate", "used", "used"]
    assert [(r["made"], r["used"], r["generated"]) for r in table(folder)] == [("5", "2", "2")]
    told = capsys.readouterr()
    assert "3 of 5 images refused (1 constant, 1 duplicate, 1 nan)" in told.out + told.err
    state: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    assert state["global_step"] == 240 // 32 + 242 // 32


@pytest.mark.parametrize("generation", ["none", "random", "real_guidance"])
def test_baselines_train_in_the_same_loop(generation: str, tmp_path: Path) -> None:
    folder = fit(tmp_path, *of_model(generation=generation))
    state: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    assert state["ActiveGeneration"]["returned"]
    if generation != "none":
        kinds = {r.kind for r in rows_of(folder)}
        assert kinds == {"random" if generation == "random" else "image_to_image"}


def test_what_excludes_itself_is_refused_in_a_line() -> None:
    small: dict[str, Any] = {"image_size": 8, "channels": 1, "classifier": "cnn"}
    for given, said in (
        ({"strength": 0.3}, "strength is 0.3, which generation: full does not use"),
        ({"preset": "official", "margin": 3.0}, "margin is 3.0, but preset: official has 100.0"),
        ({"memory_update": "image"}, "generation_batch: 1"),
        ({"classifier": "cnn", "dropout": 0.2}, "dropout is 0.2, which classifier: cnn does not use"),
        ({"image_size": 10}, "multiple of 4"),
        ({"warmup_lr": 0.1}, "warmup_lr needs warmup_epochs"),
    ):
        with pytest.raises(ValueError, match=said):
            ActGen(**{**small, **given})


def test_digits_of_8_bits_and_of_16_values_are_the_same_to_a_classifier() -> None:
    """Of active generation, and of labelled images."""
    data, labelled = datamodules.ActiveGeneration(), datamodules.LabelledImages(test_items="all")
    data.setup("test")
    labelled.setup("test")
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    ours = data.test_set.__getitems__(range(597))
    theirs = labelled.test_set.__getitems__(order[1200:].tolist())
    assert torch.equal(ours["label"], theirs["label"])
    assert 0 < float((ours["image"] - theirs["image"]).abs().max()) < 1 / 510 + 1e-6
    for name in ("actgen_digits", "actgen_judge_digits"):
        with torch.no_grad():
            classes = [zoo.load(name)(batch["image"]).argmax(dim=1) for batch in (ours, theirs)]
        assert torch.equal(*classes)


def test_variants_of_ones_own_images_are_the_same_alone() -> None:
    module = zoo.load("actgen_digits")
    assert isinstance(module, ActGen)
    data = datamodules.ActiveGeneration()
    data.setup("fit")
    images, labels = data.guides([0, 1, 2, 3])
    together = module.variants(images, labels)
    assert together.shape == (4, 1, 8, 8)
    assert torch.allclose(module.variants(images[:1], labels[:1])[0], together[0], atol=1e-5)
    for bad in (images * 2, images * torch.nan, images[:, :, :4]):
        with pytest.raises(ValueError, match="images must"):
            module.variants(bad, labels)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9, got 10"):
        module.variants(images, [1, 2, 3, 10])
