"""Hungarian weekly chickenpox cases by county (Rozemberczki et al. 2021)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datamodules.graphs.checks import integers
from datamodules.loading.arguments import data_folder
from datamodules.loading.files import check_claim, one_line, read_json
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

    split_of_weights: ClassVar[tuple[str, ...]] = ("split", "split_by", "nodes")

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
            content = read_json(path)
            values = np.asarray(content["FX"], dtype=np.float64)
            if values.ndim != 2:
                raise ValueError(f"FX is {values.shape}, expected (weeks, counties)")
            nodes = values.shape[1]
            check_claim(path, f"an adjacency of {nodes:,} counties", 8 * nodes**2)
            source, target = integers(path, "edges", content["edges"], 0, nodes - 1, ndim=2).T.numpy()
            names = sorted(content["node_ids"], key=content["node_ids"].get)
            if sorted(content["node_ids"].values()) != list(range(nodes)):
                raise ValueError(f"node_ids do not number the {nodes} columns of FX")
            adjacency = np.zeros((nodes, nodes))
            adjacency[source, target] = 1
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged ({one_line(error)}); take it anew from {_SOURCE}") from None
        try:
            return SensorSeries(values, adjacency, names, steps_per_day=0)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
