"""IM-NET's recipes: sizes on the meta device, and three steps of each on twins of both released layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes.shapes import fake_shapes
from test_gaug_configs import build

import cli
import zoo
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

# recipe -> parameters of the network
RECIPES = {
    "imae_shapenet": 10_003_713,
    "imae_chair": 4_852_320 + 960 + 3_309_185,
    "cnnae_chair": 4_852_320 + 960 + 4_852_193 + 960,
    "imgan_chair": 4_722_816 + 4_462_593,
    "imsvr_shapenet": 20_517_569,
    "imae_letters_64": 377_908 + 900_737,
    "imae_mnist": 377_908 + 900_737,
    "imgan_mnist": 175_057 + 900_737,
}
EMBEDDED = {
    "imae_solids",
    "imae_letters",
    "cnnae_letters",
    "imae_chairs",
    "cnnae_chairs",
    "imgan_solids",
    "imsvr_solids",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("shapes")
    fake_shapes(root / "all_vox256_img_train.hdf5", "v2", 4)
    fake_shapes(root / "all_vox256_img_test.hdf5", "v2", 1)
    fake_shapes(root / "03001627_vox.hdf5", "v1", 4, views=20)
    for version in ("v1", "v2"):
        zoo.save(
            zoo.IMAE(version=version, z_dim=8, width=4, encoder_width=4), root / f"{version}.safetensors"
        )
    return root


def test_every_recipe_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("*.yaml") if p.stem.startswith(("im", "cnnae"))}
    assert shipped == {*RECIPES, *EMBEDDED}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_the_published_size(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = build(monkeypatch, tmp_path, "--config", name)
    assert sum(p.numel() for p in built.model.network.parameters()) == RECIPES[name]
    optimizers = built.model.configure_optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-5, (0.5, 0.999), 0)


@pytest.mark.parametrize("name", RECIPES)
def test_header_tells_paper_and_hardware(name: str) -> None:
    text = find_config(name).read_text()
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Chen & Zhang, CVPR 2019", "Paper:", "Hardware:"):
        assert word in header
    assert max(map(len, text.splitlines())) <= 130


def test_stages_are_the_released_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    v2 = build(monkeypatch, tmp_path, "--config", "imae_shapenet").datamodule
    assert [tuple(s.values()) for s in v2.stages] == [(16, 200), (32, 200), (64, 400)]
    assert v2.batch_size == 32
    v1 = build(monkeypatch, tmp_path, "--config", "imae_chair")
    # 64 has two chunks of 16384 points, an epoch each
    assert [tuple(s.values()) for s in v1.datamodule.stages] == [(16, 50), (32, 50), (64, 200)]
    assert v1.datamodule.batch_size == 1
    assert v1.model.hparams["points_per_shape"] == 16384
    gan = build(monkeypatch, tmp_path, "--config", "imgan_chair")
    assert (gan.model.hparams["noise"], gan.model.hparams["penalty"]) == (0.2, 10)
    assert (gan.model.hparams["critic_steps"], gan.datamodule.batch_size) == (1, 50)
    assert gan.trainer.max_epochs == 10_000
    views = build(monkeypatch, tmp_path, "--config", "imsvr_shapenet")
    assert (views.datamodule.batch_size, views.trainer.max_epochs) == (64, 1000)
    for run in (gan, views):
        assert run.model.hparams["mesh_resolution"] == 256
        optimizer = run.model.optimizer(run.model.network.parameters())
        assert optimizer.defaults["lr"] == 5e-5
        assert optimizer.defaults["betas"] == (0.5, 0.999)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n.endswith(("mnist", "64", "chair")) else ())
        for n in RECIPES
    ],
)
def test_three_steps_on_a_twin_of_the_release(name: str, files: Path, tmp_path: Path) -> None:
    flags = {
        "trainer.max_steps": 3,
        "trainer.max_epochs": -1,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": tmp_path,
        "data.init_args.batch_size": 1 if name == "imae_chair" else 2,
        "previews.count": 0,
    }
    if "letters" not in name and "mnist" not in name:
        flags |= {"data.init_args.root": files, "data.init_args.num_workers": 0}
    if name.startswith("imae_") and "data.init_args.root" in flags:
        flags |= {
            "data.init_args.stages": '[{"resolution": 16, "epochs": 1}, {"resolution": 64, "epochs": 1}]',
            "model.init_args.points_per_shape": 256,
        }
    if name == "imgan_chair":
        flags |= {"model.init_args.autoencoder": files / "v1.safetensors"}
        flags |= {"model.init_args.z_dim": 8, "model.init_args.width": 4}
    if name == "imsvr_shapenet":
        flags |= {"model.init_args.autoencoder": files / "v2.safetensors"}
        flags |= {"model.init_args.z_dim": 8, "model.init_args.width": 4, "model.init_args.image_width": 8}
    arguments = [f"--{k}={v}" for k, v in flags.items()]
    assert cli.main(["fit", "--config", name, *arguments]) == 0
    summary = json.loads((tmp_path / name / "version_0" / "summary.json").read_text())
    assert summary["steps"] == 3


@pytest.mark.parametrize("name", ["imae_chairs", pytest.param("cnnae_chairs", marks=pytest.mark.slow)])
def test_chairs_train_and_are_judged_at_twice_their_resolution(name: str, tmp_path: Path) -> None:
    flags = {
        "trainer.max_steps": 2,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path,
        "data.init_args.batch_size": 2,
        "data.init_args.train_shapes": 2,
        "data.init_args.test_shapes": 1,
    }
    arguments = [f"--{k}={v}" for k, v in flags.items()]
    assert cli.main(["fit", "--config", name, *arguments]) == 0
    checkpoint = next((tmp_path / name / "version_0" / "checkpoints").glob("step*.ckpt"))
    arguments.append(f"--weights={checkpoint}")
    assert cli.main(["test", "--config", name, *arguments]) == 0
    final = json.loads(next((tmp_path / name).rglob("summary_test.json")).read_text())["final"]
    assert 0 <= final["test/iou"] <= 1


@pytest.mark.parametrize(("name", "arms"), [
    ("imnet_letters", {"cnn": "cnnae_letters", "im": "imae_letters"}),
    ("imnet_chairs", {"cnn": "cnnae_chairs", "im": "imae_chairs"}),
])  # fmt: skip
def test_arms_of_the_claims_differ_in_the_decoder_alone(name: str, arms: dict[str, str]) -> None:
    import yaml

    claim = read_claim(find_config(name, "claims"))
    assert {k: v.config for k, v in claim.arms.items()} == arms
    cnn, im = (yaml.safe_load(find_config(arms[k]).read_text()) for k in ("cnn", "im"))
    assert cnn["data"] == im["data"]
    assert cnn["trainer"] == im["trainer"]
    a, b = cnn["model"]["init_args"], im["model"]["init_args"]
    of_the_field = {"width", "init", "points_per_shape"}
    defaults = {"version": "v2"}
    assert defaults | {k: v for k, v in b.items() if k not in of_the_field and k != "norm_momentum"} == {
        k: v for k, v in a.items() if k != "norm_momentum"
    }
