"""``zoo compare``: re-test a paper's claim, with a verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from zoo.engine.launch import Launch, run_command
from zoo.evidence import manifest
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.compare.curves import long_csv, plot_over
from zoo.evidence.compare.pareto import csv_of, plot_pareto, records
from zoo.evidence.compare.report import (
    choices_csv,
    csv_text,
    manifest_entries,
    markdown,
    plot,
    plot_differences,
)
from zoo.evidence.compare.runs import run_all
from zoo.evidence.compare.statistics import Verdict
from zoo.evidence.compare.verdict import judge_claim, overall_verdict
from zoo.file_names import claim_outputs

__all__ = ["compare"]

_OUTPUTS = (
    *("table.md", "runs.csv", "choices.csv", "plot.png", "differences.png", "results.json"),
    *("over.csv", "over.png", "pareto.csv", "pareto.json", "pareto.png"),
)


def compare(
    path: Path,
    out: Path,
    jobs: int = 1,
    quick: bool = False,
    results_file: Path | None = None,
    say: Callable[[str], None] = print,
    launch: Launch = run_command,
    runs_file: Path | None = None,
    fresh: bool = False,
) -> Verdict | None:
    """Run a claim file to its verdict.

    Args:
        path: claim file, see :mod:`zoo.evidence.compare.claim`.
        out: folder of all comparisons; this one's is ``<out>/<claim>``, with ``_quick`` for a quick look.
        jobs: runs at the same time; the CPU threads are divided among them.
        quick: only the seeds and overrides of section ``quick``, and no verdict.
        results_file: results manifest to add the numbers to.
        say: gets the progress, a line at a time.
        launch: runs the command line.
        runs_file: finished runs are kept in this file too, and those that it holds are not made again.
        fresh: runs in the folder that were made with other settings, configs or versions of the zoo are
            removed and made anew; else they are an error.

    Returns:
        The overall verdict, or None for a quick look.

    Raises:
        ValueError: for a claim that cannot be judged: bad file, unequal budgets, missing metric.
        RuntimeError: when a run fails.
    """
    claim = read_claim(path, quick)
    folder = out / (claim.name + ("_quick" if quick else ""))
    say(f"{claim.title}: {len(claim.arms)} arms x {len(claim.seeds)} seeds, results in {folder}")
    started = time.monotonic()
    claim_outputs(folder, _OUTPUTS, (".comparison", "runs"), "comparison")
    made = run_all(claim, folder, jobs, say, launch, runs_file, fresh)
    judged = judge_claim(claim, made.results)
    text = markdown(claim, made, judged)
    (folder / "table.md").write_text(f"## {claim.title}\n\n{claim.paper}\n\n{text}")
    (folder / "runs.csv").write_text(csv_text(claim, made))
    if made.choices:
        (folder / "choices.csv").write_text(choices_csv(claim, made))
    plot(claim, made.results, folder / "plot.png")
    plot_differences(judged, folder / "differences.png")
    if claim.over is not None:
        (folder / "over.csv").write_text(long_csv(claim, claim.over, made.results))
        plot_over(claim, claim.over, made.results, folder / "over.png")
    if claim.pareto:
        found = records(claim.pareto, list(claim.arms), made.results)
        (folder / "pareto.csv").write_text(csv_of(found))
        (folder / "pareto.json").write_text(json.dumps(found, indent=1) + "\n")
        plot_pareto(claim.pareto, list(claim.arms), made.results, claim.title, folder / "pareto.png")
    entries = manifest_entries(claim, made, judged)
    (folder / "results.json").write_text(json.dumps(entries, indent=1) + "\n")
    if results_file is not None:
        manifest.update(results_file, entries)
        say(f"added to {results_file}")
    print(text)
    over = "" if claim.over is None else ", over.csv, over.png"
    over += ", pareto.csv, pareto.json, pareto.png" if claim.pareto else ""
    say(
        f"{time.monotonic() - started:.0f} s; table.md, runs.csv, plot.png, differences.png{over} in {folder}"
    )
    return overall_verdict(judged)
