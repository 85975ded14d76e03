"""Hungarian weekly chickenpox cases by county (Rozemberczki et al. 2021)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.traffic.forecast import ForecastModule, SensorSeries, Split

_SOURCE = "github.com/benedekrozemberczki/pytorch_geometric_temporal, dataset/chickenpox.json"


class Chickenpox(ForecastModule):
    """521 weeks (2005-2015) of 20 counties, 102 directed edges including self-loops of weight 1.

    The file is ``<root>/chickenpox.json`` with ``FX`` (521, 20), standardised per county by its makers over
    all weeks (so the test weeks have had a hand in the unit), ``edges`` and ``node_ids``. No value means
    missing. The batch is described in :mod:`datamodules.traffic.forecast`, without a time of day.

    Args:
        root: folder of the file; defaults to ``$ZOO_DATA/graphs/chickenpox`` or ``data/graphs/chickenpox``.

    Raises:
        FileNotFoundError, ValueError: for a missing or damaged file and impossible settings.
    """

    null_value = None
    unit = "deviations"

    def __init__(
        self,
        root: str | None = None,
        lags: int = 8,
        horizon: int = 1,
        split: Sequence[float] = (0.7, 0.1, 0.2),
        split_by: Split = "windows",
        nodes: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            lags, horizon, split, split_by, nodes, False, batch_size, eval_batch_size, num_workers
        )
        self.root = Path(root or Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "chickenpox")

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
            text = " ".join(str(error).split())[:80]
            raise ValueError(f"{path} is damaged ({text}); take it anew from {_SOURCE}") from None
        return SensorSeries(values, adjacency, names, steps_per_day=0)
