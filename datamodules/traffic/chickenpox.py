"""Hungarian weekly chickenpox cases by county (Rozemberczki et al. 2021)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from datamodules.loading.arguments import data_folder
from datamodules.loading.files import one_line
from datamodules.loading.ranges import Many, Size, check_ranges
from datamodules.traffic.forecast import ForecastModule, SensorSeries

_SOURCE = "github.com/benedekrozemberczki/pytorch_geometric_temporal, dataset/chickenpox.json"


class Chickenpox(ForecastModule):
    """521 weeks (2005-2015) of 20 counties, 102 directed edges including self-loops of weight 1.

    The file is ``<root>/chickenpox.json`` with ``FX`` (521, 20), standardised per county by its makers over
    all weeks (so the test weeks have had a hand in the unit), ``edges`` and ``node_ids``. No value means
    missing. The batch is described in :mod:`datamodules.traffic.forecast`, without a time of day.

    Args:
        root: folder of the file; defaults to ``$ZOO_DATA/graphs/chickenpox`` or ``data/graphs/chickenpox``.
        lags: steps of the past.
        horizon: steps of the future.
        batch_size: global, over all devices.
        **kwargs: of :class:`datamodules.traffic.forecast.ForecastModule`.

    Raises:
        FileNotFoundError, ValueError: for a missing or damaged file and impossible settings.
    """

    null_value = None
    unit = "deviations"

    def __init__(
        self,
        root: str | None = None,
        lags: Size = 8,
        horizon: Size = 1,
        batch_size: Many = 32,
        **kwargs: Any,
    ) -> None:
        check_ranges(Chickenpox, locals())
        super().__init__(lags=lags, horizon=horizon, time_of_day=False, batch_size=batch_size, **kwargs)
        self.root = data_folder(root, "graphs/chickenpox")

    def read(self) -> SensorSeries:
        path = self.root / "chickenpox.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: take it from {_SOURCE}, then set data.init_args.root (or the environment "
                "variable ZOO_DATA) to where it is"
            )
        try:
            content = json.loads(path.read_text())
            values = np.asarray(content["FX"], dtype=np.float64)
            source, target = np.asarray(content["edges"], dtype=np.int64).T
            names = sorted(content["node_ids"], key=content["node_ids"].get)
            adjacency = np.zeros((values.shape[1],) * 2)
            adjacency[source, target] = 1
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({one_line(error)}); take it anew from {_SOURCE}") from None
        return SensorSeries(values, adjacency, names, steps_per_day=0)
