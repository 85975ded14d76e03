"""Parameters of a W&B sweep file: which values they take and how a search draws them."""

from __future__ import annotations

import bisect
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_BOUNDS = {"min", "max"}
DISTRIBUTIONS = {
    "constant": {"value"},
    "categorical": {"values"},
    "categorical_w_probabilities": {"values", "probabilities"},
    "int_uniform": _BOUNDS,
    "uniform": _BOUNDS,
    "q_uniform": _BOUNDS | {"q"},
    "log_uniform_values": _BOUNDS,
    "q_log_uniform_values": _BOUNDS | {"q"},
}
"""Distribution -> the keys beside ``distribution``; all but ``q`` are required."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        path: keys from the outermost ``parameters`` inwards; more than one where they are nested.
        distribution: one of :data:`DISTRIBUTIONS`.
        values: choices, or the one value of a constant.
        cumulative: cumulated probabilities of ``values``.
        low: least value.
        high: largest value.
        q: drawn values are rounded to multiples of it.
    """

    path: tuple[str, ...]
    distribution: str
    values: list[Any] = field(default_factory=list)
    cumulative: list[float] = field(default_factory=list)
    low: float = 0.0
    high: float = 0.0
    q: float = 1.0

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.path)

    @property
    def constant(self) -> bool:
        """Whether there is nothing to search."""
        return self.distribution == "constant"

    @property
    def logarithmic(self) -> bool:
        """Whether its axis is."""
        return "log" in self.distribution

    @property
    def choices(self) -> list[str]:
        """The values as JSON: a study stores no lists, and holds 1, 1.0 and True for equal."""
        return list(dict.fromkeys(json.dumps(v) for v in self.values))

    def search(self) -> BaseDistribution:
        """What Optuna draws from; :meth:`value` turns the draw into the parameter's value."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.distribution == "categorical":
            return CategoricalDistribution(self.choices)
        if self.distribution == "categorical_w_probabilities":
            return FloatDistribution(0.0, 1.0)
        if self.distribution == "int_uniform":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.logarithmic)

    def value(self, drawn: Any) -> Any:
        """The value of a draw; quantised as W&B does it, so an integer ``q`` gives integers."""
        if self.constant:
            return self.values[0]
        if self.distribution == "categorical":
            return json.loads(drawn)
        if self.distribution == "categorical_w_probabilities":
            return self.values[min(bisect.bisect_right(self.cumulative, drawn), len(self.values) - 1)]
        return round(drawn / self.q) * self.q if self.distribution.startswith("q_") else drawn

    def for_grid(self, where: str) -> Parameter:
        """The same parameter as a list of values.

        Args:
            where: the file, for the error.

        Raises:
            ValueError: for a continuous one.
        """
        if self.distribution in ("constant", "categorical"):
            return self
        if self.distribution == "int_uniform":
            values: list[Any] = list(range(int(self.low), int(self.high) + 1))
        elif self.distribution == "q_uniform":
            import numpy as np

            values = np.arange(self.low, self.high, self.q).tolist()  # without max, as W&B has it
        else:
            raise ValueError(
                f"{where}: parameter {self.name}: a grid takes value, values, int_uniform or q_uniform, not "
                f"{self.distribution}; list its values, or use method random or bayes"
            )
        return replace(self, distribution="categorical", values=values)


def read_parameters(where: str, given: Any, prefix: tuple[str, ...] = ()) -> list[Parameter]:
    """Parameters in W&B's order: sorted by key, nested ones in their place.

    Args:
        where: the file, for errors.
        given: section ``parameters``.
        prefix: keys around it.

    Raises:
        ValueError: in one line, for what W&B or a local search cannot take.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{where}: parameters must be a mapping with at least one entry, got {given!r}")
    found: list[Parameter] = []
    for key, entry in sorted(given.items(), key=lambda item: str(item[0])):
        path = (*prefix, str(key))
        place = f"{where}: parameter {'.'.join(path)}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(key)):
            raise ValueError(f"{place}: a name has letters, digits, '_', '.', '-', and starts with a letter")
        if not isinstance(entry, dict):
            raise ValueError(
                f"{place} must be a mapping, for example {{value: {entry}}} or {{values: [...]}}"
            )
        if set(entry) == {"parameters"}:
            found += read_parameters(where, entry["parameters"], path)
        else:
            found.append(_parameter(place, path, entry))
    return found


def _parameter(place: str, path: tuple[str, ...], entry: Mapping[str, Any]) -> Parameter:
    distribution = entry.get("distribution") or _inferred(place, entry)
    if not isinstance(distribution, str):
        raise ValueError(f"{place}: distribution must be a name, got {distribution!r}")
    if distribution not in DISTRIBUTIONS:
        hint = "; W&B's bounds of it are exponents: use log_uniform_values" if "log_" in distribution else ""
        raise ValueError(
            f"{place}: distribution {distribution!r} is not run here, only {', '.join(DISTRIBUTIONS)}{hint}"
        )
    takes = DISTRIBUTIONS[distribution]
    unknown = [k for k in entry if k not in takes | {"distribution"}]
    missing = sorted(takes - {"q"} - set(entry))
    if unknown or missing:
        problem = f"unknown key {unknown[0]!r}" if unknown else f"key {missing[0]!r} is missing"
        raise ValueError(f"{place}: {problem}; {distribution} takes {', '.join(sorted(takes))}")
    if "min" in takes:
        low, high = (_number(f"{place}: {key}", entry[key]) for key in ("min", "max"))
        q = _number(f"{place}: q", entry.get("q", 1.0))
        if low >= high:
            raise ValueError(f"{place}: min {low} is not less than max {high}")
        if q <= 0 or ("log" in distribution and low <= 0):
            raise ValueError(f"{place}: {'q' if q <= 0 else 'min'} of {distribution} must be above 0")
        if distribution == "int_uniform" and not type(low) is type(high) is int:
            raise ValueError(f"{place}: bounds of int_uniform are integers, got {low} and {high}")
        return Parameter(path, distribution, low=low, high=high, q=q)
    values = [entry["value"]] if distribution == "constant" else entry["values"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{place}: values must be a list with at least one entry, got {values!r}")
    for value in values:
        _check_value(place, value)
    return Parameter(path, distribution, values, _cumulative(place, entry, len(values)))


def _inferred(place: str, entry: Mapping[str, Any]) -> str:
    """Distribution of an entry that names none, by W&B's rule."""
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    if not set(entry) >= _BOUNDS:
        raise ValueError(f"{place} needs value, values, or min and max; got {', '.join(map(str, entry))}")
    low, high = (_number(f"{place}: {key}", entry[key]) for key in ("min", "max"))
    if type(low) is not type(high):
        raise ValueError(
            f"{place}: min {low} and max {high} are ambiguous; write both as integers (int_uniform) or both "
            "as floats (uniform), or give a distribution"
        )
    return "int_uniform" if type(low) is int else "uniform"


def _number(place: str, value: Any) -> float:
    _check_value(place, value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{place} must be a finite number, got {value!r}")
    return value


def _check_value(place: str, value: Any) -> None:
    """Refuse what reaches a run as something else than it looks like."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        number = repr(float(value))
        number = number if "." in number else number.replace("e", ".0e")
        raise ValueError(f"{place}: YAML reads {value} as text; write {number}")
    if value is None:
        raise ValueError(
            f'{place}: the value null would reach the run as the word None; write it as a string: "null"'
        )
    try:
        json.dumps(value)
    except TypeError:
        kind = type(value).__name__
        raise ValueError(f"{place}: {value!r} is a {kind}, which no flag can carry; quote it") from None


def _cumulative(place: str, entry: Mapping[str, Any], count: int) -> list[float]:
    if "probabilities" not in entry:
        return []
    given = entry["probabilities"]
    if not isinstance(given, list) or len(given) != count:
        raise ValueError(f"{place}: probabilities must be a list of {count} numbers, one per value")
    probabilities = [_number(f"{place}: a probability", p) for p in given]
    if min(probabilities) < 0 or not math.isclose(math.fsum(probabilities), 1.0, rel_tol=1e-5):
        raise ValueError(f"{place}: probabilities must be >= 0 and sum to 1, got {given}")
    return list(itertools.accumulate(probabilities))
