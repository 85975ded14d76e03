"""Every numeric argument of every public constructor has a range, and outside of it there is one line.

``python tests/test_ranges.py [--manifest FILE]`` prints what became of each value as a Markdown table.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import tables
import torch

import datamodules
import zoo
from zoo.nn.ranges import Range, check_ranges

ROOT = Path(__file__).resolve().parents[1]

VALUES = {"-1": -1, "0": 0, "NaN": math.nan, "infinity": math.inf, "1e9": 10**9, "text": "many", "true": True}

# what a constructor cannot do without
_NEEDED: dict[str, dict[str, Any]] = {
    "GAugGraph": {"name": "cora"},
    "ImageFolder": {"root": "pictures"},
    "Planetoid": {"name": "Cora"},
    "SampleFiles": {"samples": "samples.npz", "reference": "reference.npz"},
    "Traffic": {"name": "metr_la"},
    "TUGraphs": {"name": "MUTAG"},
    "TUGraphSet": {"name": "PROTEINS"},
}


def _source() -> dict[str, Any]:
    return {"source": datamodules.KarateClub()}


def _optimizer() -> dict[str, Any]:
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "initial_lr": 0.1}  # as in a resumed run
    return {"optimizer": torch.optim.SGD([group], lr=0.1)}


_MADE: dict[str, Callable[[], dict[str, Any]]] = {
    "LinkSplit": _source,
    "NeighborSampling": _source,
    "EpochWarmupCosine": lambda: _optimizer() | {"epochs": 3, "steps_per_epoch": 4},
    "Halving": _optimizer,
    "Noam": _optimizer,
    "Triangular": lambda: _optimizer() | {"epochs": 3},
    "WarmupCosine": lambda: _optimizer() | {"total_steps": 3},
    "WarmupExponential": lambda: _optimizer() | {"decay_steps": 3},
    "WarmupLinear": lambda: _optimizer() | {"total_steps": 3},
    "WarmupStableDecay": lambda: _optimizer() | {"total_steps": 3},
}


def public_classes() -> list[type]:
    found = [getattr(package, name) for package in (zoo, datamodules) for name in package.__all__]
    return [item for item in found if inspect.isclass(item)]


def needed(cls: type) -> dict[str, Any]:
    """Arguments that make a small one."""
    if cls.__name__ in zoo._DECLARED:
        return dict(zoo._DECLARED[cls.__name__][1].small[0])
    return _MADE[cls.__name__]() if cls.__name__ in _MADE else _NEEDED.get(cls.__name__, {})


def constructors(cls: type) -> Iterator[type]:
    """The class and those parents whose constructors its arguments reach."""
    for home in cls.__mro__:
        if "__init__" in vars(home) and home.__module__.startswith(("zoo.", "datamodules.")):
            yield home
            if "kwargs" not in inspect.signature(vars(home)["__init__"]).parameters:
                return


def arguments(cls: type) -> dict[str, Any]:
    """Type hints of all arguments, those of ``**options: Unpack[...]`` among them."""
    found: dict[str, Any] = {}
    for home in constructors(cls):
        for name, hint in typing.get_type_hints(vars(home)["__init__"], include_extras=True).items():
            if typing.get_origin(hint) is typing.Unpack:
                found |= typing.get_type_hints(typing.get_args(hint)[0], include_extras=True)
            elif name != "return":
                found.setdefault(name, hint)
    return found


def numbers_in(hint: Any) -> Iterator[Range | None]:
    """The range of every number in a type; None where it has none."""
    if typing.get_origin(hint) is Annotated:
        yield next((e for e in hint.__metadata__ if hasattr(e, "low")), None)
    elif hint in (int, float):
        yield None
    elif typing.get_origin(hint) is not typing.Literal:
        for part in typing.get_args(hint):
            if part not in (Any, Ellipsis) and not isinstance(part, list):
                yield from numbers_in(part)


def is_listed(hint: Any) -> bool:
    kinds = (typing.get_origin(p) for p in (hint, *typing.get_args(hint)))
    return any(inspect.isclass(k) and issubclass(k, typing.Sequence) for k in kinds)  # type: ignore[arg-type]


def outcome(cls: type, name: str, hint: Any, value: Any) -> str:
    """``refused``, ``taken``, or what is wrong."""
    given = [value] if is_listed(hint) else value
    try:
        cls(**{**needed(cls), name: given})
    except ValueError as error:
        text = str(error)
        return "refused" if "\n" not in text and name in text else f"words: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def numeric(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in arguments(cls).items() if any(True for _ in numbers_in(hint))}


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_each_number_has_a_range_and_outside_of_it_one_line(cls: type) -> None:
    for name, hint in numeric(cls).items():
        ranges = list(numbers_in(hint))
        assert all(ranges), f"{cls.__name__}.{name} has a number without a range: {hint}"
        for word, value in VALUES.items():
            found = outcome(cls, name, hint, value)
            inside = not isinstance(value, bool | str) and any(value in r for r in ranges if r)
            # what lies in the range may still not fit the other arguments
            fits = found == "refused" or (inside and found == "taken")
            assert fits, f"{cls.__name__}.{name} = {word}: {found}"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("zoo.NodeClassifier", {"hidden": 0}),
        ("zoo.NodeClassifier", {"hidden": 10**9}),
        ("zoo.NodeClassifier", {"layers": 100_000}),
        ("zoo.GAugO", {"patience": -1}),
        ("zoo.GAugO", {"temperature": math.nan}),
        ("zoo.LDS", {"l2": math.nan}),
        ("zoo.LDS", {"eta_decay": math.inf}),
        ("zoo.DTR", {"guidance": math.nan}),
        ("zoo.DTR", {"uw_lr": -1}),
        ("datamodules.Digits", {"batch_size": 0}),
        ("datamodules.Digits", {"num_workers": 5000}),
        ("datamodules.GAugGraph", {"steps_per_epoch": 10**12}),
        ("datamodules.Traffic", {"split": [math.nan] * 3}),
    ],
)
def test_what_trained_to_nan_or_took_all_memory_is_refused(name: str, given: dict[str, Any]) -> None:
    cls = getattr(zoo if name.startswith("zoo.") else datamodules, name.partition(".")[2])
    (key,) = given
    with pytest.raises(ValueError, match=rf"\.{key}(\[0\])? is .*, but must be a (whole )?number"):
        cls(**{**needed(cls), **given})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("loading/ranges.py", "nn/ranges.py"),
        ("loading/variants.py", "nn/variants.py"),
        ("molecules/chemistry.py", "molecules/chemistry.py"),
        ("molecules/tokens.py", "molecules/tokens.py"),
        ("proteins/residues.py", "language/masked/residues.py"),
    ],
)
def test_the_two_packages_say_alike_what_both_need(theirs: str, ours: str) -> None:
    assert (ROOT / "datamodules" / theirs).read_text() == (ROOT / "zoo" / ours).read_text()


def test_the_two_packages_have_the_same_elements_and_units() -> None:
    from datamodules.molecules import atoms
    from zoo.molecules.space import elements

    assert atoms.SYMBOLS == elements.SYMBOLS
    assert atoms.IN_EV == elements.IN_EV


class _Schedule:
    def __init__(
        self, share: Annotated[float, Range(0, 1, below=True)], steps: Annotated[int, Range(1)]
    ) -> None:
        check_ranges(_Schedule, locals())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1.0, 3), "_Schedule.share is 1.0, but must be a number at least 0 and below 1"),
        ((math.nan, 3), "_Schedule.share is nan"),
        ((10**400, 3), "_Schedule.share is 1000"),
        ((0, 2.0), "_Schedule.steps is 2.0, but must be a whole number at least 1$"),
        ((0, True), "_Schedule.steps is True"),
        ((None, 3), "_Schedule.share is None"),
    ],
)
def test_the_line_says_what_was_given_and_the_range(given: tuple[Any, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _Schedule(*given)


def table() -> str:
    """What became of each value, a row per constructor."""
    rows, total = [], Counter[str]()
    for cls in public_classes():
        tried = partial(outcome, cls)
        hints = numeric(cls)
        counts = Counter(tried(k, hint, value) for k, hint in hints.items() for value in VALUES.values())
        if hints:
            home = "zoo" if cls.__module__.startswith("zoo.") else "datamodules"
            rows.append(_row(f"`{home}.{cls.__name__}`", len(hints), counts))
            total += counts
    head = ["| constructor | numbers | tried | refused | taken | bad |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows, _row("all", total.total() // len(VALUES), total)])


def _row(name: str, numbers: int, counts: Counter[str]) -> str:
    bad = counts.total() - counts["refused"] - counts["taken"]
    return f"| {name} | {numbers} | {counts.total()} | {counts['refused']} | {counts['taken']} | {bad} |"


if __name__ == "__main__":
    tables.show(__file__, {"table": table()})
