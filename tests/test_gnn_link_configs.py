"""The link prediction configs: recipes and sizes on the meta device, runs on twins of the official layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes.planetoid import fake_planetoid

import cli
from zoo.engine.runner import ZooCLI
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

GRAPHS = {"cora": ("Cora", 1433), "citeseer": ("CiteSeer", 3703), "pubmed": ("PubMed", 500)}
HEURISTICS = ("adamic_adar", "common_neighbours", "features", "jaccard")
RECIPES = [f"gnn_link_{m}_{g}" for m in ("gae", "vgae", "arga", "arvga") for g in GRAPHS]
BASELINES = [f"gnn_link_{m}_cora" for m in (*HEURISTICS, "mlp", "supervised")]
EMBEDDED = ["gnn_link_karate", "gnn_link_sbm"]
# F 32 + 32 + 32 * 16 + 16; a variational last layer is twice as wide; D is 16-16-64-1
GAE = {"cora": 46_416, "citeseer": 119_056, "pubmed": 16_560}
SIGMA, DISCRIMINATOR = 32 * 16 + 16, 16 * 16 + 16 + 16 * 64 + 64 + 64 + 1
DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(not (DATA / "Cora/raw").is_dir(), reason="ZOO_DATA has no graphs/planetoid")


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(name: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> ZooCLI:
    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", "--config", name, f"--trainer.default_root_dir={root}", "--debug"])
    built: ZooCLI = caught.value.args[0]
    return built


def fitted(name: str, root: Path, *flags: str) -> dict[str, Any]:
    common = [f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", "--config", name, *common, *flags]) == 0
    return dict(json.loads((root / name / "version_0" / "summary.json").read_text()))


def test_every_config_is_listed_here() -> None:
    assert {p.stem for p in config_folder().glob("gnn_link_*.yaml")} == {*RECIPES, *BASELINES, *EMBEDDED}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_and_size(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, _, model, graph = name.split("_")
    built = build(name, monkeypatch, tmp_path)
    h, data = built.model.hparams, built.datamodule
    assert (h["model"], h["arch"], h["hidden"], h["embedding"], h["kl_weight"]) == (
        model,
        "gcn",
        32,
        16,
        None,
    )
    expected = GAE[graph] + SIGMA * (model in ("vgae", "arvga")) + DISCRIMINATOR * model.startswith("ar")
    assert sum(p.numel() for p in built.model.parameters()) == expected
    assert {p.device.type for p in built.model.parameters()} == {"meta"}
    assert (data.val, data.test, data.source.graph_name) == (0.05, 0.1, GRAPHS[graph][0])
    assert data.source.normalize_features is False
    assert built.config["fit"].trainer.max_steps == 200
    rates = [o.param_groups[0]["lr"] for o in built.model.configure_optimizers()[0]]
    assert rates == ([0.01, 0.001] if model.startswith("ar") else [0.01])


OFTEN = {*(f"gnn_link_{m}_citeseer" for m in ("vgae", "arvga")), "gnn_link_supervised_cora"}
TWINS = [n for n in RECIPES if n.endswith("citeseer")] + ["gnn_link_arvga_pubmed", *BASELINES]


@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in TWINS]
)
def test_config_runs_on_a_twin_of_the_layout(name: str, tmp_path: Path) -> None:
    graph = name.rpartition("_")[2]
    root = fake_planetoid(tmp_path / "data", GRAPHS[graph][0], nodes=720)
    flags = [f"--data.init_args.source.init_args.root={root}", "--trainer.max_steps=2"]
    summary = fitted(name, tmp_path, *flags, "--trainer.val_check_interval=2")
    assert summary["steps"] == 2
    assert 0 <= summary["final"]["val/auc"] <= 1


def test_the_embedded_config_trains_and_beats_chance_by_far(tmp_path: Path) -> None:
    summary = fitted("gnn_link_sbm", tmp_path)
    assert summary["steps"] == 200
    common = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    assert cli.main(["test", "--config", "gnn_link_sbm", *common, "--ckpt_path=best"]) == 0
    final = json.loads((tmp_path / "gnn_link_sbm/version_1/summary_test.json").read_text())["final"]
    assert final["test/auc"] > 0.58
    assert final["test/kmeans_nmi"] > 0.4
    assert cli.main(["predict", "--config", "gnn_link_sbm", *common, "--ckpt_path=best"]) == 0
    found = {p.name for p in tmp_path.rglob("predictions/*")}
    assert found == {"scores.csv", "links.png", "embedding.npz"}


@pytest.mark.parametrize("arch", ["gat", "appnp"])
def test_one_line_changes_the_architecture(arch: str, tmp_path: Path) -> None:
    flags = [f"--model.init_args.arch={arch}", "--trainer.max_steps=5"]
    assert fitted("gnn_link_karate", tmp_path, *flags)["steps"] == 5


@needs_data
@pytest.mark.slow
def test_real_cora_reaches_the_nineties(tmp_path: Path) -> None:
    summary = fitted("gnn_link_gae_cora", tmp_path, "--trainer.max_steps=100")
    assert summary["best"]["val/auc"]["max"] > 0.85


@pytest.mark.slow
def test_memory_is_linear_in_the_edges(tmp_path: Path) -> None:
    """30,000 nodes: one (N, N) matrix of float32 would be 3.6 GB."""
    command = [sys.executable, str(Path(cli.__file__).resolve()), "fit", "--config", "gnn_link_sbm"]
    flags = ["--data.init_args.source.init_args.nodes=30000", "--trainer.max_steps=5"]
    common = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    subprocess.run([*command, *flags, *common], check=True, capture_output=True, timeout=900)
    summary = json.loads((tmp_path / "gnn_link_sbm/version_0/summary.json").read_text())
    assert summary["peak_memory_bytes"] < 1.2 * 2**30


# --- claims and sweep -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gnn_link_cora", "gnn_link_sbm"])
def test_claims_are_valid_and_give_each_seed_its_split(name: str) -> None:
    for quick in (False, True):
        claim = read_claim(find_config(name, "claims"), quick)
        assert len(claim.predicates) >= 2
        assert all(arm.flags["data.init_args.seed"] == "{seed}" for arm in claim.arms.values())


def test_every_point_of_the_sweep_is_a_run(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("gnn_link_sbm", "sweeps").read_text())
    values = {k: p["values"][-1] for k, p in sweep["parameters"].items() if "values" in p}
    flags = [f"--{k}={v}" for k, v in values.items()]
    summary = fitted(
        "gnn_link_sbm", tmp_path, *flags, "--trainer.max_steps=2", "--trainer.val_check_interval=2"
    )
    assert sweep["metric"]["name"] in summary["final"]
