"""Metrics of generated text against sacrebleu's command and hand counts."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import tensor

from zoo.metrics.bleu import CorpusBLEU
from zoo.metrics.diversity import Diversity, check_comparable, repeats, unigram_f1
from zoo.metrics.embedding_similarity import average, extrema, greedy, similarities

GENERATED = ["the cat sat on the mat .", "a dog", "hello , how are you ?", "Yes", ""]
REFERENCES = ["the cat is on the mat .", "a small dog barks", "hello , how are you today ?", "yes", "no"]


@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_is_the_commands(lowercase: bool, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    for name, lines in (("ref", REFERENCES), ("out", GENERATED)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "out", "-b", "-w", "4", *["-lc"] * lowercase]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    metric = CorpusBLEU(lowercase)
    metric.update(GENERATED[:2], REFERENCES[:2])
    metric.update(GENERATED[2:], REFERENCES[2:])
    assert float(metric.compute()) == pytest.approx(float(done.stdout), abs=1e-4)
    assert f"case:{'lc' if lowercase else 'mixed'}|" in metric.signature
    assert "tok:13a|smooth:exp" in metric.signature


def test_short_texts_without_a_common_four_gram_are_smoothed() -> None:
    pytest.importorskip("sacrebleu")
    metric = CorpusBLEU()
    metric.update(["a b c x", "d e f y", "g h"], ["a b c d", "d e f g", "g h"])
    assert metric.compute() == pytest.approx(
        100 * (8 / 10 * 5 / 7 * 2 / 4 * 1 / 4) ** 0.25
    )  # torchmetrics: 0
    assert metric.of_order(1) == pytest.approx(100 * 8 / 10)


def test_distinct_over_all_and_within_each() -> None:
    metric = Diversity()
    metric.update(["a b a b", "a b"])
    metric.update(["c"])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["distinct_1"] == pytest.approx(3 / 7)
    assert found["distinct_2"] == pytest.approx(2 / 4)
    assert found["intra_distinct_1"] == pytest.approx((2 / 4 + 1 + 1) / 3)
    assert found["intra_distinct_2"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found["length"] == pytest.approx(7 / 3)
    assert found["different"] == 1


def test_entropy_of_four_equally_frequent_four_grams() -> None:
    metric = Diversity()
    metric.update(["a b c d", "b c d e", "c d e f", "d e f g"])
    assert metric.compute()["entropy_4"] == pytest.approx(math.log(4), abs=1e-6)
    empty = Diversity()
    empty.update(["", ""])
    assert empty.compute()["entropy_4"] == 0
    assert empty.compute()["distinct_1"] == 0


def test_unequal_numbers_of_replies_are_not_compared() -> None:
    sets = {"greedy": Diversity(), "beam": Diversity()}
    sets["greedy"].update(["a", "b"])
    sets["beam"].update(["a"])
    with pytest.raises(ValueError, match="greedy has 2 replies, beam has 1"):
        check_comparable(sets)


def test_overlaps() -> None:
    assert unigram_f1("a b b", "b b c d") == pytest.approx(4 / 7)
    assert unigram_f1("", "a") == 0
    assert repeats("You like tea", "do you like me") == pytest.approx(2 / 3)
    assert repeats("", "a") == 0


def test_embedding_similarities_by_hand() -> None:
    a, b = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[-3.0, 1.0]])
    assert average(a, b) == pytest.approx((-1.5 + 1) / math.sqrt(1.25 * 10), abs=1e-6)
    assert extrema(a, b) == pytest.approx((-3 + 2) / math.sqrt(5 * 10), abs=1e-6)
    best, each = 1 / math.sqrt(10), (-3 / math.sqrt(10) + 1 / math.sqrt(10)) / 2
    assert greedy(a, b) == pytest.approx((best + each) / 2, abs=1e-6)
    assert similarities(a, torch.zeros(0, 2)).tolist() == [0, 0, 0]
