"""Inception score, precision and recall, against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.metrics.inception_score import InceptionScore, inception_score
from zoo.metrics.precision_recall import PrecisionRecall, neighbour_radii, precision_recall


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    assert inception_score(torch.eye(10).repeat(5, 1)).item() == pytest.approx(10)


def test_uncertain_or_collapsed_predictions_score_one() -> None:
    assert inception_score(torch.full((20, 10), 0.1)).item() == pytest.approx(1)
    assert inception_score(torch.eye(10)[:1].repeat(20, 1)).item() == pytest.approx(1)


def test_the_score_is_the_mean_over_consecutive_parts() -> None:
    p = torch.rand(25, 4, dtype=torch.float64)
    p /= p.sum(1, keepdim=True)

    def of(part: Tensor) -> float:
        q = part.mean(0)
        kl = [sum(float(x * math.log(x / y)) for x, y in zip(row, q, strict=True)) for row in part]
        return math.exp(sum(kl) / len(kl))

    expected = (of(p[:10]) + of(p[10:20]) + of(p[20:])) / 3
    assert inception_score(p, part=10).item() == pytest.approx(expected, rel=1e-10)
    assert abs(expected - inception_score(p).item()) > 1e-3


def test_the_score_streams_from_logits() -> None:
    logits = torch.randn(50, 10) * 3
    metric = InceptionScore(part=20)
    for part in logits.split(7):
        metric.update(part)
    assert metric.compute().item() == pytest.approx(inception_score(logits.softmax(1), 20).item(), rel=1e-6)


@pytest.mark.parametrize("bad", [(torch.zeros(0, 3), 5), (torch.zeros(3), 5), (torch.ones(3, 1), 0)])
def test_impossible_scores_are_refused(bad: tuple[Tensor, int]) -> None:
    with pytest.raises(ValueError, match="inception score needs"):
        inception_score(*bad)


def test_a_radius_reaches_to_the_third_neighbour_without_itself() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]], dtype=torch.float64)
    assert neighbour_radii(line, 3).tolist() == [6, 5, 3, 5, 9]
    assert neighbour_radii(line, 1).tolist() == [1, 1, 2, 3, 4]


def test_precision_and_recall_equal_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (40, 30))
    fake = fake + 1

    def share(points: Tensor, centres: Tensor) -> float:
        radii = [sorted((c - o).norm().item() for o in centres)[3] for c in centres]
        hit = [any((p - c).norm().item() <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(hit) / len(hit)

    precision, recall = precision_recall(real, fake)
    assert (precision.item(), recall.item()) == pytest.approx((share(fake, real), share(real, fake)))
    assert precision.item() != recall.item()


def test_collapsed_samples_are_precise_and_recall_nothing() -> None:
    real = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    fake = real[:1] + 1e-3 * torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    precision, recall = precision_recall(real, fake)
    assert precision.item() == 1
    assert recall.item() <= 1 / 50


def test_precision_and_recall_stream() -> None:
    real, fake = torch.randn(60, 4), torch.randn(50, 4) + 0.5
    metric = PrecisionRecall()
    for part in real.split(13):
        metric.update(part, real=True)
    for part in fake.split(7):
        metric.update(part, real=False)
    precision, recall = precision_recall(real, fake)
    assert metric.compute() == {"precision": precision, "recall": recall}


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 3"):
        neighbour_radii(torch.randn(3, 2))
