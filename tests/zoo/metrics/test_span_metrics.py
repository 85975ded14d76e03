"""Spans of tags and their F1: the spec's cases, seqeval and nervaluate as oracles."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from zoo.metrics.spans import OverlapF1, SpanF1, overlap_counts
from zoo.ner.schemes import SCHEMES, convert, detect_scheme, spans_of, strict_spans, tag_names, tags_of

ROOT = Path(__file__).resolve().parents[3]


def f1_of(gold: str, predicted: str, scheme: str | None = None) -> float:
    tags = gold.split(), predicted.split()
    spans = [spans_of(t) if scheme is None else strict_spans(t, scheme) for t in tags]
    metric = SpanF1(["PER", "LOC", "A", "B"])
    metric.update([spans[0]], [spans[1]])
    return float(metric.compute()["f1"])


@pytest.mark.parametrize(
    ("gold", "predicted", "scheme", "default", "strict"),
    [
        ("B-PER I-PER O", "I-PER I-PER O", "iob2", 1, 0),
        ("B-PER B-LOC I-LOC", "B-PER I-LOC I-LOC", "iob2", 1, 2 / 3),
        ("B-A E-A O S-A", "B-A I-A O S-A", "iobes", 1, 2 / 3),
        ("S-PER O", "B-PER O", "iobes", 1, 0),
        ("S-A S-A", "B-A E-A", "iobes", 0, 0),
        ("O O", "O O", "iob2", 0, 0),
    ],
)
def test_default_and_strict_reading_differ_as_in_seqeval(
    gold: str, predicted: str, scheme: str, default: float, strict: float
) -> None:
    assert f1_of(gold, predicted) == pytest.approx(default)
    assert f1_of(gold, predicted, scheme) == pytest.approx(strict)


def random_tags(rng: random.Random, marks: str, length: int) -> list[str]:
    names = ["O", *(f"{m}-{k}" for m in marks for k in "AB")]
    return [rng.choice(names) for _ in range(length)]


def test_spans_are_those_of_seqeval() -> None:
    from seqeval.metrics import f1_score
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import BILOU, IOB2, IOBES, Entities

    rng = random.Random(0)
    metric, gold, predicted = SpanF1(["A", "B"]), [], []
    for _ in range(500):
        length = rng.randint(1, 9)
        tags = random_tags(rng, "BIES", length)
        assert spans_of(tags) == [(a, b + 1, kind) for kind, a, b in get_entities(tags)]
        for scheme, marks, cls in (("iob2", "BI", IOB2), ("iobes", "BIES", IOBES), ("bilou", "BILU", BILOU)):
            tags = random_tags(rng, marks, length)
            expected = [(e.start, e.end, e.tag) for e in Entities([tags], cls).entities[0]]
            assert strict_spans(tags, scheme) == expected, (scheme, tags)
        gold.append(random_tags(rng, "BI", length))
        predicted.append([t if rng.random() < 0.8 else "O" for t in gold[-1]])
        metric.update([spans_of(gold[-1])], [spans_of(predicted[-1])])
    assert float(metric.compute()["f1"]) == pytest.approx(f1_score(gold, predicted), abs=1e-6)


def test_forgiving_counts_are_those_of_nervaluate() -> None:
    from nervaluate.entities import Entity
    from nervaluate.strategies import EntityTypeEvaluation, ExactEvaluation, PartialEvaluation

    rng = random.Random(1)
    strategies = [ExactEvaluation(), PartialEvaluation(), EntityTypeEvaluation()]
    metric = OverlapF1()
    for _ in range(400):
        length = rng.randint(3, 14)
        sides = [spans_of(random_tags(rng, "BBIII", length)) for _ in range(2)]
        entities = [[Entity(label=k, start=a, end=b - 1) for a, b, k in spans] for spans in sides]
        for counts, strategy in zip(overlap_counts(*sides), strategies, strict=True):
            got = strategy.evaluate(entities[0], entities[1], ["A", "B"])[0]
            expected = (got.correct, got.incorrect, got.partial, got.missed, got.spurious)
            assert tuple(counts) == expected, (sides, strategy)
        metric.update([sides[0]], [sides[1]])
    assert 0 < float(metric.compute()["exact"]) < float(metric.compute()["partial"])


def test_schemes_convert_back_and_forth() -> None:
    assert convert(["B-LOC", "B-LOC", "I-LOC", "I-LOC"], "iobes") == ["S-LOC", "B-LOC", "I-LOC", "E-LOC"]
    # IOB1 writes B between touching entities of one type alone
    iob1 = ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER"]
    assert convert(iob1, "iob2") == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-PER"]
    rng = random.Random(2)
    for _ in range(200):
        length = rng.randint(1, 9)
        spans = spans_of(random_tags(rng, "BI", length))
        for scheme in SCHEMES:
            tags = tags_of(spans, length, scheme)
            assert spans_of(tags) == spans
            assert set(tags) <= set(tag_names(["A", "B"], scheme))
            assert all(convert(tags_of(spans, length, s), scheme) == tags for s in SCHEMES)
    assert detect_scheme([iob1]) == "iob1"
    assert detect_scheme([convert(iob1, "iob2")]) == "iob2"
    assert detect_scheme([convert(iob1, "bilou")]) == "bilou"
    assert detect_scheme([["B-A", "E-A"]]) == "iobes"
    with pytest.raises(ValueError, match="'PER' is no tag"):
        spans_of(["PER"])
    with pytest.raises(ValueError, match="overlaps another"):
        tags_of([(0, 2, "A"), (1, 3, "B")], 4, "iob2")


def test_f1_is_of_the_whole_set_and_by_type_and_genre() -> None:
    metric = SpanF1(["A", "B"], ["news", "web", "no entities"])
    halves = (
        SpanF1(["A", "B"], ["news", "web", "no entities"]),
        SpanF1(["A", "B"], ["news", "web", "no entities"]),
    )
    gold = [[(0, 1, "A")], [(0, 2, "B"), (3, 4, "A")], []]
    found = [[(0, 1, "A")], [(0, 2, "A")], [(1, 2, "B")]]
    metric.update(gold, found, [0, 1, 1])
    for i, (g, p) in enumerate(zip(gold, found, strict=True)):
        halves[i % 2].update([g], [p], [0 if i == 0 else 1])
    values = {k: float(v) for k, v in metric.compute().items()}
    assert values == pytest.approx(
        {
            "f1": 2 * 1 / (3 + 3),
            "precision": 1 / 3,
            "recall": 1 / 3,
            "type_A_f1": 0.5,
            "type_B_f1": 0,
            "genre_news_f1": 1,
            "genre_web_f1": 0,
        }
    )
    summed = sum(h.hits for h in halves), sum(h.predicted for h in halves)
    assert torch.equal(summed[0], metric.hits)
    assert torch.equal(summed[1], metric.predicted)


def test_both_packages_read_tags_alike() -> None:
    ours = (ROOT / "zoo" / "ner" / "schemes.py").read_text()
    assert (ROOT / "datamodules" / "text" / "schemes.py").read_text() == ours
