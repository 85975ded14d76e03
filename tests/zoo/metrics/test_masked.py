"""Masked errors by hand: the missing targets count in neither numerator nor denominator."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from zoo.metrics.masked import MaskedMAE, MaskedMAPE, MaskedRMSE

FORECAST = torch.tensor([[10.0, 20], [30, 99]])
TARGET = torch.tensor([[12.0, 16], [40, 0]])  # the last is missing


@pytest.mark.parametrize(
    ("metric", "expected", "unmasked"),
    [
        (MaskedMAE(), 16 / 3, (16 + 99) / 4),
        (MaskedRMSE(), math.sqrt(120 / 3), math.sqrt((120 + 99**2) / 4)),
        (MaskedMAPE(), 100 * (2 / 12 + 4 / 16 + 10 / 40) / 3, None),
    ],
)
def test_missing_targets_are_left_out_of_both_sums(
    metric: Any, expected: float, unmasked: float | None
) -> None:
    metric.update(FORECAST, TARGET)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    if unmasked is not None:
        plain = type(metric)(null=None)
        plain.update(FORECAST, TARGET)
        assert float(plain.compute()) == pytest.approx(unmasked, rel=1e-6)


@pytest.mark.parametrize("cls", [MaskedMAE, MaskedRMSE, MaskedMAPE])
def test_batches_of_different_gaps_are_weighed_by_their_known_targets(cls: Any) -> None:
    whole, parts = cls(), cls()
    whole.update(FORECAST, TARGET)
    for f, t in zip(FORECAST, TARGET, strict=True):
        parts.update(f, t)
    assert float(whole.compute()) == float(parts.compute())
    mean_of_means = torch.stack([cls()(f, t) for f, t in zip(FORECAST, TARGET, strict=True)]).mean()
    assert float(mean_of_means) != pytest.approx(float(whole.compute()), rel=1e-3)


def test_percentages_near_zero_speed_are_finite() -> None:
    """Trap 11: a target of 0 has no percentage, also where 0 is not the missing value."""
    for null in (0.0, None, -1.0):
        metric = MaskedMAPE(null=null)
        metric.update(torch.tensor([5.0, 5.0]), torch.tensor([0.0, 4.0]))
        assert float(metric.compute()) == pytest.approx(25.0)


def test_nan_targets_are_missing_and_no_target_at_all_is_nan() -> None:
    metric = MaskedMAE()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 5.0]))
    assert float(metric.compute()) == 3
    empty = MaskedMAE()
    empty.update(torch.ones(3), torch.zeros(3))
    assert math.isnan(float(empty.compute()))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"forecast has shape \[2, 1\], target \[2\]"):
        MaskedMAE().update(torch.ones(2, 1), torch.ones(2))
