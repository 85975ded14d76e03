"""Forecasting on a graph: windows of a series of N sensors.

A batch is a dict: ``x`` float32 (B, lags, N, C), the past in the unit of the data, channel 0 the value and,
with ``time_of_day``, channel 1 the time as a fraction of the day; ``y`` float32 (B, horizon, N), what
follows it; ``time`` int64 (B, horizon), when ``y`` is, in steps since midnight of the first day; ``index``
int64 (B,). Nothing is normalised here: the model keeps mean and deviation with its weights and takes them
from :attr:`ForecastModule.mean` and ``std``, which come from training windows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arguments import check_choice
from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Many, Share, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.traffic.sensor_graph import neighbourhood

Array = np.ndarray[Any, Any]
Split = Literal["windows", "rows"]


@dataclass
class SensorSeries:
    """A series on a graph.

    Attributes:
        values: (T, N).
        adjacency: (N, N), [i, j] the weight of the edge i -> j.
        names: of the N sensors.
        positions: (N, 2) longitude and latitude, or coordinates in the plane.
        steps_per_day: rows of a day; 0 where there is no such cycle.
        clock: (T,) when each row is, in steps since midnight of the first day; by default 0, 1, 2, ...
    """

    values: Array
    adjacency: Array
    names: list[str]
    positions: Array | None = None
    steps_per_day: int = 288
    clock: Array | None = None

    def __post_init__(self) -> None:
        nodes = self.values.shape[1]
        if self.adjacency.shape != (nodes, nodes):
            raise ValueError(
                f"the series has {nodes} sensors, but the adjacency is "
                f"{' x '.join(map(str, self.adjacency.shape))}; both must list the same sensors"
            )
        for what, array in (("series", self.values), ("adjacency", self.adjacency)):
            if not np.isfinite(array).all():
                raise ValueError(
                    f"the {what} holds NaN or infinite values; missing measurements are written as 0"
                )
        if (self.adjacency < 0).any():
            raise ValueError("the adjacency holds negative weights")

    def subset(self, chosen: Array) -> SensorSeries:
        """The same series of some of the sensors."""
        return SensorSeries(
            self.values[:, chosen],
            self.adjacency[np.ix_(chosen, chosen)],
            [self.names[i] for i in chosen],
            None if self.positions is None else self.positions[chosen],
            self.steps_per_day,
            self.clock,
        )


class Windows(BatchItems):
    """Windows of ``lags`` + ``horizon`` rows, one for each first row in ``starts``."""

    def __init__(
        self, values: Tensor, clock: Tensor, day: Tensor | None, starts: Array, lags: int, horizon: int
    ) -> None:
        self.values, self.clock, self.day = values, clock, day
        self.starts = torch.from_numpy(np.asarray(starts, dtype=np.int64))
        self.past, self.future = torch.arange(lags), torch.arange(lags, lags + horizon)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = torch.from_numpy(batch_keys(keys)[1])
        start = self.starts[index]
        rows = start[:, None] + self.past
        x = self.values[rows][..., None]  # (B, lags, N, 1)
        if self.day is not None:
            x = torch.cat([x, self.day[rows][:, :, None, None].expand_as(x)], dim=-1)
        following = start[:, None] + self.future
        return {"x": x, "y": self.values[following], "time": self.clock[following], "index": index}


def split_starts(
    rows: int, lags: int, horizon: int, fractions: Sequence[float], by: Split
) -> tuple[Array, Array, Array]:
    """First rows of the training, validation and test windows, in the order of time.

    ``windows`` shares out the windows, of which neighbours overlap over a border (DCRNN, Graph WaveNet);
    ``rows`` shares out the rows and makes windows inside each part (STGCN). Test and training have their
    share rounded, the validation has the rest.

    Raises:
        ValueError: if a part has no window.
    """
    train, _, test = fractions
    total = rows if by == "rows" else rows - lags - horizon + 1
    last, first = round(total * train), total - round(total * test)
    bounds = [(0, last), (last, first), (first, total)]
    cut = lags + horizon - 1 if by == "rows" else 0
    parts = [np.arange(a, b - cut) for a, b in bounds]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not len(part):
            raise ValueError(
                f"{rows} rows leave the {name} no window of {lags} + {horizon} steps: change "
                "data.init_args.lags, horizon or split"
            )
    return parts[0], parts[1], parts[2]


class ForecastModule(SplitModule):
    """Splits and scale of a series on a graph; the source says how to read it.

    The batch is described in :mod:`datamodules.traffic.forecast`. Attributes after ``setup``: ``series``,
    ``adjacency`` (N, N), ``num_nodes``, ``in_channels``, ``mean``, ``std``, ``names``, ``positions``,
    ``steps_per_day``, ``train_values`` and ``train_clock`` (the rows that training windows touch).

    Args:
        lags: steps of the past.
        horizon: steps of the future.
        split: shares of training, validation and test, in the order of time.
        split_by: see :func:`split_starts`.
        nodes: take so many sensors that lie together, see
            :func:`datamodules.traffic.sensor_graph.neighbourhood`; null takes all.
        time_of_day: second input channel.
        batch_size: global, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes; the series is in memory, so 0 is fastest.

    Raises:
        ValueError: for impossible settings.
    """

    null_value: float | None = 0.0
    """What a missing measurement is written as; None where there is no such value."""

    unit = ""

    of_weights: ClassVar[tuple[str, ...]] = ("lags", "horizon", "time_of_day")

    def __init__(
        self,
        lags: Size = 12,
        horizon: Size = 12,
        split: Sequence[Share] = (0.7, 0.1, 0.2),
        split_by: Split = "windows",
        nodes: Many | None = None,
        time_of_day: bool = True,
        batch_size: Many = 64,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(ForecastModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if len(split) != 3 or abs(sum(split) - 1) > 1e-6:
            raise ValueError(f"data.init_args.split is three shares above 0 that sum to 1, got {list(split)}")
        check_choice("split_by", split_by, Split)
        self.lags, self.horizon, self.split, self.split_by = lags, horizon, tuple(split), split_by
        self.nodes, self.time_of_day = nodes, time_of_day
        self.in_channels = 2 if time_of_day else 1

    def read(self) -> SensorSeries:
        """All rows and sensors of the source."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        series = self.read()
        if self.nodes is not None:
            series = series.subset(neighbourhood(series.adjacency, self.nodes))
        rows = len(series.values)
        train, val, test = split_starts(rows, self.lags, self.horizon, self.split, self.split_by)
        values = torch.from_numpy(np.ascontiguousarray(series.values, dtype=np.float32))
        clock = torch.arange(rows)
        if series.clock is not None:
            clock = torch.from_numpy(np.asarray(series.clock, dtype=np.int64))
        day = None
        if self.time_of_day:
            if not series.steps_per_day:
                raise ValueError("these data have no time of day: set data.init_args.time_of_day: false")
            day = (clock % series.steps_per_day).float() / series.steps_per_day
        sets = [Windows(values, clock, day, starts, self.lags, self.horizon) for starts in (train, val, test)]
        self.train_set, self.val_set, self.test_set = sets
        self.series, self.num_nodes = series, values.shape[1]
        self.adjacency = torch.from_numpy(np.ascontiguousarray(series.adjacency, dtype=np.float32))
        self.positions, self.names = series.positions, series.names
        self.steps_per_day = series.steps_per_day
        touched = int(train[-1]) + self.lags + self.horizon
        self.train_values, self.train_clock = values[:touched], clock[:touched]
        self.mean, self.std = input_statistics(values, train, self.lags)


def input_statistics(values: Tensor, starts: Array, lags: int) -> tuple[float, float]:
    """Mean and population deviation of the inputs of all training windows, as DCRNN takes them.

    A row counts as often as windows hold it; missing measurements count as they are written.

    Raises:
        ValueError: for a constant series.
    """
    counts = np.zeros(len(values) + 1)
    np.add.at(counts, starts, 1)
    np.add.at(counts, starts + lags, -1)
    weights = np.cumsum(counts)[:-1]
    table = values.numpy().astype(np.float64)
    total = weights.sum() * table.shape[1]
    mean = float((weights @ table).sum() / total)
    std = float(np.sqrt((weights @ (table - mean) ** 2).sum() / total))
    if not std > 0:
        raise ValueError("the training rows are constant: nothing to forecast")
    return mean, std
