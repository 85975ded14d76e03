"""Claims over a value: arms and predicates at each value, the long table, the curves with their errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.claims import SEEDS, FakeRuns, claim_file, flag, predicate, silent
from PIL import Image

from zoo.evidence.compare import compare
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.compare.curves import mean_and_error

FLAG = "data.init_args.train_items"
OVER: dict[str, Any] = {"flag": FLAG, "values": [10, 20, 40], "label": "real images"}


def grows(arguments: Sequence[str], seed: int) -> float:
    """The gain of learning is .1 at 10, .2 at 20, nothing at 40."""
    items = int(flag(arguments, FLAG) or 0)
    gain = {10: 0.1, 20: 0.2, 40: 0.0}[items] if flag(arguments, "model.init_args.width") is None else 0.0
    return items / 100 + seed / 1000 + gain


def test_each_arm_is_run_at_each_value_and_judged_there(tmp_path: Path) -> None:
    runs = FakeRuns(grows)
    path = claim_file(tmp_path, over=OVER)
    claim = read_claim(path)
    assert list(claim.arms) == [f"{arm}_{v}" for v in (10, 20, 40) for arm in ("learns", "frozen")]
    assert claim.arms["frozen_20"].flags[FLAG] == 20
    assert [(p.better, p.worse) for p in claim.predicates] == [
        (f"learns_{v}", f"frozen_{v}") for v in (10, 20, 40)
    ]
    assert compare(path, tmp_path, say=silent, launch=runs) == "undecided"  # no difference at 40
    assert runs.calls == 36
    text = (tmp_path / "claim" / "table.md").read_text()
    error = 0.001 * np.std(SEEDS, ddof=1) / math.sqrt(6)
    assert f"| learns | 0.2025 ± {error:.2g} | 0.4025 ± {error:.2g} | 0.4025 ± {error:.2g} |" in text
    assert "| learns | 1.5 ± 0 | 1.5 ± 0 | 1.5 ± 0 |" in text  # seconds
    rows = list(csv.DictReader((tmp_path / "claim" / "over.csv").open()))
    assert list(rows[0]) == ["arm", "train_items", "seed", "metric", "value"]
    assert len(rows) == 36 * 2
    held = {(r["arm"], int(r["train_items"]), int(r["seed"]), r["metric"]): float(r["value"]) for r in rows}
    assert held["learns", 20, 3, "val/accuracy"] == pytest.approx(0.403)
    assert held["frozen", 40, 5, "seconds"] == 1.5


def test_a_predicate_is_at_some_values_or_compares_two(tmp_path: Path) -> None:
    entries = [
        predicate(at=20),
        predicate(at=[40, 10]),
        predicate(better="learns_10", worse="frozen_20"),
        predicate(better="learns", worse="frozen_40", at=20),
    ]
    found = read_claim(claim_file(tmp_path, over=OVER, predicates=entries)).predicates
    assert [(p.better, p.worse) for p in found] == [
        ("learns_20", "frozen_20"),
        ("learns_40", "frozen_40"),
        ("learns_10", "frozen_10"),
        ("learns_10", "frozen_20"),
        ("learns_20", "frozen_40"),
    ]


def test_the_picture_has_a_line_for_each_arm_and_bars_of_the_error(tmp_path: Path) -> None:
    pictures = []
    for spread in (0.0, 0.05):
        runs = FakeRuns(lambda a, s, w=spread: grows(a, 0) + w * (1 if s % 2 else -1))
        compare(claim_file(tmp_path, over=OVER), tmp_path / str(spread), say=silent, launch=runs)
        picture = Image.open(tmp_path / str(spread) / "claim" / "over.png").convert("RGB")
        pictures.append(np.asarray(picture))
    blue, orange = (31, 119, 180), (255, 127, 14)
    counts = [[int((p == colour).all(axis=2).sum()) for colour in (blue, orange)] for p in pictures]
    assert min(counts[0]) > 100
    assert all(with_bars > without + 20 for without, with_bars in zip(*counts, strict=True))


def test_the_error_is_of_the_mean() -> None:
    assert mean_and_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    assert math.isnan(mean_and_error([1.0])[1])
    assert math.isnan(mean_and_error([1.0, math.nan])[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"over": [1]}, "over is a mapping with flag, values"),
        ({"over": OVER | {"values": [10]}}, "values must be 2 to 100 different numbers or texts"),
        ({"over": OVER | {"values": [10, 10]}}, "different numbers"),
        ({"over": OVER | {"values": [10, 10.0]}}, "different numbers"),
        ({"over": OVER | {"values": [10, math.inf]}}, "different numbers"),
        ({"over": OVER | {"values": ["../../x", "y"]}}, "must have no slash"),
        ({"over": OVER, "overrides": {FLAG: 3}}, "overrides gives data.init_args.train_items, which `over`"),
        ({"over": OVER, "arms": {"learns": {}, "frozen": {FLAG: 3}}}, "arm 'frozen' gives"),
        ({"over": OVER, "arms": {"learns": {}, "frozen": {"grid": {FLAG: [3, 4]}}}}, "arm 'frozen' gives"),
        ({"over": OVER, "quick": {"overrides": {FLAG: 3}}}, "quick gives"),
        ({"over": OVER, "predicates": [predicate(at=30)]}, "predicate at 30, but the values"),
        (
            {"over": OVER, "predicates": [predicate(better="learns_10", worse="frozen_10", at=10)]},
            "have values of their own",
        ),
        ({"over": OVER, "predicates": [predicate(worse="nobody", at=10)]}, "names arm 'nobody'"),
        ({"over": OVER, "predicates": [predicate(at=[])]}, "at no value"),
        ({"over": OVER | {"values": [1, "1_1"]}, "arms": {"a": {}, "a_1": {}}}, "two arms the name 'a_1_1'"),
        ({"predicates": [predicate(at=10)]}, "unexpected keyword argument 'at'"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_claim(claim_file(tmp_path, **changes))
    assert "\n" not in str(caught.value)
