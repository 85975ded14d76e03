"""The recipes of graph generation: the papers' numbers, sets of full size, claims and sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import build, summary

from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, config_names, find_config

RECIPES = [n for n in config_names() if n.startswith("gnn_gen_") and not n.endswith("_small")]
EMBEDDED = [n for n in config_names() if n.startswith("gnn_gen_") and n.endswith("_small")]
SHORT = ("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.val_samples=3")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_papers(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    model = built.model
    optimizer = model.optimizer(model.network.parameters())
    assert (built.datamodule.batch_size, built.datamodule.items_per_epoch) == (32, 1024)
    if "graphrnn" in name:
        assert optimizer.param_groups[0]["lr"] == 0.003
        scheduler = model.lr_scheduler(optimizer)
        # epochs 400 and 1000 of 32 batches
        assert (dict(scheduler.milestones), scheduler.gamma) == ({12_800: 1, 32_000: 1}, 0.3)
        assert built.trainer.max_steps == 3000 * 32


@pytest.mark.parametrize("name", EMBEDDED)
def test_samples_of_embedded_configs_are_measured(name: str, tmp_path: Path) -> None:
    random = "order: canonical" not in find_config(name).read_text()
    few = ["--data.init_args.bfs_draws=0"] if random else []
    final = summary("fit", name, tmp_path, *SHORT, *few)["final"]
    assert -0.1 < final["val/mmd_degree"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RECIPES if n.endswith(("_grid", "_community"))])
def test_full_size_sets_run(name: str, tmp_path: Path) -> None:
    flags = ["--data.init_args.num_workers=0"]
    assert summary("fit", name, tmp_path, *SHORT, *flags)["steps"] == 2


CLAIMS = sorted(p.stem for p in (config_folder() / "claims").glob("gnn_generation*.yaml"))
SWEEPS = sorted(p.stem for p in (config_folder() / "sweeps").glob("gnn_gen*.yaml"))


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_valid(name: str) -> None:
    for quick in (False, True):
        claim = read_claim(find_config(name, "claims"), quick)
        assert {"er", "ba", "graphrnn"} <= set(claim.arms)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_point_of_the_sweep_is_a_run(name: str, tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config(name, "sweeps").read_text())
    config = sweep["command"][sweep["command"].index("--config") + 1]
    flags = [f"--{k}={(p.get('values') or [p.get('min')])[0]}" for k, p in sweep["parameters"].items()]
    assert sweep["metric"]["name"] in summary("fit", config, tmp_path, *flags, *SHORT)["final"]
