"""What happens to metrics and to a training's patience when an epoch ends."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from commands import summary
from torchmetrics import MeanMetric

from zoo.metrics.epoch_end import Patience, log_and_reset


def test_patience_counts_scores_that_are_not_strictly_greater() -> None:
    waiting = Patience(2)
    assert [waiting.exhausted(s) for s in (-3.0, -3.0, -2.0, -2.0, -2.5)] == [False] * 4 + [True]
    assert waiting.state() == {"best": -2.0, "waited": 2}
    resumed = Patience(3)
    resumed.restore(waiting.state())
    assert (resumed.exhausted(-2.0), resumed.exhausted(-1.0), resumed.waited) == (True, False, 0)
    with pytest.raises(ValueError, match="patience must be null or at least 1, got -1"):
        Patience(-1)
    endless = Patience(None)
    assert not any(endless.exhausted(0.0) for _ in range(1000))


def test_metrics_are_logged_for_all_ranks_and_emptied() -> None:
    module, loss = mock.Mock(), MeanMetric()
    loss.update(torch.tensor([1.0, 4.0]))
    log_and_reset(module, "val", {"loss": loss}, shown=("loss",))
    module.log.assert_called_once_with("val/loss", torch.tensor(2.5), prog_bar=True, sync_dist=True)
    assert not loss.update_called


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ("gnn_node_karate", "patience=1"),
        ("gnn_graph_synthetic", "patience=1 patience_on=accuracy"),
        ("gaug_m_digits", "patience=1 predictor_epochs=2 epochs=4"),
        ("gaug_o_digits", "patience=2 pretrain_ep=1 pretrain_nc=1 epochs=3"),
        ("lds_karate", "max_outer_epochs=1 inner_patience=1"),
        ("lds_wine_baseline", ""),
    ],
)
def test_a_run_that_has_ended_by_itself_trains_no_further(config: str, flags: str, tmp_path: Path) -> None:
    """Else one that is killed behind its last checkpoint goes on to other weights."""
    words = [f"--model.init_args.{flag}" for flag in flags.split()]
    words += ["--trainer.max_steps=400", "--previews.count=0", "--trainer.val_check_interval=1"]
    ended = summary("fit", config, tmp_path, *words)["steps"]
    assert 0 < ended < 400
    again = summary("fit", config, tmp_path, *words, "--ckpt_path=last")
    assert (again["steps"], again["resumed_from_step"]) == (ended, ended)
