"""The DiT recipes for GPUs: their numbers, headers and costs, both layouts of latents, the true size."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import build, run, summary
from fakes.latents import fake_latents
from processes import CLI, environment
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cli
import datamodules
import zoo
from zoo.engine.metrics_csv import read_metrics
from zoo.hub import weights as hub
from zoo.hub.catalog import config_folder, find_config

GMACS = {"S": 6.06, "B": 23.01, "L": 80.71, "XL": 118.64}
# config -> size, iterations, what it changes of the constructor's defaults
RECIPES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "dtr_dit_s": ("S", 400_000, {}),
    "dtr_dit_b": ("B", 400_000, {}),
    "dtr_dit_l": ("L", 400_000, {}),
    "dtr_dit_xl": ("XL", 400_000, {}),
    "dtr_dit_l_uw": ("L", 2_000_000, {"loss_weight": "uw"}),
    "dtr_dit_l_cosine": ("L", 400_000, {"schedule": "cosine"}),
    "dtr_dit_l_min_snr": ("L", 400_000, {"loss_weight": "min_snr"}),
    "dtr_dit_l_random": ("L", 400_000, {"routing": "random"}),
    "dtr_dit_s_cosine": ("S", 400_000, {"schedule": "cosine"}),
    "dtr_dit_b_cosine": ("B", 400_000, {"schedule": "cosine"}),
    "dtr_dit_xl_cosine": ("XL", 400_000, {"schedule": "cosine"}),
    "dtr_dit_l_uw_cosine": ("L", 2_000_000, {"loss_weight": "uw", "schedule": "cosine"}),
    "dit_s": ("S", 400_000, {"routing": "none"}),
    "dit_b": ("B", 400_000, {"routing": "none"}),
    "dit_l": ("L", 400_000, {"routing": "none"}),
    "dit_l_cosine": ("L", 400_000, {"routing": "none", "schedule": "cosine"}),
    "dit_l_min_snr": ("L", 400_000, {"routing": "none", "loss_weight": "min_snr"}),
    "dit_l_uw": ("L", 400_000, {"routing": "none", "loss_weight": "uw"}),
    "dit_xl": ("XL", 7_000_000, {"routing": "none", "cfg_channels": 3}),
}
# What a CPU needs changed; the structure stays.
SMALL = [
    *(f"--model.init_args.{k}" for k in ("depth=1", "width=64", "heads=4", "input_size=8", "compile=false")),
    *("--data.init_args.batch_size=8", "--data.init_args.num_workers=0", "--trainer.log_every_n_steps=1"),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("latents")
    return {layout: fake_latents(folder / layout, layout, 32) for layout in ("packed", "fast-dit")}


def test_every_full_size_config_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("*dit_*.yaml")}
    assert {n for n in shipped if not n.endswith(("digits", "mnist"))} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_papers(name: str, tmp_path: Path) -> None:
    size, iterations, changed = RECIPES[name]
    built = build(name, tmp_path)
    model, config = built.model, built.config["fit"]
    assert isinstance(model, zoo.DTR)
    sizes = {"width": None, "depth": None, "heads": None}
    defaults = dict(zoo.DTR(depth=1, width=16, heads=1).hparams) | sizes
    expected = defaults | {"size": size, "compile": True, "vae": "stabilityai/sd-vae-ft-ema"} | changed
    assert dict(model.hparams) == expected
    paper = {"patch_size": 2, "input_size": 32, "alpha": 4.0, "beta": 0.8, "timesteps": 1000, "guidance": 1.5}
    paper |= {
        "label_dropout": 0.1, "sampler": "ddpm", "sampling_steps": 250, "uw_lr": 0.025, "uw_intervals": 8,
    }  # fmt: skip
    assert {k: expected[k] for k in paper} == paper

    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    group = {k: optimizer.param_groups[0][k] for k in ("lr", "betas", "eps", "weight_decay")}
    assert group == {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    assert model.lr_scheduler is None

    trainer = config.trainer
    assert (trainer.max_steps, trainer.precision) == (iterations, "bf16-mixed")
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (None, 1)
    assert (config.checkpoint.every_n_train_steps, config.checkpoint.keep) == (50_000, -1)
    assert (config.ema.decay, config.seed_everything) == (0.9999, 0)
    assert isinstance(built.datamodule, datamodules.ImageNetLatents)
    assert built.datamodule.batch_size == 256


def test_headers_tell_number_hardware_and_time() -> None:
    for name in RECIPES:
        text = find_config(name).read_text()
        header = " ".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
        wanted = ("Paper:", "FID", "ImageNet 256", "Hardware:", "Estimate, not measured:", "H200")
        assert [w for w in wanted if w not in header] == [], name
        assert set(yaml.safe_load(text)) == {"model", "data", "trainer", "checkpoint", "ema"}


@pytest.mark.parametrize(("name", "layout"), [("dtr_dit_l_uw", "packed"), ("dit_s", "fast-dit")])
@pytest.mark.filterwarnings("ignore:.*fast-DiT's extractor.*")
def test_three_steps_move_the_head_and_its_average(
    name: str, layout: str, roots: Any, tmp_path: Path
) -> None:
    data = [f"--data.init_args.root={roots[layout]}", f"--data.init_args.layout={layout}"]
    found = summary("fit", name, tmp_path, "--trainer.max_steps=3", *SMALL, *data)
    assert (found["steps"], found["effective_batch"], found["precision"]) == (3, 8, "bf16-mixed")
    folder = tmp_path / name / "version_0"
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2]
    # a fresh network predicts 0, so this is the mean of eps^2
    assert all(abs(row["train/mse"] - 1) < 0.1 for row in rows)
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    assert ("uw/weight_8" in rows[0]) == (RECIPES[name][2].get("loss_weight") == "uw")
    checkpoint = folder / "checkpoints" / "step=00000003.ckpt"
    weights, raw = hub.read(checkpoint), hub.read(checkpoint, averaged=False)
    assert weights.averaged
    key = "network.final_layer.linear.weight"  # 0 at first; AdamW moves an entry by about lr = 1e-4 a step
    assert 2e-4 < float(raw.state_dict[key].abs().max()) < 4e-4
    assert 2e-8 < float(weights.state_dict[key].abs().max()) < 8e-8  # decay .9999
    assert weights.hparams["routing"] == RECIPES[name][2].get("routing", "dtr")


def test_layouts_of_the_same_size_train_the_same_network(roots: dict[str, Path], tmp_path: Path) -> None:
    """Both layouts feed latents of unit variance; a scale applied twice or never would show in the data."""
    for layout, root in roots.items():
        data = datamodules.ImageNetLatents(root=str(root), layout=layout, batch_size=32, num_workers=0)  # type: ignore[arg-type]
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        assert abs(float(batch["latent"].std()) - 1) < 0.05


@pytest.mark.parametrize("layout", ["packed", "fast-dit"])
def test_without_data_one_line_says_how_to_get_them(layout: str, tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "nowhere"
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.root={root}"]
    arguments.append(f"--data.init_args.layout={layout}")
    assert cli.main(["fit", "--config", "dtr_dit_l_uw", *arguments, *SMALL]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    for word in (str(root), f"layout '{layout}'", "image-net.org", "stabilityai/sd-vae-ft-ema", "ZOO_DATA"):
        assert word in line


def test_latents_of_another_size_name_both_sizes(roots: Any, tmp_path: Path, capsys: Any) -> None:
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.root={roots['packed']}"]
    small = [*(a for a in SMALL if "input_size" not in a), "--model.init_args.input_size=32"]
    assert cli.main(["fit", "--config", "dtr_dit_l", *arguments, *small]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "model.init_args.input_size is 32, but the data (datamodules.ImageNetLatents) has 8" in line


def test_samples_are_written_without_latents_or_vae(tmp_path: Path) -> None:
    sampling = ["--model.init_args.sampling_steps=2", "--model.init_args.vae=null"]
    data = ["--data.init_args.root=/nowhere", "--data.init_args.predict_samples=6", "--weights=none"]
    folder = run("predict", "dtr_dit_l", tmp_path, *sampling, *data, *SMALL)
    with np.load(next(folder.rglob("latents.npz"))) as file:
        assert file["arr_0"].shape == (6, 4, 8, 8)


@pytest.mark.slow
def test_true_size_trains_three_steps(tmp_path: Path) -> None:
    """dtr_dit_l as it is but for batch 2 and float32 (a CPU has no fast bfloat16)."""
    root = fake_latents(tmp_path / "latents", "packed", 8, size=32)
    flags = ["--data.init_args.batch_size=2", "--data.init_args.num_workers=0"]
    flags += [f"--data.init_args.root={root}", "--trainer.enable_checkpointing=false"]
    flags += ["--trainer.max_steps=3", "--trainer.precision=32-true", "--model.init_args.compile=false"]
    flags += [
        "--trainer.log_every_n_steps=1",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.accelerator=cpu",
    ]
    # in a process of its own: its gigabytes would count as those of every later child of this one
    command = [sys.executable, str(CLI), "fit", "--config=dtr_dit_l", *flags]
    subprocess.run(command, env=environment(), check=True, timeout=550, capture_output=True)
    rows = read_metrics(tmp_path / "dtr_dit_l" / "version_0" / "metrics.csv")
    assert len(rows) == 3
    assert all(abs(row["train/mse"] - 1) < 0.1 for row in rows)


H200_BF16 = 989e12  # dense, operations per second
SAMPLES, STEPS = 50_000, 250
CONFIGS = sorted(p.stem for p in config_folder().glob("*.yaml") if "per image forward" in p.read_text())
COST = re.compile(
    r"Cost: (?P<gmac>[\d.]+) GMAC \((?P<forward>[\d.]+) GFLOP\) per image forward, "
    r"(?P<train>[\d.]+) GFLOP to train on it; 50,000 samples of 250 (?P<kind>un)?guided steps are "
    r"(?P<sampling>[\d.]+) h\. "
    r".*Estimate, not measured: (?P<hours>\d+) h"
)


def read(name: str) -> tuple[re.Match[str], dict[str, Any]]:
    """The numbers of a header, and the config."""
    text = (config_folder() / f"{name}.yaml").read_text()
    header = " ".join(x.removeprefix("#").strip() for x in text.splitlines() if x.startswith("#"))
    found = COST.search(header)
    assert found, f"{name} has no cost line"
    return found, yaml.safe_load(text)


def forward_operations(arguments: dict[str, Any]) -> int:
    """Operations (2 per multiply-add) of one image's forward pass, counted on the meta device."""
    with torch.device("meta"):
        model = zoo.DTR(**arguments)
        x, t = torch.empty(1, *model.shape), torch.zeros(1, dtype=torch.long)
    # The counter sees no fused attention on some devices, hence the plain one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.network.to("meta")(x, t, t)
    return int(counter.get_total_flops())


def test_every_full_size_config_states_its_cost() -> None:
    large = {p.stem for p in config_folder().glob("*.yaml") if "max_steps: 400000" in p.read_text()}
    assert large <= set(CONFIGS)
    assert {"dtr_dit_l_uw", "dit_xl", "dtr_unet_imagenet64", "dtr_unet_ffhq64"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_header_states_the_counted_cost(name: str) -> None:
    stated, config = read(name)
    operations = forward_operations(config["model"]["init_args"])
    assert float(stated["gmac"]) == pytest.approx(operations / 2e9, abs=0.0051)
    if name in RECIPES:
        assert operations / 2e9 == pytest.approx(GMACS[RECIPES[name][0]], rel=1e-3)  # the paper's
    assert float(stated["forward"]) == pytest.approx(operations / 1e9, abs=0.051)
    # backward is two forwards
    assert float(stated["train"]) == pytest.approx(3 * operations / 1e9, abs=0.051)
    half_peak = H200_BF16 / 2
    steps, batch = config["trainer"]["max_steps"], 256
    assert float(stated["hours"]) == round(steps * batch * 3 * operations / half_peak / 3600)
    passes = 1 if stated["kind"] else 2
    hours = SAMPLES * STEPS * passes * operations / half_peak / 3600
    assert float(stated["sampling"]) == pytest.approx(hours, abs=0.051)
    unguided = config["model"]["init_args"].get("guidance", 1.5) == 1
    assert unguided == bool(stated["kind"])
