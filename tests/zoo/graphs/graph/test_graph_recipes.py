"""The recipes of graph classification: the fair comparison's numbers, other sets, runs, claims, sweep."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import yaml
from commands import build, run, summary, words
from fakes.tu import fake_tu

from zoo.engine.metrics_csv import read_metrics
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "tu"
here = (DATA / "ENZYMES/raw").is_dir()
needs_enzymes = pytest.mark.skipif(not here, reason="ZOO_DATA has no graphs/tu/ENZYMES")
MODELS = {  # config -> architecture, readout
    "gin": ("gin", "sum"),
    "sage": ("sage", "max"),
    "dgcnn": ("dgcnn", "sort"),
    "diffpool": ("sage", "diffpool"),
    "ecc": ("ecc", "mean"),
    "baseline": ("mlp", "sum"),
}


def test_every_config_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("gnn_graph_*.yaml")}
    assert shipped == {"gnn_graph_synthetic", *(f"gnn_graph_{m}_enzymes" for m in MODELS)}


@pytest.mark.parametrize("model", MODELS)
def test_recipe_is_the_fair_comparisons(model: str, tmp_path: Path) -> None:
    arch, readout = MODELS[model]
    sized = ["--model.init_args.pool_nodes=36"] if readout in ("sort", "diffpool") else []
    built = build(f"gnn_graph_{model}_enzymes", tmp_path, *sized)
    h, data = built.model.hparams, built.datamodule
    assert (h["arch"], h["readout"], h["patience"], h["patience_on"]) == (arch, readout, 500, "accuracy")
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


def test_headers_tell_paper_number_and_hardware() -> None:
    for model in MODELS:
        text = find_config(f"gnn_graph_{model}_enzymes").read_text()
        header = " ".join(line for line in text.splitlines() if line.startswith("#"))
        wanted = ("Errica et al., ICLR 2020", "+-", "Hardware:")
        assert [w for w in wanted if w not in header] == [], model


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def test_epochs_drop_the_last_batch_and_diffpool_alone_reconstructs_links(tmp_path: Path) -> None:
    fake_tu(tmp_path / "data", classes=6, graphs=60, attributes=18, labels=3)
    flags = [f"--data.init_args.root={tmp_path / 'data'}", "--data.init_args.batch_size=12"]
    flags += ["--trainer.max_epochs=2", "--trainer.log_every_n_steps=1"]
    for model in ("sage", "diffpool"):
        found = summary("fit", f"gnn_graph_{model}_enzymes", tmp_path, *flags)
        assert (found["steps"], "train/link_loss" in found["final"]) == (2 * (49 // 12), model == "diffpool")


OTHERS = {  # name of the set -> what its files have, and the lines that fit the model to it
    "NCI1": ({"labels": 5}, {"model.init_args.num_features": 5}),
    "PROTEINS": ({"attributes": 1, "labels": 3}, {"model.init_args.num_features": 4}),
    "DD": ({"labels": 7}, {"model.init_args.num_features": 7}),
    "IMDB-BINARY": ({"labels": 0}, {"model.init_args.num_features": 1}),
    "COLLAB": ({"labels": 0}, {"model.init_args.num_features": 11, "data.init_args.max_degree": 10,
                               "data.init_args.features": "degree_onehot"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_sets_take_a_line_each(name: str, tmp_path: Path) -> None:
    files, changes = OTHERS[name]
    fake_tu(tmp_path / "data", name, **files)
    flags = {"data.init_args.root": tmp_path / "data", "data.init_args.name": name, **changes}
    flags |= {"model.init_args.num_classes": 2, "data.init_args.batch_size": 8, "trainer.max_epochs": 1}
    assert summary("fit", "gnn_graph_gin_enzymes", tmp_path, *words(flags))["steps"] == 4


def test_ecc_reads_edge_labels(tmp_path: Path) -> None:
    fake_tu(tmp_path / "data", "MUTAG", edge_labels=4)
    flags = {"data.init_args.root": tmp_path / "data", "data.init_args.name": "MUTAG"}
    flags |= {"model.init_args.num_features": 3, "model.init_args.num_classes": 2}
    flags |= {"model.init_args.num_edge_features": 4, "data.init_args.batch_size": 8, "trainer.max_epochs": 1}
    assert summary("fit", "gnn_graph_ecc_enzymes", tmp_path, *words(flags))["steps"] == 4


@pytest.mark.parametrize("arch", ["gcn", "gat", "pna", "mpnn"])
def test_one_line_swaps_the_architecture(arch: str, tmp_path: Path) -> None:
    flags = [f"--model.init_args.arch={arch}", "--data.init_args.graphs=120", "--trainer.max_epochs=1"]
    flags += ["--model.init_args.norm=null"] if arch == "mpnn" else []
    assert summary("fit", "gnn_graph_synthetic", tmp_path, *flags)["steps"] == 2


def test_the_embedded_config_learns_and_predicts(tmp_path: Path) -> None:
    name, graphs = "gnn_graph_synthetic", "--data.init_args.graphs=400"
    found = summary("fit", name, tmp_path, "--trainer.max_epochs=8", graphs)
    assert found["best"]["val/accuracy"]["max"] > 0.6
    flags = [graphs, f"--weights={found['checkpoint']}"]
    folder = run("predict", name, tmp_path / "p", *flags) / "predictions"
    assert (folder / "graphs.png").stat().st_size > 20_000
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    names = ("cycle", "ladder", "grid", "random")
    assert all(sum(float(r[c]) for c in names) == pytest.approx(1, abs=1e-4) for r in rows)
    right = sum(r["label"] == r["prediction"] for r in rows) / 80
    final = summary("test", name, tmp_path / "p", *flags)["final"]
    assert final["test/accuracy"] == pytest.approx(right, abs=1e-6)
    assert final["test/balanced_accuracy"] == pytest.approx(right, abs=1e-6)  # as many graphs of each class


def test_without_the_graph_the_embedded_classes_are_alike(tmp_path: Path) -> None:
    """Constant features, the same sizes in all classes: what is learned is learned from edges."""
    flags = ["--model.init_args.arch=none", "--model.init_args.norm=null", "--trainer.max_epochs=10"]
    assert summary("fit", "gnn_graph_synthetic", tmp_path, *flags)["final"]["val/accuracy"] < 0.5


@needs_enzymes
def test_real_enzymes_trains(tmp_path: Path) -> None:
    assert summary("fit", "gnn_graph_gin_enzymes", tmp_path, "--trainer.max_epochs=4")["steps"] == 60
    rows = read_metrics(tmp_path / "gnn_graph_gin_enzymes/version_0/metrics.csv")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]


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


def test_every_point_of_the_sweep_is_a_run(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("gnn_graph_gin_enzymes", "sweeps").read_text())
    values = {k: p["values"] for k, p in sweep["parameters"].items()}
    fake_tu(tmp_path / "data", classes=6, graphs=180, attributes=18, labels=3)
    flags = [f"--{k}={str(v[-1]).lower()}" for k, v in values.items()]
    flags += [f"--data.init_args.root={tmp_path / 'data'}", "--trainer.max_epochs=1"]
    assert sweep["metric"]["name"] in summary("fit", "gnn_graph_gin_enzymes", tmp_path, *flags)["final"]
