"""curves.png of a run."""

from __future__ import annotations

from zoo.engine.run import _falls_far


def test_accuracies_are_drawn_on_a_linear_axis_and_losses_on_a_logarithmic_one() -> None:
    loss, accuracy = [2.0, 0.5, float("nan"), 0.01], [0.05, 0.7, 0.97]
    assert _falls_far([loss, loss])
    assert not any(map(_falls_far, ([accuracy], [[0.9, 0.5]], [[1.0, 0.0]], [[float("nan")]], [[]])))
