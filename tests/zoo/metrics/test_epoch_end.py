"""What happens to metrics and to a training's patience when an epoch ends."""

from __future__ import annotations

from unittest import mock

import torch
from torchmetrics import MeanMetric

from zoo.metrics.epoch_end import Patience, log_and_reset


def test_patience_counts_scores_that_are_not_strictly_greater() -> None:
    waiting = Patience(2)
    assert [waiting.exhausted(s) for s in (-3.0, -3.0, -2.0, -2.0, -2.5)] == [False] * 4 + [True]
    assert waiting.state() == {"best": -2.0, "waited": 2}
    resumed = Patience(3)
    resumed.restore(waiting.state())
    assert (resumed.exhausted(-2.0), resumed.exhausted(-1.0), resumed.waited) == (True, False, 0)
    endless = Patience(None)
    assert not any(endless.exhausted(0.0) for _ in range(1000))


def test_metrics_are_logged_for_all_ranks_and_emptied() -> None:
    module, loss = mock.Mock(), MeanMetric()
    loss.update(torch.tensor([1.0, 4.0]))
    log_and_reset(module, "val", {"loss": loss}, shown=("loss",))
    module.log.assert_called_once_with("val/loss", torch.tensor(2.5), prog_bar=True, sync_dist=True)
    assert not loss.update_called
