"""What a run keeps: a damaged metrics.csv is told and left out, never a reason to stop."""

from __future__ import annotations

from pathlib import Path

from fuzz.forked import Reader

from zoo.engine.metrics_csv import MetricsCSV, read_metrics


def _log(folder: Path) -> Path:
    log = MetricsCSV(folder)
    for step in range(20):
        log.log_metrics({"train/loss": 1 / (1 + step), "epoch": step // 5}, step)
        if step % 5 == 4:
            log.log_metrics({"val/loss": 2.0 - step / 20, "val/accuracy": 0.5}, step)
    return log.path


def _go_on(path: Path) -> list[float]:
    """As a run does that resumes at step 15: its own rows are whole, whatever came before."""
    log = MetricsCSV(path.parent)
    log.continue_from(15)
    for step in (17, 19):
        log.log_metrics({"train/loss": 0.25, "val/loss": 0.5, "test/loss": 1.0}, step)
    rows = [row for row in read_metrics(path) if row["step"] > 15]
    if [row["test/loss"] for row in rows] != [1.0, 1.0]:
        raise RuntimeError(f"rows after the resume: {rows}")
    return [row["train/loss"] for row in rows]


READERS = [Reader(name="metrics.csv of a run", write=_log, read=_go_on)]
