"""Claim files: arms over paired seeds at one budget, and predicates declared before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.evidence.compare.over import Over, spread
from zoo.evidence.compare.pareto import Pareto, read_pareto
from zoo.evidence.compare.selection import Selection, read_grid, read_selection
from zoo.evidence.compare.statistics import least_seeds
from zoo.file_names import path_part
from zoo.hub.catalog import find_config, read_mapping

SIGNIFICANCE = 0.05
BUDGET = ("steps", "effective_batch")
"""What compared runs must agree on, by summary.json; ``budget`` of a claim file replaces it."""
BUDGET_KEYS = (*BUDGET, "epochs")
T_TEST_SEEDS = 3
_BUDGET_FLAGS = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
    "data.init_args.batch_size",
)
_REQUIRED = ("title", "arms", "seeds", "predicates")
_OPTIONAL = (
    *("paper", "config", "overrides", "verbs", "metrics", "budget", "quick", "selection", "repeats"),
    *("status", "over", "pareto"),
)
_KEYS = (*_REQUIRED, *_OPTIONAL)


@dataclass(frozen=True)
class Predicate:
    """``better`` beats ``worse`` in ``metric`` by more than ``least_effect`` (in the metric's unit).

    With ``test: t`` a negative ``least_effect`` is a margin: ``better`` is at most that much behind.
    ``test: sign`` asks that the seeds agree too (two-sided exact sign test), ``t`` for the interval alone.
    """

    metric: str
    better: str
    worse: str
    direction: Literal["lower", "higher"]
    least_effect: float = 0.0
    test: Literal["sign", "t"] = "sign"
    name: str = ""

    def difference(self, better: float, worse: float) -> float:
        """Positive when as claimed."""
        return worse - better if self.direction == "lower" else better - worse

    @property
    def text(self) -> str:
        """The predicate in words."""
        if self.least_effect < 0:
            return (
                self.name
                or f"{self.metric}: {self.better} at most {-self.least_effect:g} behind {self.worse}"
            )
        effect = f" by more than {self.least_effect:g}" if self.least_effect else ""
        return self.name or f"{self.metric}: {self.better} {self.direction} than {self.worse}{effect}"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a config and the flags laid over it.

    Attributes:
        grid: settings of more flags to choose from; empty for an arm with nothing to choose.
    """

    config: str
    flags: dict[str, Any]
    grid: tuple[dict[str, Any], ...] = ()

    def with_flags(self, *more: Mapping[str, Any]) -> Arm:
        """The same config, nothing left to choose."""
        flags = dict(self.flags)
        for given in more:
            flags |= given
        return Arm(self.config, flags)


@dataclass(frozen=True)
class Claim:
    """A claim file, checked.

    Attributes:
        name: of the file.
        metrics: shown beside those of the predicates.
        budget: keys of summary.json that the arms of a predicate must agree on; none where grids choose all.
        selection: how arms with a grid choose their setting.
        repeats: runs of an arm at a seed, whose metrics are averaged.
        status: why there is no verdict of a known commit, ``not run here: ...``; empty where there is one.
        quick: a look without verdict: fewer seeds and the overrides of section ``quick``.
        over: the flag that each arm of the file is run over, whose arms are among ``arms``.
        pareto: pairs of metrics and costs to draw the arms in, with the front.
    """

    name: str
    title: str
    paper: str
    arms: dict[str, Arm]
    seeds: list[int]
    predicates: list[Predicate]
    verbs: list[str]
    metrics: list[str]
    budget: list[str]
    quick: bool = False
    selection: Selection | None = None
    repeats: int = 1
    status: str = ""
    over: Over | None = None
    pareto: tuple[Pareto, ...] = ()

    @property
    def shown_metrics(self) -> list[str]:
        """Metrics of the tables: those of the predicates, then the others."""
        return list(dict.fromkeys([*(p.metric for p in self.predicates), *self.metrics]))


_OF_THE_COMPARISON = {"seed_everything", "trainer.default_root_dir", "ckpt_path", "weights"}


def read_claim(path: Path, quick: bool = False) -> Claim:
    """Read and check a claim file.

    Raises:
        ValueError: for unknown keys, arms or directions, unequal budgets, or too few seeds for a verdict.
    """
    content, over = spread(path, _content(path))
    seeds = content["seeds"]
    shortened: dict[str, Any] = {}
    settings: int | None = None
    if quick:
        section = content.get("quick")
        if not isinstance(section, dict) or set(section) - {"seeds", "overrides", "settings", "repeats"}:
            raise ValueError(
                f"{path}: --quick needs a section `quick` with seeds, overrides, settings or repeats"
            )
        shortened, settings = section.get("overrides") or {}, section.get("settings")
        if not isinstance(shortened, dict) or not (
            settings is None or (type(settings) is int and settings > 0)
        ):
            raise ValueError(f"{path}: in quick, overrides is a mapping and settings an integer >= 1")
        seeds = section.get("seeds", seeds[:2] if isinstance(seeds, list) else seeds)
        content["repeats"] = section.get("repeats", content.get("repeats", 1))
    arms = _arms(path, content, shortened, settings)
    if not isinstance(content["predicates"], list) or not content["predicates"]:
        raise ValueError(f"{path}: predicates must be a list with at least one entry")
    predicates = [_predicate(path, entry, arms) for entry in content["predicates"]]
    claim = Claim(
        name=path_part(path.stem, f"the claim file {path}"),
        title=str(content["title"]),
        paper=str(content.get("paper", "")),
        arms=arms,
        seeds=seeds,
        predicates=predicates,
        verbs=_texts(path, "verbs", content.get("verbs", ["fit"])),
        metrics=_texts(path, "metrics", content.get("metrics", [])),
        budget=_texts(path, "budget", content.get("budget", list(BUDGET))),
        quick=quick,
        selection=read_selection(path, content.get("selection"), any(a.grid for a in arms.values()), quick),
        repeats=content.get("repeats", 1),
        status=str(content.get("status", "")),
        over=over,
        pareto=read_pareto(path, content.get("pareto"), {p.metric: p.direction for p in predicates}),
    )
    _check(path, claim)
    return claim


def _texts(path: Path, key: str, given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"{path}: {key} must be a list of names, got {given!r}")
    return given


def _content(path: Path) -> dict[str, Any]:
    content = read_mapping(path, _KEYS)
    if "model" in content and "arms" not in content:
        raise ValueError(f"{path} is the config of a run, not a claim; `zoo list configs` has those")
    unknown = [k for k in content if k not in _KEYS]
    missing = [k for k in _REQUIRED if k not in content]
    if unknown or missing:
        problem = f"unknown key {unknown[0]!r}" if unknown else f"key {missing[0]!r} is missing"
        raise ValueError(f"{path}: {problem}; keys are {', '.join(_KEYS)}")
    for key in ("arms", "overrides"):
        if not isinstance(content.get(key, {}) or ({} if key == "overrides" else None), dict):
            raise ValueError(f"{path}: {key} must be a mapping")
    return content


def _arms(
    path: Path, content: Mapping[str, Any], shortened: Mapping[str, Any], settings: int | None
) -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for key, given in content["arms"].items():
        name = path_part(key, f"{path}: arm")
        if name.casefold() in {other.casefold() for other in arms}:  # one folder on some file systems
            raise ValueError(f"{path}: two arms are called {name!r} but for case or type; rename one")
        if not isinstance(given or {}, dict):
            raise ValueError(
                f"{path}: arm {name!r} must be a mapping of flags ({{}} for none), got {given!r}"
            )
        flags = {**(content.get("overrides") or {}), **(given or {})}
        grid = read_grid(f"{path}: arm {name!r}", flags.pop("grid", None))[:settings]
        clash = [key for setting in grid for key in setting if key in (given or {})]
        if clash:
            raise ValueError(f"{path}: arm {name!r} gives {clash[0]} both as a flag and in its grid")
        flags |= shortened
        for unwanted in _texts(path, f"arm {name!r}: without", flags.pop("without", None) or []):
            flags.pop(unwanted, None)  # of another method than the others
        for flag in _OF_THE_COMPARISON & flags.keys():
            raise ValueError(
                f"{path}: arm {name!r} sets {flag}, which a comparison gives itself: its runs begin from "
                "their seeds, in folders of their own"
            )
        config = flags.pop("config", content.get("config"))
        if not config or not isinstance(config, str):
            raise ValueError(f"{path}: arm {name!r} has no config; give `config` for all arms or in the arm")
        try:
            find_config(config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: arm {name!r}: {error}") from None
        arms[name] = Arm(config, flags, grid)
    return arms


def _predicate(path: Path, entry: Any, arms: Mapping[str, Any]) -> Predicate:
    try:
        predicate = Predicate(**entry)
    except TypeError as error:
        text = str(error).replace("Predicate.__init__()", "a predicate")
        raise ValueError(f"{path}: predicate {entry}: {text}") from error
    texts = ("metric", "better", "worse", "direction", "test", "name")
    if wrong := [key for key in texts if not isinstance(getattr(predicate, key), str)]:
        raise ValueError(f"{path}: predicate {entry}: {wrong[0]} must be a text")
    for arm in (predicate.better, predicate.worse):
        if arm not in arms:
            raise ValueError(
                f"{path}: predicate on {predicate.metric} names arm {arm!r}; arms are {', '.join(arms)}"
            )
    if predicate.better == predicate.worse:
        raise ValueError(f"{path}: predicate on {predicate.metric} compares {predicate.better!r} with itself")
    if predicate.direction not in ("lower", "higher") or predicate.test not in ("sign", "t"):
        raise ValueError(
            f"{path}: predicate on {predicate.metric}: direction is lower or higher, test is sign or t"
        )
    effect, margin = predicate.least_effect, predicate.test == "t"
    if not isinstance(effect, int | float) or not math.isfinite(effect) or (effect < 0 and not margin):
        raise ValueError(
            f"{path}: predicate on {predicate.metric}: least_effect must be a number >= 0, or a margin < 0 "
            "with test: t"
        )
    return predicate


def _check(path: Path, claim: Claim) -> None:
    seeds = claim.seeds
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(s) is int and s >= 0 for s in seeds)
        or len(set(seeds)) != len(seeds)
    ):
        raise ValueError(f"{path}: seeds must be a list of different integers >= 0, got {seeds}")
    if len(claim.arms) < 2:
        raise ValueError(f"{path}: a claim needs at least two arms")
    if claim.verbs[:1] != ["fit"] or not set(claim.verbs[1:]) <= {"validate", "test"}:
        raise ValueError(f"{path}: verbs are fit and, after it, validate or test; got {claim.verbs}")
    if not set(claim.budget) <= set(BUDGET_KEYS) or not (claim.budget or claim.selection):
        raise ValueError(
            f"{path}: budget names keys of summary.json ({', '.join(BUDGET_KEYS)}), got {claim.budget}; "
            "it may be empty only where grids choose batch and steps"
        )
    if type(claim.repeats) is not int or claim.repeats < 1:
        raise ValueError(f"{path}: repeats must be an integer >= 1, got {claim.repeats}")
    _check_budget_flags(path, claim)
    needed = least_seeds(SIGNIFICANCE) if any(p.test == "sign" for p in claim.predicates) else T_TEST_SEEDS
    if not claim.quick and len(seeds) < needed:
        raise ValueError(
            f"{path}: {len(seeds)} seeds cannot carry a verdict, at least {needed} are needed; "
            "give more seeds, or look with --quick"
        )


def _check_budget_flags(path: Path, claim: Claim) -> None:
    """Refuse before hours of training what the check of summary.json would refuse after them.

    Arms with configs of their own may need flags of their own: there summary.json alone decides.
    """
    for predicate in claim.predicates:
        names = (predicate.better, predicate.worse)
        arms = [claim.arms[name] for name in names]
        if "steps" not in claim.budget or arms[0].config != arms[1].config:
            continue
        for flag in _BUDGET_FLAGS:
            values = [str(arm.flags.get(flag, "not set")) for arm in arms]
            if values[0] != values[1]:
                given = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
                raise ValueError(f"{path}: arms must spend the same budget, but {flag} differs: {given}")
