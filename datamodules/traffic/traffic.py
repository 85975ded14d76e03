"""Speeds of road sensors: METR-LA, its shared week, PEMS-BAY and PeMSD7(M), in the layouts of their makers.

============  =============================  ===========================  =========================
name          speeds                         adjacency                    size
============  =============================  ===========================  =========================
metr_la       metr-la.h5 (pandas), .npz,     adj_mx.pkl or .npz           34,272 x 207, 5 minutes
              .csv
pems_bay      pems-bay.h5 (pandas), .npz,    adj_mx_bay.pkl or .npz       52,116 x 325
              .csv
metr_la_week  los_speed.csv                  adj_mx.npz or .pkl,          2,016 x 207
                                             los_adj.csv
pemsd7m       vel.csv without header         adj.npz (SciPy sparse)       12,672 x 228
============  =============================  ===========================  =========================

An ``.npz`` twin holds ``values`` (T, N), ``sensor_ids`` (N,) and, unless the rows begin at midnight and have
no gaps, ``clock`` (T,), the step since midnight of the first day. An ``.h5`` is a pandas frame in the fixed
format, see :mod:`datamodules.traffic.frames`. ``distances.csv`` is either DCRNN's list ``from,to,cost`` or
STGCN's matrix in metres, where 0 off the diagonal means no road. ``graph_sensor_locations.csv`` (index,
sensor_id, latitude, longitude) places the sensors on the map. How tables are read, and when their first line
is one of sensor ids, is told in :mod:`datamodules.traffic.sensor_tables`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.arrays import read_npz
from datamodules.loading.files import one_line
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.sparse import dense, sparse_of
from datamodules.traffic.forecast import Array, ForecastModule, SensorSeries
from datamodules.traffic.frames import read_frame
from datamodules.traffic.sensor_graph import dcrnn_weights, stgcn_weights, without_roads
from datamodules.traffic.sensor_tables import (
    clock_of,
    read_distance_list,
    read_matrix,
    read_places,
    read_speeds,
)

TrafficName = Literal["metr_la", "pems_bay", "metr_la_week", "pemsd7m"]
Graph = Literal["directed", "symmetric", "distances_dcrnn", "distances_stgcn"]

_SPEEDS = {"metr_la": "metr-la", "pems_bay": "pems-bay", "metr_la_week": "los_speed", "pemsd7m": "vel"}
_GRAPHS = {"metr_la": "adj_mx", "pems_bay": "adj_mx_bay", "metr_la_week": "adj_mx", "pemsd7m": "adj"}
_SOURCES = {
    "metr_la": "github.com/liyaguang/DCRNN (data folder linked there; adjacency in data/sensor_graph)",
    "pems_bay": "github.com/liyaguang/DCRNN (data folder linked there; adjacency in data/sensor_graph)",
    "metr_la_week": "github.com/lehaifeng/T-GCN, data",
    "pemsd7m": "github.com/hazdzz/stgcn, data/pemsd7-m",
}


class Traffic(ForecastModule):
    """Speeds of road sensors every five minutes; 0 means missing.

    The batch is described in :mod:`datamodules.traffic.forecast`, the files in
    :mod:`datamodules.traffic.traffic`.

    Args:
        name: of the data set.
        root: folder of its files; defaults to ``$ZOO_DATA/graphs/<name>`` or ``data/graphs/<name>``.
        graph: ``directed``, the published weights; ``symmetric``, ``los_adj.csv``; or weights from
            ``distances.csv`` by the kernel of DCRNN or of STGCN.
        header: whether the first line of the csv of speeds names the sensors; null: where it holds words or
            the ids of the other files, and for ``vel.csv`` not. A first line that may be either is refused.
        **kwargs: of :class:`datamodules.traffic.forecast.ForecastModule`.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "graph", "split", "split_by", "nodes")

    unit = "mph"

    def __init__(
        self,
        name: TrafficName = "metr_la",
        root: str | None = None,
        graph: Graph = "directed",
        header: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("name", name, TrafficName)
        self.source, self.graph, self.header = name, graph, header
        self.root = data_folder(root, f"graphs/{name}")

    def read(self) -> SensorSeries:
        speeds, places = self._speeds_file(), self._read_places()
        adjacency, known = (None, None) if self.graph.startswith("distances") else self._read_graph()
        values, names, clock = self._read_speeds(speeds, [*(known or []), *places])
        if adjacency is None:
            adjacency = self._read_distances(names, values.shape[1])
        if names is not None and known is not None:
            adjacency = _in_order(adjacency, known, names, self.root)
        names = names or known or [str(i) for i in range(values.shape[1])]
        positions = np.array([places[n] for n in names]) if set(names) <= set(places) else None
        try:
            return SensorSeries(values, adjacency, names, positions, clock=clock)
        except ValueError as error:
            raise ValueError(f"{self.root}: {error}") from None

    def _missing(self, what: str, files: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"no {what} of {self.source} in {self.root}: needed is {files}; take it from "
            f"{_SOURCES[self.source]}, then set data.init_args.root (or the environment variable ZOO_DATA)"
        )

    def _speeds_file(self) -> Path:
        stem = _SPEEDS[self.source]
        for suffix in (".npz", ".csv", ".h5"):
            path = self.root / f"{stem}{suffix}"
            if path.is_file():
                return path
        raise self._missing("speeds", f"{stem}.npz, {stem}.csv or {stem}.h5")

    def _read_speeds(self, path: Path, ids: list[str]) -> tuple[Array, list[str] | None, Array | None]:
        """Values (T, N), the ids of their columns and the clock (T,), where the file has them."""
        if path.suffix == ".csv":
            header = False if self.header is None and self.source == "pemsd7m" else self.header
            values, names, clock = read_speeds(path, header, ids)
        else:
            values, names, clock = _npz_speeds(path) if path.suffix == ".npz" else _h5_speeds(path)
        return _checked_speeds(path, values), names, None if clock is None else _rising(path, clock, values)

    def _read_graph(self) -> tuple[Array, list[str] | None]:
        """Published weights (N, N), and the sensors of their rows where the file has them."""
        if self.graph == "symmetric":
            path = self.root / "los_adj.csv"
            if not path.is_file():
                raise self._missing("symmetric adjacency", "los_adj.csv")
            ids, rows = read_matrix(path)
            return _checked_weights(path, rows), ids
        stem = _GRAPHS[self.source]
        for path in (self.root / f"{stem}.npz", self.root / f"{stem}.pkl"):
            if path.is_file():
                weights, ids = _npz_graph(path) if path.suffix == ".npz" else _pickled_graph(path)
                return _checked_weights(path, weights), ids
        raise self._missing("adjacency", f"{stem}.npz or {stem}.pkl")

    def _read_distances(self, names: list[str] | None, nodes: int) -> Array:
        """Weights (N, N) by a kernel of the distances."""
        path = self.root / "distances.csv"
        if not path.is_file():
            raise self._missing("distances", "distances.csv")
        distances = read_distance_list(path, names, nodes)
        if distances is None:
            distances = read_matrix(path, infinite=True)[1]
            if (distances < 0).any():
                raise ValueError(f"{path} holds distances below 0")
            roads = without_roads(distances)
            absent = int((np.isinf(roads) & np.isfinite(distances)).sum())
            if absent:
                rank_zero_warn(f"{path}: {absent:,} zeros off the diagonal are taken for no road")
            distances = roads
        kernel = dcrnn_weights if self.graph == "distances_dcrnn" else stgcn_weights
        try:
            return kernel(distances)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _read_places(self) -> dict[str, tuple[float, float]]:
        """Longitude and latitude of sensors, where there is a file of them."""
        path = self.root / "graph_sensor_locations.csv"
        return read_places(path) if path.is_file() else {}


_LARGEST = 1e7
"""Of a measurement; beyond it, single precision loses whole numbers, and one value wipes out all others when
they are standardised."""


def _damaged(path: Path, error: object) -> ValueError:
    return ValueError(f"{path} is damaged or has another layout ({one_line(error)})")


def _checked_speeds(path: Path, values: Array) -> Array:
    """Speeds (T, N) that are finite numbers."""
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
        raise _damaged(path, f"speeds are {values.dtype} {values.shape}, expected numbers (T, N)")
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32)).all()
    if not finite:
        raise ValueError(f"{path} holds NaN or infinite values; missing measurements are written as 0")
    if (largest := np.abs(values).max()) > _LARGEST:
        row, sensor = np.argwhere(np.abs(values) == largest)[0]
        raise ValueError(
            f"{path} holds {values[row, sensor]:g} at time {row}, sensor {sensor} (from 0), which no sensor "
            "measures; fill values of missing measurements are written as 0"
        )
    return values


def _rising(path: Path, clock: Array, values: Array) -> Array:
    """The clock of the rows, one number a row, each later than the one before."""
    if clock.shape != (len(values),) or clock.dtype.kind not in "iu":
        raise _damaged(path, f"clock is {clock.dtype} {clock.shape}, expected whole numbers ({len(values)},)")
    if (np.diff(clock.astype(np.int64)) <= 0).any() or int(clock[0]) < 0:
        raise ValueError(f"{path}: the times of its rows do not rise by a step or more from row to row")
    return clock.astype(np.int64)


def _checked_weights(path: Path, weights: Array) -> Array:
    """Weights (N, N) in 0..1, as the kernels of distances give them."""
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.dtype.kind not in "iufb":
        raise _damaged(path, f"the adjacency is {weights.dtype} {weights.shape}, expected numbers (N, N)")
    weights = weights.astype(np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"{path} holds weights that are NaN, infinite or negative")
    if weights.size and float(weights.max()) > 1 + 1e-6:
        raise ValueError(
            f"{path} holds weights up to {float(weights.max()):g}, published ones lie in 0..1; if these are "
            "distances, put them into distances.csv and set data.init_args.graph: distances_stgcn"
        )
    return weights


def _ids(path: Path, held: dict[str, Array], count: int) -> list[str] | None:
    if "sensor_ids" not in held:
        return None
    try:
        return _unique(
            path, [i.decode() if isinstance(i, bytes) else str(i) for i in held["sensor_ids"]], count
        )
    except (TypeError, UnicodeError, ValueError) as error:
        raise error if str(error).startswith(f"{path} ") else _damaged(path, error) from None


def _unique(path: Path, ids: list[str], count: int) -> list[str]:
    if len(ids) != count or len(set(ids)) != count:
        raise _damaged(path, f"{len(ids)} sensor ids, {len(set(ids))} different, for {count} sensors")
    return ids


def _npz_speeds(path: Path) -> tuple[Array, list[str] | None, Array | None]:
    held = read_npz(path)
    if "values" not in held or held["values"].ndim != 2:
        raise _damaged(path, "no array `values` (T, N)")
    return held["values"], _ids(path, held, held["values"].shape[1]), held.get("clock")


def _h5_speeds(path: Path) -> tuple[Array, list[str] | None, Array | None]:
    """The frame that DCRNN published: index of times, a column per sensor."""
    values, names, times = read_frame(path)
    return values, _unique(path, names, values.shape[1]), clock_of(times)


def _npz_graph(path: Path) -> tuple[Array, list[str] | None]:
    held = read_npz(path)
    if "adj" in held:
        return held["adj"], _ids(path, held, len(held["adj"]) if held["adj"].ndim else 0)
    if "format" not in held:
        raise _damaged(path, "neither `adj` (N, N) nor a SciPy sparse matrix")
    return dense(sparse_of(path, held), path, "the adjacency"), None


def _pickled_graph(path: Path) -> tuple[Array, list[str]]:
    content = read_pickle(path)
    try:
        ids, _, weights = content
        if not isinstance(ids, list | tuple | np.ndarray) or not isinstance(weights, np.ndarray):
            raise ValueError("needed are sensor ids, their numbers and the adjacency")
        names = [i.decode() if isinstance(i, bytes) else str(i) for i in ids]
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    return weights, _unique(path, names, len(weights) if weights.ndim else 0)


def _in_order(adjacency: Array, known: list[str], wanted: list[str], root: Path) -> Array:
    """The adjacency with its sensors in the order of the speeds."""
    if known == wanted:
        return adjacency
    if len(known) != len(adjacency) or set(known) != set(wanted):
        raise ValueError(
            f"speeds and adjacency in {root} list different sensors: {len(set(wanted) - set(known))} of "
            f"{len(wanted)} have no row in the adjacency"
        )
    place = [known.index(n) for n in wanted]
    return adjacency[np.ix_(place, place)]
