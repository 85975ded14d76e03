"""Traffic and chickenpox: layouts, kernels, windows, splits, the scale (trap 10), and the shared real
files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from fakes.traffic import directed_weights, fake_chickenpox, fake_traffic, ids, speeds, write_frame

from datamodules import Chickenpox, SensorDiffusion, Traffic
from datamodules.traffic.forecast import ForecastModule, split_starts
from datamodules.traffic.sensor_graph import dcrnn_weights, neighbourhood, stgcn_weights
from datamodules.traffic.traffic import clock_of

NAMES = ("metr_la", "pems_bay", "metr_la_week", "pemsd7m")
GRAPHS = Path(os.environ.get("ZOO_DATA", "data")) / "graphs"
needs_week = pytest.mark.skipif(
    not (GRAPHS / "metr_la_week/los_speed.csv").is_file(), reason="ZOO_DATA has no graphs/metr_la_week"
)
needs_chickenpox = pytest.mark.skipif(
    not (GRAPHS / "chickenpox/chickenpox.json").is_file(), reason="ZOO_DATA has no graphs/chickenpox"
)


def ready(data: ForecastModule) -> ForecastModule:
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", NAMES)
def test_each_layout_gives_the_same_series_and_graph(name: Any, tmp_path: Path) -> None:
    data = ready(Traffic(name=name, root=str(fake_traffic(tmp_path, name))))
    assert np.array_equal(data.series.values, speeds(400, 12))
    weights = directed_weights(12)
    if name == "pemsd7m":
        weights = weights - np.eye(12, dtype=np.float32)
    # the fake pickles list the sensors in reverse: they are put into the order of the speeds
    assert np.allclose(data.adjacency.numpy(), weights)
    assert (data.adjacency.numpy() != data.adjacency.numpy().T).any()
    if name != "pemsd7m":
        assert data.names == ids(12)
        assert data.positions is not None
        assert np.allclose(data.positions[5], (-118.3 + 0.01, 34.15))


def test_symmetric_weights_of_the_week(tmp_path: Path) -> None:
    root = str(fake_traffic(tmp_path, "metr_la_week"))
    data = ready(Traffic(name="metr_la_week", root=root, graph="symmetric"))
    weights = directed_weights(12)
    assert np.allclose(data.adjacency.numpy(), np.maximum(weights, weights.T))


def test_missing_files_are_named(tmp_path: Path) -> None:
    root = str(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no speeds of metr_la .*metr-la.npz.*liyaguang.*ZOO_DATA"):
        ready(Traffic(root=root))
    np.savez(tmp_path / "metr-la.npz", values=speeds(100, 3))
    with pytest.raises(FileNotFoundError, match=r"no adjacency of metr_la .*adj_mx.npz or adj_mx.pkl"):
        ready(Traffic(root=root))
    with pytest.raises(FileNotFoundError, match=r"needed is distances.csv"):
        ready(Traffic(root=root, graph="distances_dcrnn"))


def test_an_hdf5_frame_gives_its_columns_and_clock(tmp_path: Path) -> None:
    fake_traffic(tmp_path, "metr_la")
    (tmp_path / "metr-la.npz").unlink()
    start = np.datetime64("2012-03-01T01:00", "ns")
    times = start + np.arange(401) * np.timedelta64(5, "m")
    times = np.delete(times, 100)  # a gap
    write_frame(tmp_path / "metr-la.h5", speeds(400, 12), ids(12), times)
    data = ready(Traffic(root=str(tmp_path)))
    assert np.array_equal(data.series.values, speeds(400, 12))
    assert data.names == ids(12)
    assert np.allclose(data.adjacency.numpy(), directed_weights(12))
    batch = data.train_set.__getitems__([0, 80])
    assert batch["x"][0, :, 0, 1].tolist() == pytest.approx(
        [(12 + i) / 288 for i in range(12)]
    )  # from 1 o'clock
    assert batch["time"][1].tolist() == [12 + 92 + i + (92 + i >= 100) for i in range(12)]


def _runs_code(frame: Any, target: Path) -> None:
    program = pickle.dumps(Touches(str(target)), protocol=0)
    frame.attrs["encoding"] = np.bytes_(program)


def _objects(frame: Any, target: Path) -> None:
    del frame["axis0"]
    frame.create_dataset("axis0", data=["a", "b", "c"], dtype=h5py.string_dtype())


def _link(frame: Any, target: Path) -> None:
    del frame["block0_values"]
    frame["block0_values"] = h5py.ExternalLink("/etc/passwd", "/x")


def _falling(frame: Any, target: Path) -> None:
    frame["axis1"][5] = frame["axis1"][4]


class Touches:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


@pytest.mark.parametrize(("damage", "words"), [
    (_runs_code, r"metr-la\.h5: attribute 'encoding' of /df is pickled, which may run code"),
    (_objects, r"metr-la\.h5: .*axis0 holds object"), (_link, r"metr-la\.h5: .*block0_values is a link"),
    (_falling, r"metr-la\.h5: the times of its rows do not rise"),
])  # fmt: skip
def test_a_hostile_hdf5_frame_is_one_line_and_runs_nothing(damage: Any, words: str, tmp_path: Path) -> None:
    fake_traffic(tmp_path, "metr_la", sensors=3)
    (tmp_path / "metr-la.npz").unlink()
    times = np.datetime64("2012-03-01", "ns") + np.arange(400) * np.timedelta64(5, "m")
    path = write_frame(tmp_path / "metr-la.h5", speeds(400, 3), ids(3), times)
    with h5py.File(path, "a") as file:
        damage(file["df"], tmp_path / "was_run")
    with pytest.raises(ValueError, match=words) as caught:
        ready(Traffic(root=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_run").exists()


def test_clock_counts_from_midnight_of_the_first_day() -> None:
    times = np.array(["2012-03-01T00:10", "2012-03-01T23:55", "2012-03-02T00:00"], dtype="datetime64[ns]")
    assert clock_of(times).tolist() == [2, 287, 288]


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


def test_an_adjacency_that_is_a_program_is_refused(tmp_path: Path, capsys: Any) -> None:
    fake_traffic(tmp_path, "metr_la")
    (tmp_path / "adj_mx.pkl").write_bytes(pickle.dumps([["a"], {"a": 0}, Evil()]))
    with pytest.raises(ValueError, match="refused, nothing was run"):
        ready(Traffic(root=str(tmp_path)))
    assert "ran" not in capsys.readouterr().out


def test_damaged_and_unfit_files_are_one_line(tmp_path: Path) -> None:
    fake_traffic(tmp_path, "metr_la")
    np.savez(tmp_path / "adj_mx.npz", adj=directed_weights(11))
    with pytest.raises(ValueError, match="series has 12 sensors, but the adjacency is 11 x 11"):
        ready(Traffic(root=str(tmp_path)))
    np.savez(tmp_path / "adj_mx.npz", adj=directed_weights(12), sensor_ids=np.array(["x", *ids(12)[1:]]))
    with pytest.raises(ValueError, match="1 of 12 have no row in the adjacency"):
        ready(Traffic(root=str(tmp_path)))
    (tmp_path / "metr-la.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged or has another layout"):
        ready(Traffic(root=str(tmp_path)))
    filled = speeds(100, 12)
    filled[3, 2] = 9.97e36  # netCDF's value for what is missing
    np.savez(tmp_path / "metr-la.npz", values=filled)
    np.savez(tmp_path / "adj_mx.npz", adj=directed_weights(12))
    with pytest.raises(ValueError, match=r"holds 9\.97e\+36 at time 3, sensor 2 \(from 0\)"):
        ready(Traffic(root=str(tmp_path)))
    np.savez(tmp_path / "metr-la.npz", values=np.full((100, 12), np.nan))
    (tmp_path / "adj_mx.npz").unlink()
    with pytest.raises(ValueError, match="NaN or infinite values; missing measurements are written as 0"):
        ready(Traffic(root=str(tmp_path)))


def test_stgcns_kernel_by_hand() -> None:
    """exp(-d^2 / .1) >= .5 where d, in units of 10 km, is at most sqrt(.1 ln 2) = .26328."""
    metres = np.array([[0, 1000, 2632], [2633, 0, 9000], [np.inf, 0, 0]], dtype=float)
    weights = stgcn_weights(metres)
    # a 0 off the diagonal is no road, not a road of no length
    expected = [[0, np.exp(-0.1), np.exp(-(0.2632**2) / 0.1)], [0, 0, 0], [0, 0, 0]]
    assert np.allclose(weights, expected)


def test_dcrnns_kernel_by_hand(tmp_path: Path) -> None:
    """sigma over the finite distances 0, 0, 0, 100, 200: mean 60, population deviation 80."""
    distances = np.array([[0, 100, np.inf], [200, 0, np.inf], [np.inf, np.inf, 0]])
    expected = [[1, np.exp(-((100 / 80) ** 2)), 0], [0, 1, 0], [0, 0, 1]]  # exp(-(200 / 80)^2) = .0019 < .1
    assert np.allclose(dcrnn_weights(distances), expected)

    names = ids(3)
    np.savez(tmp_path / "metr-la.npz", values=speeds(100, 3), sensor_ids=np.array(names))
    rows = [(0, 0, 0), (1, 1, 0), (2, 2, 0), (0, 1, 100), (1, 0, 200)]
    lines = ["from,to,cost", *(f"{names[a]},{names[b]},{c}" for a, b, c in rows), f"9,{names[0]},5"]
    (tmp_path / "distances.csv").write_text("\n".join(lines) + "\n")
    data = ready(Traffic(root=str(tmp_path), graph="distances_dcrnn"))
    assert np.allclose(data.adjacency.numpy(), expected)
    with pytest.raises(ValueError, match="all equal"):
        dcrnn_weights(np.zeros((2, 2)))


def test_stgcns_matrix_of_metres(tmp_path: Path) -> None:
    fake_traffic(tmp_path, "pemsd7m", sensors=3)
    (tmp_path / "distances.csv").write_text("0.0,1000.0,2632.0\n2633.0,0.0,9000.0\n9000.0,0.0,0.0\n")
    with pytest.warns(UserWarning, match=r"distances\.csv: 1 zeros off the diagonal are taken for no road"):
        data = ready(Traffic(name="pemsd7m", root=str(tmp_path), graph="distances_stgcn"))
    assert np.allclose(data.adjacency[0].numpy(), [0, np.exp(-0.1), np.exp(-(0.2632**2) / 0.1)])
    assert data.adjacency[2].tolist() == [0, 0, 0]
    # whole metres are no header, and whole metres below a header are one
    metres = "0,1000,2632\n2633,0,9000\n9000,8000,0\n"
    for text in (metres, "1,2,3\n" + metres, "\ufeffa, b , c\r\n" + metres):
        (tmp_path / "distances.csv").write_text(text, encoding="utf-8")
        data = ready(Traffic(name="pemsd7m", root=str(tmp_path), graph="distances_stgcn"))
        assert np.allclose(data.adjacency[0].numpy(), [0, np.exp(-0.1), np.exp(-(0.2632**2) / 0.1)]), text


def test_no_row_of_a_table_is_lost_as_its_header(tmp_path: Path) -> None:
    """60 rows of whole numbers without header, with the header of the graph's ids, and as pandas writes."""
    fake_traffic(tmp_path, "metr_la_week", sensors=3)
    rows = np.arange(180).reshape(60, 3)
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n"
    path = tmp_path / "los_speed.csv"

    def values(header: bool | None = None) -> Any:
        data = Traffic("metr_la_week", str(tmp_path), header=header).read()
        return data.values, data.names, data.clock

    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"los_speed\.csv: its first line .* set data.init_args.header to true"
    ):
        values()
    assert np.array_equal(values(header=False)[0], rows)
    path.write_text(",".join(ids(3)) + "\n" + text)
    assert np.array_equal(values()[0], rows)
    times = np.datetime64("2012-03-01T00:10") + np.arange(60) * np.timedelta64(5, "m")
    lines = [f"{t} , {a},{b} ,{c}" for t, (a, b, c) in zip(times.tolist(), rows.tolist(), strict=True)]
    path.write_text("\ufeff," + ", ".join(ids(3)) + "\r\n" + "\r\n".join(lines), encoding="utf-8")
    found, names, clock = values()
    assert (np.array_equal(found, rows), names, clock.tolist()) == (True, ids(3), list(range(2, 62)))


@pytest.mark.parametrize(("file", "content", "words"), [
    ("los_speed.csv", "a,b,c\n1,2,3\n4,x,6\n", r"line 3, column 'b': 'x' is no number"),
    ("los_speed.csv", "a,b,c\n1,2,3\n4,,6\n", r"line 3, column 'b': an empty cell"),
    ("los_speed.csv", "a,b,c\n1,2,nan\n", r"line 2, column 'c': 'nan' is no finite number"),
    ("los_speed.csv", "a,b,c\n1,2,3\n\n4,5,6\n", "line 3: empty, but lines follow"),
    ("los_speed.csv", "a,b,c\n1,2\n", "line 2: 2 cells, expected 3"),
    ("distances.csv", "from,to,dist\n0,1,2\n", r"has no column 'cost'; its first line is 'from,to,dist'"),
    ("distances.csv", "from,to,cost\n0,1,far\n", "line 2, column 'cost': 'far' is no distance"),
    ("distances.csv", "from,to,cost\n0,1,nan\n", "line 2, column 'cost': 'nan' is no distance"),
    ("distances.csv", "1,2\n3,4\n5,6\n7,8\n", "4 lines of 2 cells; a matrix has as many lines as columns"),
    ("graph_sensor_locations.csv", "index,sensor_id,latitude\n0,1,2\n", "has no column 'longitude'"),
    ("graph_sensor_locations.csv", "sensor_id,latitude,longitude\n0,x,2\n", "line 2: 'x', '2' is no place"),
])  # fmt: skip
def test_tables_that_cannot_be_read_are_named_with_line_and_column(
    file: str, content: str, words: str, tmp_path: Path
) -> None:
    fake_traffic(tmp_path, "metr_la_week", sensors=3)
    (tmp_path / file).write_text(content)
    graph: Any = "distances_dcrnn" if file == "distances.csv" else "directed"
    with pytest.raises(ValueError, match=words) as caught:
        Traffic("metr_la_week", str(tmp_path), graph).read()
    assert file in str(caught.value)


def test_a_line_without_end_is_refused_before_it_is_held(tmp_path: Path) -> None:
    fake_traffic(tmp_path, "metr_la_week", sensors=3)
    with (tmp_path / "los_speed.csv").open("wb") as file:
        file.truncate(2**31)  # sparse: no byte of it lies on the disk
    with pytest.raises(ValueError, match=r"los_speed\.csv, line 1: more than .* bytes without an end"):
        Traffic("metr_la_week", str(tmp_path)).read()


def test_metres_are_no_weights(tmp_path: Path) -> None:
    fake_traffic(tmp_path, "metr_la_week", sensors=3)
    np.savez(tmp_path / "adj_mx.npz", adj=np.array([[0, 900, 0], [900, 0, 0], [0, 50, 0]]))
    with pytest.raises(ValueError, match=r"adj_mx\.npz holds weights up to 900, .*graph: distances_stgcn"):
        Traffic("metr_la_week", str(tmp_path)).read()


def test_a_neighbourhood_lies_together() -> None:
    """Sensor 2 has most neighbours; its strong ones come first, over edges of either direction."""
    weights = np.eye(7)
    for a, b, w in ((2, 0, 0.2), (5, 2, 0.9), (2, 6, 0.5), (6, 1, 0.3)):
        weights[a, b] = w
    assert (neighbourhood(weights, 1).tolist(), neighbourhood(weights, 2).tolist()) == ([2], [2, 5])
    assert neighbourhood(weights, 4).tolist() == [0, 2, 5, 6]
    assert neighbourhood(weights, 5).tolist() == [0, 1, 2, 5, 6]
    assert neighbourhood(weights, 7).tolist() == list(range(7))  # 3 and 4 are reached by nothing
    with pytest.raises(ValueError, match=r"nodes must lie in 1..7, the number of sensors, got 8"):
        neighbourhood(weights, 8)


def test_a_subset_has_the_weights_between_its_sensors(tmp_path: Path) -> None:
    data = ready(Traffic(root=str(fake_traffic(tmp_path, "metr_la")), nodes=5))
    chosen = [ids(12).index(n) for n in data.names]
    assert len(chosen) == data.num_nodes == 5
    assert np.array_equal(data.series.values, speeds(400, 12)[:, chosen])
    assert np.allclose(data.adjacency.numpy(), directed_weights(12)[np.ix_(chosen, chosen)])


def test_windows_are_the_past_and_what_follows(tmp_path: Path) -> None:
    data = ready(Traffic(root=str(fake_traffic(tmp_path, "metr_la")), lags=4, horizon=3))
    values = torch.from_numpy(speeds(400, 12)).float()
    batch = data.train_set.__getitems__([(0, 5), (7, 0)])
    assert torch.equal(batch["x"][0, :, :, 0], values[5:9])
    assert torch.equal(batch["y"][0], values[9:12])
    assert torch.equal(batch["x"][1, :, 3, 1], torch.arange(4) / 288)
    assert batch["time"].tolist() == [[9, 10, 11], [4, 5, 6]]
    last = data.test_set[len(data.test_set) - 1]
    assert torch.equal(last["y"], values[-3:])


def test_metr_la_has_the_windows_of_dcrnn() -> None:
    """34,272 rows -> 34,249 windows -> 23,974 / 3,425 / 6,850, in the order of time."""
    parts = split_starts(34_272, 12, 12, (0.7, 0.1, 0.2), "windows")
    assert [len(p) for p in parts] == [23_974, 3_425, 6_850]
    assert ([int(p[0]) for p in parts], int(parts[2][-1]) + 24) == ([0, 23_974, 27_399], 34_272)


def test_windows_inside_row_splits_touch_no_other_part() -> None:
    """PeMSD7(M): 12,672 rows, .7 / .15 / .15."""
    parts = split_starts(12_672, 12, 9, (0.7, 0.15, 0.15), "rows")
    bounds = [(0, 8_870), (8_870, 10_771), (10_771, 12_672)]
    for part, (first, last) in zip(parts, bounds, strict=True):
        assert (int(part[0]), int(part[-1]) + 21) == (first, last)  # the port leaves out the last window
    with pytest.raises(ValueError, match="leave the validation no window of 12"):
        split_starts(150, 12, 12, (0.7, 0.1, 0.2), "rows")


@pytest.mark.parametrize("split_by", ["windows", "rows"])
def test_later_rows_do_not_change_the_scale(split_by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 10: mean and deviation are those of the training inputs."""
    before = ready(SensorDiffusion(split_by=split_by))
    original = SensorDiffusion.read
    border = int(before.train_set.starts[-1]) + 12

    def changed(self: SensorDiffusion) -> Any:
        series = original(self)
        series.values[border:] *= 3
        return series

    monkeypatch.setattr(SensorDiffusion, "read", changed)
    after = ready(SensorDiffusion(split_by=split_by))
    assert (after.mean, after.std) == (before.mean, before.std)
    inputs = torch.cat([before.train_set[i]["x"][..., 0].flatten() for i in range(len(before.train_set))])
    assert before.mean == pytest.approx(float(inputs.double().mean()), rel=1e-9)
    assert before.std == pytest.approx(float(inputs.double().std(correction=0)), rel=1e-9)
    later = before.series.values[border:]
    assert abs(float(later.mean()) * 3 - before.mean) > 50


def test_training_rows_for_the_historical_average_end_before_the_test() -> None:
    data = ready(SensorDiffusion())
    first_test_target = int(data.test_set.starts[0]) + 12
    assert len(data.train_values) == int(data.train_set.starts[-1]) + 24 < first_test_target


@pytest.mark.parametrize(("settings", "text"), [
    ({"split": [0.7, 0.3]}, "three shares"),
    ({"split": [0.7, 0.1, 0.1]}, "sum to 1"), ({"split_by": "days"}, "one of windows, rows"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SensorDiffusion(**settings)


def test_the_made_up_series_is_a_function_of_its_seed() -> None:
    a, b, c = (SensorDiffusion(seed=s).read() for s in (0, 0, 1))
    assert np.array_equal(a.values, b.values)
    assert not np.array_equal(a.values, c.values)
    assert (a.values.shape, (a.values == 0).mean()) == ((1000, 20), pytest.approx(0.01, abs=0.004))
    assert all("made-up" in n for n in a.names)


def test_the_past_of_the_neighbours_foretells_the_made_up_series() -> None:
    """Least squares on a sensor's own past and on its neighbours' too: the graph has something to give."""
    series = SensorDiffusion(missing=0.0).read()
    values = (series.values - series.values.mean(0)) / series.values.std(0)
    errors = {"own": 0.0, "all": 0.0}
    for n in range(20):
        near = np.flatnonzero(series.adjacency[n])
        for kind, columns in (("own", [n]), ("all", near)):
            past = np.concatenate([values[1:-3][:, columns], values[:-4][:, columns]], axis=1)
            target = values[4:, n]
            weights = np.linalg.lstsq(past[:700], target[:700], rcond=None)[0]
            errors[kind] += float(np.square(past[700:] @ weights - target[700:]).mean())
    assert errors["all"] < 0.95 * errors["own"]


def test_chickenpox_layout(tmp_path: Path) -> None:
    data = ready(Chickenpox(root=str(fake_chickenpox(tmp_path)), lags=4))
    assert (data.num_nodes, data.in_channels, data.null_value, data.steps_per_day) == (6, 1, None, 0)
    assert (data.names, data.adjacency.sum()) == ([f"COUNTY{i}" for i in range(6)], 18)
    batch = next(iter(data.val_dataloader()))
    assert (batch["x"].shape[1:], batch["y"].shape[1:]) == ((4, 6, 1), (1, 6))
    (tmp_path / "chickenpox.json").write_text('{"FX": [[1]]}')
    with pytest.raises(ValueError, match="damaged"):
        ready(Chickenpox(root=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"pytorch_geometric_temporal.*ZOO_DATA"):
        ready(Chickenpox(root=str(tmp_path / "nowhere")))


@needs_week
def test_the_real_week() -> None:
    data = ready(Traffic(name="metr_la_week"))
    values = data.series.values
    assert (values.shape, values.min(), values.max()) == ((2016, 207), 1, 70)
    adjacency = data.adjacency
    assert int((adjacency > 0).sum()) == 1722
    assert torch.equal(adjacency.diagonal(), torch.ones(207))
    assert not torch.equal(adjacency, adjacency.T)
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [1395, 199, 399]
    symmetric = ready(Traffic(name="metr_la_week", graph="symmetric")).adjacency
    assert int((symmetric > 0).sum()) == 2833
    assert torch.equal(symmetric, symmetric.T)


@needs_week
def test_the_real_pickle_is_its_npz_twin() -> None:
    from datamodules.traffic.traffic import _npz_graph, _pickled_graph

    folder = GRAPHS / "metr_la_week"
    (a, names_a), (b, names_b) = _npz_graph(folder / "adj_mx.npz"), _pickled_graph(folder / "adj_mx.pkl")
    assert np.array_equal(a, b)
    assert names_a == names_b


@needs_chickenpox
def test_the_real_chickenpox() -> None:
    data = ready(Chickenpox())
    assert (data.series.values.shape, data.adjacency.sum()) == ((521, 20), 102)
    assert torch.equal(data.adjacency.diagonal(), torch.ones(20))
    assert data.names[0] == "BACS"
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [359, 51, 103]
