"""MBT's recipes: the paper's numbers, and the first loss of a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from commands import build, run, words
from fakes.clips import SMALL, fake_epic

from zoo.engine.metrics_csv import read_metrics
from zoo.hub.catalog import config_folder, find_config

# config -> layout, outputs, task, frames, steps, warm-up
RECIPES: dict[str, tuple[str, int, str, int, int, int]] = {
    "mbt_audioset_mini": ("audioset", 527, "multi_label", 8, 15_900, 795),
    "mbt_audioset_mini_official": ("audioset", 527, "multi_label", 32, 15_900, 795),
    "mbt_audioset_500k": ("audioset", 527, "multi_label", 8, 390_600, 19_530),
    "mbt_vggsound": ("vggsound", 309, "single_label", 8, 134_700, 6_735),
    "mbt_epic": ("epic", 397, "verb_noun", 32, 52_500, 2_625),
    "mbt_kinetics400": ("kinetics", 400, "single_label", 8, 187_500, 9_375),
    "mbt_moments": ("moments", 339, "single_label", 8, 562_500, 28_125),
}
EMBEDDED = {"mbt_digits", "mbt_digits_sum", "mbt_tones_sum"}


def test_every_recipe_is_listed_here() -> None:
    assert {p.stem for p in config_folder().glob("mbt_*.yaml")} == {*RECIPES, *EMBEDDED}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_papers(name: str, tmp_path: Path) -> None:
    layout, outputs, task, frames, steps, warmup = RECIPES[name]
    built = build(name, tmp_path)
    model, data = built.model, built.datamodule
    assert (data.layout, data.frames, data.batch_size, data.test_crops) == (layout, frames, 64, 4)
    assert (model.hparams["num_classes"], model.task, model.network.fusion_layer) == (outputs, task, 8)
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
    assert (masks.time_masks * masks.time_width, masks.frequency_masks * masks.frequency_width) == (192, 48)
    if task == "multi_label" and name.endswith("mini"):
        assert (steps, warmup) == (50 * (20_361 // 64), round(2.5 * (20_361 // 64)))


def test_a_clip_of_three_seconds_gives_eight_frames(tmp_path: Path) -> None:
    data = build("mbt_moments", tmp_path).datamodule
    for place in (0.0, 0.3, 1.0):
        numbers = data.windows.frame_numbers(place, 75)
        assert set(map(int.__sub__, numbers[1:], numbers)) == {9}


def test_epic_takes_32_frames_of_25_a_second(tmp_path: Path) -> None:
    """1.28 s; at the 60 a second of the extraction it would be 0.53 s."""
    built = build("mbt_epic", tmp_path)
    windows = built.datamodule.windows
    assert (windows.fps, windows.step, windows.frames) == (25.0, 1, 32)
    assert built.model.network.activation_checkpointing


def test_headers_tell_paper_number_and_hardware() -> None:
    for name in RECIPES:
        text = find_config(name).read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#"))
        wanted = ("Nagrani et al., NeurIPS 2021", "Hardware: estimate, not measured", "GMAC")
        assert [w for w in wanted if w not in header] == [], name
        assert "published" in header or "released" in header, name


def test_verb_and_noun_chance_is_the_first_loss(tmp_path: Path) -> None:
    """Through the whole command line: (ln 97 + ln 300) / 2 at the first step, with a zero head."""
    flags = {**SMALL, "data.init_args.root": fake_epic(tmp_path / "data"), "trainer.max_steps": 1}
    flags |= {"trainer.log_every_n_steps": 1}
    (row, *_) = read_metrics(run("fit", "mbt_epic", tmp_path, *words(flags)) / "metrics.csv")
    assert row["train/loss"] == pytest.approx((math.log(97) + math.log(300)) / 2, abs=1e-4)
