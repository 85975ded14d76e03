"""Loaders of the sets that a data module states, and constructor lines that several of them share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

import datamodules
from datamodules.loading.loaders import SplitModule, TensorItems
from datamodules.loading.sampling import EvaluationBatchSampler, GlobalBatchSampler


def items(size: int) -> TensorItems:
    return TensorItems(x=torch.arange(size))


def test_a_module_that_states_its_sets_has_their_loaders() -> None:
    data = SplitModule(batch_size=4, eval_batch_size=3)
    data.train_set, data.test_set = items(10), [items(5), items(2)]
    assert ([len(b["x"]) for b in data.train_dataloader()], data.val_dataloader()) == ([4, 4], [])
    seen = [[b["x"].tolist() for b in loader] for loader in data.test_dataloader()]
    assert seen == [[[0, 1, 2], [3, 4]], [[0, 1]]]
    assert [len(loader) for loader in data.predict_dataloader()] == [2, 1]
    data.predict_set = items(3)
    assert [b["index"].tolist() for b in data.predict_dataloader()] == [[0, 1, 2]]


def test_the_last_partial_batch_is_kept_where_a_recipe_keeps_it() -> None:
    data = SplitModule(batch_size=4, eval_batch_size=3)
    data.train_set, data.drop_last = items(11), False
    assert sorted(i for b in data.train_dataloader() for i in b["x"].tolist()) == list(range(11))
    assert len(data.train_dataloader()) == 3
    halves = [list(GlobalBatchSampler(11, 4, rank, 2, drop_last=False)) for rank in (0, 1)]
    assert [[len(b) for b in half] for half in halves] == [[2, 2, 1]] * 2  # processes share it evenly
    assert len({i for half in halves for b in half for i in b}) == 10


# what a module adds or changes of its parent's arguments, and some that only its parent states
@pytest.mark.parametrize(
    ("name", "defaults", "absent"),
    [
        ("Traffic", {"root": None, "lags": 12, "nodes": None, "eval_batch_size": 256}, "day"),
        ("Chickenpox", {"lags": 8, "horizon": 1, "batch_size": 32, "nodes": None}, "time_of_day"),
        ("SensorDiffusion", {"sensors": 20, "time_of_day": True, "num_workers": 0}, "root"),
        ("TUGraphs", {"features": "auto", "folds": 10, "eval_batch_size": 256}, "graphs"),
        ("SyntheticGraphs", {"graphs": 600, "folds": 5, "holdout_share": 0.1}, "root"),
        ("GraphSet", {"name": "community_small", "order": "bfs", "predict_samples": 64}, "root"),
        ("TUGraphSet", {"min_nodes": 10, "bfs_draws": 2000, "items_per_epoch": None}, "set_seed"),
        ("Planetoid", {"k": 10, "edges_retained": 1.0, "steps_per_epoch": 1}, "nodes"),
        ("KarateClub", {"edges_rewired": 0.0, "early_stopping": False, "seed": 0}, "root"),
        ("BlockModel", {"degree": 8.0, "edges_retained": 1.0, "seed": 0}, "root"),
    ],
)
def test_the_command_line_knows_the_arguments_of_the_parent(
    name: str, defaults: dict[str, Any], absent: str
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(getattr(datamodules, name), "data")
    found = vars(parser.get_defaults().data)
    assert defaults.items() <= found.items()
    assert absent not in found


@pytest.mark.parametrize(
    ("size", "batch", "world"), [(9, 4, 2), (10, 4, 4), (7, 3, 3), (8, 4, 2), (5, 8, 2), (3, 1, 2)]
)
def test_ranks_have_equally_many_evaluation_batches_and_each_item_once(
    size: int, batch: int, world: int
) -> None:
    """A last batch that would leave a rank with nothing joins the one before it."""
    ranks = [list(EvaluationBatchSampler(size, batch, rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(items for batches in ranks for items in batches)
    assert sorted(i for batches in ranks for items in batches for i in items) == list(range(size))
