"""GAug's recipes: the released values, and LDS on GAug's graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from commands import build, summary, words
from fakes.gaug import fake_gaug

from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

# name -> features, classes, GAT heads of GAug-O (GAug-M always has 8)
GRAPHS = {
    "cora": (1433, 7, 8),
    "citeseer": (3703, 6, 8),
    "airport": (238, 4, 8),
    "ppi": (50, 121, 2),
    "blogcatalog": (8189, 6, 8),
    "flickr": (12047, 9, 2),
}
BACKBONES = ("gcn", "gsage", "gat", "jknet")
# GAug-O: alpha, beta, temperature, pretrain_ep, pretrain_nc, warmup of gcn, gsage, gat, jknet
TUNED_O: dict[str, list[tuple[float, ...]]] = {
    "cora": [
        (1.0, 0.8, 1.2, 160, 30, 0),
        (0.13, 3.2, 1.0, 195, 35, 2),
        (0.02, 2.3, 1.7, 175, 45, 1),
        (0.02, 3.8, 0.1, 75, 10, 10),
    ],
    "citeseer": [
        (0.79, 2.9, 0.5, 70, 215, 0),
        (0.08, 0, 1.4, 290, 10, 5),
        (0.18, 0.4, 1.6, 210, 10, 8),
        (0.17, 0, 0.8, 145, 5, 0),
    ],
    "ppi": [
        (0.28, 0.5, 0.9, 245, 140, 2),
        (0.43, 1.8, 1.9, 85, 215, 0),
        (0.01, 3.1, 0.9, 65, 155, 8),
        (0.19, 0.4, 2.0, 165, 260, 0),
    ],
    "blogcatalog": [
        (0.43, 2.8, 1.0, 5, 235, 9),
        (0.25, 1.4, 0.6, 5, 105, 9),
        (0.04, 2.0, 0.3, 70, 300, 7),
        (0, 2.2, 1.3, 165, 290, 5),
    ],
    "flickr": [
        (0.05, 2.5, 0.3, 5, 300, 10),
        (0.42, 3.0, 0.5, 150, 280, 10),
        (0.25, 2.3, 0.6, 80, 250, 1),
        (0.5, 0.1, 0.7, 40, 265, 10),
    ],
    "airport": [
        (0.62, 0.9, 2.1, 290, 295, 9),
        (0.48, 0.2, 1.3, 35, 115, 8),
        (0.37, 1.5, 0.9, 5, 275, 4),
        (0.81, 1.6, 0.4, 40, 75, 10),
    ],
}
KEYS_O = ("alpha", "beta", "temperature", "pretrain_ep", "pretrain_nc", "warmup")
# GAug-M: remove and add in percent; the release has none for citeseer's GAT
TUNED_M: dict[str, list[tuple[float, float] | None]] = {
    "cora": [(2, 57), (1, 80), (1, 68), (1, 72)],
    "citeseer": [(0, 46), (2, 37), None, (2, 48)],
    "blogcatalog": [(1, 4), (2, 7), (58, 4), (14, 7)],
    "ppi": [(0, 0), (2, 80), (17, 80), (45, 21)],
    "flickr": [(29, 0), (80, 0), (80, 2), (80, 0)],
    "airport": [(21, 0), (21, 3), (21, 38), (21, 12)],
}
DROP_RATES = {"cora": [0.067, 0.113, 0.115, 0.752], "citeseer": [0.128, 0.644, 0.339, 0.762]}
CONFIGS = [f"gaug_{m}_{g}" for m in "mo" for g in GRAPHS]


def test_every_recipe_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("gaug_*.yaml")}
    assert shipped == {*CONFIGS, "gaug_m_digits", "gaug_o_digits", "gaug_o_ppi_blocks"}


@pytest.mark.parametrize("name", CONFIGS)
def test_recipe_is_the_released_one(name: str, tmp_path: Path) -> None:
    _, method, graph = name.split("_")
    features, classes, heads = GRAPHS[graph]
    built = build(name, tmp_path)
    h, trainer = built.model.hparams, built.config["fit"].trainer
    assert (h["features"], h["num_classes"], h["backbone"]) == (features, classes, "gcn")
    assert h["heads"] == (heads if method == "o" else 8)
    if method == "o":
        assert tuple(h[k] for k in KEYS_O) == TUNED_O[graph][0]
        assert trainer.max_steps == h["pretrain_ep"] + h["pretrain_nc"] + 200
    else:
        assert (h["remove"], h["add"]) == TUNED_M[graph][0]
        assert (trainer.max_steps, h["predictor_epochs"]) == (400, 200)
        shares = {"cora": 0.9, "citeseer": 0.9, "airport": 0.99}
        assert (h["validation_share"], h["predictor_l1"]) == (shares.get(graph, 0.05), graph != "ppi")
        # GAug-M's classifiers normalise the features of two graphs only; L1 leaves one-hot rows as they are
        assert built.datamodule.normalize == ("l1" if graph in ("cora", "citeseer") else "none")
        if graph in DROP_RATES:
            assert h["drop_rate"] == DROP_RATES[graph][0]
    assert (h["epochs"], h["patience"], h["hidden"], h["dropout"]) == (200, 100, 128, None)
    optimizer = built.model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 5e-4), (0.01, 0.0)]
    checkpoint = built.config["fit"].checkpoint
    assert (checkpoint.monitor, checkpoint.mode) == ("val/score", "max")


def test_the_recipe_of_blocks_is_the_released_one(tmp_path: Path) -> None:
    built = build("gaug_o_ppi_blocks", tmp_path)
    h, trainer = built.model.hparams, built.config["fit"].trainer
    assert (h["seeds_per_step"], h["batch_cap"], h["embedding"], h["patience"]) == (250, 15000, 64, 150)
    assert [layer.weight.shape[1] for layer in built.model.network.classifier.layers] == [128, 121]
    assert [n.num_features for n in built.model.network.classifier.norms] == [128]
    assert [g["lr"] for g in built.model.configure_optimizers().param_groups] == [0.01 / 10] * 2
    assert (h["pretrain_lr"], tuple(h[k] for k in KEYS_O)) == (0.01 / 5, TUNED_O["ppi"][0])
    assert trainer.max_steps == 245 + 140 + h["epochs"]


@pytest.mark.parametrize("graph", [g for g, tuned in TUNED_M.items() if tuned[2]])
def test_the_gat_of_gaug_m_has_8_heads_and_its_predictor_a_rate_of_its_own(graph, tmp_path):
    flags = read_claim(find_config(f"gaug_{graph}_backbones", "claims")).arms["gat_gaug_m"].flags
    model = build(f"gaug_m_{graph}", tmp_path, *words(flags)).model
    assert [g["lr"] for g in model.configure_optimizers().param_groups] == [0.005, 0.01]
    first = model.network.classifier.layers[0]
    assert (first.heads, first.out_channels) == (8, 16)


def test_headers_tell_paper_number_and_hardware() -> None:
    for name in (*CONFIGS, "gaug_o_ppi_blocks"):
        text = find_config(name).read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#"))
        wanted = ("Zhao et al., AAAI 2021", "table 1", "Paper: micro-F1", "Hardware:")
        assert [w for w in wanted if w not in header] == [], name


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_claims_hold_the_released_values_of_all_classifiers(graph: str) -> None:
    path = find_config(f"gaug_{graph}_backbones", "claims")
    claim = read_claim(path)
    expected: set[str] = set()
    for backbone, of_o, of_m in zip(BACKBONES, TUNED_O[graph], TUNED_M[graph], strict=True):
        flags = claim.arms[f"{backbone}_gaug_o"].flags
        base = yaml.safe_load(find_config(f"gaug_o_{graph}").read_text())["model"]["init_args"]
        values = tuple(flags.get(f"model.init_args.{k}", base[k]) for k in KEYS_O)
        assert values == of_o, backbone
        assert flags.get("model.init_args.backbone", "gcn") == backbone
        rate = flags.get("model.init_args.optimizer.init_args.lr", 0.01)
        assert rate == (0.005 if backbone == "gat" else 0.01)
        steps = flags.get("trainer.max_steps", base["pretrain_ep"] + base["pretrain_nc"] + 200)
        assert steps == sum(of_o[3:5]) + 200
        expected |= {backbone, f"{backbone}_gaug_o"}
        if of_m is not None:
            flags = claim.arms[f"{backbone}_gaug_m"].flags
            base = yaml.safe_load(find_config(f"gaug_m_{graph}").read_text())["model"]["init_args"]
            assert tuple(flags.get(f"model.init_args.{k}", base[k]) for k in ("remove", "add")) == of_m
            expected.add(f"{backbone}_gaug_m")
        if graph in DROP_RATES:
            flags = claim.arms[f"{backbone}_dropedge"].flags
            assert flags["model.init_args.drop_rate"] == DROP_RATES[graph][BACKBONES.index(backbone)]
            expected.add(f"{backbone}_dropedge")
        if graph != "ppi":  # AdaEdge compares predicted classes, of which PPI's nodes have many
            flags = claim.arms[f"{backbone}_adaedge"].flags
            assert (flags["model.init_args.remove"], flags["model.init_args.add"]) == (10, 10)
            assert flags["model.init_args.augmentation"] == "adaedge"
            assert flags.get("model.init_args.backbone", "gcn") == backbone
            rate = flags.get("model.init_args.optimizer.init_args.lr", 0.01)
            assert rate == (0.005 if backbone == "gat" else 0.01)
            expected.add(f"{backbone}_adaedge")
    assert set(claim.arms) == expected


def test_lds_runs_on_gaugs_graphs(tmp_path: Path) -> None:
    arm = read_claim(find_config("gaug_airport_others", "claims")).arms["lds"]
    sizes = {"num_nodes": 60, "num_features": 12, "num_classes": 3, "num_candidates": 300}
    flags = {**arm.flags, **{f"model.init_args.{k}": v for k, v in sizes.items()}, "data.init_args.seed": 0}
    flags |= {"data.init_args.root": fake_gaug(tmp_path / "data", "airport"), "trainer.max_steps": 3}
    assert summary("fit", "lds_cora_candidates", tmp_path, *words(flags))["steps"] == 3
