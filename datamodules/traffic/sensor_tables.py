"""csv files of sensors: speeds, weights and distances, places.

The first line of a table of numbers may be its header. It is one where it holds words. Where it holds whole
numbers that all differ, which may be ids or measurements, a rule decides that loses no row: a matrix has as
many rows as columns, a table of speeds has the ids that the other files name; else the file is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datamodules.loading.files import Array, check_claim
from datamodules.loading.tables import Row, cut, is_number, numbers, read_columns, read_rows

_STEP = 5  # minutes of a row


def clock_of(times: Array, minutes: int = _STEP) -> Array:
    """Timestamps (T,) -> steps of ``minutes`` since midnight of the first day; gaps stay gaps."""
    midnight = times[0].astype("datetime64[D]")
    return np.asarray((times - midnight) // np.timedelta64(minutes, "m"), dtype=np.int64)


def _may_be_ids(cells: Sequence[str]) -> bool:
    """Whether a line of numbers could be one of ids: whole ones that all differ."""
    return len(set(cells)) == len(cells) and all(c.lstrip("-").isdigit() for c in cells)


def read_speeds(
    path: Path, header: bool | None, ids: Sequence[str]
) -> tuple[Array, list[str] | None, Array | None]:
    """Speeds (T, N), the ids of their columns and the clock (T,), where the table has them.

    A first column without name, or named as an index, that counts the rows is taken off; one of times gives
    the clock. pandas and R write such tables.

    Args:
        path: of the file.
        header: whether the first line is one of ids; None decides.
        ids: of the sensors, as other files name them.

    Raises:
        ValueError: for a line that is no row of numbers, or a first one that may be ids or speeds.
    """
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path} is empty")
    cells = first[1]
    named = not all(map(is_number, cells))
    if not named and header is None and _may_be_ids(cells):
        named = sorted(cells) == sorted(set(ids)) or sorted(cells[1:]) == sorted(set(ids))
        if not named:
            raise ValueError(
                f"{path}: its first line holds whole numbers that all differ, sensor ids or speeds: set "
                "data.init_args.header to true or false"
            )
    named = named if header is None else header or named
    if not named:
        return numbers(path, itertools.chain([first], rows)), None, None
    index = cells[0].lower() in ("", "index", "time", "timestamp", "date", "datetime", "unnamed: 0")
    names = cells[1:] if index else cells
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"{path}, line 1: names of sensors are empty or stand there twice")
    times: list[tuple[int, str]] = []
    values = numbers(path, _without_index(rows, times) if index else rows, names, width=len(names))
    return values, list(names), _clock(path, times) if index else None


def _without_index(rows: Iterator[Row], times: list[tuple[int, str]]) -> Iterator[Row]:
    for number, cells in rows:
        times.append((number, cells[0]))
        yield number, cells[1:]


def _clock(path: Path, times: list[tuple[int, str]]) -> Array | None:
    """The clock of a first column of times; None of one that counts the rows."""
    if all(cell == str(i) for i, (_, cell) in enumerate(times)):
        return None
    stamps = np.empty(len(times), "datetime64[s]")
    for place, (number, cell) in enumerate(times):
        try:
            stamps[place] = np.datetime64(cell.replace("/", "-"), "s")
        except ValueError:
            raise ValueError(
                f"{path}, line {number}, column 1: {cut(cell)} is neither a time (2012-03-01 00:05:00) nor "
                "the number of the row"
            ) from None
    if np.isnat(stamps).any():
        raise ValueError(f"{path}, column 1: a time is missing")
    return clock_of(stamps)


def read_matrix(path: Path, infinite: bool = False) -> tuple[list[str] | None, Array]:
    """A square matrix of numbers (N, N), and the names of its columns where its first line has them.

    Raises:
        ValueError: for a table that has neither as many rows as columns, nor one more.
    """
    rows = read_rows(path)
    number, cells = next(rows, (1, []))
    width = len(cells)
    rest = numbers(path, rows, width=width, infinite=infinite)
    if width and len(rest) == width and (not all(map(is_number, cells)) or _may_be_ids(cells)):
        return cells, rest
    if len(rest) != width - 1:
        raise ValueError(
            f"{path} has {len(rest) + 1} lines of {width} cells; a matrix has as many lines as columns, and "
            "may have one of sensor ids above them"
        )
    return None, np.concatenate([numbers(path, [(number, cells)], infinite=infinite), rest])


def read_distance_list(path: Path, names: list[str] | None, nodes: int) -> Array | None:
    """``from, to, cost`` -> distances (N, N), infinite where none is given; None for another table.

    Raises:
        ValueError: naming the line of a cost that is no finite number above or at 0.
    """
    _, first = next(read_rows(path), (1, []))
    words = [c.lower() for c in first]
    if not {"from", "to", "cost"} & set(words):
        return None
    if names is None:
        raise ValueError(f"{path} names sensors, but the speeds have no header with their ids")
    place = {name: i for i, name in enumerate(names)}
    check_claim(path, f"a distance of each two of {nodes:,} sensors", 8 * nodes**2)
    distances = np.full((nodes, nodes), np.inf)
    for number, (source, target, cost) in read_columns(path, "from", "to", "cost"):
        if not is_number(cost) or float(cost) < 0:
            raise ValueError(f"{path}, line {number}, column 'cost': {cut(cost)} is no distance")
        if source in place and target in place:
            distances[place[source], place[target]] = float(cost)
    if not np.isfinite(distances).any():
        raise ValueError(f"{path} has no distance between two of the {nodes} sensors of the speeds")
    return distances


def read_places(path: Path) -> dict[str, tuple[float, float]]:
    """Sensor id -> longitude and latitude.

    Raises:
        ValueError: naming the line of a place that is none.
    """
    places = {}
    for number, (sensor, latitude, longitude) in read_columns(path, "sensor_id", "latitude", "longitude"):
        if not (is_number(latitude) and is_number(longitude)):
            raise ValueError(f"{path}, line {number}: {cut(latitude)}, {cut(longitude)} is no place")
        places[sensor] = (float(longitude), float(latitude))
    return places
