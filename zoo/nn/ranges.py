"""The range of a numeric argument, said once, where the argument stands.

``def __init__(self, alpha: Positive = 4.0, width: Size | None = None)`` and, as its first line,
``check_ranges(DTR, locals())``. NaN and infinity are in no range, a boolean is no number.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any


@dataclass(frozen=True, repr=False)
class Range:
    """Numbers from ``low`` to ``high``; ``above`` and ``below`` leave out the end itself."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        least = value > self.low if self.above else value >= self.low
        most = value < self.high if self.below else value <= self.high
        return least and most and abs(value) < math.inf

    def __repr__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:,}"
        high = f"{'below' if self.below else 'at most'} {self.high:,}"
        ends = [low] * (self.low > -math.inf) + [high] * (self.high < math.inf)
        return " and ".join(ends) or "of finite size"


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1, above=True)]
"""A fraction that is not 0."""
Rate = Annotated[float, Range(0, 1, below=True)]
"""Of a dropout: a fraction that leaves something."""
Part = Annotated[float, Range(0, 1, above=True, below=True)]
"""Of a whole that leaves something on both sides."""
Percent = Annotated[float, Range(0, 100)]
Degrees = Annotated[float, Range(0, 180)]

_LONG, _MANY, _WIDE, _DEEP = 10**12, 10**8, 10**6, 10**4
Count = Annotated[int, Range(1, _LONG)]
"""Steps, epochs, batches: what takes time, but no memory."""
CountOrZero = Annotated[int, Range(0, _LONG)]
Many = Annotated[int, Range(1, _MANY)]
"""Items, nodes, points, features: what takes memory each."""
ManyOrZero = Annotated[int, Range(0, _MANY)]
Size = Annotated[int, Range(1, _WIDE)]
"""Widths of layers and sides of pictures."""
Side = Annotated[int, Range(32, _WIDE)]
"""Of pictures for a network that halves them five times."""
SizeOrZero = Annotated[int, Range(0, _WIDE)]
Depth = Annotated[int, Range(1, _DEEP)]
"""Layers, heads, levels, repetitions: what is built one by one."""
DepthOrZero = Annotated[int, Range(0, _DEEP)]
Fanout = Annotated[int, Range(-1, _MANY)]
"""Neighbours to draw; -1 takes all."""
LastEpoch = Annotated[int, Range(-1, _LONG)]
"""Of torch's schedulers; -1 begins."""
Workers = Annotated[int, Range(0, 1024)]
Seed = Annotated[int, Range(0, 2**32 - 1)]


def check_ranges(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse what lies outside the ranges of the constructor of ``cls``.

    Args:
        cls: the class whose ``__init__`` has the annotations, not the one being built.
        arguments: of the call, ``locals()``; those of a ``**options: Unpack[...]`` under its name.

    Raises:
        ValueError: naming the first one's YAML key, what was given and the range.
    """
    for name, hint in _hints(cls).items():
        given = arguments.get(name)
        if name in arguments:
            _check(_key(arguments.get("self"), name), hint, given)
        for options in (arguments.get(o) for o in _unpacked(cls)):
            if isinstance(options, Mapping) and name in options:
                _check(_key(arguments.get("self"), name), hint, options[name])


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(vars(cls)["__init__"], include_extras=True)
    for name in _unpacked(cls):
        hints |= typing.get_type_hints(typing.get_args(hints.pop(name))[0], include_extras=True)
    return {name: hint for name, hint in hints.items() if _ranged(hint)}


@cache
def _unpacked(cls: type) -> tuple[str, ...]:
    hints = typing.get_type_hints(vars(cls)["__init__"])
    return tuple(name for name, hint in hints.items() if typing.get_origin(hint) is typing.Unpack)


def _ranged(hint: Any) -> bool:
    if typing.get_origin(hint) is Annotated:
        return any(isinstance(extra, Range) for extra in hint.__metadata__)
    return any(_ranged(part) for part in typing.get_args(hint))


def _key(built: Any, name: str) -> str:
    kinds = {c.__name__ for c in type(built).__mro__}
    groups = {"LightningModule": "model.init_args.", "LightningDataModule": "data.init_args."}
    return next((g for kind, g in groups.items() if kind in kinds), f"{type(built).__name__}.") + name


def _check(key: str, hint: Any, value: Any, others: Sequence[str] = ()) -> None:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [
            word for p in parts if typing.get_origin(p) is typing.Literal for word in typing.get_args(p)
        ]
        nullable = type(None) in parts
        spelled = str in parts and isinstance(value, str)  # the constructor itself reads it
        if value not in choices and not (nullable and value is None) and not spelled:
            ranged = next(part for part in parts if _ranged(part))
            _check(key, ranged, value, [*choices, *["null"] * nullable])
    elif origin is Annotated:
        _check_number(
            key, parts[0], next(e for e in hint.__metadata__ if isinstance(e, Range)), value, others
        )
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check(f"{key}.{name}", parts[-1], item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, item in enumerate(value):
            _check(f"{key}[{number}]", parts[0], item)
    else:
        raise ValueError(f"{key} is {value!r}, but must be {' or '.join(['a list of numbers', *others])}")


def _check_number(key: str, kind: type, allowed: Range, value: Any, others: Sequence[str]) -> None:
    wanted = numbers.Integral if kind is int else numbers.Real
    is_number = isinstance(value, wanted) and not isinstance(value, bool)
    if not is_number or value not in allowed:
        what = f"a {'whole number' if kind is int else 'number'} {allowed!r}"
        raise ValueError(f"{key} is {value!r}, but must be {' or '.join([*others, what])}")
