"""IM-NET's recipes: the released numbers, and what the claims compare."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import build, run, summary

from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_names, find_config

RECIPES = [
    "imae_shapenet", "imae_chair", "cnnae_chair", "imgan_chair", "imsvr_shapenet", "imae_letters_64",
    "imae_mnist", "imgan_mnist",
]  # fmt: skip
EMBEDDED = [
    "imae_solids", "imae_letters", "cnnae_letters", "imae_chairs", "cnnae_chairs", "imgan_solids",
    "imsvr_solids",
]  # fmt: skip


def test_every_recipe_is_listed_here() -> None:
    assert {n for n in config_names() if n.startswith(("im", "cnnae"))} == {*RECIPES, *EMBEDDED}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_the_published_optimisers(name: str, tmp_path: Path) -> None:
    optimizers = build(name, tmp_path).model.configure_optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (5e-5, (0.5, 0.999), 0)


def test_headers_tell_the_paper() -> None:
    for name in RECIPES:
        text = find_config(name).read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#"))
        wanted = ("Chen & Zhang, CVPR 2019", "Paper:", "Hardware:")
        assert [w for w in wanted if w not in header] == [], name


def test_stages_are_the_released_ones(tmp_path: Path) -> None:
    v2 = build("imae_shapenet", tmp_path).datamodule
    assert ([tuple(s.values()) for s in v2.stages], v2.batch_size) == ([(16, 200), (32, 200), (64, 400)], 32)
    v1 = build("imae_chair", tmp_path)
    # 64 has two chunks of 16384 points, an epoch each
    assert [tuple(s.values()) for s in v1.datamodule.stages] == [(16, 50), (32, 50), (64, 200)]
    assert (v1.datamodule.batch_size, v1.model.hparams["points_per_shape"]) == (1, 16384)
    gan = build("imgan_chair", tmp_path)
    assert (gan.model.hparams["noise"], gan.model.hparams["penalty"]) == (0.2, 10)
    assert (gan.model.hparams["critic_steps"], gan.datamodule.batch_size) == (1, 50)
    assert gan.trainer.max_epochs == 10_000
    views = build("imsvr_shapenet", tmp_path)
    assert (views.datamodule.batch_size, views.trainer.max_epochs) == (64, 1000)
    for built in (gan, views):
        assert built.model.hparams["mesh_resolution"] == 256
        optimizer = built.model.optimizer(built.model.network.parameters())
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (5e-5, (0.5, 0.999))


@pytest.mark.parametrize("name", ["imae_chairs", pytest.param("cnnae_chairs", marks=pytest.mark.slow)])
def test_chairs_train_and_are_judged_at_twice_their_resolution(name: str, tmp_path: Path) -> None:
    flags = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.init_args.batch_size=2"]
    flags += ["--data.init_args.train_shapes=2", "--data.init_args.test_shapes=1"]
    checkpoint = next((run("fit", name, tmp_path, *flags) / "checkpoints").glob("step*.ckpt"))
    final = summary("test", name, tmp_path, *flags, f"--weights={checkpoint}")["final"]
    assert 0 <= final["test/iou"] <= 1


@pytest.mark.parametrize(("name", "arms"), [
    ("imnet_letters", {"cnn": "cnnae_letters", "im": "imae_letters"}),
    ("imnet_chairs", {"cnn": "cnnae_chairs", "im": "imae_chairs"}),
])  # fmt: skip
def test_arms_of_the_claims_differ_in_the_decoder_alone(name: str, arms: dict[str, str]) -> None:
    claim = read_claim(find_config(name, "claims"))
    assert {k: v.config for k, v in claim.arms.items()} == arms
    cnn, im = (yaml.safe_load(find_config(arms[k]).read_text()) for k in ("cnn", "im"))
    assert (cnn["data"], cnn["trainer"]) == (im["data"], im["trainer"])
    a, b = cnn["model"]["init_args"], im["model"]["init_args"]
    of_the_field = {"width", "init", "points_per_shape"}
    defaults = {"version": "v2"}
    assert defaults | {k: v for k, v in b.items() if k not in of_the_field and k != "norm_momentum"} == {
        k: v for k, v in a.items() if k != "norm_momentum"
    }
