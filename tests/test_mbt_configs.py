"""MBT's recipes: sizes, the paper's numbers, and three steps of each on a fake of its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.clips import FAKES

import cli
from zoo.engine.runner import ZooCLI
from zoo.hub.catalog import config_folder, find_config

# config -> layout, outputs, task, frames, parameters, steps, warm-up
RECIPES: dict[str, tuple[str, int, str, int, int, int, int]] = {
    "mbt_audioset_mini": ("audioset", 527, "multi_label", 8, 173_214_479, 15_900, 795),
    # 3137 positions and a kernel of two frames in the place of 1569 and one
    "mbt_audioset_mini_official": (
        "audioset", 527, "multi_label", 32, 173_215_247 + (1568 + 768) * 768, 15_900, 795,
    ),
    "mbt_audioset_500k": ("audioset", 527, "multi_label", 8, 173_214_479, 390_600, 19_530),
    "mbt_vggsound": ("vggsound", 309, "single_label", 8, 173_047_605 - 768, 134_700, 6_735),
    "mbt_epic": ("epic", 397, "verb_noun", 32, 176_727_949 - 768, 52_500, 2_625),
    "mbt_kinetics400": ("kinetics", 400, "single_label", 8, 173_214_479 - 127 * 769, 187_500, 9_375),
    "mbt_moments": ("moments", 339, "single_label", 8, 173_214_479 - 188 * 769, 562_500, 28_125),
}  # fmt: skip
EMBEDDED = {"mbt_digits", "mbt_digits_sum", "mbt_tones_sum"}


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> ZooCLI:
    """The objects that ``zoo fit`` builds, with a model on the meta device."""

    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    flags = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={root}", "--debug"]
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", *arguments, *flags])
    built: ZooCLI = caught.value.args[0]
    return built


def test_every_recipe_is_listed_here() -> None:
    assert {p.stem for p in config_folder().glob("mbt_*.yaml")} == {*RECIPES, *EMBEDDED}


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_and_recipe(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout, outputs, task, frames, parameters, steps, warmup = RECIPES[name]
    built = build(monkeypatch, tmp_path, "--config", name)
    model, data = built.model, built.datamodule
    assert (data.layout, data.frames, data.batch_size, data.test_crops) == (layout, frames, 64, 4)
    assert (model.hparams["num_classes"], model.task, model.network.fusion_layer) == (outputs, task, 8)
    assert sum(p.numel() for p in model.network.parameters()) == parameters
    assert model.network.shapes == data.shapes
    chosen = model.configure_optimizers()
    schedule = chosen["lr_scheduler"]["scheduler"]
    group = chosen["optimizer"].param_groups[0]
    assert (group["momentum"], schedule.base_lrs, group["weight_decay"]) == (0.9, [0.5], 0)
    assert (schedule.total_steps, schedule.warmup_steps) == (steps, warmup)
    config = built.config["fit"]
    assert (config.trainer.max_steps, config.trainer.gradient_clip_val) == (steps, 1.0)
    h = model.hparams
    official = name.endswith("official")
    recipe = (h["stochastic_depth"], h["mixup_alpha"], h["modality_mixup"], h["label_smoothing"])
    assert recipe == ((0.3, 0.5, False, 0.3) if official else (0.3, 0.3, True, 0.0))
    function = (h["activation"], h["layer_norm_eps"], h["official_cls"], h["pretrained_bottleneck"])
    assert function == (("gelu_tanh", 1e-6, True, "positions") if official else (None, None, False, "normal"))
    masks = data.augmentation
    assert masks.time_masks * masks.time_width == 192
    assert masks.frequency_masks * masks.frequency_width == 48
    if task == "multi_label" and name.endswith("mini"):
        assert (steps, warmup) == (50 * (20_361 // 64), round(2.5 * (20_361 // 64)))


def test_a_clip_of_three_seconds_gives_eight_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = build(monkeypatch, tmp_path, "--config", "mbt_moments").datamodule
    for place in (0.0, 0.3, 1.0):
        numbers = data.windows.frame_numbers(place, 75)
        assert set(map(int.__sub__, numbers[1:], numbers)) == {9}


def test_epic_takes_32_frames_of_25_a_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """1.28 s; at the 60 a second of the extraction it would be 0.53 s."""
    built = build(monkeypatch, tmp_path, "--config", "mbt_epic")
    windows = built.datamodule.windows
    assert (windows.fps, windows.step, windows.frames) == (25.0, 1, 32)
    assert built.model.network.activation_checkpointing


@pytest.mark.parametrize("name", RECIPES)
def test_header_tells_paper_number_and_hardware(name: str) -> None:
    text = find_config(name).read_text()
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Nagrani et al., NeurIPS 2021", "Hardware: estimate, not measured", "GMAC", "published"):
        assert word in header or (word == "published" and "released" in header), word
    assert max(map(len, text.splitlines())) <= 130


# Sizes for three steps on a CPU: 0.48 s of sound, 16 x 16 pixels.
SHORT: dict[str, Any] = {
    "model.init_args.width": 16, "model.init_args.depth": 2, "model.init_args.heads": 2,
    "model.init_args.mlp": 16, "model.init_args.fusion_layer": 0, "model.init_args.image_size": 16,
    "model.init_args.patch_size": 8, "model.init_args.spectrogram_frames": 48,
    "model.init_args.pretrained": "null", "data.init_args.image_size": 16, "data.init_args.seconds": 0.48,
    "model.init_args.mixup_groups": 1, "data.init_args.batch_size": 2, "data.init_args.eval_batch_size": 4,
    "data.init_args.num_workers": 0, "trainer.max_steps": 3, "trainer.precision": "32-true",
    "trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "trainer.log_every_n_steps": 1,
    "trainer.val_check_interval": 1, "checkpoint.every_n_train_steps": 3,
}  # fmt: skip
OUTPUTS = {"audioset": 3, "vggsound": 2, "epic": 397, "kinetics": 2, "moments": 2}


SLOW = ("mbt_audioset_500k", "mbt_kinetics400", "mbt_moments", "mbt_audioset_mini")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in RECIPES]
)
@pytest.mark.filterwarnings("ignore:.*have no file and are skipped")
def test_three_steps_on_a_fake_of_the_layout(name: str, tmp_path: Path) -> None:
    layout = RECIPES[name][0]
    root = FAKES[layout](tmp_path / "data")
    flags = {**SHORT, "data.init_args.root": root, "model.init_args.num_classes": OUTPUTS[layout]}
    if name.endswith("500k"):
        (root / "unbalanced_train_segments.csv").write_text(
            (root / "balanced_train_segments.csv").read_text()
        )
    arguments = [f"--{k}={v}" for k, v in flags.items()] + [f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["fit", "--config", name, *arguments]) == 0
    summary = json.loads((tmp_path / name / "version_0" / "summary.json").read_text())
    assert summary["steps"] == 3
    monitor = {"multi_label": "val/mAP", "single_label": "val/top1", "verb_noun": "val/action_top1"}
    assert 0 <= summary["final"][monitor[RECIPES[name][2]]] <= 1


def test_verb_and_noun_chance_is_the_first_loss(tmp_path: Path) -> None:
    """Through the whole command line: (ln 97 + ln 300) / 2 at the first step, with a zero head."""
    import math

    from zoo.engine.metrics_csv import read_metrics

    root = FAKES["epic"](tmp_path / "data")
    flags = {**SHORT, "data.init_args.root": root, "trainer.max_steps": 1}
    arguments = [f"--{k}={v}" for k, v in flags.items()] + [f"--trainer.default_root_dir={tmp_path}"]
    assert cli.main(["fit", "--config", "mbt_epic", *arguments]) == 0
    (row, *_) = read_metrics(tmp_path / "mbt_epic" / "version_0" / "metrics.csv")
    assert row["train/loss"] == pytest.approx((math.log(97) + math.log(300)) / 2, abs=1e-4)
