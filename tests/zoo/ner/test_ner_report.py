"""Tagged text as files, and the pictures of rounds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from zoo.ner.history import rows_of_arms
from zoo.ner.report import TaggedText, draw_comparison, draw_rounds, page
from zoo.reports import PARTS


def test_parts_are_merged_in_the_order_of_the_data_and_text_is_escaped(tmp_path: Path) -> None:
    (tmp_path / PARTS).mkdir()
    late = TaggedText([["<b>", "Ely"]], [[(1, 2, "LOC")]], [-0.5], [[(0, 1, "PER"), (1, 2, "LOC")]], [7])
    early = TaggedText([["Ada"]], [[(0, 1, "PER")]], [-0.1], [[]], [2])
    assert [*late.write(tmp_path), *early.write(tmp_path)] == []
    lines, shown = TaggedText.merge(tmp_path)
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["index"] for r in records] == [2, 7]
    assert records[1]["spans"] == [{"start": 1, "end": 2, "label": "LOC", "text": "Ely"}]
    text = shown.read_text()
    assert "<b>" not in text
    assert text.index("Ely") < text.index(">Ada")  # the least certain first
    assert '<span class="missed" title="PER">&lt;b&gt;</span>' in text
    assert '<mark class="wrong" style="background:#ffe3c2">Ada' in text
    assert '<mark style="background:#cfe8ff">Ely <sub>LOC</sub></mark>' in text


def test_a_label_cannot_leave_its_place_in_the_page() -> None:
    kind = '"><script>'
    span = {"start": 0, "end": 1, "label": kind, "text": "x"}
    text = page([{"tokens": ["x"], "spans": [], "gold": [span], "mnlp": -1.0, "index": 0}])
    assert "<script>" not in text


def test_marks_that_overlap_are_nested() -> None:
    found, gold = ({"start": a, "end": b, "label": "X", "text": ""} for a, b in ((1, 3), (0, 2)))
    text = page([{"tokens": ["a", "b", "c"], "spans": [found], "gold": [gold], "mnlp": -1.0, "index": 0}])
    row = next(line for line in text.splitlines() if line.startswith("<tr><td>-1.000"))
    opened: list[str] = []
    for slash, name in re.findall(r"<(/?)(\w+)", row):
        if slash:
            assert opened.pop() == name
        else:
            opened.append(name)
    assert opened == []


def test_the_rounds_of_a_comparison_are_read_by_arm_and_seed(tmp_path: Path) -> None:
    for arm, seed, version, words in (("b", 10, 0, 1), ("b", 2, 0, 2), ("a", 0, 9, 3), ("a", 0, 10, 4)):
        place = tmp_path / "runs" / arm / f"seed_{seed}" / "ner_grammar" / f"version_{version}"
        place.mkdir(parents=True)
        (place / "rounds.jsonl").write_text(json.dumps({"words": words}) + "\n")
    assert rows_of_arms(tmp_path) == {"a": [[{"words": 4}]], "b": [[{"words": 2}], [{"words": 1}]]}
    with pytest.raises(FileNotFoundError, match=r"has no runs/<arm>/seed_<n>"):
        rows_of_arms(tmp_path / "runs")


def test_pictures_of_one_round_and_of_rounds_without_f1(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "asked": 2,
        "asked_words": 3.5,
        "pool_words": 4.0,
        "asked_types": {"A": 2},
        "asked_with_entity": 0.5,
    }
    rows: list[dict[str, Any]] = [
        {"round": 0, "words": 9, "f1": None, **asked},
        {"round": 1, "words": 16, "f1": 0.5},
    ]
    draw_rounds(tmp_path / "two.png", rows)
    draw_rounds(tmp_path / "one.png", rows[1:])
    draw_comparison(tmp_path / "arms.png", {"mnlp": [rows, rows], "full": [rows[1:]]})
    assert {p.name for p in tmp_path.glob("*.png")} == {"one.png", "two.png", "arms.png"}
