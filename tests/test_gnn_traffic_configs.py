"""Configs of forecasting: recipes and sizes on the meta device, each on a twin of its official layout,
embedded ones trained, the real week and chickenpox where they are, claim and sweep valid."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fakes.traffic import fake_chickenpox, fake_traffic

import cli
import zoo
from zoo.engine.metrics_csv import read_metrics
from zoo.engine.runner import ZooCLI
from zoo.evidence.compare.claim import read_claim
from zoo.hub.catalog import config_folder, find_config

# config -> parameters (spec: STGCN 229,825 / 240,577 and 255,361 with the port's unused convolutions)
SIZES = {
    "gnn_traffic_stgcn_cheb_metr_la": 229_825,
    "gnn_traffic_stgcn_1st_metr_la": 229_825 - 2 * (3 - 1) * 16 * 16,
    "gnn_traffic_stgcn_pemsd7m": 240_577,
    "gnn_traffic_stgcn_pemsd7m_port": 255_361,
    "gnn_traffic_dcrnn_metr_la": 372_353,
    "gnn_traffic_dcrnn_pems_bay": 372_353,
    "gnn_traffic_gwnet_metr_la": 293_688,
    "gnn_traffic_fclstm_metr_la": 2_059_215,
    "gnn_traffic_ha_metr_la": 1,
    "gnn_traffic_last_metr_la": 1,
    "gnn_traffic_ha_pemsd7m": 1,
    "gnn_traffic_last_pemsd7m": 1,
}
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
needs_week = pytest.mark.skipif(
    not (GRAPHS / "metr_la_week/los_speed.csv").is_file(), reason="ZOO_DATA has no graphs/metr_la_week"
)
needs_chickenpox = pytest.mark.skipif(
    not (GRAPHS / "chickenpox/chickenpox.json").is_file(), reason="ZOO_DATA has no graphs/chickenpox"
)
# one batch of each kind
SHORT = [
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null",
    "--data.init_args.batch_size=4",
    "--data.init_args.eval_batch_size=8",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]


def some_slow(names: Iterable[str], fast: set[str]) -> list[Any]:
    """Parameters of which only ``fast`` run by default."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


TWINS = {
    "gnn_traffic_stgcn_cheb_metr_la",
    "gnn_traffic_dcrnn_pems_bay",
    "gnn_traffic_ha_metr_la",
    "gnn_traffic_stgcn_pemsd7m_port",
    "gnn_traffic_fclstm_metr_la_week",
}


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(name: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> ZooCLI:
    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", "--config", name, "--trainer.accelerator=cpu", *flags, "--debug"])
    built: ZooCLI = caught.value.args[0]
    return built


def run(name: str, root: Path, *flags: str) -> dict[str, Any]:
    """Summary of a short fit whose losses are finite."""
    assert cli.main(["fit", "--config", name, *SHORT, f"--trainer.default_root_dir={root}", *flags]) == 0
    folder = root / name / "version_0"
    rows = read_metrics(folder / "metrics.csv")
    assert all(torch.isfinite(torch.tensor(r["train/loss"])) for r in rows if "train/loss" in r)
    return dict(json.loads((folder / "summary.json").read_text()))


def test_every_config_is_listed_here() -> None:
    shipped = {p.stem for p in config_folder().glob("gnn_traffic_*.yaml")}
    assert shipped == {*SIZES, *WEEK, "gnn_traffic_synthetic"}
    assert {p.stem for p in config_folder().glob("gnn_chickenpox*.yaml")} == {"gnn_chickenpox"}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_recipes_are_the_papers(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = build(name, monkeypatch, f"--trainer.default_root_dir={tmp_path}")
    model = built.model
    assert isinstance(model, zoo.SpatioTemporalForecaster)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name]
    if name not in RECIPES:
        return
    kind, rate, batch, epochs, clip, dropout = RECIPES[name]
    assert model.hparams["dropout"] == dropout
    schedule: Any = model.configure_optimizers()
    optimizer = schedule["optimizer"] if isinstance(schedule, dict) else schedule
    assert (
        type(optimizer).__name__,
        optimizer.param_groups[0]["initial_lr" if isinstance(schedule, dict) else "lr"],
    ) == (kind, rate)
    trainer = built.config["fit"].trainer
    assert (built.datamodule.batch_size, trainer.max_epochs, trainer.gradient_clip_val) == (
        batch,
        epochs,
        clip,
    )
    if kind == "RMSprop":
        scheduler = schedule["lr_scheduler"]["scheduler"]
        assert (scheduler.step_size, scheduler.gamma, schedule["lr_scheduler"]["interval"]) == (
            5,
            0.7,
            "epoch",
        )
        assert (model.hparams["loss"], model.hparams["target_step"]) == ("mse", 3)
        assert optimizer.param_groups[0]["alpha"] == 0.9
        assert [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)] == [0.0, 0.0]
    if "dcrnn" in name:
        scheduler = schedule["lr_scheduler"]["scheduler"]
        assert (sorted(scheduler.milestones), scheduler.gamma) == ([20, 30, 40, 50], 0.1)
        assert (model.hparams["teaching_decay"], model.hparams["diffusion_steps"]) == (2000, 2)
    if "gwnet" in name:
        assert optimizer.param_groups[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", some_slow([*SIZES, *WEEK], TWINS))
def test_each_config_runs_on_a_twin_of_its_layout(name: str, tmp_path: Path) -> None:
    if "pemsd7m" in name:
        layout = "pemsd7m"
    elif "week" in name:
        layout = "metr_la_week"
    else:
        layout = "pems_bay" if "pems_bay" in name else "metr_la"
    root = fake_traffic(tmp_path / "data", layout, rows=240)
    flags = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=12"]
    if "week" in name:
        flags.append("--data.init_args.nodes=12")
    assert run(name, tmp_path, *flags)["steps"] == 2


def test_the_average_of_pemsd7m_repeats_after_five_week_days(tmp_path: Path) -> None:
    """44 week days whose speeds depend on the day of the week and the hour alone are forecast exactly."""
    root = fake_traffic(tmp_path / "data", "pemsd7m", rows=8)
    row = torch.arange(44 * 288)
    speeds = 30 + 5 * (row // 288 % 5) + (row % 288) / 24
    np.savetxt(root / "vel.csv", speeds[:, None].expand(-1, 12).numpy(), delimiter=",", fmt="%.6f")
    flags = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=12", "--trainer.max_epochs=1"]
    flags += ["--trainer.limit_train_batches=1", f"--trainer.default_root_dir={tmp_path}"]
    flags += ["--data.init_args.eval_batch_size=512", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", "--config", "gnn_traffic_ha_pemsd7m", *flags]) == 0
    text = (tmp_path / "gnn_traffic_ha_pemsd7m/version_0/summary.json").read_text()
    assert json.loads(text)["final"]["val/mae_9"] < 1e-4


def test_chickenpox_runs_on_a_twin(tmp_path: Path) -> None:
    root = fake_chickenpox(tmp_path / "data")
    flags = [f"--data.init_args.root={root}", "--model.init_args.num_nodes=6"]
    summary = run("gnn_chickenpox", tmp_path, *flags)
    assert {"val/mae", "val/rmse", "val/mae_1"} <= set(summary["final"])
    assert not any("mape" in k for k in summary["final"])


@pytest.mark.parametrize(
    "arch", some_slow(["stgcn_cheb", "stgcn_1st", "dcrnn", "fclstm", "ha", "last"], {"stgcn_1st", "dcrnn"})
)
def test_one_line_swaps_the_architecture(arch: str, tmp_path: Path) -> None:
    summary = run("gnn_traffic_synthetic", tmp_path, f"--model.init_args.arch={arch}")
    assert {f"val/{e}{s}" for e in ("mae", "rmse", "mape") for s in ("", "_3", "_6", "_12")} <= set(
        summary["final"]
    )


@pytest.mark.slow
def test_the_embedded_config_beats_last_value_and_average(tmp_path: Path) -> None:
    errors = {}
    for arch in ("gwnet", "ha", "last"):
        flags = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path / arch}"]
        flags.append(f"--model.init_args.arch={arch}")
        assert cli.main(["fit", "--config", "gnn_traffic_synthetic", *flags]) == 0
        text = (tmp_path / arch / "gnn_traffic_synthetic/version_0/summary.json").read_text()
        errors[arch] = json.loads(text)["final"]["val/mae_3"]
    assert errors["gwnet"] < 0.95 * min(errors["ha"], errors["last"])


@needs_week
@pytest.mark.parametrize("name", some_slow(WEEK, {"gnn_traffic_gwnet_metr_la_week"}))
def test_the_real_week_runs(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path)["steps"] == 2


@needs_chickenpox
def test_the_real_chickenpox_runs(tmp_path: Path) -> None:
    assert run("gnn_chickenpox", tmp_path)["steps"] == 2


def test_missing_data_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--data.init_args.root={tmp_path}", f"--trainer.default_root_dir={tmp_path}", *SHORT]
    assert cli.main(["fit", "--config", "gnn_traffic_dcrnn_metr_la", *flags]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert len(lines) == 1
    for word in (str(tmp_path), "metr-la.npz", "liyaguang", "ZOO_DATA"):
        assert word in lines[0]


# --- claim and sweep --------------------------------------------------------------------------------------


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
    summary = run("gnn_traffic_synthetic", tmp_path, *flags)
    assert sweep["metric"]["name"] in summary["final"]
