"""The configs of graph generation: sizes on the meta device, steps on small twins, claim, sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from fakes.tu_sets import fake_tu_set

import cli
from zoo.engine import run
from zoo.engine.runner import ZooCLI
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, config_names, find_config

# config -> parameters: node GRU 128 in 4 layers, MLP 64; edge GRU 16 in 4 layers (graphrnn)
SIZES = {
    "gnn_gen_graphrnn_s_grid": 385_192,
    "gnn_gen_graphrnn_grid": 389_937,
    "gnn_gen_graphrnn_s_community": 398_092,
    "gnn_gen_graphrnn_community": 396_337,
    "gnn_gen_graphrnn_s_enzymes": 383_257,
    "gnn_gen_graphrnn_enzymes": 388_977,
    "gnn_gen_graphvae_enzymes": 581_269,
}
EMBEDDED = [
    n
    for n in config_names()
    if n.startswith("gnn_gen_") and n not in SIZES  # claims and sweeps have a folder in their name
]


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(name: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Any:
    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", "--config", name, "--trainer.accelerator=cpu", *flags, "--debug"])
    return caught.value.args[0]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_recipes(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = build(name, monkeypatch, f"--trainer.default_root_dir={tmp_path}")
    model = built.model
    assert sum(p.numel() for p in model.network.parameters()) == SIZES[name]
    optimizer = model.optimizer(model.network.parameters())
    assert built.datamodule.batch_size == 32
    assert built.datamodule.items_per_epoch == 1024
    if "graphrnn" in name:
        assert optimizer.param_groups[0]["lr"] == 0.003
        scheduler = model.lr_scheduler(optimizer)
        # epochs 400 and 1000 of 32 batches
        assert dict(scheduler.milestones) == {12_800: 1, 32_000: 1}
        assert scheduler.gamma == 0.3
        assert built.trainer.max_steps == 3000 * 32


def small(config: str, root: Path, *flags: str) -> dict[str, Any]:
    common = [f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false"]
    with mock.patch.object(run, "plot_curves", return_value=None):
        assert cli.main(["fit", "--config", config, *common, *flags]) == 0
    return dict(json.loads((root / config / "version_0" / "summary.json").read_text()))


SHORT = (
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--model.init_args.val_samples=3",
    "--trainer.accelerator=cpu",
)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_configs_train(name: str, tmp_path: Path) -> None:
    summary = small(name, tmp_path, *SHORT, "--data.init_args.bfs_draws=0")
    assert summary["steps"] == 2
    assert -0.1 < summary["final"]["val/mmd_degree"] <= 2


@pytest.mark.parametrize("name", [n for n in SIZES if "enzymes" in n])
def test_enzymes_configs_run_on_a_twin_of_the_layout(name: str, tmp_path: Path) -> None:
    root = fake_tu_set(tmp_path / "data")
    flags = [f"--data.init_args.root={root}", "--data.init_args.num_workers=0"]
    assert small(name, tmp_path, *SHORT, *flags)["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SIZES if n.endswith(("_grid", "_community"))])
def test_full_size_sets_run(name: str, tmp_path: Path) -> None:
    flags = ["--data.init_args.num_workers=0"]
    assert small(name, tmp_path, *SHORT, *flags)["steps"] == 2


# --- claim and sweep ------------------------------------------------------------------------------------

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
    assert sweep["metric"]["name"] in small(config, tmp_path, *flags, *SHORT)["final"]
