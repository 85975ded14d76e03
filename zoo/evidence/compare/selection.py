"""Arms that choose their setting from a grid, by held-out data, before they are compared."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MOST_SETTINGS = 10_000


@dataclass(frozen=True)
class Criterion:
    """A metric of the runs that choose, and which way is better."""

    metric: str
    direction: Literal["lower", "higher"]

    def score(self, value: float) -> float:
        """Higher is better; what is not a number is worst."""
        if math.isnan(value):
            return -math.inf
        return -value if self.direction == "lower" else value


@dataclass(frozen=True)
class Selection:
    """How arms with a grid choose.

    Attributes:
        by: criteria; a later one decides among settings that are equal in all before it.
        per: ``seed``, a setting for each seed (each fold); or ``claim``, one for all seeds, by mean metrics.
        seeds: with ``claim``, those of the runs that choose; empty for all of the claim.
        verbs: of the runs that choose.
        overrides: flags of the runs that choose alone.
    """

    by: tuple[Criterion, ...]
    per: Literal["seed", "claim"]
    seeds: tuple[int, ...] = ()
    verbs: tuple[str, ...] = ("fit",)
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The setting of an arm at a seed, and what all settings reached.

    Attributes:
        index: of the setting in the grid.
        setting: its flags.
        scores: of each setting, the criteria's values (means over the seeds of the runs that chose).
        seconds: of training that the choice took; counted once where seeds share it.
    """

    index: int
    setting: dict[str, Any]
    scores: list[list[float]]
    seconds: float


def read_grid(where: str, grid: Any) -> tuple[dict[str, Any], ...]:
    """Settings of a grid: all combinations of a mapping of lists, or a list of mappings as it stands.

    Raises:
        ValueError: for anything else, an empty grid, or one of more than 10,000 settings.
    """
    if grid is None:
        return ()
    settings: list[dict[str, Any]] = []
    if isinstance(grid, dict) and grid and all(isinstance(v, list) and v for v in grid.values()):
        if math.prod(len(values) for values in grid.values()) <= MOST_SETTINGS:
            settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    elif isinstance(grid, list) and all(isinstance(setting, dict) and setting for setting in grid):
        settings = grid
    if not settings or len(settings) > MOST_SETTINGS:
        raise ValueError(
            f"{where}: grid must be a mapping of flags to lists of values, or a list of mappings, with 1 to "
            f"{MOST_SETTINGS} settings"
        )
    return tuple(settings)


def read_selection(path: Path, given: Any, needed: bool, quick: bool = False) -> Selection | None:
    """Section ``selection`` of a claim file. A quick look chooses on its own seeds.

    Raises:
        ValueError: for unknown keys, criteria on test data, a section without a grid, a grid without it.
    """
    if given is None and not needed:
        return None
    where = f"{path}: selection"
    if given is None:
        raise ValueError(f"{path}: an arm has a grid; a section `selection` must say how it chooses")
    keys = ("by", "per", "seeds", "verbs", "overrides")
    if not isinstance(given, dict) or set(given) - set(keys) or not isinstance(given.get("by"), list):
        raise ValueError(f"{where} is a mapping with a list `by` and optionally {', '.join(keys[1:])}")
    if not needed:
        raise ValueError(f"{where} without an arm that has a grid")
    criteria = []
    for entry in given["by"]:
        try:
            criterion = Criterion(**entry)
        except TypeError as error:
            text = str(error).replace("Criterion.__init__()", "a criterion")
            raise ValueError(f"{where}: {entry}: {text}") from error
        if not isinstance(criterion.metric, str) or criterion.direction not in ("lower", "higher"):
            raise ValueError(f"{where}: metric is a name, direction of {criterion.metric} is lower or higher")
        if criterion.metric.startswith("test/"):
            raise ValueError(f"{where} by {criterion.metric}: the test data judge, they must not choose")
        criteria.append(criterion)
    per, seeds, verbs = given.get("per", "seed"), given.get("seeds", []), given.get("verbs", ["fit"])
    if not criteria or per not in ("seed", "claim"):
        raise ValueError(f"{where}: `by` needs at least one criterion, `per` is seed or claim")
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds):
        raise ValueError(f"{where}: seeds must be a list of integers >= 0, got {seeds}")
    if seeds and per == "seed":
        raise ValueError(
            f"{where}: with `per: seed` each seed of the claim chooses for itself; leave out seeds"
        )
    if verbs not in (["fit"], ["fit", "validate"]):
        raise ValueError(f"{where}: verbs are [fit] or [fit, validate], got {verbs}")
    overrides = given.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise ValueError(f"{where}: overrides must be a mapping")
    return Selection(tuple(criteria), per, () if quick else tuple(seeds), tuple(verbs), overrides)


def choose(
    where: str,
    selection: Selection,
    grid: Sequence[Mapping[str, Any]],
    runs: Sequence[Sequence[Mapping[str, Any]]],
) -> Choice:
    """The best setting; the first among equals.

    Args:
        where: the arm, for the error.
        runs: of each setting, its runs.

    Raises:
        ValueError: for a metric that a run lacks.
    """
    scores = []
    for results in runs:
        values = []
        for criterion in selection.by:
            for result in results:
                if criterion.metric not in result["metrics"]:
                    known = ", ".join(sorted(k for k in result["metrics"] if "/" in k))
                    raise ValueError(f"{where} cannot choose by {criterion.metric!r}; its runs have {known}")
            values.append(statistics.fmean(float(r["metrics"][criterion.metric]) for r in results))
        scores.append(values)

    def rank(index: int) -> list[float]:
        return [c.score(value) for c, value in zip(selection.by, scores[index], strict=True)]

    index = max(range(len(grid)), key=rank)  # max keeps the first
    return Choice(index, dict(grid[index]), scores, sum(r["seconds"] for results in runs for r in results))


def setting_text(setting: Mapping[str, Any]) -> str:
    """A setting in few words: the last part of each key and its value."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {json.dumps(value)}" for key, value in setting.items())
