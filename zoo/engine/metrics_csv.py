"""metrics.csv: one row per step, complete after a kill, without gaps or repeats after a resume."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from zoo.reports import replace_file, say, writing

_STEP_DIGITS = 18
_UNKNOWN = "\ufffd"  # stands for a byte that is no UTF-8


class Table(NamedTuple):
    """What can be read of a metrics.csv.

    Attributes:
        columns: names, ``step`` among them; none of a file that is not there or has no readable head.
        rows: cells with a value by column, by increasing step. Rows of one step are one.
        damage: where something else stands than a name or a number.
    """

    columns: list[str]
    rows: dict[int, dict[str, str]]
    damage: list[str]


def read_table(path: Path) -> Table:
    """A metrics.csv, whatever has happened to it. A last line that a kill cut short is no damage."""
    if not path.is_file():
        return Table([], {}, [])
    text = path.read_bytes().decode(errors="replace")
    names, *lines = text[: text.rfind("\n") + 1].split("\n")
    columns = names.rstrip("\r").split(",")
    if "step" not in columns:
        return Table([], {}, ["line 1, which names the columns"] if text else [])
    damage = [f"column {i}'s name" for i, name in enumerate(columns, 1) if _UNKNOWN in name]
    rows: dict[int, dict[str, str]] = {}
    for number, line in enumerate(lines[:-1], 2):
        cells = line.rstrip("\r").split(",")
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
        step = row.get("step", "")
        if len(cells) != len(columns) or not step.isdecimal() or len(step) > _STEP_DIGITS:
            damage.append(f"line {number}")
            continue
        unreadable = [name for name, cell in row.items() if not _is_number(cell)]
        damage += [f"line {number} ({name} is {row[name][:20]!r})" for name in unreadable]
        kept = {k: v for k, v in row.items() if k not in unreadable and _UNKNOWN not in k}
        rows[int(step)] = rows.get(int(step), {}) | kept
    return Table([c for c in columns if _UNKNOWN not in c], dict(sorted(rows.items())), damage)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv, each with the columns it has values for, ``step`` as a number among them."""
    return [{k: float(v) for k, v in row.items()} for row in read_table(path).rows.values()]


class MetricsCSV(Logger):
    """Logs scalars to ``<folder>/metrics.csv``.

    Values logged at the same step share a row. Each row is on disk when ``log_metrics`` returns. Floats are
    written with ``repr``, so that equal runs give equal files.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.path = self.folder / "metrics.csv"
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._row_start = 0
        self._told: set[str] = set()

    # Lightning builds paths as save_dir/name/version: all of it is the run's folder.
    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.folder)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml holds them."""

    @property
    def last_row(self) -> Mapping[str, str]:
        """The last row that was written, its step among it; empty without rows."""
        return self._row

    @property
    def last_step(self) -> int:
        """Step of the last row, -1 without rows."""
        return int(self._row.get("step", -1))

    @rank_zero_only
    def continue_from(self, last_step: int) -> None:
        """Keep the rows up to ``last_step``; a resumed run writes the others again."""
        table = self._read()
        rows = [row for step, row in table.rows.items() if step <= last_step]
        found = int(rows[-1]["step"]) if rows else -1
        if found < last_step:
            self._tell(
                "lost",
                f"{self.path} ends at step {found}, the checkpoint counts on rows up to step {last_step}: "
                "the rows between are lost, the training is not",
            )
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        self._columns = [c for c in table.columns if any(c in row for row in rows)]
        self._row = rows[-1]
        self._rewrite(rows)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``.

        Raises:
            CannotWrite: when the disk is full, or the folder is gone.
        """
        values = {
            k: repr(float(v)) if not float(v).is_integer() or k != "epoch" else str(int(v))
            for k, v in metrics.items()
        }
        row = {"step": str(step or 0), **values}
        if not self._columns:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._start(row)
            return
        if not self.path.exists():
            if self.folder.exists():
                self._tell("gone", f"{self.path} is gone, and with it the rows before step {row['step']}")
            self._start(row)
            return
        same_step = self._row.get("step") == row["step"]
        new_columns = [k for k in row if k not in self._columns]
        merged = {**self._row, **row} if same_step else row
        if new_columns:
            rows = self._read().rows
            self._columns += new_columns
            step_in_file = rows.pop(int(row["step"]), {})
            self._row = rows[int(row["step"])] = step_in_file | merged
            self._rewrite(rows.values())
            return
        if merged == self._row:  # a row that a checkpoint counts on is not touched again
            return
        with writing(self.path), self.path.open("r+", newline="") as file:
            if same_step:
                file.seek(self._row_start)
                file.truncate()
            else:
                file.seek(0, os.SEEK_END)
                self._row_start = file.tell()
            file.write(self._line(merged))
        self._row = merged

    @rank_zero_only
    def sync(self) -> None:
        """Bring the rows to the disk, before a checkpoint that counts on them gets there."""
        if not self.path.exists():
            return
        with writing(self.path), self.path.open("r+b") as file:
            os.fsync(file.fileno())

    def _start(self, row: dict[str, str]) -> None:
        self._columns, self._row = list(row), row
        self._rewrite([row])

    def _line(self, row: Mapping[str, str]) -> str:
        return ",".join(row.get(c, "") for c in self._columns) + "\n"

    def _read(self) -> Table:
        """What the file holds; the rest is told, and a file without a readable head put aside."""
        table = read_table(self.path)
        if not table.damage:
            return table
        places = ", ".join(table.damage[:3]) + (" and more" if len(table.damage) > 3 else "")
        line = f"{self.path} is damaged and cannot be read whole, left out: {places}"
        if not table.columns:
            aside = self.path.with_name(self.path.name + ".broken")
            os.replace(self.path, aside)
            line = f"{self.path} is damaged in {places}: moved to {aside}, its rows are lost"
        self._tell("damage", line)
        return table

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            say(line)

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        head = ",".join(self._columns) + "\n"
        lines = [self._line(row) for row in rows]
        self._row_start = len((head + "".join(lines[:-1])).encode())
        replace_file(self.path, head + "".join(lines))


def final_and_best(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Last value of each metric, and the extremes of each evaluation metric with their steps.

    A run that ended in NaN has NaN as its last value. The extremes are of the finite values, of rows whose
    loss is finite: the accuracy of a network of NaN is none.
    """
    final: dict[str, float] = {}
    best: dict[str, dict[str, float]] = {}
    for row in rows:
        diverged = any(_is_loss(key) and not math.isfinite(value) for key, value in row.items())
        for key, value in row.items():
            if key in ("step", "epoch"):
                continue
            final[key] = value
            if diverged or not key.startswith(("val/", "test/")) or not math.isfinite(value):
                continue
            seen = best.setdefault(
                key, {"min": value, "min_step": row["step"], "max": value, "max_step": row["step"]}
            )
            if value < seen["min"]:
                seen.update(min=value, min_step=row["step"])
            if value > seen["max"]:
                seen.update(max=value, max_step=row["step"])
    return final, best


def _is_loss(key: str) -> bool:
    return key.startswith(("val/", "test/")) and "loss" in key
