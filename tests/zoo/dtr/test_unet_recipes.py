"""The U-Net's recipes: their numbers and sizes, and three steps of each on a twin of its pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cli
import zoo
from zoo.hub.catalog import find_config

# config -> parameters, what it changes of the constructor's defaults
PIXELS = {"backbone": "unet", "input_size": 64, "in_channels": 3, "schedule": "cosine", "clip_denoised": True}
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    "dtr_unet_imagenet64": (295_905_222, PIXELS),
    "dtr_unet_ffhq64": (295_136_454, {**PIXELS, "num_classes": 1, "guidance": 1.0}),
}
SMALL = [
    *("--model.init_args.input_size=16", "--data.init_args.size=16", "--model.init_args.unet_channels=32"),
    *("--model.init_args.unet_multipliers=[1,2]", "--model.init_args.unet_attention=[8]"),
    *("--model.init_args.unet_res_blocks=1", "--model.init_args.unet_head_channels=32"),
    *("--data.init_args.batch_size=8", "--data.init_args.num_workers=0", "--trainer.log_every_n_steps=1"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
]


def pictures(root: Path, folders: list[str]) -> Path:
    """Random pictures of 20 x 24 pixels, ten in each folder."""
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(10):
            picture = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
            picture.save(root / folder / f"{i}.png")
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_adms_network_with_the_dit_rows_training(name: str) -> None:
    parameters, changed = RECIPES[name]
    config = yaml.safe_load(find_config(name).read_text())
    assert config["model"]["init_args"] == changed
    with torch.device("meta"):
        model = zoo.DTR(**changed)
    assert sum(p.numel() for p in model.parameters()) == parameters
    h = model.hparams
    keys = ("channels", "multipliers", "res_blocks", "attention", "head_channels")
    network = [h[f"unet_{k}"] for k in keys]
    assert network == [192, [1, 2, 3, 4], 3, [32, 16, 8], 64]  # ADM's for 64 x 64 ImageNet
    found = [h[k] for k in ("unet_dropout", "unet_groups", "routing", "alpha", "beta")]
    assert found == [0.1, 32, "dtr", 4, 0.8]
    assert (h["sampler"], h["sampling_steps"], h["loss_weight"]) == ("ddpm", 250, "constant")
    group = model.configure_optimizers().param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 0.0)
    data, trainer = config["data"]["init_args"], config["trainer"]
    assert ((data["size"], data["num_classes"]), data["predict_samples"]) == ((64, h["num_classes"]), 50_000)
    assert (trainer["max_steps"], trainer["precision"]) == (400_000, "bf16-mixed")
    assert config["ema"] == {"decay": 0.9999}
    assert config["checkpoint"] == {"every_n_train_steps": 50_000, "keep": -1}


@pytest.mark.parametrize("name", RECIPES)
def test_three_steps_on_a_twin_of_the_pictures(name: str, tmp_path: Path) -> None:
    classes = 1 if name == "dtr_unet_ffhq64" else 3
    root = pictures(tmp_path / "data", ["00000", "01000"] if classes == 1 else ["n01", "n02", "n03"])
    flags = [f"--data.init_args.root={root}", f"--trainer.default_root_dir={tmp_path}"]
    for part in ("model", "data"):
        flags.append(f"--{part}.init_args.num_classes={classes}")
    assert cli.main(["fit", "--config", name, "--trainer.max_steps=3", *SMALL, *flags]) == 0
    run = tmp_path / name / "version_0"
    assert json.loads((run / "summary.json").read_text())["effective_batch"] == 8
    with (run / "metrics.csv").open() as file:
        mse = [float(r["train/mse"]) for r in csv.DictReader(file)]
    assert len(mse) == 3
    assert mse[0] == pytest.approx(1, abs=0.05)  # a fresh network predicts 0, so this is the mean of eps^2

    few = ["--model.init_args.sampling_steps=2", "--data.init_args.predict_samples=5"]
    weights = f"--weights={run / 'checkpoints' / 'step=00000003.ckpt'}"
    assert cli.main(["predict", "--config", name, weights, *SMALL, *flags, *few]) == 0
    with np.load(next(tmp_path.rglob("samples.npz"))) as file:
        assert (file["arr_0"].shape, file["arr_0"].dtype) == ((5, 16, 16, 3), np.uint8)
