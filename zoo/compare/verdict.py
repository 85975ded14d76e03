"""From the runs of a claim to its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.compare.claim import SIGNIFICANCE, Claim, Predicate
from zoo.compare.runs import Results
from zoo.compare.statistics import PairedDifference, Verdict, judge, overall, paired_difference


@dataclass(frozen=True)
class Outcome:
    """A predicate with what the seeds say about it; ``verdict`` is None in a quick look."""

    predicate: Predicate
    statistics: PairedDifference
    verdict: Verdict | None


def judge_claim(claim: Claim, results: Results) -> list[Outcome]:
    """Judge each predicate.

    Raises:
        ValueError: for unequal budgets or a metric that an arm lacks.
    """
    check_budget(claim, results)
    judged = []
    for predicate in claim.predicates:
        better, worse = (
            _values(claim, results, arm, predicate.metric) for arm in (predicate.better, predicate.worse)
        )
        statistics = paired_difference(
            [predicate.difference(b, w) for b, w in zip(better, worse, strict=True)]
        )
        verdict = (
            None if claim.quick else judge(statistics, predicate.least_effect, predicate.test, SIGNIFICANCE)
        )
        judged.append(Outcome(predicate, statistics, verdict))
    return judged


def overall_verdict(judged: Sequence[Outcome]) -> Verdict | None:
    """Of the claim, None for a quick look."""
    verdicts = [o.verdict for o in judged if o.verdict is not None]
    return overall(verdicts) if len(verdicts) == len(judged) else None


def check_budget(claim: Claim, results: Results) -> None:
    """Refuse runs that spent different budgets.

    Raises:
        ValueError: with the budget of each arm.
    """
    for key in claim.budget:
        spent = {arm: sorted({str(run[key]) for run in runs.values()}) for arm, runs in results.items()}
        if len({value for values in spent.values() for value in values}) > 1:
            text = "; ".join(f"{arm} {', '.join(values)}" for arm, values in spent.items())
            raise ValueError(f"no verdict over unequal budgets: {key} is {text}")


def _values(claim: Claim, results: Results, arm: str, metric: str) -> list[float]:
    for seed in claim.seeds:
        metrics = results[arm][seed]["metrics"]
        if metric not in metrics:
            known = ", ".join(sorted(k for k in metrics if "/" in k))
            raise ValueError(f"arm {arm!r} has no metric {metric!r} at seed {seed}; it has {known}")
    return [float(results[arm][seed]["metrics"][metric]) for seed in claim.seeds]
