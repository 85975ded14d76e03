"""What a comparison leaves: a table for terminal and docs, every run as CSV, a plot, manifest entries."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.drawing import drawing
from zoo.evidence.compare import pareto
from zoo.evidence.compare.claim import Claim
from zoo.evidence.compare.curves import lines_over
from zoo.evidence.compare.runs import Results, Runs
from zoo.evidence.compare.selection import setting_text
from zoo.evidence.compare.verdict import Outcome, overall_verdict


def arm_rows(claim: Claim, results: Results) -> list[dict[str, Any]]:
    """One row per metric and arm: mean and sd (n - 1) over the seeds that have the metric."""
    rows = []
    for metric in claim.shown_metrics:
        for arm in claim.arms:
            runs = results[arm]
            values = [runs[s]["metrics"][metric] for s in claim.seeds if metric in runs[s]["metrics"]]
            if values:
                spread = len(values) > 1 and all(map(math.isfinite, values))
                sd = statistics.stdev(values) if spread else float("nan")
                rows.append({"metric": metric, "arm": arm, "mean": statistics.fmean(values), "sd": sd})
    return rows


def markdown(claim: Claim, made: Runs, judged: Sequence[Outcome]) -> str:
    """The comparison as Markdown: arms (rows) by costs and metrics (columns), then predicates and choices."""
    results = made.results
    runs = [run for arm in results.values() for run in arm.values()]
    metrics = [m for m in claim.shown_metrics if any(m in run["metrics"] for run in runs)]
    cells = {(r["metric"], r["arm"]): _spread(r["mean"], r["sd"]) for r in arm_rows(claim, results)}
    over = f"over seeds {', '.join(map(str, claim.seeds))}"
    seconds = sum(run["seconds"] for run in runs)
    many = f" {claim.repeats} runs a seed, averaged." if claim.repeats > 1 else ""
    columns = ["predicate", "mean difference", "95 % interval", "as claimed", "sign test p", "verdict"]
    lines = [
        (f"Mean ± standard deviation {over}." if len(claim.seeds) > 1 else f"One seed, {claim.seeds[0]}.")
        + many,
        "",
        _row(["arm", *_SPENT, *metrics]),
        _row(["---"] * (len(metrics) + len(_SPENT) + 1)),
        *(
            _row([arm, *_spent(list(results[arm].values())), *(cells.get((m, arm), "") for m in metrics)])
            for arm in claim.arms
        ),
        "",
        *([] if claim.over is None else lines_over(claim, claim.over, results)),
        *pareto.lines(claim.pareto, list(claim.arms), results),
        *_diverged_lines(claim, results),
        _row(columns),
        _row(["---"] * len(columns)),
        *(_row(_predicate_cells(o)) for o in judged),
        "",
        *_choice_lines(claim, made),
        f"Overall: **{verdict_text(judged)}**. {_count(runs)} runs, {_duration(seconds)} of training"
        f"{_commits(runs)}.",
        "",
    ]
    return "\n".join(lines)


def _diverged_lines(claim: Claim, results: Results) -> list[str]:
    """The runs that ended in a metric that is not finite, which leave the predicates about it undecided."""
    found = []
    for metric in claim.shown_metrics:
        for arm in claim.arms:
            values = {seed: results[arm][seed]["metrics"].get(metric, 0.0) for seed in claim.seeds}
            if seeds := [str(seed) for seed, value in values.items() if not math.isfinite(value)]:
                found.append(f"{metric} of {arm} (seeds {', '.join(seeds)})")
    return [f"Diverged, not finite at the end: {'; '.join(found)}.", ""] if found else []


def _commits(runs: Iterable[Mapping[str, Any]]) -> str:
    """Named where runs of several versions of the code are side by side."""
    commits = sorted({str(run["git"] or "unknown") for of_seed in runs for run in _each(of_seed)})
    return f", of commits {', '.join(commits)}" if len(commits) > 1 else ""


def _count(runs: Iterable[Mapping[str, Any]]) -> int:
    return sum(len(run.get("runs", [run])) for run in runs)


def _choice_lines(claim: Claim, made: Runs) -> list[str]:
    """What the grids came to: an arm a line, the seeds of a setting together."""
    if claim.selection is None:
        return []
    by = ", then ".join(f"{c.metric} ({c.direction})" for c in claim.selection.by)
    spent, lines = 0.0, []
    for name, choices in made.choices.items():
        texts: dict[str, list[int]] = {}
        for seed, choice in choices.items():
            texts.setdefault(setting_text(choice.setting), []).append(seed)
        parts = [
            text if len(texts) == 1 else f"{text} (seeds {', '.join(map(str, seeds))})"
            for text, seeds in texts.items()
        ]
        lines.append(f"- {name}: {len(claim.arms[name].grid)} tried; {'; '.join(parts)}")
        different = {id(choice): choice for choice in choices.values()}
        spent += sum(choice.seconds for choice in different.values())
    each = "for each seed" if claim.selection.per == "seed" else "once for all seeds"
    return [f"Settings chosen {each} by {by}, in {_duration(spent)} of training:", "", *lines, ""]


def _predicate_cells(outcome: Outcome) -> list[str]:
    s = outcome.statistics
    if not math.isfinite(s.mean):
        return [
            outcome.predicate.text,
            "diverged",
            "",
            f"{s.positive} of {s.n}",
            "",
            outcome.verdict or "none",
        ]
    interval = f"{s.low:+.3g} to {s.high:+.3g}" if s.n > 1 else ""
    counted = [f"{s.positive} of {s.n}", f"{s.sign_p:.2g}", outcome.verdict or "none"]
    return [outcome.predicate.text, f"{s.mean:+.3g}", interval, *counted]


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.4g} ± {sd:.2g}" if math.isfinite(sd) else f"{mean:.4g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_SPENT = ("parameters", "steps", "batch", "seconds", "MiB")


def _spent(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an arm costs: parameters, steps (a range where they differ), effective batch, seconds of a run."""
    steps = sorted({run["steps"] for run in runs})
    batches = {run["effective_batch"] for run in runs}
    text = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    sizes = sorted({run["parameters"] for run in runs if run.get("parameters") is not None})
    size = " to ".join(f"{n:,}" for n in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    seconds = sum(run["seconds"] for run in runs) / _count(runs)
    memory = [run["peak_memory_bytes"] for run in runs if run.get("peak_memory_bytes")]
    peak = f"{max(memory) / 2**20:,.0f}" if memory else ""
    batch = ", ".join("full" if b is None else str(b) for b in sorted(batches, key=lambda b: b or 0))
    return [size, text, batch, f"{seconds:.3g}", peak]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def verdict_text(judged: Sequence[Outcome]) -> str:
    """The overall verdict in words."""
    return overall_verdict(judged) or "no verdict (quick)"


def csv_text(claim: Claim, made: Runs) -> str:
    """Every run as a row."""
    rows = [(a, s, run) for a in claim.arms for s in claim.seeds for run in _each(made.results[a][s])]
    metrics = sorted({m for _, _, run in rows for m in run["metrics"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    spent = ("steps", "effective_batch", "seconds", "parameters", "peak_memory_bytes")
    writer.writerow(["arm", "seed", *spent, *metrics, "command"])
    for arm, seed, run in rows:
        values = [run["metrics"].get(m, "") for m in metrics]
        costs = ["" if run.get(key) is None else run[key] for key in spent]
        costs[2] = round(run["seconds"], 1)
        writer.writerow([arm, seed, *costs, *values, run["command"]])
    return buffer.getvalue()


def _each(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(run.get("runs", [run]))


def choices_csv(claim: Claim, made: Runs) -> str:
    """Every setting that was tried as a row, with the criteria's values and whether it was chosen."""
    criteria = [c.metric for c in claim.selection.by] if claim.selection else []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["arm", "seed", "setting", *criteria, "chosen"])
    once = claim.selection is not None and claim.selection.per == "claim"
    for name, choices in made.choices.items():
        for seed, choice in list(choices.items())[: 1 if once else None]:
            for index, (setting, scores) in enumerate(zip(claim.arms[name].grid, choice.scores, strict=True)):
                chosen = int(index == choice.index)
                writer.writerow([name, "all" if once else seed, json.dumps(setting), *scores, chosen])
    return buffer.getvalue()


def plot(claim: Claim, results: Results, path: Path) -> None:
    """One panel per metric: a point per arm and seed, a line joins the arms of a seed, a bar is the mean."""
    means = {(r["metric"], r["arm"]): r["mean"] for r in arm_rows(claim, results)}
    metrics = list(dict.fromkeys(metric for metric, _ in means))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    width = max(3.4, 0.5 * len(claim.arms))
    with drawing(
        path, lines, columns, figsize=(1 + width * columns, 3.6 * lines), squeeze=False, dpi=110
    ) as (figure, axes):
        for axis in axes.flat[len(metrics) :]:
            axis.set_visible(False)
        for axis, metric in zip(axes.flat, metrics, strict=False):
            for seed in claim.seeds:
                values = [results[arm][seed]["metrics"].get(metric, float("nan")) for arm in claim.arms]
                axis.plot(values, marker="o", markersize=4, linewidth=0.6, alpha=0.7, label=f"seed {seed}")
            for i, arm in enumerate(claim.arms):
                if (metric, arm) in means:
                    axis.hlines(means[metric, arm], i - 0.3, i + 0.3, color="black", linewidth=2)
            axis.set_xticks(range(len(claim.arms)), list(claim.arms), rotation=30, ha="right", fontsize=7)
            axis.set_title(metric, fontsize=9)
            axis.grid(alpha=0.3)
        axes.flat[0].legend(fontsize=6)
        figure.suptitle(claim.title, fontsize=10)


def plot_differences(judged: Sequence[Outcome], path: Path) -> None:
    """Paired differences of each predicate, positive as claimed: a point per seed, mean and t interval."""
    metrics = list(dict.fromkeys(o.predicate.metric for o in judged))
    groups = [[o for o in judged if o.predicate.metric == metric] for metric in metrics]
    heights = [0.6 + 0.35 * len(group) for group in groups]
    with drawing(
        path, len(groups), 1, figsize=(7, sum(heights) + 0.6), squeeze=False, height_ratios=heights, dpi=110
    ) as (_, axes):
        for axis, metric, group in zip(axes.flat, metrics, groups, strict=True):
            for row, o in enumerate(group):
                s = o.statistics
                axis.plot(o.differences, [row] * s.n, "o", markersize=4, alpha=0.6, color="tab:blue")
                if s.n > 1 and math.isfinite(s.mean):
                    axis.errorbar(
                        s.mean, row, xerr=[[s.mean - s.low], [s.high - s.mean]], fmt="k|", capsize=4
                    )
                if o.predicate.least_effect:
                    axis.plot(o.predicate.least_effect, row, "r|", markersize=14)
            names = [f"{o.predicate.better} over {o.predicate.worse}" for o in group]
            axis.set_yticks(range(len(group)), names, fontsize=8)
            axis.set_ylim(len(group) - 0.5, -0.5)
            axis.axvline(0.0, color="grey", linewidth=0.8)
            axis.set_title(f"{metric}: gain per seed, mean and 95 % interval", fontsize=9)
            axis.grid(alpha=0.3, axis="x")


def manifest_entries(claim: Claim, made: Runs, judged: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Entries for docs/results: of the arms mean, sd, cost and choice; differences, verdicts."""
    results = made.results
    first = next(iter(next(iter(results.values())).values()))
    runs = [run for arm in results.values() for run in arm.values()]
    shared = {
        "seeds": claim.seeds,
        "command": f"zoo compare configs/claims/{claim.name}.yaml" + (" --quick" if claim.quick else ""),
        "versions": first["versions"],
        "git": first["git"],
        "date": time.strftime("%Y-%m-%d"),
    }
    values: dict[str, Any] = {}
    for row in arm_rows(claim, results):
        values |= {f"{row['arm']}/{row['metric']}/{key}": row[key] for key in ("mean", "sd")}
    for arm, of_arm in results.items():
        values[f"{arm}/seconds"] = statistics.fmean(run["seconds"] for run in of_arm.values())
    for arm, choices in made.choices.items():
        values[f"{arm}/chosen"] = json.dumps({str(s): choice.setting for s, choice in choices.items()})
    for o in judged:
        name = f"{o.predicate.better}-{o.predicate.worse}/{o.predicate.metric}"
        s = o.statistics
        values |= {f"{name}/difference": s.mean, f"{name}/low": s.low, f"{name}/high": s.high}
        values |= {f"{name}/as_claimed": s.positive, f"{name}/sign_p": s.sign_p, f"{name}/verdict": o.verdict}
    values |= {"verdict": verdict_text(judged), "runs": _count(runs), "table": markdown(claim, made, judged)}
    # one seed has neither spread nor interval, and JSON has no infinity
    finite = {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
    return [{"metric": name, "value": value, **shared} for name, value in finite.items()]
