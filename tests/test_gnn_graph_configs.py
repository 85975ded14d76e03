"""The graph-level configs: the embedded one, the fair comparison's on a twin, real ENZYMES."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fakes.tu import fake_tu

import cli
from zoo.engine.metrics_csv import read_metrics
from zoo.engine.runner import ZooCLI
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "tu"
needs_enzymes = pytest.mark.skipif(
    not (DATA / "ENZYMES/raw").is_dir(), reason="ZOO_DATA has no graphs/tu/ENZYMES"
)
# config -> architecture, readout, parameters on 21 features and 6 classes (with pool_nodes 36)
MODELS = {
    "gin": ("gin", "sum", 38_848 + 5 * 256 + 21 * 6 + 6 + 5 * (64 * 6 + 6)),
    "sage": ("sage", "max", 43 * 64 + 2 * 129 * 64 + 193 * 64 + 65 * 6),
    "dgcnn": (
        "dgcnn",
        "sort",
        22 * 64 + 2 * 65 * 64 + 65 + 16 * 194 + 32 * 81 + (32 * 14 + 1) * 128 + 129 * 6,
    ),
    "diffpool": (
        "sage",
        "diffpool",
        2 * (43 * 64 + 2 * 129 * 64 + 3 * 128) + 193 * 36 + (2 * 192 + 1) * 64 + 128 + 257 * 50 + 51 * 6,
    ),
    "ecc": (
        "ecc",
        "mean",
        32 + 17 * 21 * 64 + 21 * 64 + 64 + 32 + 18 * 64 * 64 + 64 + 256 + 65 * 64 + 65 * 6,
    ),
    "baseline": ("mlp", "sum", 22 * 128 + 129 * 128 + 129 * 6),
}


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(name: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Any:
    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", "--config", name, "--trainer.accelerator=cpu", *flags, "--debug"])
    return caught.value.args[0]


def fit(config: str, root: Path, *flags: str) -> dict[str, Any]:
    common = [f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", "--config", config, "--trainer.accelerator=cpu", *common, *flags]) == 0
    return dict(json.loads((root / config / "version_0" / "summary.json").read_text()))


def test_every_config_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("gnn_graph_*.yaml")}
    assert shipped == {"gnn_graph_synthetic", *(f"gnn_graph_{m}_enzymes" for m in MODELS)}


@pytest.mark.parametrize("model", MODELS)
def test_sizes_and_recipe(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arch, readout, size = MODELS[model]
    sized = ["--model.init_args.pool_nodes=36"] if readout in ("sort", "diffpool") else []
    built = build(f"gnn_graph_{model}_enzymes", monkeypatch, f"--trainer.default_root_dir={tmp_path}", *sized)
    h, data = built.model.hparams, built.datamodule
    assert (h["arch"], h["readout"], h["patience"], h["patience_on"]) == (arch, readout, 500, "accuracy")
    assert sum(p.numel() for p in built.model.network.parameters()) == size
    assert (data.set_name, data.folds, data.holdout_share, data.use_node_attr) == ("ENZYMES", 10, 0.1, True)
    assert data.batch_size == (50 if model == "dgcnn" else 32)
    given = built.config["fit"]
    assert (given.checkpoint.monitor, given.checkpoint.mode) == ("val/accuracy", "max")
    assert given.trainer.max_epochs == (5000 if model == "baseline" else 1000)
    optimizers = built.model.configure_optimizers()
    assert isinstance(optimizers, dict) == (model == "gin")
    if model == "gin":
        scheduler = optimizers["lr_scheduler"]
        assert (scheduler["scheduler"].step_size, scheduler["scheduler"].gamma) == (50, 0.5)
        assert scheduler["interval"] == "epoch"
        (group,) = optimizers["optimizer"].param_groups
        assert group["lr"] == 0.01


@pytest.mark.parametrize("model", MODELS)
def test_header_tells_paper_number_and_hardware(model: str) -> None:
    text = find_config(f"gnn_graph_{model}_enzymes").read_text()
    header = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("Errica et al., ICLR 2020", "+-", "Hardware:"):
        assert word in header
    assert max(map(len, text.splitlines())) <= 130


@pytest.mark.parametrize("model", MODELS)
def test_a_short_run_on_a_twin_of_the_layout(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    fake_tu(tmp_path / "data", classes=6, graphs=60, attributes=18, labels=3)
    flags = [f"--data.init_args.root={tmp_path / 'data'}", "--data.init_args.batch_size=12"]
    flags += ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    summary = fit(f"gnn_graph_{model}_enzymes", tmp_path, *flags)
    assert summary["steps"] == 2 * (49 // 12)
    assert 0 <= summary["final"]["val/accuracy"] <= 1
    assert ("train/link_loss" in summary["final"]) == (model == "diffpool")


OTHERS = {  # name of the set -> what its files have, and the lines that fit the model to it
    "NCI1": ({"labels": 5}, {"model.init_args.num_features": 5}),
    "PROTEINS": ({"attributes": 1, "labels": 3}, {"model.init_args.num_features": 4}),
    "DD": ({"labels": 7}, {"model.init_args.num_features": 7}),
    "IMDB-BINARY": ({"labels": 0}, {"model.init_args.num_features": 1}),
    "COLLAB": (
        {"labels": 0},
        {
            "model.init_args.num_features": 11,
            "data.init_args.features": "degree_onehot",
            "data.init_args.max_degree": 10,
        },
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_sets_take_a_line_each(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    files, changes = OTHERS[name]
    fake_tu(tmp_path / "data", name, **files)
    flags = {"data.init_args.root": tmp_path / "data", "data.init_args.name": name, **changes}
    flags |= {"model.init_args.num_classes": 2, "data.init_args.batch_size": 8, "trainer.max_epochs": 1}
    assert fit("gnn_graph_gin_enzymes", tmp_path, *(f"--{k}={v}" for k, v in flags.items()))["steps"] == 4


def test_ecc_reads_edge_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    fake_tu(tmp_path / "data", "MUTAG", edge_labels=4)
    flags = {"data.init_args.root": tmp_path / "data", "data.init_args.name": "MUTAG"}
    flags |= {"model.init_args.num_features": 3, "model.init_args.num_classes": 2}
    flags |= {"model.init_args.num_edge_features": 4, "data.init_args.batch_size": 8, "trainer.max_epochs": 1}
    assert fit("gnn_graph_ecc_enzymes", tmp_path, *(f"--{k}={v}" for k, v in flags.items()))["steps"] == 4


@pytest.mark.parametrize("arch", ["gcn", "gat", "pna", "mpnn"])
def test_one_line_swaps_the_architecture(arch: str, tmp_path: Path) -> None:
    flags = [f"--model.init_args.arch={arch}", "--data.init_args.graphs=120", "--trainer.max_epochs=1"]
    flags += ["--model.init_args.norm=null"] if arch == "mpnn" else []
    assert fit("gnn_graph_synthetic", tmp_path, *flags)["steps"] == 2


def test_the_embedded_config_learns_and_predicts(tmp_path: Path) -> None:
    summary = fit("gnn_graph_synthetic", tmp_path, "--trainer.max_epochs=8", "--data.init_args.graphs=400")
    assert summary["best"]["val/accuracy"]["max"] > 0.6
    where = [f"--trainer.default_root_dir={tmp_path / 'p'}", "--trainer.enable_progress_bar=false"]
    weights = f"--weights={summary['checkpoint']}"
    words = ["--config", "gnn_graph_synthetic", "--data.init_args.graphs=400", weights, *where]
    assert cli.main(["predict", *words]) == 0
    folder = tmp_path / "p/gnn_graph_synthetic/version_0/predictions"
    assert (folder / "graphs.png").stat().st_size > 20_000
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    assert all(
        sum(float(r[c]) for c in ("cycle", "ladder", "grid", "random")) == pytest.approx(1, abs=1e-4)
        for r in rows
    )
    right = sum(r["label"] == r["prediction"] for r in rows) / 80
    assert cli.main(["test", *words]) == 0
    found = json.loads((tmp_path / "p/gnn_graph_synthetic/version_1/summary_test.json").read_text())["final"]
    assert found["test/accuracy"] == pytest.approx(right, abs=1e-6)
    assert found["test/balanced_accuracy"] == pytest.approx(right, abs=1e-6)  # as many graphs of each class


def test_without_the_graph_the_embedded_classes_are_alike(tmp_path: Path) -> None:
    """Constant features, the same sizes in all classes: what is learned is learned from edges."""
    flags = ["--model.init_args.arch=none", "--model.init_args.norm=null", "--trainer.max_epochs=10"]
    assert fit("gnn_graph_synthetic", tmp_path, *flags)["final"]["val/accuracy"] < 0.5


@needs_enzymes
def test_real_enzymes_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    summary = fit("gnn_graph_gin_enzymes", tmp_path, "--trainer.max_epochs=4")
    assert summary["steps"] == 60
    rows = read_metrics(tmp_path / "gnn_graph_gin_enzymes/version_0/metrics.csv")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]


# --- claims and sweep -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gnn_enzymes", "gnn_enzymes_fair"])
def test_claims_are_valid(name: str) -> None:
    for quick in (False, True):
        claim = read_claim(find_config(name, "claims"), quick)
        assert {"baseline", "gin", "sage", "dgcnn"} <= set(claim.arms)
        for predicate in claim.predicates:
            assert predicate.better == "baseline"
            assert predicate.least_effect < 0


def test_the_fair_claim_follows_the_protocol() -> None:
    claim = read_claim(find_config("gnn_enzymes_fair", "claims"))
    assert claim.seeds == list(range(10))
    for arm in claim.arms.values():
        assert arm.flags["data.init_args.fold"] == "{seed}"
        assert arm.flags["data.init_args.holdout"] == "1{repeat}"  # 10, 11, 12: not the one that chose
    assert set(claim.arms) == {"baseline", "gin", "sage", "dgcnn", "diffpool", "ecc"} == set(MODELS)


def test_the_fair_claims_grids_are_the_papers() -> None:
    """Hidden, learning rate and weight decay; GIN's also of batch and of what its patience is on."""
    arms = read_claim(find_config("gnn_enzymes_fair", "claims")).arms
    sizes = {name: len(arm.grid) for name, arm in arms.items()}
    # the paper's GIN has 4 of these 6 shapes
    assert {k: sizes[k] for k in ("baseline", "gin", "sage", "dgcnn")} == {
        "baseline": 3 * 3 * 3, "gin": 2 * 6 * 2 * 2 * 2 * 2, "sage": 3 * 2 * 2 * 3, "dgcnn": 2 * 2 * 3 * 2
    }  # fmt: skip
    rates = {s["model.init_args.optimizer.init_args.lr"] for s in arms["baseline"].grid}
    assert rates == {1e-1, 1e-3, 1e-6}
    assert {s["data.init_args.batch_size"] for s in arms["gin"].grid} == {32, 128}
    assert {s["model.init_args.patience_on"] for s in arms["gin"].grid} == {"loss", "accuracy"}
    shapes = {(s["model.init_args.num_layers"], s["model.init_args.hidden"]) for s in arms["gin"].grid}
    assert shapes >= {(4, 64), (4, 32), (1, 64), (2, 32)}
    # no arm's batch is that of another: it comes from its config (DGCNN 50) or its grid
    assert not any("data.init_args.batch_size" in arm.flags for arm in arms.values())


def test_every_point_of_the_sweep_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load(find_config("gnn_graph_gin_enzymes", "sweeps").read_text())
    values = {k: p["values"] for k, p in sweep["parameters"].items()}
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    fake_tu(tmp_path / "data", classes=6, graphs=180, attributes=18, labels=3)
    flags = [f"--{k}={str(v[-1]).lower()}" for k, v in values.items()]
    flags += [f"--data.init_args.root={tmp_path / 'data'}", "--trainer.max_epochs=1"]
    summary = fit("gnn_graph_gin_enzymes", tmp_path, *flags)
    assert sweep["metric"]["name"] in summary["final"]
