"""Fronts of accuracy against cost: what no other arm beats, drawn and told with the source of its joules."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.claims import FakeRuns, claim_file, flag, predicate, silent
from PIL import Image

from zoo.evidence.compare import compare
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.compare.pareto import Pareto, front, points

WIDTH = "model.init_args.width"
ARMS = {"big": {WIDTH: 32}, "small": {WIDTH: 4}, "wasteful": {WIDTH: 64}, "unknown": {WIDTH: 5}}
PAIR = {"x": "fit_joules", "y": "val/accuracy"}
TWO = [predicate(better="big", worse="small")]


def test_the_front_is_what_no_other_beats_in_both() -> None:
    values = [(1.0, 0.5), (2.0, 0.9), (3.0, 0.9), (3.0, 0.8), (1.0, 0.5), (0.5, 0.1)]
    assert front(values, ("lower", "higher")) == [True, True, False, False, True, True]
    generator = random.Random(0)
    for _ in range(20):
        cloud = [(generator.randint(0, 5), generator.randint(0, 5)) for _ in range(12)]
        kept = front([(float(x), float(y)) for x, y in cloud], ("higher", "lower"))
        for (x, y), on in zip(cloud, kept, strict=True):
            beaten = any(u >= x and v <= y and (u > x or v < y) for u, v in cloud)
            assert on is not beaten


def run(tmp_path: Path, **changes: Any) -> tuple[Path, FakeRuns]:
    """Accuracy .8 at 20 J (big), .6 at 2 J (small), .7 at 40 J (wasteful); the fourth tells no joules."""

    def width(arguments: Sequence[str]) -> int:
        return int(flag(arguments, WIDTH) or 0)

    def costs(arguments: Sequence[str], seed: int) -> dict[str, Any]:
        joules = {32: 20.0 + seed, 4: 2.0, 64: 40.0, 5: None}[width(arguments)]
        return {"fit_joules": joules, "flops_per_step": 100 * width(arguments)}

    runs = FakeRuns(lambda a, s: {32: 0.8, 4: 0.6, 64: 0.7, 5: 0.9}[width(a)] + s / 1000)
    runs.costs = costs
    runs.change = {"energy": {"kind": "modelled (cpu cpu_time)"}}
    path = claim_file(tmp_path, arms=ARMS, predicates=TWO, **changes)
    compare(path, tmp_path, say=silent, launch=runs)
    return tmp_path / "claim", runs


def test_a_claim_leaves_its_front_with_the_source_of_its_joules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run(tmp_path, pareto=[PAIR, {"x": "flops_per_step", "y": "val/accuracy"}])
    rows = list(csv.DictReader((folder / "pareto.csv").open()))
    joules = {r["arm"]: r for r in rows if r["x"] == "fit_joules"}
    assert set(joules) == {"big", "small", "wasteful"}
    assert {a for a, r in joules.items() if r["front"] == "True"} == {"big", "small"}
    assert float(joules["big"]["x_mean"]) == 22.5
    assert float(joules["big"]["x_sd"]) == pytest.approx(np.std(range(6), ddof=1))
    assert {r["energy"] for r in rows} == {"modelled (cpu cpu_time)"}
    assert len(rows) == len(json.loads((folder / "pareto.json").read_text())) == 7
    text = capsys.readouterr().out
    assert "fit_joules, modelled (cpu cpu_time) (lower is better)" in text
    assert "| **small** | 2 ± 0 | 0.6025 ± 0.0019 | yes |" in text
    assert "left out: unknown." in text
    picture = np.asarray(Image.open(folder / "pareto.png").convert("RGB"))
    assert int((picture == (214, 39, 40)).all(axis=2).sum()) > 100  # the front, red
    assert text in (folder / "table.md").read_text() + "\n"


def test_repeats_count_by_their_mean(tmp_path: Path) -> None:
    folder, runs = run(tmp_path, pareto=PAIR, repeats=2, seeds=[0, 1, 2, 3, 4, 5])
    assert runs.calls == 4 * 6 * 2
    big = next(r for r in json.loads((folder / "pareto.json").read_text()) if r["arm"] == "big")
    assert big["x_mean"] == pytest.approx(20 + 2.5 + 500)  # repeats have seeds of their own, s + 1000
    assert math.isfinite(big["y_mean"])


def test_directions_come_from_predicates_and_costs_are_better_low(tmp_path: Path) -> None:
    path = claim_file(tmp_path, pareto={"x": "val/accuracy", "y": "latency_ms_p50_batch64"})
    assert read_claim(path).pareto == (Pareto("val/accuracy", "latency_ms_p50_batch64", ("higher", "lower")),)
    results = {"a": {0: {"metrics": {"val/accuracy": math.nan}, "seconds": 1.0}}}
    assert points(Pareto("seconds", "val/accuracy", ("lower", "higher")), ["a"], results) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "a list of 1 to 12"),
        ({"x": "fit_joules"}, "pareto has x, y"),
        ("fit_joules", "pareto has x, y"),
        (PAIR | {"z": 1}, "pareto has x, y"),
        (PAIR | {"x": "joule"}, "'joule' is no metric"),
        (PAIR | {"x": 3}, "'3' is no metric"),
        (PAIR | {"y": "val/loss"}, "which way is val/loss better"),
        (PAIR | {"y_better": "more"}, "which way is val/accuracy better"),
        ({"x": "seconds", "y": "seconds"}, "with itself"),
    ],
)
def test_mistakes_are_one_line(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_claim(claim_file(tmp_path, pareto=given))
    assert "\n" not in str(caught.value)
