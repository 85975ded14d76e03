"""What a sweep leaves: the table, every trial as CSV, a plot, the best trial as an overlay."""

from __future__ import annotations

import csv
import io
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zoo.drawing import drawing
from zoo.evidence.sweep.file import Sweep
from zoo.evidence.sweep.parameters import Parameter
from zoo.evidence.sweep.study import Study, result_of, was_killed
from zoo.evidence.sweep.trials import short

_BEST, _OTHER, _FAILED = "tab:red", "tab:blue", "black"


@dataclass(frozen=True)
class Row:
    """A trial that ended by itself.

    Attributes:
        number: of its folder.
        value: of the metric; None when it failed, not finite when it diverged.
    """

    number: int
    folder: str
    values: dict[str, Any]
    value: float | None
    error: str
    seconds: float
    final: dict[str, float]
    command: str
    joules: float | None = None
    energy_kind: str | None = None

    @property
    def good(self) -> bool:
        """Whether it can be ranked."""
        return self.value is not None and math.isfinite(self.value)


def rows_of(study: Study) -> list[Row]:
    """Trials sorted best first, then the diverged, then the failed."""
    rows = []
    for trial in study.trials:
        if trial.state.is_finished() and not was_killed(trial):
            r = result_of(trial)
            facts = (r.get("error", ""), r.get("seconds", 0.0), r.get("final", {}), r.get("command", ""))
            number = int(r["folder"].rpartition("_")[2])  # that of the trial which it goes on with
            spent = r.get("joules"), r.get("energy_kind")
            rows.append(Row(number, r["folder"], r["values"], r.get("value"), *facts, *spent))
    sign = -1.0 if study.sweep.maximize else 1.0

    def order(row: Row) -> tuple[int, float, int]:
        value = sign * row.value if row.good and row.value is not None else 0.0
        return (0 if row.good else 1 if row.value is not None else 2, value, row.number)

    return sorted(rows, key=order)


def energy_line(rows: Sequence[Row]) -> str:
    """What the search spent, all trials together, and how that is known; empty where no trial tells."""
    known = [row.joules for row in rows if row.joules is not None]
    if not known:
        return ""
    kinds = "; ".join(sorted({row.energy_kind for row in rows if row.energy_kind}))
    total, left = sum(known), len(rows) - len(known)
    without = f", {left} more of unknown energy" if left else ""
    number = f"{total:.4g} J = {total / 3.6e6:.3g} kWh"
    return f"energy of the search: {number} in {len(known)} trials{without}, {kinds}"


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of dotted names where that tells them apart."""
    ends = [n.rpartition(".")[2] for n in names]
    return [
        e if ends.count(e) == 1 else n.replace("init_args.", "") for n, e in zip(names, ends, strict=True)
    ]


def table(sweep: Sweep, rows: Sequence[Row]) -> list[list[str]]:
    """Header and cells."""
    names = [p.name for p in sweep.searched]
    lines = [["trial", sweep.metric, *short_names(names), "seconds", "note"]]
    for i, row in enumerate(rows):
        value = "" if row.value is None else f"{row.value:.5g}"
        note = row.error or ("" if row.good else "diverged") or ("best" if i == 0 else "")
        chosen = [short(row.values[n]) for n in names]
        lines.append([str(row.number), value, *chosen, f"{row.seconds:.0f}", note])
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(li, widths, strict=True)).rstrip() for li in lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The table for a page."""
    cells = [[c.replace("|", "\\|") for c in line] for line in lines]
    return (
        "\n".join("| " + " | ".join(c) + " |" for c in [cells[0], ["---"] * len(cells[0]), *cells[1:]]) + "\n"
    )


def csv_text(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Every trial, in the order in which they began, with all metrics."""
    names, metrics = [p.name for p in sweep.parameters], sorted({m for r in rows for m in r.final})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", *names, "seconds", "joules", *metrics, "folder", "error", "command"])
    for row in sorted(rows, key=lambda r: r.number):
        state = "failed" if row.value is None else "complete" if row.good else "diverged"
        chosen = [row.values[n] for n in names]
        measured = [row.final.get(m, "") for m in metrics]
        spent = ["" if row.joules is None else row.joules]
        told = [row.folder, row.error, row.command]
        writer.writerow([row.number, state, *chosen, round(row.seconds, 1), *spent, *measured, *told])
    return buffer.getvalue()


def overlay(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as the nested mapping of a config file; a class name with arguments becomes a class_path."""
    content: dict[str, Any] = {}
    for flag, value in sorted(flags.items()):
        *outer, last = flag.split(".")
        node = content
        for key in outer:
            if isinstance(node.get(key), str):
                node[key] = {"class_path": node[key]}
            node = node.setdefault(key, {})
        if isinstance(value, dict):
            node[last] = _merged(node.get(last, {}), overlay(value))
        else:
            node[last] = None if value == "null" else value
    return content


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(old[k], v) for k, v in new.items() if isinstance(v, dict) and isinstance(old.get(k), dict)
    }
    return {**old, **new, **both}


def best_text(sweep: Sweep, best: Row) -> str:
    """best.yaml."""
    head = f"# {sweep.metric} {best.value:.5g}: trial {best.number} of sweep {sweep.name}\n"
    return head + yaml.safe_dump(overlay(sweep.flags(best.values)), sort_keys=False)


def again(sweep: Sweep, file: Path) -> str:
    """The command that runs best.yaml."""
    return "zoo " + shlex.join(sweep.arguments_with(file))


def plot(sweep: Sweep, rows: Sequence[Row], path: Path) -> None:
    """The metric over trials and against each searched parameter; failed and diverged trials at the edge."""
    panels: list[Parameter | None] = [None, *sweep.searched]
    columns = len(panels) if len(panels) <= 4 else 3
    lines = -(-len(panels) // columns)
    with drawing(
        path, lines, columns, figsize=(3.2 * columns, 3 * lines), squeeze=False, sharey=True, dpi=110
    ) as (_, axes):
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        names = ["trial", *short_names([p.name for p in sweep.searched])]
        for axis, parameter, name in zip(axes.flat, panels, names, strict=False):
            places = _places(axis, parameter, rows)
            good = [(x, r.value) for x, r in zip(places, rows, strict=True) if r.good]
            axis.plot(*zip(*good[1:], strict=True) if good[1:] else ([], []), "o", color=_OTHER, alpha=0.7)
            if good:
                axis.plot(*good[0], "*", color=_BEST, markersize=13, label="best")
            bad = [x for x, r in zip(places, rows, strict=True) if not r.good]
            if bad:  # x in the data's units, y at the upper edge
                axis.plot(
                    bad,
                    [0.97] * len(bad),
                    "x",
                    color=_FAILED,
                    transform=axis.get_xaxis_transform(),
                    label="failed",
                )
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
        values = [r.value for r in rows if r.good and r.value is not None]
        if values and min(values) > 0 and max(values) > 30 * min(values):
            axes.flat[0].set_yscale("log")
        for axis in axes[:, 0]:
            axis.set_ylabel(sweep.metric)
        if rows:
            axes.flat[0].legend(fontsize=8)


def _places(axis: Any, parameter: Parameter | None, rows: Sequence[Row]) -> list[Any]:
    """x of each trial; sets the axis up for it."""
    if parameter is None:
        axis.xaxis.get_major_locator().set_params(integer=True)
        return [r.number for r in rows]
    if parameter.values:
        labels = list(dict.fromkeys(map(str, parameter.values)))
        axis.set_xticks(range(len(labels)), labels, rotation=30 if max(map(len, labels)) > 4 else 0)
        axis.set_xlim(-0.5, len(labels) - 0.5)
        return [labels.index(str(r.values[parameter.name])) for r in rows]
    if parameter.logarithmic:
        axis.set_xscale("log")
    axis.set_xlim(*_margins(parameter))
    return [r.values[parameter.name] for r in rows]


def _margins(parameter: Parameter) -> tuple[float, float]:
    """The searched range with a twentieth on both sides."""
    low, high = parameter.low, parameter.high
    if parameter.logarithmic:
        ratio = (high / low) ** 0.05
        return low / ratio, high * ratio
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def manifest_entries(
    sweep: Sweep, rows: Sequence[Row], seed: int, facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Entries for docs/results: the best trial, how many there were, the table."""
    count = sum(row.value is not None for row in rows)
    shared = {
        "seeds": [seed],
        "command": f"zoo sweep configs/sweeps/{sweep.name}.yaml --count {count} --seed {seed}",
        "versions": facts["versions"],
        "date": time.strftime("%Y-%m-%d"),
    }
    best = rows[0]
    values = {
        "best/" + n: v for n, v in zip(short_names(list(best.values)), best.values.values(), strict=True)
    }
    values |= {f"best/{sweep.metric}": best.value, "trials": len(rows), "table": markdown(table(sweep, rows))}
    return [{"metric": name, "value": value, **shared} for name, value in values.items()]
