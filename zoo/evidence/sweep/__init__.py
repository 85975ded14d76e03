"""``zoo sweep``: a W&B sweep file, run locally without an account."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from zoo.engine.launch import Launch, run_command
from zoo.evidence import manifest
from zoo.evidence.compare.runs import read_summary
from zoo.evidence.sweep import report
from zoo.evidence.sweep.file import Sweep, read_sweep
from zoo.evidence.sweep.study import Study
from zoo.evidence.sweep.trials import run_trials
from zoo.file_names import claim_outputs

__all__ = ["sweep"]

_OUTPUTS = ("table.md", "trials.csv", "plot.png", "best.yaml")


def sweep(
    path: Path,
    out: Path,
    count: int | None = None,
    jobs: int = 1,
    seed: int = 0,
    results_file: Path | None = None,
    say: Callable[[str], None] = print,
    launch: Launch = run_command,
) -> None:
    """Run the trials of a sweep file; a stopped sweep goes on, and several processes may join in one.

    Args:
        path: sweep file, as ``wandb sweep`` takes it.
        out: folder of all sweeps; this one's is ``<out>/<file>``.
        count: completed trials in all; by default the file's run_cap, or the whole grid.
        jobs: trials at the same time; the CPU threads are divided among them.
        seed: of the search, not of the runs.
        results_file: results manifest to add the best trial and the table to.
        say: gets the progress, a line at a time.
        launch: runs the command line.

    Raises:
        ValueError: for a bad file, a changed one, or a metric that the runs lack.
        RuntimeError: when most trials fail.
    """
    spec = read_sweep(path)
    total = spec.trials(count)
    folder = out / spec.name
    say(f"{spec.method} search of {spec.metric}: {total} trials in all, results in {folder}")
    if spec.early_terminate:
        say("early_terminate is W&B's: here every trial runs to its end")
    started = time.monotonic()
    claim_outputs(folder, _OUTPUTS, (".sweep", "study.db"), "sweep")
    study = Study(spec, folder, total, seed)
    try:
        run_trials(spec, study, jobs, say, launch)
    finally:
        study.close()
        rows = report.rows_of(study)
        _write(spec, rows, folder)
    print(report.aligned(report.table(spec, rows)))
    if spent := report.energy_line(rows):
        say(spent)
    grid = len(spec.grid()) if spec.method == "grid" else 0
    if grid and len(rows) >= grid:
        say(f"the grid is finished: all {grid} points have been run")
    say(f"{time.monotonic() - started:.0f} s; table.md, trials.csv, plot.png in {folder}")
    if not rows or not rows[0].good:
        say("no trial has a result; see the notes in table.md")
        return
    if results_file is not None:
        facts = read_summary(folder / rows[0].folder, "summary.json")
        manifest.update(results_file, report.manifest_entries(spec, rows, seed, facts))
        say(f"added to {results_file}")
    best = folder / "best.yaml"
    say(f"best: trial {rows[0].number}, {spec.metric} {rows[0].value:.5g}; again: {report.again(spec, best)}")


def _write(spec: Sweep, rows: list[report.Row], folder: Path) -> None:
    spent = report.energy_line(rows)
    table = report.markdown(report.table(spec, rows))
    (folder / "table.md").write_text(table + (f"\n{spent}\n" if spent else ""))
    (folder / "trials.csv").write_text(report.csv_text(spec, rows))
    if rows:
        report.plot(spec, rows, folder / "plot.png")
    if rows and rows[0].good:
        (folder / "best.yaml").write_text(report.best_text(spec, rows[0]))
