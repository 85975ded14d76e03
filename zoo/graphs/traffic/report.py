"""What a person looks at after a forecast: curves against the truth, error by step, a map of the sensors."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.metrics.masked import MaskedMAE, MaskedMAPE, MaskedRMSE, known

_SENSORS, _ROWS = 4, 288


@dataclass
class Forecasts:
    """Forecasts of consecutive windows.

    Attributes:
        forecast: (B, S, N), in the unit of the data.
        target: (B, S, N) the truth.
        time: (B, S) when that is, in steps.
        past: (B, lags, N).
        steps: the S steps of the future that the columns are.
        report: steps to draw.
        names: of the N sensors.
        positions: (N, 2) longitude and latitude, or None.
        null: what a missing measurement is written as.
        unit: of the values.
        complete: whether these are all windows; parts write nothing.
    """

    forecast: Tensor
    target: Tensor
    time: Tensor
    past: Tensor
    steps: list[int]
    report: list[int]
    names: list[str]
    positions: Any
    null: float | None
    unit: str
    complete: bool

    def write(self, folder: Path) -> list[Path]:
        """``forecasts.npz``, ``errors.csv``, ``sensors.csv``, ``forecasts.png``, ``errors.png`` in
        ``folder``."""
        if not self.complete:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        names = ["forecasts.npz", "errors.csv", "sensors.csv", "forecasts.png", "errors.png"]
        paths = [folder / n for n in names]
        np.savez_compressed(
            paths[0],
            forecast=self.forecast.numpy(),
            target=self.target.numpy(),
            time=self.time.numpy(),
            steps=np.array(self.steps),
            sensor_ids=np.array(self.names),
        )
        self._write_steps(paths[1])
        self._write_sensors(paths[2])
        self._plot_curves(paths[3])
        self._plot_errors(paths[4])
        return paths

    def _names(self) -> list[str]:
        """Of the errors; values around 0, which have no null value, have no percentage."""
        return ["mae", "rmse"] if self.null is None else ["mae", "rmse", "mape"]

    def _errors(self, forecast: Tensor, target: Tensor) -> tuple[float, ...]:
        """MAE, RMSE and, in per cent, MAPE where it is reported."""
        found = []
        for name, cls in zip(self._names(), (MaskedMAE, MaskedRMSE, MaskedMAPE), strict=False):
            metric = cls(self.null)
            metric.update(forecast, target)
            found.append(float(metric.total / metric.count) ** (0.5 if name == "rmse" else 1))
        return tuple(found)

    def by_step(self) -> list[tuple[float, ...]]:
        """MAE, RMSE and MAPE of each step over all sensors."""
        return [self._errors(self.forecast[:, i], self.target[:, i]) for i in range(len(self.steps))]

    def by_sensor(self) -> list[tuple[float, ...]]:
        """MAE, RMSE and MAPE of each sensor over all steps."""
        return [self._errors(self.forecast[..., n], self.target[..., n]) for n in range(len(self.names))]

    def _write_steps(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *self._names()])
            for step, errors in zip(self.steps, self.by_step(), strict=True):
                writer.writerow([step, *(f"{e:.6f}" for e in errors)])

    def _write_sensors(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["sensor", "x", "y", *self._names()])
            for n, errors in enumerate(self.by_sensor()):
                place = ["", ""] if self.positions is None else [f"{v:.5f}" for v in self.positions[n]]
                writer.writerow([self.names[n], *place, *(f"{e:.6f}" for e in errors)])

    def chosen_sensors(self) -> list[int]:
        """Sensors to draw, at even ranks of their error: from easy to hard."""
        order = np.argsort([errors[0] for errors in self.by_sensor()])
        ranks = np.linspace(0, len(order) - 1, min(_SENSORS, len(order))).round().astype(int)
        return [int(order[r]) for r in ranks]

    def _plot_curves(self, path: Path) -> None:
        """Truth and forecasts of each reported step, at the time that they are for."""
        sensors = self.chosen_sensors()
        mae = self.by_sensor()
        with drawing(
            path, len(sensors), 1, figsize=(11, 2.3 * len(sensors)), sharex=True, squeeze=False, dpi=100
        ) as (_, axes):
            rows = min(len(self.forecast), _ROWS)
            for axis, sensor in zip(axes[:, 0], sensors, strict=True):
                place = self.steps.index(self.report[0])
                truth, when = self.target[:rows, place, sensor].clone(), self.time[:rows, place]
                truth[~known(truth, self.null)] = float("nan")
                axis.plot(when, truth, color="black", linewidth=1.4, label="truth")
                for i, step in enumerate(self.report):
                    place = self.steps.index(step)
                    axis.plot(
                        self.time[:rows, place],
                        self.forecast[:rows, place, sensor],
                        color=f"C{i}",
                        linewidth=0.9,
                        label=f"forecast {step} step{'s' if step > 1 else ''} before",
                    )
                axis.set_title(
                    f"sensor {plain(self.names[sensor])}, MAE {mae[sensor][0]:.2f} over all windows",
                    fontsize=10,
                )
                axis.set_ylabel(plain(self.unit))
            axes[0, 0].legend(fontsize=8, ncols=4)
            axes[-1, 0].set_xlabel("time, steps since midnight of the first day")

    def _plot_errors(self, path: Path) -> None:
        """Error by step and, where the places are known, a map of the sensors coloured by error."""
        panels = 1 if self.positions is None else 2
        with drawing(path, 1, panels, figsize=(5.5 * panels, 4.2), squeeze=False, dpi=100) as (figure, axes):
            by_step = self.by_step()
            for label, values in (("MAE", [e[0] for e in by_step]), ("RMSE", [e[1] for e in by_step])):
                axes[0, 0].plot(self.steps, values, "o-", label=label)
            axes[0, 0].set(xlabel="steps ahead", ylabel=f"error {plain(self.unit)}".strip(), ylim=(0, None))
            axes[0, 0].legend()
            axes[0, 0].set_title("error by step")
            if self.positions is not None:
                x, y = np.asarray(self.positions).T
                mae = [errors[0] for errors in self.by_sensor()]
                points = axes[0, 1].scatter(
                    x, y, c=mae, cmap="viridis_r", s=28, edgecolor="black", linewidth=0.3
                )
                figure.colorbar(points, ax=axes[0, 1], label=f"MAE {plain(self.unit)}".strip())
                axes[0, 1].set_title("error by sensor")
                if (
                    np.abs(y).max() > 1
                ):  # degrees: a degree of longitude is shorter by the cosine of the latitude
                    axes[0, 1].set(xlabel="longitude", ylabel="latitude")
                    axes[0, 1].set_aspect(1 / np.cos(np.radians(y.mean())))
                    axes[0, 1].ticklabel_format(useOffset=False)
                    axes[0, 1].tick_params(axis="x", rotation=30)
