"""metrics.csv: one row per step, complete after a kill, without gaps or repeats after a resume."""

from __future__ import annotations

import csv
import io
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv, each with the columns it has values for, ``step`` as a number among them."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]


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
    def last_step(self) -> int:
        """Step of the last row, -1 without rows."""
        return int(self._row.get("step", -1))

    @rank_zero_only
    def continue_from(self, last_step: int) -> None:
        """Keep the rows up to ``last_step``; a resumed run writes the others again."""
        rows = [row for row in self._read_rows() if int(row["step"]) <= last_step]
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        self._columns = [c for c in rows[0] if any(row[c] != "" for row in rows)]
        self._row = {k: v for k, v in rows[-1].items() if v != ""}
        self._rewrite(rows)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``."""
        values = {
            k: repr(float(v)) if not float(v).is_integer() or k != "epoch" else str(int(v))
            for k, v in metrics.items()
        }
        row = {"step": str(step or 0), **values}
        if not self.path.exists() or not self._columns:
            self._columns, self._row = list(row), row
            self._rewrite([row])
            return
        same_step = self._row.get("step") == row["step"]
        new_columns = [k for k in row if k not in self._columns]
        merged = {**self._row, **row} if same_step else row
        if new_columns:
            rows = self._read_rows()
            if same_step and rows:
                rows.pop()
            self._columns += new_columns
            self._row = merged
            self._rewrite([*rows, merged])
            return
        if merged == self._row:  # a row that a checkpoint counts on is not touched again
            return
        with self.path.open("r+", newline="") as file:
            if same_step:
                file.seek(self._row_start)
                file.truncate()
            else:
                file.seek(0, os.SEEK_END)
                self._row_start = file.tell()
            file.write(self._line(merged))
        self._row = merged

    def _line(self, row: dict[str, Any]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self._columns, restval="", lineterminator="\n").writerow(row)
        return buffer.getvalue()

    def _read_rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            # A kill may have cut the last line short: it has fewer cells than the header, or no line end.
            text = file.read()
        complete = text[: text.rfind("\n") + 1]
        return [row for row in csv.DictReader(io.StringIO(complete)) if None not in row.values()]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        header = ",".join(self._columns) + "\n" if self._columns else ""
        lines = [self._line({k: v for k, v in row.items() if k in self._columns}) for row in rows]
        self._row_start = len((header + "".join(lines[:-1])).encode())
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(header + "".join(lines))
        os.replace(temporary, self.path)


def final_and_best(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Last value of each metric; least and greatest value of each evaluation metric with their steps."""
    final: dict[str, float] = {}
    best: dict[str, dict[str, float]] = {}
    for row in rows:
        for key, value in row.items():
            if key in ("step", "epoch") or math.isnan(value):
                continue
            final[key] = value
            if not key.startswith(("val/", "test/")):
                continue
            seen = best.setdefault(
                key, {"min": value, "min_step": row["step"], "max": value, "max_step": row["step"]}
            )
            if value < seen["min"]:
                seen.update(min=value, min_step=row["step"])
            if value > seen["max"]:
                seen.update(max=value, max_step=row["step"])
    return final, best
