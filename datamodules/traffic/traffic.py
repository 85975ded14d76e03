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
no gaps, ``clock`` (T,), the step since midnight of the first day. ``distances.csv`` is either DCRNN's list
``from,to,cost`` or STGCN's matrix in metres. ``graph_sensor_locations.csv`` (index, sensor_id, latitude,
longitude) places the sensors on the map.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import one_line, read_npz
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.traffic.forecast import Array, ForecastModule, SensorSeries
from datamodules.traffic.sensor_graph import dcrnn_weights, stgcn_weights

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
        **kwargs: of :class:`datamodules.traffic.forecast.ForecastModule`.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    unit = "mph"

    def __init__(
        self,
        name: TrafficName = "metr_la",
        root: str | None = None,
        graph: Graph = "directed",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("name", name, TrafficName)
        self.source, self.graph = name, graph
        self.root = data_folder(root, f"graphs/{name}")

    def read(self) -> SensorSeries:
        values, names, clock = self._read_speeds()
        adjacency, known = self._read_graph(names, values.shape[1])
        if names is not None and known is not None:
            adjacency = _in_order(adjacency, known, names, self.root)
        names = names or known or [str(i) for i in range(values.shape[1])]
        return SensorSeries(values, adjacency, names, self._read_positions(names), clock=clock)

    def _missing(self, what: str, files: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"no {what} of {self.source} in {self.root}: needed is {files}; take it from "
            f"{_SOURCES[self.source]}, then set data.init_args.root (or the environment variable ZOO_DATA)"
        )

    def _read_speeds(self) -> tuple[Array, list[str] | None, Array | None]:
        stem = _SPEEDS[self.source]
        for suffix, read in ((".npz", _npz_speeds), (".csv", _csv_speeds), (".h5", _h5_speeds)):
            path = self.root / f"{stem}{suffix}"
            if path.is_file():
                return read(path)
        raise self._missing("speeds", f"{stem}.npz, {stem}.csv or {stem}.h5")

    def _read_graph(self, names: list[str] | None, nodes: int) -> tuple[Array, list[str] | None]:
        if self.graph.startswith("distances"):
            path = self.root / "distances.csv"
            if not path.is_file():
                raise self._missing("distances", "distances.csv")
            distances = _read_distances(path, names, nodes)
            kernel = dcrnn_weights if self.graph == "distances_dcrnn" else stgcn_weights
            return kernel(distances), None
        if self.graph == "symmetric":
            path = self.root / "los_adj.csv"
            if not path.is_file():
                raise self._missing("symmetric adjacency", "los_adj.csv")
            ids, rows = _read_table(path)
            return rows, ids
        stem = _GRAPHS[self.source]
        for path in (self.root / f"{stem}.npz", self.root / f"{stem}.pkl"):
            if path.is_file():
                return _npz_graph(path) if path.suffix == ".npz" else _pickled_graph(path)
        raise self._missing("adjacency", f"{stem}.npz or {stem}.pkl")

    def _read_positions(self, names: list[str]) -> Array | None:
        """Longitude and latitude of the sensors, where the file lists all of them."""
        path = self.root / "graph_sensor_locations.csv"
        if not path.is_file():
            return None
        with path.open(newline="") as file:
            places = {
                r["sensor_id"]: (float(r["longitude"]), float(r["latitude"])) for r in csv.DictReader(file)
            }
        return np.array([places[n] for n in names]) if set(names) <= set(places) else None


def _damaged(path: Path, error: object) -> ValueError:
    return ValueError(f"{path} is damaged or has another layout ({one_line(error)})")


def _read_table(path: Path) -> tuple[list[str] | None, Array]:
    """A CSV of numbers with or without a header of sensor ids."""
    try:
        with path.open() as file:
            first = file.readline().strip().split(",")
        # ids are whole numbers or words, a first row of measurements has fractions or repeats itself
        header = len(set(first)) == len(first) and not any("." in cell for cell in first)
        rows = np.loadtxt(path, delimiter=",", skiprows=int(header), ndmin=2, dtype=np.float64)
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from None
    return (first if header else None), rows


def _csv_speeds(path: Path) -> tuple[Array, list[str] | None, None]:
    names, rows = _read_table(path)
    return rows, names, None


def _npz_speeds(path: Path) -> tuple[Array, list[str] | None, Array | None]:
    held = read_npz(path)
    if "values" not in held or held["values"].ndim != 2:
        raise _damaged(path, "no array `values` (T, N)")
    ids = [str(i) for i in held["sensor_ids"]] if "sensor_ids" in held else None
    return held["values"], ids, held.get("clock")


def _h5_speeds(path: Path) -> tuple[Array, list[str] | None, Array | None]:
    """The frame that DCRNN published: index of times, a column per sensor."""
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
        import tables  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{path} is a pandas HDF5 file, which needs the package {error.name}: pip install "
            f"'lightning-zoo[hdf5]', or put its twin {path.stem}.npz or {path.stem}.csv beside it"
        ) from None
    frame: Any = pandas.read_hdf(path)
    return frame.to_numpy(), [str(c) for c in frame.columns], clock_of(frame.index.to_numpy())


def clock_of(times: Array, minutes: int = 5) -> Array:
    """Timestamps (T,) -> steps of ``minutes`` since midnight of the first day; gaps stay gaps."""
    midnight = times[0].astype("datetime64[D]")
    return np.asarray((times - midnight) // np.timedelta64(minutes, "m"), dtype=np.int64)


def _npz_graph(path: Path) -> tuple[Array, list[str] | None]:
    held = read_npz(path)
    if "adj" in held:
        ids = [str(i) for i in held["sensor_ids"]] if "sensor_ids" in held else None
        return held["adj"], ids
    if "format" not in held:
        raise _damaged(path, "neither `adj` (N, N) nor a SciPy sparse matrix")
    import scipy.sparse

    return np.asarray(scipy.sparse.load_npz(path).todense()), None


def _pickled_graph(path: Path) -> tuple[Array, list[str]]:
    content = read_pickle(path)
    try:
        ids, _, weights = content
        return np.asarray(weights), [i.decode() if isinstance(i, bytes) else str(i) for i in ids]
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from None


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


def _read_distances(path: Path, names: list[str] | None, nodes: int) -> Array:
    """``from,to,cost`` or a matrix -> (N, N) distances, infinite where none is given."""
    with path.open() as file:
        first = file.readline().strip()
    if not first.startswith("from"):
        return _read_table(path)[1]
    if names is None:
        raise ValueError(f"{path} names sensors, but the speeds have no header with their ids")
    place = {name: i for i, name in enumerate(names)}
    distances = np.full((nodes, nodes), np.inf)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["from"] in place and row["to"] in place:
                distances[place[row["from"]], place[row["to"]]] = float(row["cost"])
    return distances
