"""Tiny twins of the layouts of METR-LA, its week, PEMS-BAY and PeMSD7(M): made-up speeds, the official
files."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

Array = np.ndarray[Any, Any]


def speeds(rows: int, sensors: int, seed: int = 0) -> Array:
    """(rows, sensors) between 20 and 70 with a day of 288 rows, two decimals, a few missing."""
    random = np.random.default_rng(seed)
    day = np.sin(2 * np.pi * np.arange(rows) / 288)[:, None]
    values = np.clip(50 + 12 * day + random.normal(0, 4, (rows, sensors)), 20, 70).round(2)
    values[random.random(values.shape) < 0.01] = 0
    return np.asarray(values)


def directed_weights(sensors: int, seed: int = 1) -> Array:
    """A chain with some more one-way edges and a diagonal of ones."""
    random = np.random.default_rng(seed)
    weights = np.eye(sensors, dtype=np.float32)
    for i in range(sensors - 1):
        weights[i, i + 1] = random.uniform(0.2, 1)
    extra = random.integers(sensors, size=(2, sensors))
    weights[extra[0], extra[1]] = 0.5
    np.fill_diagonal(weights, 1)
    return weights


def ids(sensors: int) -> list[str]:
    return [str(717_000 + 7 * i) for i in range(sensors)]


def fake_traffic(root: Path, name: str, rows: int = 400, sensors: int = 12) -> Path:
    """Write the files of ``name`` into ``root``; the pickle has the sensors in another order than the
    speeds."""
    root.mkdir(parents=True, exist_ok=True)
    values, weights, names = speeds(rows, sensors), directed_weights(sensors), ids(sensors)
    if name == "pemsd7m":
        np.savetxt(root / "vel.csv", values, delimiter=",", fmt="%.2f")
        scipy.sparse.save_npz(root / "adj.npz", scipy.sparse.csc_matrix(weights - np.eye(sensors)))
        return root
    if name == "metr_la_week":
        header = ",".join(names)
        np.savetxt(root / "los_speed.csv", values, delimiter=",", header=header, comments="")
        np.savez(root / "adj_mx.npz", sensor_ids=np.array(names), adj=weights)
        both = np.maximum(weights, weights.T)
        np.savetxt(root / "los_adj.csv", both, delimiter=",", header=header, comments="")
    else:
        stem = {"metr_la": "metr-la", "pems_bay": "pems-bay"}[name]
        np.savez(root / f"{stem}.npz", values=values, sensor_ids=np.array(names))
        turned = list(range(sensors))[::-1]
        content = [[names[i] for i in turned], {names[i]: k for k, i in enumerate(turned)}]
        with (root / f"adj_mx{'_bay' if name == 'pems_bay' else ''}.pkl").open("wb") as file:
            pickle.dump([*content, weights[np.ix_(turned, turned)]], file, protocol=2)
    with (root / "graph_sensor_locations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "sensor_id", "latitude", "longitude"])
        for i, sensor in enumerate(names):
            writer.writerow([i, sensor, 34.1 + 0.01 * i, -118.3 + 0.01 * (i % 4)])
    return root


def write_frame(path: Path, values: Array, names: list[str], times: Array) -> Path:
    """A frame as ``pandas.DataFrame.to_hdf(path, key="df")`` writes it: METR-LA and PEMS-BAY are released so.

    pandas 3.1.1 and PyTables 3.11.1 wrote the attributes; ``freq`` and ``name`` are pickles there as well.
    """
    columns = np.array(names, dtype="S")
    arrays: dict[str, tuple[Array, dict[str, Any]]] = {
        "axis0": (columns, {"kind": np.bytes_("string"), "name": np.bytes_("N.")}),
        "axis1": (
            times.astype("datetime64[ns]").astype(np.int64),
            {
                "kind": np.bytes_("datetime64"),
                "index_class": np.bytes_("datetime"),
                "name": np.bytes_("N."),
                "freq": np.bytes_("cpandas._libs.tslibs.offsets\nMinute\np0\n(I5\nI00\ntp1\nRp2\n."),
            },
        ),
        "block0_items": (columns, {"kind": np.bytes_("string"), "name": np.bytes_("N.")}),
        "block0_values": (values, {}),
    }
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        group.attrs.update(
            {
                "pandas_type": np.bytes_("frame"),
                "encoding": np.bytes_("UTF-8"),
                "errors": np.bytes_("strict"),
                "ndim": 2,
                "nblocks": 1,
                "axis0_variety": np.bytes_("regular"),
                "axis1_variety": np.bytes_("regular"),
                "block0_items_variety": np.bytes_("regular"),
            }
        )
        for name, (content, attributes) in arrays.items():
            group.create_dataset(name, data=content).attrs.update(
                {**attributes, "CLASS": np.bytes_("ARRAY"), "transposed": np.uint8(1)}
            )
    return path


def fake_chickenpox(root: Path, weeks: int = 120, counties: int = 6) -> Path:
    """``chickenpox.json`` of made-up standardised counts."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    year = np.sin(2 * np.pi * np.arange(weeks) / 52)[:, None]
    values = year + random.normal(0, 0.3, (weeks, counties))
    values = (values - values.mean(0)) / values.std(0)
    edges = [[i, i] for i in range(counties)]
    edges += [[i, (i + 1) % counties] for i in range(counties)]
    edges += [[(i + 1) % counties, i] for i in range(counties)]
    names = {f"COUNTY{i}": i for i in range(counties)}
    content = {"edges": edges, "node_ids": names, "FX": values.tolist()}
    (root / "chickenpox.json").write_text(json.dumps(content))
    return root


def _short(nodes: int) -> dict[str, Any]:
    sizes = {"model.init_args.num_nodes": nodes, "data.init_args.batch_size": 4}
    return {**sizes, "data.init_args.eval_batch_size": 8}


def _traffic(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    data = config["data"]["init_args"]
    fake_traffic(root, data["name"], rows=240)
    return _short(12) | ({"data.init_args.nodes": 12} if "nodes" in data else {})


def _chickenpox(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_chickenpox(root)
    return _short(6)


TWINS = {"datamodules.Traffic": _traffic, "datamodules.Chickenpox": _chickenpox}
