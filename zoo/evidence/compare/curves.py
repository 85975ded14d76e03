"""What a claim over a value leaves besides: every run as a long table, and each metric over the value."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.drawing import drawing
from zoo.evidence.compare.claim import Claim
from zoo.evidence.compare.over import Over, Value
from zoo.evidence.compare.runs import Results

SECONDS = "seconds"
_MARKERS = "osD^v<>Pp*XhH"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error, sd / sqrt(n); NaN for the error of one value, and where one is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def long_csv(claim: Claim, over: Over, results: Results) -> str:
    """A row for each arm, value, seed and metric, of all metrics of a run and its seconds."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["arm", over.column, "seed", "metric", "value"])
    for arm, value, seed, run in _runs(claim, over, results):
        held = run["metrics"] | {SECONDS: round(run["seconds"], 2)}
        writer.writerows([arm, value, seed, metric, held[metric]] for metric in sorted(held))
    return buffer.getvalue()


def lines_over(claim: Claim, over: Over, results: Results) -> list[str]:
    """Markdown tables of arms by values, mean and standard error: each shown metric, seconds of a run."""
    lines = [f"Mean ± standard error over {len(claim.seeds)} seeds, over {over.label}.", ""]
    for metric in (*_shown(claim, results), SECONDS):
        lines += [
            f"| {metric} | {' | '.join(map(str, over.values))} |",
            "| --- " * (len(over.values) + 1) + "|",
        ]
        for arm in over.arms:
            cells = []
            for place in range(len(over.values)):
                mean, error = mean_and_error(_values(claim, over, results, arm, place, metric))
                digits = ".3g" if metric == SECONDS else ".4g"
                cells.append(format(mean, digits) + (f" ± {error:.2g}" if math.isfinite(error) else ""))
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def plot_over(claim: Claim, over: Over, results: Results, path: Path) -> None:
    """A line for each arm, mean and standard error: each shown metric, seconds of a run."""
    metrics = [*_shown(claim, results), SECONDS]
    places = list(over.values) if over.is_number else list(range(len(over.values)))
    # side by side, so that no bar hides another
    apart = 0.008 * (max(places) - min(places)) if over.is_number else 0.02  # type: ignore[operator]
    with drawing(path, 1, len(metrics), dpi=110, figsize=(4.4 * len(metrics), 4), squeeze=False) as (
        figure,
        axes,
    ):
        for axis, metric in zip(axes.flat, metrics, strict=True):
            for row, arm in enumerate(over.arms):
                found = [
                    mean_and_error(_values(claim, over, results, arm, i, metric)) for i in range(len(places))
                ]
                shift = apart * (row - (len(over.arms) - 1) / 2)
                axis.errorbar(
                    [place + shift for place in places],  # type: ignore[operator]
                    [mean for mean, _ in found],
                    yerr=[error if math.isfinite(error) else 0.0 for _, error in found],
                    marker=_MARKERS[row % len(_MARKERS)],
                    markersize=5,
                    capsize=3,
                    linewidth=1.4,
                    label=arm,
                )
            axis.set_xticks(places, [str(value) for value in over.values])
            axis.set_xlabel(over.label)
            axis.set_title("seconds of a run" if metric == SECONDS else metric, fontsize=10)
            axis.grid(alpha=0.3)
        axes.flat[0].legend(fontsize=8)
        figure.suptitle(f"{claim.title}: mean and standard error of {len(claim.seeds)} seeds", fontsize=10)


def _shown(claim: Claim, results: Results) -> list[str]:
    """Of the claim's metrics those that every run has."""
    runs = [results[arm][seed] for arm in claim.arms for seed in claim.seeds]
    return [metric for metric in claim.shown_metrics if all(metric in run["metrics"] for run in runs)]


def _values(claim: Claim, over: Over, results: Results, arm: str, place: int, metric: str) -> list[float]:
    runs = [results[over.arms[arm][place]][seed] for seed in claim.seeds]
    return [float(run[SECONDS] if metric == SECONDS else run["metrics"][metric]) for run in runs]


def _runs(claim: Claim, over: Over, results: Results) -> Iterator[tuple[str, Value, int, Mapping[str, Any]]]:
    for arm, names in over.arms.items():
        for value, name in zip(over.values, names, strict=True):
            for seed in claim.seeds:
                yield arm, value, seed, results[name][seed]
