"""A made-up series: heat that diffuses on a random geometric graph. No file, no download, not real."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datamodules.loading.ranges import Many, Rate, Seed, Size, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.traffic.forecast import Array, ForecastModule, SensorSeries
from datamodules.traffic.sensor_graph import dcrnn_weights

_PLACES, _NOISE, _MISSING = 1, 2, 3


def diffused(weights: Array, steps: int, steps_per_day: int, seed: int) -> Array:
    """Rows of a field u on the graph: u' = .5 u + .5 P u + sine of the day + e, e' = .7 e + noise; (T, N).

    P = D^-1 W averages over the neighbours, so that noise which enters at one sensor is seen at the next ones
    later: the past of the neighbours foretells a sensor. Scaled to a speed, mean 50 and deviation 10.
    """
    random = item_generator(seed, _NOISE)
    nodes = len(weights)
    average = weights / weights.sum(axis=1, keepdims=True)
    phase = random.uniform(-0.5, 0.5, nodes)  # rush hours differ a little
    field, noise, rows = np.zeros(nodes), np.zeros(nodes), []
    for step in range(-steps_per_day, steps):  # the first day is thrown away
        noise = 0.7 * noise + random.normal(0, 0.5, nodes)
        daily = 0.3 * np.sin(2 * np.pi * step / steps_per_day + phase)
        field = 0.9 * (0.5 * field + 0.5 * average @ field) + daily + noise
        rows.append(field)
    values = np.stack(rows[steps_per_day:])
    return np.asarray(50 + 10 * (values - values.mean()) / values.std())


class SensorDiffusion(ForecastModule):
    """Diffusion on a random geometric graph with a daily sine and AR noise: a generated series, not real
    data.

    The batch is described in :mod:`datamodules.traffic.forecast`.

    Args:
        sensors: N, at random places of the unit square; edges by DCRNN's kernel of the distance.
        steps: rows.
        day: rows of a day.
        missing: share of measurements that are missing, written as 0.
        seed: of the places, the noise and the gaps.
        **kwargs: of :class:`datamodules.traffic.forecast.ForecastModule`.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "split",
        "split_by",
        "nodes",
        "sensors",
        "steps",
        "day",
        "missing",
        "seed",
    )

    def __init__(
        self,
        sensors: Size = 20,
        steps: Many = 1000,
        day: Many = 100,
        missing: Rate = 0.01,
        seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        check_ranges(SensorDiffusion, locals())
        super().__init__(**kwargs)
        if sensors < 2:
            raise ValueError(f"data.init_args.sensors must be at least 2, got {sensors}")
        self.sensors, self.steps, self.day, self.missing, self.seed = sensors, steps, day, missing, seed

    def read(self) -> SensorSeries:
        places = item_generator(self.seed, _PLACES).random((self.sensors, 2))
        distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
        weights = dcrnn_weights(distances, threshold=0.1)
        values = diffused(weights, self.steps, self.day, self.seed)
        gaps = item_generator(self.seed, _MISSING).random(values.shape) < self.missing
        names = [f"made-up {i}" for i in range(self.sensors)]
        return SensorSeries(np.where(gaps, 0, values), weights, names, places, self.day)
