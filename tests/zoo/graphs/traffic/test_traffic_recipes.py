"""The recipes of forecasting: the papers' numbers, the real week and chickenpox where they lie, runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import build, summary
from covering import covering
from fakes.traffic import fake_chickenpox, fake_traffic

import cli
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import find_config

# optimiser, learning rate, batch, epochs, clip, dropout
RECIPES: dict[str, tuple[str, float, int, int, float | None, float | None]] = {
    "gnn_traffic_stgcn_cheb_metr_la": ("RMSprop", 1e-3, 50, 50, None, 0.0),
    "gnn_traffic_stgcn_1st_metr_la": ("RMSprop", 1e-3, 50, 50, None, 0.0),
    "gnn_traffic_stgcn_pemsd7m": ("RMSprop", 1e-3, 50, 50, None, 0.0),
    "gnn_traffic_stgcn_pemsd7m_port": ("AdamW", 1e-3, 32, 100, None, None),
    "gnn_traffic_dcrnn_metr_la": ("Adam", 1e-2, 64, 100, 5.0, None),
    "gnn_traffic_dcrnn_pems_bay": ("Adam", 1e-2, 64, 100, 5.0, None),
    "gnn_traffic_gwnet_metr_la": ("Adam", 1e-3, 64, 100, 5.0, None),
    "gnn_traffic_fclstm_metr_la": ("Adam", 1e-4, 64, 100, 5.0, None),
}
WEEK = [f"gnn_traffic_{a}_metr_la_week" for a in ("stgcn_cheb", "dcrnn", "gwnet", "fclstm", "ha", "last")]
GRAPHS = Path(os.environ.get("ZOO_DATA", "data")) / "graphs"
week, chickenpox = (
    (GRAPHS / p).is_file() for p in ("metr_la_week/los_speed.csv", "chickenpox/chickenpox.json")
)
needs_week = pytest.mark.skipif(not week, reason="ZOO_DATA has no graphs/metr_la_week")
needs_chickenpox = pytest.mark.skipif(not chickenpox, reason="ZOO_DATA has no graphs/chickenpox")
# one batch of each kind
SHORT = (
    "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null", "--data.init_args.batch_size=4",
    "--data.init_args.eval_batch_size=8", "--trainer.log_every_n_steps=1",
)  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_and_recipes_are_the_papers(name: str, tmp_path: Path) -> None:
    built = build(name, tmp_path)
    model = built.model
    kind, rate, batch, epochs, clip, dropout = RECIPES[name]
    assert model.hparams["dropout"] == dropout
    schedule: Any = model.configure_optimizers()
    optimizer = schedule["optimizer"] if isinstance(schedule, dict) else schedule
    first = optimizer.param_groups[0]["initial_lr" if isinstance(schedule, dict) else "lr"]
    assert (type(optimizer).__name__, first) == (kind, rate)
    trainer, size = built.config["fit"].trainer, built.datamodule.batch_size
    assert (size, trainer.max_epochs, trainer.gradient_clip_val) == (batch, epochs, clip)
    if kind == "RMSprop":
        scheduler, interval = (schedule["lr_scheduler"][k] for k in ("scheduler", "interval"))
        assert (scheduler.step_size, scheduler.gamma, interval) == (5, 0.7, "epoch")
        assert (model.hparams["loss"], model.hparams["target_step"]) == ("mse", 3)
        assert optimizer.param_groups[0]["alpha"] == 0.9
        assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.0, 0.0]
    if "dcrnn" in name:
        scheduler = schedule["lr_scheduler"]["scheduler"]
        assert (sorted(scheduler.milestones), scheduler.gamma) == ([20, 30, 40, 50], 0.1)
        assert (model.hparams["teaching_decay"], model.hparams["diffusion_steps"]) == (2000, 2)
    if "gwnet" in name:
        assert optimizer.param_groups[0]["weight_decay"] == 1e-4


def test_the_average_of_pemsd7m_repeats_after_five_week_days(tmp_path: Path) -> None:
    """44 week days whose speeds depend on the day of the week and the hour alone are forecast exactly."""
    root = fake_traffic(tmp_path / "data", "pemsd7m", rows=8)
    row = torch.arange(44 * 288)
    speeds = 30 + 5 * (row // 288 % 5) + (row % 288) / 24
    np.savetxt(root / "vel.csv", speeds[:, None].expand(-1, 12).numpy(), delimiter=",", fmt="%.6f")
    flags = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=12", "--trainer.max_epochs=1"]
    flags += ["--trainer.limit_train_batches=1", "--data.init_args.eval_batch_size=512"]
    assert summary("fit", "gnn_traffic_ha_pemsd7m", tmp_path, *flags)["final"]["val/mae_9"] < 1e-4


def test_chickenpox_has_no_percentages(tmp_path: Path) -> None:
    root = fake_chickenpox(tmp_path / "data")
    flags = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=6"]
    final = summary("fit", "gnn_chickenpox", tmp_path, *SHORT, *flags)["final"]
    assert {"val/mae", "val/rmse", "val/mae_1"} <= set(final)
    assert not any("mape" in k for k in final)


@pytest.mark.parametrize(
    "arch", covering(["stgcn_cheb", "stgcn_1st", "dcrnn", "fclstm", "ha", "last"], ["stgcn_1st", "dcrnn"])
)
def test_one_line_swaps_the_architecture(arch: str, tmp_path: Path) -> None:
    flags = [*SHORT, f"--model.init_args.arch={arch}"]
    final = summary("fit", "gnn_traffic_synthetic", tmp_path, *flags)["final"]
    assert {f"val/{e}{s}" for e in ("mae", "rmse", "mape") for s in ("", "_3", "_6", "_12")} <= set(final)


@pytest.mark.slow
def test_the_embedded_config_beats_last_value_and_average(tmp_path: Path) -> None:
    errors = {}
    for arch in ("gwnet", "ha", "last"):
        found = summary("fit", "gnn_traffic_synthetic", tmp_path, f"--model.init_args.arch={arch}")
        errors[arch] = found["final"]["val/mae_3"]
    assert errors["gwnet"] < 0.95 * min(errors["ha"], errors["last"])


@needs_week
@pytest.mark.parametrize("name", covering(WEEK, ["gnn_traffic_gwnet_metr_la_week"]))
def test_the_real_week_runs(name: str, tmp_path: Path) -> None:
    assert summary("fit", name, tmp_path, *SHORT)["steps"] == 2


@needs_chickenpox
def test_the_real_chickenpox_runs(tmp_path: Path) -> None:
    assert summary("fit", "gnn_chickenpox", tmp_path, *SHORT)["steps"] == 2


def test_missing_data_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--data.init_args.root={tmp_path}", f"--trainer.default_root_dir={tmp_path}", *SHORT]
    assert cli.main(["fit", "--config", "gnn_traffic_dcrnn_metr_la", *flags]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    for word in (str(tmp_path), "metr-la.npz", "liyaguang", "ZOO_DATA"):
        assert word in line


def test_the_claim_gives_all_arms_the_same_data_and_budget() -> None:
    path = find_config("gnn_traffic_week", "claims")
    claim = read_claim(path)
    assert read_claim(path, quick=True).seeds == [1]
    assert set(claim.arms) == {"ha", "last", "fclstm", "stgcn_cheb", "dcrnn", "gwnet"}
    contents = [yaml.safe_load(find_config(a.config).read_text()) for a in claim.arms.values()]
    assert all(c["data"] == contents[0]["data"] and c["trainer"] == contents[0]["trainer"] for c in contents)
    for model in ("stgcn_cheb", "dcrnn", "gwnet"):
        pairs = {(p.worse, p.metric) for p in claim.predicates if p.better == model}
        assert {(b, f"test/mae_{s}") for b in ("ha", "last") for s in (3, 6, 12)} <= pairs
        assert (("fclstm", "test/mae_12")) in pairs


def test_points_of_the_sweep_are_runs(tmp_path: Path) -> None:
    sweep = yaml.safe_load(find_config("gnn_traffic_synthetic", "sweeps").read_text())
    flags = [f"--{k}={p['values'][-1]}" for k, p in sweep["parameters"].items()]
    final = summary("fit", "gnn_traffic_synthetic", tmp_path, *SHORT, *flags)["final"]
    assert sweep["metric"]["name"] in final
