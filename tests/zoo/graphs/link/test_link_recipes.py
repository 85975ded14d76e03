"""The recipes of link prediction: the papers' numbers, whole runs, memory, claims and sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import build, run, summary
from processes import CLI, of_its_own_size

from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import find_config

GRAPHS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
RECIPES = [f"gnn_link_{m}_{g}" for m in ("gae", "vgae", "arga", "arvga") for g in GRAPHS]
DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(not (DATA / "Cora/raw").is_dir(), reason="ZOO_DATA has no graphs/planetoid")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_papers(name: str, tmp_path: Path) -> None:
    _, _, model, graph = name.split("_")
    built = build(name, tmp_path)
    h, data = built.model.hparams, built.datamodule
    sizes = (h["model"], h["arch"], h["hidden"], h["embedding"], h["kl_weight"])
    assert sizes == (model, "gcn", 32, 16, None)
    assert (data.val, data.test, data.source.graph_name) == (0.05, 0.1, GRAPHS[graph])
    assert data.source.normalize_features is False
    assert built.config["fit"].trainer.max_steps == 200
    rates = [o.param_groups[0]["lr"] for o in built.model.configure_optimizers()[0]]
    assert rates == ([0.01, 0.001] if model.startswith("ar") else [0.01])


def test_the_embedded_config_trains_and_beats_chance_by_far(tmp_path: Path) -> None:
    assert summary("fit", "gnn_link_sbm", tmp_path)["steps"] == 200
    final = summary("test", "gnn_link_sbm", tmp_path, "--ckpt_path=best")["final"]
    assert final["test/auc"] > 0.58
    assert final["test/kmeans_nmi"] > 0.4
    folder = run("predict", "gnn_link_sbm", tmp_path, "--ckpt_path=best") / "predictions"
    assert {p.name for p in folder.iterdir()} == {"scores.csv", "links.png", "embedding.npz"}


@pytest.mark.parametrize("arch", ["gat", "appnp"])
def test_one_line_changes_the_architecture(arch: str, tmp_path: Path) -> None:
    flags = [f"--model.init_args.arch={arch}", "--trainer.max_steps=5"]
    assert summary("fit", "gnn_link_karate", tmp_path, *flags)["steps"] == 5


@needs_data
@pytest.mark.slow
def test_real_cora_reaches_the_nineties(tmp_path: Path) -> None:
    found = summary("fit", "gnn_link_gae_cora", tmp_path, "--trainer.max_steps=100")
    assert found["best"]["val/auc"]["max"] > 0.85


@pytest.mark.slow
def test_memory_is_linear_in_the_edges(tmp_path: Path) -> None:
    """30,000 nodes: one (N, N) matrix of float32 would be 3.6 GB."""
    command = [sys.executable, str(CLI), "fit", "--config", "gnn_link_sbm"]
    flags = ["--data.init_args.source.init_args.nodes=30000", "--trainer.max_steps=5"]
    common = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    subprocess.run(of_its_own_size([*command, *flags, *common]), check=True, capture_output=True, timeout=900)
    found = json.loads((tmp_path / "gnn_link_sbm/version_0/summary.json").read_text())
    assert found["peak_memory_bytes"] < 1.2 * 2**30


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
    flags += ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    assert sweep["metric"]["name"] in summary("fit", "gnn_link_sbm", tmp_path, *flags)["final"]
