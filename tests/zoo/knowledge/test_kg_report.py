"""The picture of ranks, with names of any kind."""

from __future__ import annotations

from pathlib import Path

from zoo.knowledge.report import draw_ranks
from zoo.nn.data_fit import shown


def test_a_relation_may_be_called_like_a_formula(tmp_path: Path) -> None:
    names = ("costs $5^{ or $6", "$\\frac$", "plain")
    draw_ranks(tmp_path / "ranks.png", [{"rank": 2.0, "triple": ["a", name, "b"]} for name in names])
    assert (tmp_path / "ranks.png").stat().st_size > 5000


def test_names_of_a_file_send_nothing_to_the_terminal() -> None:
    told = shown(["\x1b[2Jgone", "a" * 500, *map(str, range(30))])
    assert told.startswith("[?[2Jgone, aaa")
    assert told.endswith("... 32 in all]")
    assert len(told) < 160
    assert shown([1, 2]) == "[1, 2]"
