"""The recipes of node classification: the papers' numbers, whole runs, two processes, claims and sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import build, run, summary
from fakes.node_graphs import fake_ppi, fake_reddit
from fakes.planetoid import fake_planetoid
from processes import CLI, environment

import cli
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, config_names, find_config

CORA = [n for n in config_names() if n.startswith("gnn_node_") and n.endswith("_cora")]
DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(not (DATA / "Cora/raw").is_dir(), reason="ZOO_DATA has no graphs/planetoid")


def test_recipes_are_the_papers(tmp_path: Path) -> None:
    for name, rate, decays in (
        ("gcn", 0.01, [5e-4, 0]),
        ("gat", 0.005, [5e-4, 5e-4]),
        ("appnp", 0.01, [0.005, 0]),
        ("sgc", 0.2, [0.005]),
        ("gcnii", 0.01, [5e-4, 0.01, 5e-4]),
        ("dgi", 0.001, [0, 0, 0]),
    ):
        model = build(f"gnn_node_{name}_cora", tmp_path).model
        groups = model.configure_optimizers().param_groups
        assert [g["weight_decay"] for g in groups] == decays, name
        assert {g["lr"] for g in groups} == {rate}
        assert model.hparams["patience"] == (20 if name == "dgi" else 100)


@pytest.mark.parametrize(("name", "features", "classes"), [("CiteSeer", 3703, 6), ("PubMed", 500, 3)])
def test_other_citation_graphs_by_override(name: str, features: int, classes: int, tmp_path: Path) -> None:
    root = fake_planetoid(tmp_path / "data", name, nodes=720)
    flags = [f"--data.init_args.root={root}", f"--data.init_args.name={name}", "--trainer.max_steps=2"]
    sizes = [f"--model.init_args.features={features}", f"--model.init_args.num_classes={classes}"]
    assert summary("fit", "gnn_node_gat_cora", tmp_path, *flags, *sizes)["steps"] == 2


def test_ppi_trains_on_some_graphs_and_is_tested_on_others(tmp_path: Path) -> None:
    flags = [f"--data.init_args.root={fake_ppi(tmp_path / 'ppi')}", "--model.init_args.hidden=32"]
    steps = ["--trainer.max_steps=60", "--checkpoint.every_n_train_steps=20", "--trainer.log_every_n_steps=5"]
    assert summary("fit", "gnn_node_gat_ppi", tmp_path, *flags, *steps)["effective_batch"] == 2
    saved = f"--ckpt_path={tmp_path}/gnn_node_gat_ppi/version_0/checkpoints/best.ckpt"
    found = summary("test", "gnn_node_gat_ppi", tmp_path, *flags, saved)["final"]
    assert found["test/micro_f1"] > 0.6  # half of the labels are 1: guessing gives .5 at most
    folder = run("predict", "gnn_node_gat_ppi", tmp_path, *flags, saved) / "predictions"
    assert sorted(p.name for p in folder.iterdir()) == ["nodes.png", "nodes_1.png", "scores.csv"]
    names = [line.split(",")[0] for line in (folder / "scores.csv").read_text().splitlines()]
    assert {"name", "0", "1:0"} <= set(names)
    assert len(set(names)) == len(names)


def test_reddit_trains_on_sampled_neighbourhoods(tmp_path: Path) -> None:
    root = fake_reddit(tmp_path / "reddit")
    flags = [f"--data.init_args.source.init_args.root={root}", "--data.init_args.batch_size=50"]
    flags += ["--data.init_args.num_workers=0"]
    found = summary("fit", "gnn_node_sage_reddit", tmp_path, *flags, "--trainer.max_steps=12")["final"]
    assert found["val/score"] > 0.2  # of 41 classes
    saved = f"--ckpt_path={tmp_path}/gnn_node_sage_reddit/version_0/checkpoints/best.ckpt"
    assert "test/micro_f1" in summary("test", "gnn_node_sage_reddit", tmp_path, *flags, saved)["final"]


def test_embedded_configs_learn(tmp_path: Path) -> None:
    for name, least in (("gnn_node_karate", 0.6), ("gnn_node_sbm", 0.8)):
        summary("fit", name, tmp_path)
        saved = f"--ckpt_path={tmp_path}/{name}/version_0/checkpoints/best.ckpt"
        assert summary("test", name, tmp_path, saved)["final"]["test/micro_f1"] > least


@needs_data
@pytest.mark.slow
def test_gcn_on_real_cora(tmp_path: Path) -> None:
    summary("fit", "gnn_node_gcn_cora", tmp_path)
    saved = f"--ckpt_path={tmp_path}/gnn_node_gcn_cora/version_0/checkpoints/best.ckpt"
    found = summary("test", "gnn_node_gcn_cora", tmp_path, saved)["final"]
    assert found["test/micro_f1"] == pytest.approx(0.815, abs=0.015)
    assert found["test/edge_homophily"] == pytest.approx(0.81, abs=0.001)


def launched(root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CLI), "fit", *flags, f"--trainer.default_root_dir={root}"]
    command += ["--trainer.enable_progress_bar=false"]
    command += ["--trainer.accelerator=cpu", "--config=trainer/ddp", "--trainer.devices=2"]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_two_processes_train_on_graphs_of_unequal_size_what_one_does(tmp_path: Path) -> None:
    root = fake_ppi(tmp_path / "ppi")
    flags = ["--config=gnn_node_gat_ppi", f"--data.init_args.root={root}", "--model.init_args.hidden=16"]
    flags += ["--trainer.max_steps=4", "--checkpoint.every_n_train_steps=4", "--seed_everything=1"]
    done = launched(tmp_path / "two", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "effective batch 2 (1 per device), 2 x cpu" in done.stdout
    assert cli.main(["fit", *flags, f"--trainer.default_root_dir={tmp_path}/one"]) == 0
    folders = [tmp_path / side / "gnn_node_gat_ppi/version_0" for side in ("one", "two")]
    files = [folder / "checkpoints/step=00000004.ckpt" for folder in folders]
    one, two = (torch.load(file, weights_only=True) for file in files)
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, atol=1e-5, rtol=1e-4)
    rows = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert rows[1]["final"]["val/micro_f1"] == pytest.approx(rows[0]["final"]["val/micro_f1"], abs=1e-3)


@pytest.mark.slow
def test_two_processes_on_one_graph_get_one_line(tmp_path: Path) -> None:
    done = launched(tmp_path, "--config=gnn_node_karate")
    assert done.returncode == 1
    lines = [x for x in done.stderr.splitlines() if x.startswith("zoo: error:")]
    assert len(lines) == 1
    assert "2 processes would do the same work; set trainer.devices: 1" in lines[0]


@pytest.mark.parametrize("name", ["gnn_node_cora", "gnn_node_citeseer", "gnn_oversmoothing_cora"])
def test_claims_are_valid_and_every_arm_has_the_same_budget(name: str) -> None:
    for quick in (False, True):
        claim = read_claim(find_config(name, "claims"), quick)
        for arm in claim.arms.values():
            assert arm.flags["trainer.max_steps"] == (10 if quick else 200)
            assert arm.flags["model.init_args.patience"] is None
    if name == "gnn_node_citeseer":
        flags = [{k.split(".")[-1]: v for k, v in arm.flags.items()} for arm in claim.arms.values()]
        assert all((f["name"], f["features"], f["num_classes"]) == ("CiteSeer", 3703, 6) for f in flags)
    if name != "gnn_oversmoothing_cora":
        text = (config_folder() / "claims" / f"{name}.yaml").read_text()
        assert all(n in text for n in CORA)
        arms = read_claim(find_config(name, "claims")).arms
        assert {a: len(arm.grid) for a, arm in arms.items() if arm.grid} == {"sgc_tuned": 6}


def test_points_of_the_sweep_are_runs(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("gnn_node_cora", "sweeps").read_text())
    root = fake_planetoid(tmp_path / "data", nodes=720)
    fixed = {k: p["values"][-1] if "values" in p else p["max"] for k, p in sweep["parameters"].items()}
    for arch in sweep["parameters"]["model.init_args.arch"]["values"][-2:]:
        flags = [f"--{k}={v}" for k, v in (fixed | {"model.init_args.arch": arch}).items()]
        flags += [f"--data.init_args.root={root}", "--trainer.max_steps=2"]
        assert sweep["metric"]["name"] in summary("fit", "gnn_node_gcn_cora", tmp_path, *flags)["final"]
