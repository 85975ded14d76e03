"""What can be split, the norm over shards, and checkpoints between optimizers of names and of numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from zoo.hub.shards import numbered
from zoo.language.causal.network import CausalNetwork
from zoo.language.shapes import sizes_of
from zoo.language.sharding import check_split, clip_norm, global_norm
from zoo.nn.sharded import named


def model(name: str = "tiny-llama-bytes", dropout: float = 0.0, **sizes: Any) -> nn.Module:
    small = {"width": 32, "layers": 1, "heads": 4, "hidden": 64, "context": 16, **sizes}
    return CausalNetwork(sizes_of(name, small), dropout).model


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        (2, {"name": "gpt2"}, "gpt2 has queries, keys and values in one projection"),
        (3, {}, "model.init_args.heads is 4, which tensor_parallel_size 3 does not divide"),
        (4, {"kv_heads": 2}, "kv_heads is 2, which tensor_parallel_size 4"),
        (4, {"hidden": 66}, "hidden is 66, which tensor_parallel_size 4"),
        (2, {"dropout": 0.1}, "dropout is 0.1, which would differ"),
    ],
)
def test_what_cannot_be_split_is_refused(parts: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_split(model(**settings), parts)
    check_split(model(), 2)


def test_the_norm_and_its_clipping_are_torchs() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5))]
    for p in ours:
        p.grad = torch.randn_like(p)
    theirs = copy.deepcopy(ours)
    for mine, other in zip(ours, theirs, strict=True):
        other.grad = mine.grad.clone()
    expected = nn.utils.clip_grad_norm_(theirs, 0.7)
    torch.testing.assert_close(clip_norm(ours, 0.7), expected.double(), rtol=1e-6, atol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=0)
    assert float(global_norm([])) == 0


def test_names_and_numbers_of_optimizers_go_there_and_back() -> None:
    """Two groups whose order is not the module's, as those with and without weight decay."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    decayed = [network[0].weight, network[1].weight]
    groups = [{"params": decayed}, {"params": [network[0].bias, network[1].bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    by_name = named(state, optimizer, network)
    assert [g["params"] for g in by_name["param_groups"]] == [["0.weight", "1.weight"], ["0.bias", "1.bias"]]
    assert by_name["state"]["1.weight"]["exp_avg"].shape == (1, 3)
    again = numbered(by_name)
    assert again["param_groups"] == state["param_groups"]
    assert all(again["state"][i]["exp_avg"] is state["state"][i]["exp_avg"] for i in range(4))
    other = torch.optim.AdamW(network.parameters())
    with pytest.raises(ValueError, match=r"groups of \[2, 2\] parameters, this one of \[4\]"):
        named(state, other, network)
