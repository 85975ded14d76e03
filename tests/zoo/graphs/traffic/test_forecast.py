"""The forecaster: baselines by hand, its loss and errors, what it takes from the data, what it writes."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quiet import quiet_trainer

import cli
import zoo
from datamodules import SensorDiffusion
from zoo.engine.metrics_csv import read_metrics
from zoo.graphs.traffic.baselines import FCLSTM, HistoricalAverage, LastValue
from zoo.graphs.traffic.report import Forecasts

QUIET = ("--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
LEARNED = ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm")
ARCHS = (*LEARNED, "ha", "last")


def test_historical_average_by_hand() -> None:
    """Period 4; a missing value is left out, a slot never seen takes the sensor's mean."""
    model = HistoricalAverage(2, period=4)
    values = torch.tensor([[1.0, 10], [2, 20], [3, 30], [5, 0], [7, 40]])
    clock = torch.tensor([0, 1, 2, 4, 5])  # slot 3 never, a gap in between
    model.set_history(values, clock, values != 0)
    assert torch.allclose(model.table, torch.tensor([[3.0, 10], [4.5, 30], [3, 30], [3.6, 25]]))
    forecast = model(torch.zeros(1, 1, 2, 1), torch.tensor([[7, 8, 9]]))
    assert torch.equal(forecast[0], model.table[[3, 0, 1]])


def test_last_value_passes_over_missing_measurements() -> None:
    model = LastValue(2)
    x = torch.tensor([[1.0, 0], [2, 5], [0, 0]])[None, ..., None]
    assert model(x)[0].tolist() == [[0, 0], [0, 0]]  # no value means missing
    model.set_null(torch.tensor(0.0))
    assert model(x)[0].tolist() == [[2, 5], [2, 5]]
    assert model(torch.zeros(1, 3, 2, 1)).tolist() == [[[0, 0], [0, 0]]]


def test_fclstm_reads_its_own_forecast() -> None:
    model, x = FCLSTM(3, outputs=4, hidden=5), torch.randn(2, 6, 3, 2)
    found = model(x)
    past = torch.cat([x[..., 0], x[:, :, 0, 1:]], dim=-1)
    _, state = model.encoder(past)
    signal = torch.zeros(2, 1, 3)
    for step in range(4):
        hidden, state = model.decoder(signal, state)
        signal = model.projection(hidden)
        assert torch.allclose(found[:, step], signal[:, 0], atol=1e-6)
    assert not torch.allclose(found[:, 0], found[:, 3], atol=1e-4)


def taken(arch: str, **options: Any) -> tuple[zoo.SpatioTemporalForecaster, SensorDiffusion]:
    data = SensorDiffusion(sensors=6, steps=300, day=50, **options.pop("data", {}))
    data.setup("fit")
    module = zoo.SpatioTemporalForecaster(arch, num_nodes=6, period=50, **options)  # type: ignore[arg-type]
    module._take(data)
    return module.eval(), data


def test_forecasts_are_in_the_unit_of_the_data() -> None:
    module, data = taken("last", data={"missing": 0.0})
    batch = data.test_set.__getitems__([0, 1])
    forecast = module.forecast(batch["x"], batch["time"])
    assert torch.allclose(forecast, batch["x"][:, -1:, :, 0].expand(-1, 12, -1), atol=1e-4)
    average, data = taken("ha", data={"missing": 0.2})  # missing rows are no part of the mean
    values, clock = data.train_values, data.train_clock
    rows = values[clock % 50 == int(batch["time"][0, 3]) % 50]
    expected = rows.sum(0) / (rows != 0).sum(0)
    assert (rows == 0).any()
    assert torch.allclose(average.forecast(batch["x"], batch["time"])[0, 3], expected, atol=1e-4)


def test_the_loss_is_the_mean_over_known_targets() -> None:
    module, _ = taken("stgcn_cheb")
    forecast, target = torch.tensor([[10.0, 20], [30, 99]]), torch.tensor([[12.0, 16], [40, 0]])
    assert float(module._loss(forecast, target)) == pytest.approx(16 / 3)
    squared, _ = taken("stgcn_cheb", loss="mse")
    squared.std.fill_(2.0)
    assert float(squared._loss(forecast, target)) == pytest.approx(120 / 3 / 4)
    forecast = forecast.requires_grad_()
    (gradient,) = torch.autograd.grad(module._loss(forecast, target), forecast)
    assert gradient[1, 1] == 0


def test_missing_everywhere_gives_no_nan() -> None:
    module, _ = taken("gwnet")
    forecast = torch.ones(2, 2, requires_grad=True)
    loss = module._loss(forecast, torch.zeros(2, 2))
    loss.backward()
    assert loss.item() == 0


def test_errors_of_a_step_are_of_that_step_alone(tmp_path: Path) -> None:
    """The logged numbers against numpy, for the last value: horizons 3, 6, 12 and all of them."""
    flags = [f"--trainer.default_root_dir={tmp_path}", *QUIET, "--trainer.max_epochs=1"]
    config = ["--config", "gnn_traffic_synthetic", "--model.init_args.arch=last"]
    assert cli.main(["fit", *config, *flags]) == 0
    row = [r for r in read_metrics(next(tmp_path.rglob("metrics.csv"))) if "val/mae" in r][-1]
    data = SensorDiffusion()
    data.setup("fit")
    values, starts = data.series.values.astype(np.float32), data.val_set.starts.numpy()
    for name, steps in (("mae_3", [3]), ("mae_6", [6]), ("mae_12", [12]), ("mae", range(1, 13))):
        errors = []
        for start in starts:
            past = values[start : start + 12]
            last = np.array([next((v for v in column[::-1] if v), 0) for column in past.T])
            for step in steps:
                truth = values[start + 11 + step]
                errors += np.abs(last - truth)[truth != 0].tolist()
        assert row[f"val/{name}"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert row["val/mae_3"] < row["val/mae_12"]


def test_a_single_target_step_trains_on_it_alone() -> None:
    module, data = taken("stgcn_1st", target_step=9)
    assert module.report == [9]
    batch = data.train_set.__getitems__([0, 1])
    assert module.forecast(batch["x"]).shape == (2, 1, 6)
    assert torch.equal(module._target(batch["y"]), batch["y"][:, 8:9])
    average, _ = taken("ha", target_step=9)
    every = taken("ha")[0].forecast(batch["x"], batch["time"])
    assert torch.allclose(average.forecast(batch["x"], batch["time"]), every[:, 8:9])


@pytest.mark.parametrize("arch", LEARNED)
def test_a_permutation_of_the_sensors_permutes_the_forecast(arch: str) -> None:
    """Trap 1 of the survey, for what the sensors' own weights leave of it (LayerNorm, embeddings, LSTM do
    not)."""
    if arch in ("fclstm",):
        pytest.skip("its weights belong to the sensors")
    own = {"embedding": 0} if arch == "gwnet" else {}
    module, data = taken(arch, **own, data={"missing": 0.0})
    x, order = data.train_set.__getitems__([3])["x"], torch.tensor([4, 2, 0, 5, 1, 3])
    expected = module.forecast(x)[:, :, order]
    module.network.set_graph(data.adjacency[order][:, order])  # type: ignore[operator]
    assert torch.allclose(module.forecast(x[:, :, order]), expected, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_no_forecast_depends_on_what_is_forecast(arch: str) -> None:
    module, data = taken(arch)
    batch = data.test_set.__getitems__([0, 5])
    before = module.forecast(batch["x"], batch["time"])
    data.train_set.values[-60:] += 10  # rows after the training
    again = data.test_set.__getitems__([0, 5])
    assert not torch.equal(again["y"], batch["y"]) or torch.equal(again["x"], batch["x"])
    assert torch.equal(module.forecast(batch["x"], again["time"]), before)


@pytest.mark.parametrize(("options", "text"), [
    ({"arch": "gnn"}, "arch must be one of stgcn_cheb"),
    ({"horizon": 4, "target_step": 6}, "target_step counts steps of the future, 1..horizon = 4"),
    ({"horizon": 4, "report": [5]}, "report counts steps"),
    ({"target_step": 3}, "dcrnn reaches a step through all before it"),
    ({"arch": "stgcn_cheb", "lags": 8}, "lags must be at least 9, got 8"),
])  # fmt: skip
def test_impossible_settings_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        zoo.SpatioTemporalForecaster(**options)


def refused(model: dict[str, Any], **data: Any) -> str:
    module = zoo.SpatioTemporalForecaster(**{"num_nodes": 6, "arch": "stgcn_cheb", **model})
    source = SensorDiffusion(sensors=6, steps=300, day=50, **data)
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(ValueError) as caught:
        trainer.fit(module, source)
    return str(caught.value)


def test_data_that_do_not_fit_are_one_line_with_both_numbers() -> None:
    """Trap 12 among them: a fixed N."""
    text = refused({"num_nodes": 7})
    assert "model.init_args.num_nodes is 7, but the data (datamodules.SensorDiffusion) has 6" in text
    text = refused({}, lags=10)
    assert "model.init_args.lags is 12, but" in text
    assert "set model.init_args.lags: 10 or data.init_args.lags: 12, or choose" in text
    assert "model.init_args.horizon is 6, but" in refused({"horizon": 6})
    assert "model.init_args.null_value is null, but" in refused({"null_value": None})
    text = refused({"in_channels": 2}, time_of_day=False)
    assert "reads 2 channels, but the data (datamodules.SensorDiffusion) has 1" in text


def test_predict_writes_forecasts_errors_and_pictures(tmp_path: Path) -> None:
    common = [f"--trainer.default_root_dir={tmp_path}", *QUIET, "--data.init_args.eval_batch_size=80"]
    config = ["--config", "gnn_traffic_synthetic", "--model.init_args.arch=last"]
    assert cli.main(["fit", *config, *common, "--trainer.max_epochs=1"]) == 0
    checkpoint = next(tmp_path.rglob("step=*.ckpt"))
    assert cli.main(["predict", *config, *common, f"--ckpt_path={checkpoint}"]) == 0
    folder = next(tmp_path.rglob("predictions"))
    assert {p.name for p in folder.iterdir()} == {
        "forecasts.npz", "errors.csv", "sensors.csv", "forecasts.png", "errors.png",
    }  # fmt: skip
    data = SensorDiffusion()
    data.setup("fit")
    with np.load(folder / "forecasts.npz", allow_pickle=False) as file:
        assert file["forecast"].shape == file["target"].shape == (195, 12, 20)
        assert np.array_equal(file["target"][:, 0], data.series.values[-206:-11].astype(np.float32))
        assert file["time"][0, 0] == 794
        absolute = np.abs(file["forecast"] - file["target"])
        seen = file["target"] != 0
        by_step = [absolute[:, i][seen[:, i]].mean() for i in range(12)]
        by_sensor = [absolute[..., n][seen[..., n]].mean() for n in range(20)]
        relative = 100 * absolute / np.where(seen, file["target"], 1)
        percent = [relative[:, i][seen[:, i]].mean() for i in range(12)]
    with (folder / "errors.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [float(r["mae"]) for r in rows] == pytest.approx(by_step, rel=1e-5)
    assert [float(r["mape"]) for r in rows] == pytest.approx(percent, rel=1e-5)
    with (folder / "sensors.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [float(r["mae"]) for r in rows] == pytest.approx(by_sensor, rel=1e-5)
    assert list(rows[0]) == ["sensor", "x", "y", "mae", "rmse", "mape"]


def test_values_without_a_null_value_have_no_percentage() -> None:
    zeros = torch.zeros(2, 1, 3)
    settings: dict[str, Any] = {"steps": [1], "report": [1], "names": ["a", "b", "c"], "positions": None}
    for null, errors in ((None, (1.0, 1.0)), (0.0, (1.0, 1.0, 50.0))):
        report = Forecasts(zeros + 1, zeros + 2, zeros, zeros, **settings, null=null, unit="", complete=True)
        assert report.by_step() == [errors]


def test_prediction_on_two_devices_is_refused() -> None:
    module = zoo.SpatioTemporalForecaster("last", num_nodes=6)
    module._trainer = SimpleNamespace(world_size=2, datamodule=None)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"set trainer\.devices: 1 for predict"):
        module.setup("predict")
