"""The recipes of LDS: the paper's numbers, its claims and sweeps, and what a large graph costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import build, summary
from fakes.planetoid import fake_planetoid
from processes import of_its_own_size

import cli
from datamodules import BlockModel
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, config_names, find_config

RECIPES = [n for n in config_names() if n.startswith("lds_") and "baseline" not in n and "gcn" not in n]
PAIRS = {"lds_cora": 3_665_278, "lds_citeseer": 5_532_801, "lds_sbm": 79_800}  # N (N - 1) / 2
DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(not (DATA / "Cora/raw").is_dir(), reason="ZOO_DATA has no graphs/planetoid")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_papers(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path).model
    if "sbm" not in name:
        h = model.hparams
        assert (h["tau"], h["hidden"], h["dropout"], h["l2"], h["samples"]) == (5, [16], 0.5, 5e-4, 16)
        assert (h["max_inner_steps"], h["inner_patience"], h["es_patience"]) == (400, 20, 20)
    (group,) = model.optimizer([model.theta]).param_groups
    assert (group["lr"], group["momentum"]) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["", "_candidates"])
def test_missing_edges_that_candidates_reach_are_told(kind: str, tmp_path: Path) -> None:
    root = fake_planetoid(tmp_path / "data", "Cora", nodes=720)
    flags = [f"--data.init_args.root={root}", "--data.init_args.edges_retained=0.5"]
    flags += ["--model.init_args.num_nodes=720", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    flags += ["--model.init_args.num_candidates=4000"] if kind else []
    final = summary("fit", f"lds_cora{kind}", tmp_path, *flags)["final"]
    assert final["val/new_edges"] >= 0
    assert ("val/missing_edges_reachable" in final) == bool(kind)


@pytest.mark.slow
def test_twenty_thousand_nodes_fit_into_one_gigabyte(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(cli.__file__).resolve()), "fit", "--config", "lds_sbm_20k"]
    flags = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    command = of_its_own_size([*command, *flags, "--trainer.max_steps=5"])
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    found = json.loads((tmp_path / "lds_sbm_20k/version_0/summary.json").read_text())
    assert found["peak_memory_bytes"] < 2**30


@needs_data
@pytest.mark.slow
def test_real_cora_with_half_of_its_edges(tmp_path: Path) -> None:
    flags = ["--trainer.max_steps=2", "--data.init_args.edges_retained=0.5", "--model.init_args.samples=2"]
    assert summary("fit", "lds_cora", tmp_path, *flags, "--trainer.limit_val_batches=0")["steps"] == 2


CLAIMS = sorted(p.stem for p in (config_folder() / "claims").glob("lds*.yaml"))


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_valid_and_the_baseline_has_the_same_initial_graph(name: str) -> None:
    path = find_config(name, "claims")
    for quick in (False, True):
        claim = read_claim(path, quick)
        assert {"lds", "lds_25", "both"} & set(claim.arms)
        for arm in claim.arms.values():
            assert arm.flags["data.init_args.seed"] == "{seed}"


FEATURES = ("logreg", "linear_svm", "rbf_svm", "random_forest", "ffnn", "label_propagation")


@pytest.mark.parametrize("name", ["lds_wine", "lds_cancer", "lds_digits"])
def test_claims_have_the_rows_of_the_table_that_see_features_alone(name: str) -> None:
    arms = read_claim(find_config(name, "claims"), quick=True).arms
    assert list(arms) == ["gcn_max", "gcn_upper", "lds", *FEATURES]
    for method in FEATURES:
        assert arms[method].config == f"{name}_baseline"
        assert arms[method].flags["model.init_args.method"] == method
        assert "model.init_args.max_outer_epochs" not in arms[method].flags
    assert arms["lds"].flags["model.init_args.max_outer_epochs"] == 3


def test_the_claim_on_the_inner_rate_parts_it_from_the_graph() -> None:
    claim = read_claim(find_config("lds_inner_lr", "claims"))
    cancer = read_claim(find_config("lds_cancer", "claims"))
    shared = cancer.arms["lds"].flags
    switches = {"gcn": "learn_graph", "lr_only": "freeze_graph", "graph_only": "learn_inner_lr", "both": None}
    assert list(claim.arms) == list(switches)
    for arm, switch in switches.items():
        own = {} if switch is None else {f"model.init_args.{switch}": switch == "freeze_graph"}
        assert claim.arms[arm].flags == {**shared, **own}
    assert claim.seeds == cancer.seeds


def test_the_claim_on_the_block_model_adds_as_many_random_edges_as_are_given() -> None:
    claim = read_claim(find_config("lds_sbm", "claims"))
    frozen, rnd, lds = (claim.arms[a].flags for a in ("frozen", "gcn_rnd", "lds"))
    assert (frozen["model.init_args.learn_graph"], rnd["model.init_args.learn_graph"]) == (False, False)
    assert "model.init_args.learn_graph" not in lds
    kept = []
    for seed in claim.seeds:
        data = BlockModel(edges_retained=0.5, early_stopping=True, seed=seed)
        data.setup("fit")
        kept.append(data.graph.edge_index.shape[1] / 2)
    assert rnd["model.init_args.est_p_edge"] * PAIRS["lds_sbm"] == pytest.approx(np.mean(kept), rel=0.03)


@pytest.mark.parametrize("name", ["lds_wine_tuned", "lds_cancer_tuned", "lds_digits_tuned"])
def test_tuned_claims_have_the_papers_sixteen_settings_and_choose_on_early_stopping_nodes(name: str) -> None:
    claim = read_claim(find_config(name, "claims"))
    assert [len(claim.arms[a].grid) for a in ("lds", "gcn_max", "gcn_upper")] == [16, 4, 4]
    assert claim.selection is not None
    assert [c.metric for c in claim.selection.by] == ["val/es_accuracy", "val/es_loss"]
    assert claim.arms["gcn_upper"].flags["model.init_args.learn_graph"] is False
    assert set(FEATURES) < set(claim.arms)


@pytest.mark.parametrize(
    "name", ["lds_cora", "lds_citeseer", "lds_cora_candidates", "lds_citeseer_candidates"]
)
def test_claims_on_missing_edges_add_as_many_random_edges_as_are_given(name: str) -> None:
    claim = read_claim(find_config(name, "claims"))
    edges = {"lds_cora": 5278, "lds_citeseer": 4552}[name.removesuffix("_candidates")]
    pairs = 60_000 if "candidates" in name else PAIRS[name]
    for percent in (25, 50, 75, 100):
        gcn, rnd, lds = (claim.arms[f"{arm}_{percent}"].flags for arm in ("gcn", "gcn_rnd", "lds"))
        assert {f["data.init_args.edges_retained"] for f in (gcn, rnd, lds)} == {percent / 100}
        assert (gcn["model.init_args.learn_graph"], rnd["model.init_args.learn_graph"]) == (False, False)
        assert "model.init_args.learn_graph" not in lds
        added = rnd["model.init_args.est_p_edge"] * pairs
        assert added == pytest.approx(edges * percent / 100, rel=0.01)


@needs_data
def test_the_random_edges_of_gcn_rnd_are_drawn_anew_at_each_step(tmp_path: Path) -> None:
    flags = read_claim(find_config("lds_cora_candidates", "claims")).arms["gcn_rnd_50"].flags
    given = [f"--{k}={v}" for k, v in flags.items() if "seed" not in k]
    logged = ("--trainer.max_steps=2", "--trainer.log_every_n_steps=1")
    found = summary("fit", "lds_cora_candidates", tmp_path, *given, *logged)
    assert found["final"]["graph/expected_edges"] == pytest.approx(2 * 2639, rel=0.1)


@pytest.mark.parametrize("name", ["lds_cancer", "lds_digits"])
def test_the_other_sweeps_are_the_grid_of_wine(name: str) -> None:
    wine, other = (yaml.safe_load(find_config(n, "sweeps").read_text()) for n in ("lds_wine", name))
    assert (other["parameters"], other["command"][4]) == (wine["parameters"], name)


def test_the_sweep_of_a_given_graph_has_the_papers_six_settings_and_runs(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("lds_cora_candidates", "sweeps").read_text())
    values = {k: p["values"] for k, p in sweep["parameters"].items()}
    assert values == {"model.init_args.tau": [1, 5, 20], "model.init_args.optimizer.init_args.lr": [1.0, 0.1]}
    assert sweep["command"][4] == "lds_cora_candidates"
    root = fake_planetoid(tmp_path / "data", "Cora", nodes=720)
    flags = [f"--{k}={v[-1]}" for k, v in values.items()]
    data = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=720"]
    limits = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    candidates = "--model.init_args.num_candidates=4000"
    found = summary("fit", "lds_cora_candidates", tmp_path, *flags, *data, *limits, candidates)
    assert sweep["metric"]["name"] in found["final"]


def test_every_point_of_the_sweep_is_a_run(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("lds_wine", "sweeps").read_text())
    values = {k: p["values"] for k, p in sweep["parameters"].items()}
    assert len(values) == 4
    assert all(len(v) == 2 for v in values.values())  # the paper's 16 settings
    flags = [f"--{k}={v[1]}" for k, v in values.items()]
    limits = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    assert sweep["metric"]["name"] in summary("fit", "lds_wine", tmp_path, *flags, *limits)["final"]
