"""The recipes for GPUs: their numbers and sizes, and three steps of each on the twin of both data layouts."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes.latents import fake_latents
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cli
import datamodules
import zoo
from zoo.dtr.network import SIZES, DiT
from zoo.engine.runner import ZooCLI
from zoo.hub import weights as hub
from zoo.hub.catalog import config_folder, find_config

# Parameters at patch 2, 1000 classes, learned sigma: (trainable, with the fixed position table).
PARAMETERS = {
    "S": (32_865_056, 32_963_360),
    "B": (130_315_808, 130_512_416),
    "L": (457_840_672, 458_102_816),
    "XL": (674_834_720, 675_129_632),
}
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
    *("--data.init_args.batch_size=8", "--data.init_args.num_workers=0"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
]


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("latents")
    return {layout: fake_latents(folder / layout, layout, 32) for layout in ("packed", "fast-dit")}


def build(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ZooCLI:
    """The objects that ``zoo fit --config NAME`` builds, with a model on the meta device."""

    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    arguments = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", "--config", name, *arguments, "--debug"])
    built: ZooCLI = caught.value.args[0]
    return built


def test_every_full_size_config_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("*dit_*.yaml")}
    assert {n for n in shipped if not n.endswith(("digits", "mnist"))} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_papers(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size, iterations, changed = RECIPES[name]
    built = build(name, monkeypatch, tmp_path)
    model, config = built.model, built.config["fit"]
    assert isinstance(model, zoo.DTR)
    trainable, with_table = PARAMETERS[size]
    assert sum(p.numel() for p in model.network.parameters()) == trainable
    assert trainable + model.network.pos_embed.numel() == with_table
    assert all(p.is_meta for p in model.network.parameters())
    extra = sum(p.numel() for p in model.parameters()) - trainable
    assert extra == (8 if changed.get("loss_weight") == "uw" else 0)

    defaults = dict(zoo.DTR(depth=1, width=16, heads=1).hparams) | {
        "width": None,
        "depth": None,
        "heads": None,
    }
    expected = defaults | {"size": size, "compile": True, "vae": "stabilityai/sd-vae-ft-ema"} | changed
    assert dict(model.hparams) == expected
    paper = {"patch_size": 2, "input_size": 32, "alpha": 4.0, "beta": 0.8, "timesteps": 1000, "guidance": 1.5}
    paper |= {
        "label_dropout": 0.1,
        "sampler": "ddpm",
        "sampling_steps": 250,
        "uw_lr": 0.025,
        "uw_intervals": 8,
    }
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
    assert config.ema.decay == 0.9999
    assert config.seed_everything == 0
    assert isinstance(built.datamodule, datamodules.ImageNetLatents)
    assert built.datamodule.batch_size == 256


@pytest.mark.parametrize("name", RECIPES)
def test_header_tells_paper_number_hardware_and_time(name: str) -> None:
    text = find_config(name).read_text()
    header = " ".join(line.removeprefix("#") for line in text.splitlines() if line.startswith("#"))
    for word in ("Paper:", "FID", "ImageNet 256", "Hardware:", "Estimate, not measured:", "H200"):
        assert word in header
    assert max(map(len, text.splitlines())) <= 112
    content = yaml.safe_load(text)
    assert set(content) == {"model", "data", "trainer", "checkpoint", "ema"}


@pytest.mark.parametrize("layout", ["packed", "fast-dit"])
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore:.*fast-DiT's extractor.*")
def test_three_steps_on_the_twin_of_each_layout(
    name: str, layout: str, roots: dict[str, Path], tmp_path: Path
) -> None:
    data = [f"--data.init_args.root={roots[layout]}", f"--data.init_args.layout={layout}"]
    arguments = ["--config", name, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=3"]
    assert cli.main(["fit", *arguments, *SMALL, *data]) == 0
    run = tmp_path / name / "version_0"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["effective_batch"], summary["precision"]) == (3, 8, "bf16-mixed")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [0, 1, 2]
    mse = [float(r["train/mse"]) for r in rows]
    assert all(abs(m - 1) < 0.1 for m in mse)  # a fresh network predicts 0, so this is the mean of eps^2
    assert all(math.isfinite(float(r["train/loss"])) for r in rows)
    assert ("uw/weight_8" in rows[0]) == (RECIPES[name][2].get("loss_weight") == "uw")
    checkpoint = run / "checkpoints" / "step=00000003.ckpt"
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
def test_without_data_one_line_says_what_is_missing_and_how_to_get_it(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "nowhere"
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.root={root}"]
    arguments.append(f"--data.init_args.layout={layout}")
    assert cli.main(["fit", "--config", "dtr_dit_l_uw", *arguments, *SMALL]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert len(lines) == 1
    for word in (str(root), f"layout '{layout}'", "image-net.org", "stabilityai/sd-vae-ft-ema", "ZOO_DATA"):
        assert word in lines[0]


def test_latents_of_another_size_name_both_sizes(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.root={roots['packed']}"]
    small = [a for a in SMALL if "input_size" not in a]
    assert cli.main(["fit", "--config", "dtr_dit_l", *arguments, *small]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "ask for 4 x 32 x 32" in line
    assert "gives 4 x 8 x 8" in line


def test_samples_are_written_without_latents_or_vae(tmp_path: Path) -> None:
    import numpy as np

    sampling = ["--model.init_args.sampling_steps=2", "--model.init_args.vae=null"]
    data = ["--data.init_args.root=/nowhere", "--data.init_args.predict_samples=6"]
    arguments = ["--config", "dtr_dit_l", f"--trainer.default_root_dir={tmp_path}", *sampling, *data]
    assert cli.main(["predict", *arguments, *SMALL]) == 0
    with np.load(next(tmp_path.rglob("latents.npz"))) as file:
        assert file["arr_0"].shape == (6, 4, 8, 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("routing", ["none", "dtr"])
def test_multiply_adds_of_a_forward_pass_are_the_papers(size: str, routing: Any) -> None:
    with torch.device("meta"):
        network = DiT(**SIZES[size], routing=routing).to("meta")
        x, t = torch.empty(1, 4, 32, 32), torch.zeros(1, dtype=torch.long)
    # The counter sees no fused attention on some devices, hence the plain one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(x, t, t)
    gmacs = counter.get_total_flops() / 2e9
    print(f"{size} {routing}: {gmacs:.3f} GMAC")
    assert gmacs == pytest.approx(GMACS[size], rel=1e-3)


@pytest.mark.slow
def test_true_size_trains_three_steps(tmp_path: Path) -> None:
    """dtr_dit_l as it is but for batch 2 and float32 (a CPU has no fast bfloat16)."""
    root = fake_latents(tmp_path / "latents", "packed", 8, size=32)
    flags = ["--data.init_args.batch_size=2", "--data.init_args.num_workers=0", "--trainer.accelerator=cpu"]
    flags += ["--trainer.max_steps=3", "--trainer.precision=32-true", "--model.init_args.compile=false"]
    flags += ["--trainer.log_every_n_steps=1", "--trainer.enable_checkpointing=false"]
    where = [f"--trainer.default_root_dir={tmp_path}", f"--data.init_args.root={root}"]
    assert cli.main(["fit", "--config", "dtr_dit_l", *where, *flags]) == 0
    run = tmp_path / "dtr_dit_l" / "version_0"
    with (run / "metrics.csv").open() as file:
        mse = [float(r["train/mse"]) for r in csv.DictReader(file)]
    print(mse, json.loads((run / "summary.json").read_text())["peak_memory_bytes"] / 2**30, "GiB")
    assert len(mse) == 3
    assert all(abs(m - 1) < 0.1 for m in mse)
