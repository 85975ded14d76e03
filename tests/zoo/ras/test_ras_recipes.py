"""RAS's recipes: the published values, and short runs on twins of every released layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import build, of_data, of_trainer
from fakes.saliency import LAYOUTS, fake_saliency
from interruption import Killed, run_differences
from processes import environment, largest_difference

import cli
import zoo
from zoo.engine import checkpoint, run
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

RECIPES = ("ras_vgg16_msra_b", "ras_vgg16_msra_b_caffe", "ras_resnet50_v1_duts", "ras_resnet50_v2_duts")
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--data.init_args.num_workers=0")
COMPOSITES = (
    "--config=ras_tiny_composites",
    *of_data(side=48, train_items=40, val_items=6),
    *of_trainer(enable_progress_bar=False, accelerator="cpu", log_every_n_steps=1, val_check_interval=4),
    "--previews.count=0",
)


def test_every_recipe_is_listed_here() -> None:
    assert {p.stem for p in config_folder().glob("ras_*.yaml")} == {*RECIPES, "ras_tiny_composites"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_published_one(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path, "--trainer.precision=32-true")
    h, trainer, data = built.model.hparams, built.config["fit"].trainer, built.datamodule
    made = built.model.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    (rate,) = {
        # the schedule of the port begins below the base rate, which initial_lr holds
        round(g["initial_lr"] / scaled["lr_scale"], 12)
        for g, scaled in zip(optimizer.param_groups, built.model.parameter_groups(), strict=True)
    }
    if "vgg16" in name:
        literal = name.endswith("caffe")
        assert (rate, h["pool"], h["loss_reduction"]) == (
            (1e-8, "caffe", "sum") if literal else (1e-3, "torch", "mean")
        )
        assert (trainer.max_steps, trainer.accumulate_grad_batches, data.batch_size, data.size) == (
            10000,
            10,
            1,
            None,
        )
        assert (dict(schedule["scheduler"].milestones), schedule["interval"]) == ({7500: 1}, "step")
        assert (data.transforms, built.model.loss) == ({"flip": True, "rotate": 0.0, "crop": 0.0}, "bce")
        assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
        names = {id(p): n for n, p in built.model.network.named_parameters()}
        decays = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert decays == {n: 0.0 if n.endswith("bias") else 5e-4 for n in names.values()}
        assert data.sources == {"train": "MSRA-B/train.lst", "val": "MSRA-B/val.lst"}
        assert data.test_sets == ["ecssd", "pascal_s", "dut_omron", "hku_is_test", "sod", "duts_te", "MSRA-B"]
    elif "v1" in name:
        assert isinstance(optimizer, torch.optim.Adam)
        assert (rate, data.batch_size, data.size, trainer.max_steps) == (5e-5, 10, 352, 30 * 1056)
        assert not data.drop_last  # 10,553 pictures are 1,055 batches and three pictures
        assert data.transforms == {"flip": True, "rotate": 10.0, "crop": 0.0}
        assert dict(schedule["scheduler"].milestones) == {25: 1}  # the 26th of the port, which counts from 1
        assert (schedule["interval"], built.model.loss) == ("epoch", "bce_iou")
    else:
        assert (rate, data.batch_size, data.size, trainer.max_steps) == (0.05, 32, 352, 32 * 330)
        assert not data.drop_last
        assert h["scales"] == [224, 256, 288, 320, 352]
        assert data.transforms == {"flip": True, "rotate": 0.0, "crop": 0.125}
        assert all(g["nesterov"] and g["weight_decay"] == 5e-4 for g in optimizer.param_groups)
        assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
        assert yaml.safe_load(find_config(name).read_text())["trainer"]["precision"] == "bf16-mixed"
        assert (schedule["interval"], schedule["scheduler"].epochs) == ("epoch", 32)
        assert h["pixels"] is None
        assert built.model.network.pixels == "port"


def test_headers_tell_paper_number_and_hardware() -> None:
    for name in RECIPES:
        text = find_config(name).read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#"))
        wanted = ("Chen et al.", "ECSSD", "Data:", "Hardware:", "parameters")
        assert [w for w in wanted if w not in header] == [], name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_steps_on_the_twin_of_each_layout(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "plot_curves", lambda folder: None)
    root = fake_saliency(tmp_path / "data", layout)
    source = "MSRA-B/train.lst" if layout == "msra_b" else layout
    common = [
        *QUIET, "--config=ras_vgg16_msra_b", "--model.init_args.variant=tiny",
        "--model.init_args.backbone_weights=null", f"--data.init_args.root={root}",
        f"--data.init_args.train={source}", f"--data.init_args.test={layout}", "--data.init_args.val=null",
        f"--trainer.default_root_dir={tmp_path}", "--trainer.accumulate_grad_batches=1",
    ]  # fmt: skip
    assert cli.main(["fit", *common, "--trainer.max_steps=3", "--trainer.log_every_n_steps=1"]) == 0
    assert json.loads(next(tmp_path.rglob("summary.json")).read_text())["steps"] == 3
    if layout != "hku_is":
        return
    assert cli.main(["test", *common, "--ckpt_path=last"]) == 0
    found = json.loads(next(tmp_path.rglob("summary_test.json")).read_text())["final"]
    names = (
        "mae max_f_mean_first max_f_f_first mean_f adaptive_f weighted_f s_measure max_e mean_e adaptive_e"
    )
    assert {f"test/{n}" for n in names.split()} <= set(found)
    assert found["test/megabytes"] == pytest.approx(4e-6 * 277_822)


def test_several_test_sets_are_measured_one_by_one(tmp_path: Path) -> None:
    root = fake_saliency(fake_saliency(tmp_path / "data", "sod"), "ecssd", count=3)
    weights = zoo.save(zoo.RAS("tiny"), tmp_path / "tiny.safetensors")
    flags = [
        *QUIET, "--config=ras_vgg16_msra_b", f"--weights={weights}", f"--data.init_args.root={root}",
        "--data.init_args.test=[sod, ecssd]", f"--trainer.default_root_dir={tmp_path}",
    ]  # fmt: skip
    assert cli.main(["test", *flags]) == 0
    found = json.loads(next(tmp_path.rglob("summary_test.json")).read_text())["final"]
    assert {"test/sod/mae", "test/ecssd/mae", "test/sod/weighted_f"} <= set(found)
    assert found["test/sod/mae"] != found["test/ecssd/mae"]
    folder = next(tmp_path.rglob("summary_test.json")).parent
    with (folder / "curves_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (folder / "curves_test.png").stat().st_size > 5000
    assert len(rows) == 2 * 256
    for name in ("sod", "ecssd"):
        curve = [r for r in rows if r["set"] == name]
        assert [int(r["threshold"]) for r in curve] == list(range(256))
        p, r, f, e = (np.array([float(row[k]) for row in curve]) for k in ("precision", "recall", "f", "e"))
        assert r[0] == 1.0  # everything is found at threshold 0
        assert (np.diff(r) <= 0).all()
        of_means = 1.3 * p * r / np.maximum(0.3 * p + r, 1e-12)
        assert of_means.max() == pytest.approx(found[f"test/{name}/max_f_mean_first"], rel=1e-5)
        assert f.mean() == pytest.approx(found[f"test/{name}/mean_f"], rel=1e-5)
        assert e.max() == pytest.approx(found[f"test/{name}/max_e"], rel=1e-5)


def fit(root: Path, *flags: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "plot_curves", lambda folder: None)
        assert cli.main(["fit", *COMPOSITES, f"--trainer.default_root_dir={root}", *flags]) == 0
    return root / "ras_tiny_composites" / "version_0"


RESUMED = ("--trainer.max_steps=9", "--checkpoint.every_n_train_steps=3", "--model.init_args.scales=[32,48]")


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Killed in the second epoch of five batches; a side is drawn per step."""
    whole = fit(tmp_path / "whole", *RESUMED)
    original = checkpoint.Checkpoint._write

    def write(self: checkpoint.Checkpoint, trainer: Any) -> None:
        original(self, trainer)
        if trainer.global_step == 6:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "_write", write)
        with pytest.raises(Killed):
            fit(tmp_path / "killed", *RESUMED)
    assert run_differences(whole, fit(tmp_path / "killed", *RESUMED, "--ckpt_path=last")) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_and_measure_what_one_does(strategy: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    # plain SGD: Adam's first steps turn rounding into signs
    flags = ["--trainer.max_steps=8", "--checkpoint.every_n_train_steps=4"]
    flags += ["--model.init_args.optimizer.class_path=torch.optim.SGD"]
    flags += ["--model.init_args.optimizer.init_args.lr=0.05"]
    one = fit(tmp_path / "one", *flags)
    two = tmp_path / "two"
    two.mkdir()
    command = [sys.executable, str(Path(cli.__file__).resolve()), "fit", *COMPOSITES, *flags]
    command += [f"--config=trainer/{strategy}", "--trainer.devices=2", f"--trainer.default_root_dir={two}"]
    done = subprocess.run(
        command, env=environment(), cwd=two, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stdout + done.stderr, done.stderr[-3000:]
    two = two / "ras_tiny_composites" / "version_0"
    a, b = (torch.load(f / "checkpoints" / "step=00000008.ckpt", weights_only=True) for f in (one, two))
    distance = largest_difference(a["state_dict"], b["state_dict"])
    print(f"{strategy}: weights differ by {distance:.1e}")
    assert distance <= 1e-6
    finals = [json.loads((f / "summary.json").read_text())["final"] for f in (one, two)]
    assert finals[1]["val/mae"] == pytest.approx(finals[0]["val/mae"], abs=1e-4)


def test_the_claim_changes_one_thing_per_arm() -> None:
    claim = read_claim(find_config("ras_composites", "claims"))
    switches = {name: {k.split(".")[-1]: v for k, v in arm.flags.items()} for name, arm in claim.arms.items()}
    base = yaml.safe_load(find_config("ras_composites", "claims").read_text())["overrides"]
    own = {
        n: {k: v for k, v in f.items() if k not in {o.split(".")[-1] for o in base}}
        for n, f in switches.items()
    }
    assert own == {
        "full": {},
        "no_attention": {"attention": "none"},
        "no_residual": {"residual": False},
        "global_only": {"refinement": False},
    }


def test_every_parameter_of_the_sweep_is_one_of_a_run(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("ras_tiny_composites", "sweeps").read_text())
    values = {k: p["values"][-1] if "values" in p else p["min"] for k, p in sweep["parameters"].items()}
    flags = [f"--{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()]
    folder = fit(tmp_path, *flags, "--trainer.max_steps=1", "--trainer.val_check_interval=1")
    assert sweep["metric"]["name"] in json.loads((folder / "summary.json").read_text())["final"]
