"""Arms over a value: each arm of a claim file at several values of one flag, as in accuracy over images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.file_names import path_part

Value = int | float | str
_MOST = 100


@dataclass(frozen=True)
class Over:
    """What the arms of a claim are run over.

    Attributes:
        flag: that gets the values.
        values: in the order of the file.
        label: what they are, for pictures and tables.
        arms: arm of the file -> its name at each value, ``<arm>_<value>``.
    """

    flag: str
    values: tuple[Value, ...]
    label: str
    arms: dict[str, tuple[str, ...]]

    @property
    def column(self) -> str:
        """The flag's last part, a short name of the value."""
        return self.flag.rpartition(".")[2]

    @property
    def is_number(self) -> bool:
        """Whether the values have places on an axis."""
        return all(isinstance(value, int | float) for value in self.values)


def spread(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, Any], Over | None]:
    """A claim file's content with an arm for each arm and value, and a predicate for each of its values.

    A predicate's ``at`` is a value or a list of them, all where it is left out; its arms are those of the
    file, or one at a value of its own (``full_10``).

    Raises:
        ValueError: for an ``over`` that is none, and for arms that give the flag themselves.
    """
    held = dict(content)
    if (given := held.pop("over", None)) is None:
        return held, None
    over = _read(path, given, held["arms"])
    shared = {"overrides": held.get("overrides")}
    if isinstance(quick := held.get("quick"), dict):
        shared["quick"] = quick.get("overrides")
    for where, flags in (*shared.items(), *((f"arm {name!r}", own) for name, own in held["arms"].items())):
        if isinstance(flags, dict) and over.flag in _flags_of(flags):
            raise ValueError(f"{path}: {where} gives {over.flag}, which `over` gives; leave one of them out")
    arms: dict[str, Any] = {}
    for value_place, value in enumerate(over.values):
        for name, flags in held["arms"].items():
            own = flags or {}
            arms[over.arms[str(name)][value_place]] = (
                {**own, over.flag: value} if isinstance(own, dict) else flags
            )
    held["arms"] = arms
    if isinstance(held["predicates"], list):
        held["predicates"] = [one for entry in held["predicates"] for one in _at(path, entry, over)]
    return held, over


def _flags_of(flags: Mapping[str, Any]) -> list[Any]:
    """All that an arm says of flags: its own, those of its grid, those it leaves out."""
    grid, without = flags.get("grid"), flags.get("without")
    settings = grid if isinstance(grid, list) else [grid]
    return [
        *flags,
        *(key for setting in settings if isinstance(setting, dict) for key in setting),
        *(without if isinstance(without, list) else []),
    ]


def _read(path: Path, given: Any, arms: Mapping[Any, Any]) -> Over:
    if not isinstance(given, dict) or not {"flag", "values"} <= set(given) <= {"flag", "values", "label"}:
        raise ValueError(f"{path}: over is a mapping with flag, values and, at will, label; got {given!r}")
    flag, values = given["flag"], given["values"]
    label = given.get("label", flag)
    if not isinstance(flag, str) or not flag or not isinstance(label, str):
        raise ValueError(f"{path}: over: flag and label must be texts, got {flag!r} and {label!r}")
    if (
        not isinstance(values, list)
        or not 2 <= len(values) <= _MOST
        or not all(type(v) in (int, float, str) and _is_finite(v) for v in values)
        or min(len({str(v).casefold() for v in values}), len(set(values))) < len(values)
    ):
        raise ValueError(
            f"{path}: over: values must be 2 to {_MOST} different numbers or texts, got {str(values)[:80]}"
        )
    names = {
        str(arm): tuple(path_part(f"{arm}_{value}", f"{path}: arm {arm!r} at {value!r}") for value in values)
        for arm in arms
    }
    every = [f"{arm}_{value}".casefold() for arm in arms for value in values]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(f"{path}: over gives two arms the name {twice[0]!r}; rename one")
    return Over(flag, tuple(values), label, names)


def _is_finite(value: Value) -> bool:
    return isinstance(value, str | int) or math.isfinite(value)


def _at(path: Path, entry: Any, over: Over) -> list[Any]:
    """A predicate at each of its values; what is no predicate is left for others to refuse."""
    if not isinstance(entry, dict):
        return [entry]
    own = {key: value for key, value in entry.items() if key != "at"}
    sides = [key for key in ("better", "worse") if isinstance(own.get(key), str) and own[key] in over.arms]
    at = entry.get("at", list(over.values) if sides else [])
    at = at if isinstance(at, list) else [at]
    if sides and not at:
        raise ValueError(f"{path}: predicate {entry}: at no value; leave `at` out for all")
    if unknown := [v for v in at if isinstance(v, bool) or v not in over.values]:
        known = ", ".join(map(str, over.values))
        raise ValueError(f"{path}: predicate at {unknown[0]!r}, but the values of `over` are {known}")
    if not sides and at:
        raise ValueError(f"{path}: predicate {entry}: its arms have values of their own, leave `at` out")
    places = [over.values.index(value) for value in at]
    return [own | {key: over.arms[own[key]][place] for key in sides} for place in places] or [own]
