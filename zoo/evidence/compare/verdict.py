"""From the runs of a claim to its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.evidence.compare.claim import SIGNIFICANCE, Claim, Predicate
from zoo.evidence.compare.runs import Results
from zoo.evidence.compare.statistics import (
    UNDECIDED,
    PairedDifference,
    Verdict,
    judge,
    overall,
    paired_difference,
    without_statistics,
)


@dataclass(frozen=True)
class Outcome:
    """A predicate with what the seeds say about it.

    Attributes:
        differences: one per seed, positive as claimed.
        verdict: None in a quick look.
    """

    predicate: Predicate
    differences: list[float]
    statistics: PairedDifference
    verdict: Verdict | None


def judge_claim(claim: Claim, results: Results) -> list[Outcome]:
    """Judge each predicate. Where a run ended in a metric that is not finite, the seeds do not tell.

    Raises:
        ValueError: for unequal budgets or a metric that an arm lacks.
    """
    check_budget(claim, results)
    return [_judge(claim, results, predicate) for predicate in claim.predicates]


def _judge(claim: Claim, results: Results, predicate: Predicate) -> Outcome:
    better = _values(claim, results, predicate.better, predicate.metric)
    worse = _values(claim, results, predicate.worse, predicate.metric)
    differences = [predicate.difference(b, w) for b, w in zip(better, worse, strict=True)]
    if not all(map(math.isfinite, differences)):
        verdict = None if claim.quick else UNDECIDED
        return Outcome(predicate, differences, without_statistics(differences), verdict)
    statistics = paired_difference(differences)
    if claim.quick:
        return Outcome(predicate, differences, statistics, None)
    verdict = judge(statistics, predicate.least_effect, predicate.test, SIGNIFICANCE)
    return Outcome(predicate, differences, statistics, verdict)


def overall_verdict(judged: Sequence[Outcome]) -> Verdict | None:
    """Of the claim, None for a quick look."""
    verdicts = [o.verdict for o in judged if o.verdict is not None]
    return overall(verdicts) if len(verdicts) == len(judged) else None


def check_budget(claim: Claim, results: Results) -> None:
    """Refuse to compare arms whose runs spent different budgets.

    Raises:
        ValueError: with the budget of both arms.
    """
    for predicate in claim.predicates:
        for key in claim.budget:
            names = (predicate.better, predicate.worse)
            spent = [sorted({str(results[arm][seed][key]) for seed in claim.seeds}) for arm in names]
            if len({*spent[0], *spent[1]}) > 1:
                text = "; ".join(f"{arm} {', '.join(s)}" for arm, s in zip(names, spent, strict=True))
                raise ValueError(f"no verdict over unequal budgets: {key} is {text}")


def _values(claim: Claim, results: Results, arm: str, metric: str) -> list[float]:
    for seed in claim.seeds:
        metrics = results[arm][seed]["metrics"]
        if metric not in metrics:
            known = ", ".join(sorted(k for k in metrics if "/" in k))
            raise ValueError(f"arm {arm!r} has no metric {metric!r} at seed {seed}; it has {known}")
    return [float(results[arm][seed]["metrics"][metric]) for seed in claim.seeds]
