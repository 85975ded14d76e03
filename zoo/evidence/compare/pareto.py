"""Accuracy against cost: which arms no other beats in both. For a claim file's ``pareto``."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.drawing import drawing, plain

Direction = Literal["lower", "higher"]
_DIRECTIONS = ("lower", "higher")
_OF_A_RUN = ("steps", "seconds", "parameters", "peak_memory_bytes")
_OF_COSTS = (
    *("fit_joules", "fit_kwh", "fit_gco2e", "flops_per_step", "bytes", "nonzero_parameters"),
    *("validate_joules", "validate_kwh", "validate_gco2e", "test_joules", "test_kwh", "test_gco2e"),
)
_OF_A_CALL = (
    *("flops_per_sample", "effective_flops_per_sample", "latency_ms_p50", "latency_ms_p95", "cpu_ms"),
    *("peak_memory_bytes", "joules_per_1000"),
)
_CALL = re.compile(rf"({'|'.join(_OF_A_CALL)})_(batch\d+|whole)")
_ENERGY = re.compile("joules|kwh|gco2e")
_LOG_FROM, _DECADES = 8.0, 40.0  # greatest by least value of an axis
_MOST = 12


@dataclass(frozen=True)
class Pareto:
    """Two columns of summary.json: metrics (with a slash in their name) or costs.

    Attributes:
        directions: which way is better, of ``x`` and ``y``.
    """

    x: str
    y: str
    directions: tuple[Direction, Direction]

    @property
    def name(self) -> str:
        """What it shows, in words."""
        return f"{self.y} against {self.x}"


@dataclass(frozen=True)
class Point:
    """An arm: means and standard deviations over the seeds."""

    arm: str
    x: float
    y: float
    x_sd: float
    y_sd: float
    front: bool


def is_cost(name: str) -> bool:
    """Whether a name is that of a cost."""
    return name in (*_OF_A_RUN, *_OF_COSTS) or bool(_CALL.fullmatch(name))


def read_pareto(path: Path, given: Any, directions: Mapping[str, Direction]) -> tuple[Pareto, ...]:
    """The ``pareto`` of a claim file: a mapping with x and y, or a list of them.

    ``x_better`` and ``y_better`` say which way is better: of a cost it is lower, of a metric what the
    predicates say, unless the file says otherwise.

    Raises:
        ValueError: for what is none, or a metric whose direction nothing tells.
    """
    if given is None:
        return ()
    entries = given if isinstance(given, list) else [given]
    if not entries or len(entries) > _MOST:
        raise ValueError(f"{path}: pareto is a mapping, or a list of 1 to {_MOST} of them")
    found = []
    for entry in entries:
        known = {"x", "y", "x_better", "y_better"}
        if not isinstance(entry, dict) or not {"x", "y"} <= set(entry) <= known:
            raise ValueError(f"{path}: pareto has x, y, x_better, y_better; got {str(entry)[:60]}")
        ways = [_direction(path, entry, axis, directions) for axis in ("x", "y")]
        if entry["x"] == entry["y"]:
            raise ValueError(f"{path}: pareto compares {entry['x']} with itself")
        found.append(Pareto(entry["x"], entry["y"], (ways[0], ways[1])))
    return tuple(found)


def _direction(
    path: Path, entry: Mapping[str, Any], axis: str, directions: Mapping[str, Direction]
) -> Direction:
    name = entry[axis]
    if not isinstance(name, str) or not ("/" in name or is_cost(name)):
        raise ValueError(
            f"{path}: pareto: {axis} {str(name)[:60]!r} is no metric (test/accuracy) and no cost; costs "
            f"are {', '.join((*_OF_A_RUN, *_OF_COSTS))}, and {', '.join(_OF_A_CALL)} with _batch1, _batch64"
        )
    given = entry.get(f"{axis}_better", directions.get(name, "lower" if is_cost(name) else None))
    if given not in _DIRECTIONS:
        raise ValueError(
            f"{path}: pareto: which way is {name} better? Give {axis}_better: lower or higher (got {given})"
        )
    return "lower" if given == "lower" else "higher"


def value_of(run: Mapping[str, Any], name: str) -> float | None:
    """A metric or cost of a run; None where it has none, or one that is not finite."""
    held = run["metrics"].get(name) if "/" in name else run.get("costs", {}).get(name, run.get(name))
    if isinstance(held, bool) or not isinstance(held, int | float) or not math.isfinite(held):
        return None
    return float(held)


def points(pareto: Pareto, arms: Iterable[str], results: Mapping[str, Mapping[int, Any]]) -> list[Point]:
    """Arms with both values at all seeds, and whether each is on the front."""
    found: list[tuple[str, list[float], list[float]]] = []
    for arm in arms:
        pairs = [(value_of(r, pareto.x), value_of(r, pareto.y)) for r in results[arm].values()]
        whole = [(x, y) for x, y in pairs if x is not None and y is not None]
        if pairs and len(whole) == len(pairs):
            found.append((arm, [x for x, _ in whole], [y for _, y in whole]))
    means = [(statistics.fmean(xs), statistics.fmean(ys)) for _, xs, ys in found]
    on_front = front(means, pareto.directions)
    return [
        Point(arm, *mean, _sd(xs), _sd(ys), best)
        for (arm, xs, ys), mean, best in zip(found, means, on_front, strict=True)
    ]


def front(values: Sequence[tuple[float, float]], directions: tuple[Direction, Direction]) -> list[bool]:
    """Whether no other is at least as good in both and better in one."""
    signs = [1 if way == "higher" else -1 for way in directions]
    good = [(signs[0] * x, signs[1] * y) for x, y in values]
    return [not any(o[0] >= a[0] and o[1] >= a[1] and o != a for o in good) for a in good]


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _kinds(results: Mapping[str, Mapping[int, Any]]) -> str:
    """How joules are known, of all runs: measured or modelled, and by what."""
    found = {run.get("energy_kind") for of_arm in results.values() for run in of_arm.values()}
    return "; ".join(sorted(kind for kind in found if kind))


def label(name: str, results: Mapping[str, Mapping[int, Any]]) -> str:
    """A name for an axis or a table; joules never without how they are known."""
    kinds = _kinds(results)
    return f"{name}, {kinds or 'of an unknown source'}" if _ENERGY.search(name) else name


def lines(
    paretos: Sequence[Pareto], arms: Sequence[str], results: Mapping[str, Mapping[int, Any]]
) -> list[str]:
    """Markdown: a table for each picture, the front in bold."""
    text = []
    for pareto in paretos:
        found = points(pareto, arms, results)
        text += [
            f"Front of {label(pareto.y, results)} ({pareto.directions[1]} is better) against "
            f"{label(pareto.x, results)} ({pareto.directions[0]} is better):",
            "",
            f"| arm | {pareto.x} | {pareto.y} | on the front |",
            "| --- | --- | --- | --- |",
        ]
        lower = pareto.directions[0] == "lower"
        for point in sorted(found, key=lambda p: p.x if lower else -p.x):
            name = f"**{point.arm}**" if point.front else point.arm
            cells = [_cell(point.x, point.x_sd), _cell(point.y, point.y_sd), "yes" if point.front else ""]
            text.append(f"| {name} | {' | '.join(cells)} |")
        left = [arm for arm in arms if arm not in {p.arm for p in found}]
        text += ["", f"Without both values in all runs, and left out: {', '.join(left)}."] if left else []
        text.append("")
    return text


def _cell(mean: float, sd: float) -> str:
    return f"{mean:.4g} ± {sd:.2g}" if math.isfinite(sd) else f"{mean:.4g}"


def records(
    paretos: Sequence[Pareto], arms: Sequence[str], results: Mapping[str, Mapping[int, Any]]
) -> list[dict[str, Any]]:
    """A record for each picture and arm."""
    return [
        {
            "x": pareto.x,
            "y": pareto.y,
            "arm": point.arm,
            "x_mean": point.x,
            "x_sd": None if math.isnan(point.x_sd) else point.x_sd,
            "y_mean": point.y,
            "y_sd": None if math.isnan(point.y_sd) else point.y_sd,
            "seeds": len(results[point.arm]),
            "front": point.front,
            "energy": _kinds(results) or None,
            "device": next(iter(results[point.arm].values())).get("device"),
        }
        for pareto in paretos
        for point in points(pareto, arms, results)
    ]


def csv_of(found: Sequence[Mapping[str, Any]]) -> str:
    """The records as a table."""
    text = io.StringIO()
    columns = ("x", "y", "arm", "x_mean", "x_sd", "y_mean", "y_sd", "seeds", "front", "energy", "device")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def plot_pareto(
    paretos: Sequence[Pareto],
    arms: Sequence[str],
    results: Mapping[str, Mapping[int, Any]],
    title: str,
    path: Path,
) -> None:
    """A panel each: arms with bars of their standard deviation, the front filled and joined by steps."""
    columns = min(3, len(paretos))
    rows = -(-len(paretos) // columns)
    size = (5.2 * columns, 4.2 * rows + 0.4)
    with drawing(path, rows, columns, figsize=size, squeeze=False, dpi=110) as (figure, axes):
        for axis in axes.flat[len(paretos) :]:
            axis.set_visible(False)
        for axis, pareto in zip(axes.flat, paretos, strict=False):
            found = points(pareto, arms, results)
            for point in found:
                colour = "tab:red" if point.front else "tab:grey"
                axis.errorbar(
                    point.x,
                    point.y,
                    xerr=point.x_sd if point.x_sd > 0 else None,
                    yerr=point.y_sd if point.y_sd > 0 else None,
                    marker="o",
                    markersize=7,
                    color=colour,
                    markerfacecolor=colour if point.front else "white",
                    capsize=3,
                    linewidth=1,
                )
            lower = pareto.directions[0] == "lower"
            best = sorted((p.x, p.y) for p in found if p.front)
            if len(best) > 1:
                # from the cheaper to the dearer: until that, nothing better is to be had
                steps = "post" if lower else "pre"
                axis.step(*zip(*best, strict=True), where=steps, color="tab:red", linewidth=1, alpha=0.5)
            values = [p.x for p in found]
            if values and min(values) > 0 and max(values) > _LOG_FROM * min(values):
                _logarithmic(axis, max(values) / min(values))
            axis.margins(0.18, 0.14)
            for point in found:
                _name(axis, point, values)
            axis.set_xlabel(_broken(label(pareto.x, results)), fontsize=9)
            axis.set_ylabel(_broken(label(pareto.y, results)), fontsize=9)
            axis.grid(alpha=0.3)
        figure.suptitle(f"{plain(title, 90)}: means, standard deviations, front in red", fontsize=10)


def _logarithmic(axis: Any, ratio: float) -> None:
    """Below two decades, ticks at 1, 2 and 5 as plain numbers: there matplotlib labels one, or too many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    if ratio < _DECADES:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _name(axis: Any, point: Point, values: Sequence[float]) -> None:
    """The arm beside its point, on the side of the picture's middle."""
    right = point.x > statistics.median(values) if len(values) > 1 else False
    axis.annotate(
        plain(point.arm),
        (point.x, point.y),
        xytext=(-8 if right else 8, 6),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize=8,
        color="black" if point.front else "dimgrey",
    )


def _broken(text: str) -> str:
    return plain(text, 120).replace(", ", ",\n", 1)
