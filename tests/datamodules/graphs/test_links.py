"""Held-out links: what messages may pass along, what is ranked, and that a seed decides all of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit

from datamodules import BlockModel, KarateClub, LinkSplit, Planetoid
from datamodules.graphs.full_graph import FullGraphModule, mirrored, node_pairs
from datamodules.graphs.links import sampled_non_edges

PLANETOID = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(
    not (PLANETOID / "Cora/raw").is_dir(), reason="ZOO_DATA has no graphs/planetoid"
)
HELD_OUT = ("val_edges", "test_edges")
NON_EDGES = ("val_non_edges", "test_non_edges")


def split(source: FullGraphModule | None = None, **settings: object) -> Data:
    module = LinkSplit(source, **settings)  # type: ignore[arg-type]
    module.setup("fit")
    return module.graph


def as_set(pairs: Tensor) -> set[tuple[int, int]]:
    return {(a, b) for a, b in pairs.T.tolist()}


@pytest.mark.parametrize("source", [KarateClub, BlockModel])
def test_messages_pass_no_held_out_edge_in_either_direction(source: type[FullGraphModule]) -> None:
    graph, whole = split(source(), val=0.1, test=0.2), source().read()
    messages = as_set(graph.edge_index)
    for name in HELD_OUT:
        assert graph[name].shape[1] > 0
        assert not as_set(graph[name]) & messages
        assert not as_set(graph[name].flip(0)) & messages
    # nothing is lost: the three sets are the graph
    parts = torch.cat([graph.train_edges, *(graph[n] for n in HELD_OUT)], dim=1)
    assert torch.equal(node_pairs(parts), node_pairs(whole.edge_index))
    assert parts.shape[1] == whole.edge_index.shape[1] // 2
    assert torch.equal(graph.edge_index, mirrored(graph.train_edges))


@pytest.mark.parametrize("source", [KarateClub, BlockModel])
def test_non_edges_are_edges_of_no_set_and_all_different(source: type[FullGraphModule]) -> None:
    graph = split(source(), val=0.2, test=0.3)
    edges = as_set(node_pairs(source().read().edge_index))
    others = torch.cat([graph[n] for n in NON_EDGES], dim=1)
    assert bool((others[0] < others[1]).all())
    assert len(as_set(others)) == others.shape[1]
    assert not as_set(others) & edges
    for edges_name, other_name in zip(HELD_OUT, NON_EDGES, strict=True):
        assert graph[edges_name].shape == graph[other_name].shape


def test_the_split_is_a_function_of_its_seed_alone() -> None:
    fields = ("edge_index", "train_edges", *HELD_OUT, *NON_EDGES)
    torch.manual_seed(1)
    first = split(KarateClub(), seed=3)
    torch.manual_seed(2)
    again, other = split(KarateClub(), seed=3), split(KarateClub(), seed=4)
    assert all(torch.equal(first[f], again[f]) for f in fields)
    assert not any(torch.equal(first[f], other[f]) for f in HELD_OUT + NON_EDGES)


def test_counts_are_those_of_random_link_split() -> None:
    source = BlockModel().read()
    theirs = RandomLinkSplit(0.05, 0.1, is_undirected=True, add_negative_train_samples=False)(
        Data(x=source.x, edge_index=source.edge_index)
    )
    ours = split(BlockModel())
    for part, name in ((theirs[1], "val"), (theirs[2], "test")):
        assert int(part.edge_label.sum()) == ours[f"{name}_edges"].shape[1]
        assert int((part.edge_label == 0).sum()) == ours[f"{name}_non_edges"].shape[1]
    assert theirs[0].edge_index.shape == ours.edge_index.shape


@needs_data
@pytest.mark.parametrize(
    ("name", "edges", "val", "test"), [("Cora", 5278, 263, 527), ("CiteSeer", 4552, 227, 455)]
)
def test_citation_graphs_hold_out_the_papers_numbers(name: str, edges: int, val: int, test: int) -> None:
    graph = split(Planetoid(name))  # type: ignore[arg-type]
    assert (graph.val_edges.shape[1], graph.test_edges.shape[1]) == (val, test)
    assert graph.train_edges.shape[1] == edges - val - test
    assert not as_set(graph.test_edges) & as_set(graph.edge_index)
    assert not as_set(graph.test_edges.flip(0)) & as_set(graph.edge_index)


def test_the_default_graph_is_the_surveys_block_model() -> None:
    inside, between, degrees = [], [], []
    for seed in range(5):
        graph = split(seed=seed)
        parts = torch.cat([graph.train_edges, *(graph[n] for n in HELD_OUT)], dim=1)
        same = graph.y[parts[0]] == graph.y[parts[1]]
        inside.append(float(same.sum()) / (4 * 100 * 99 / 2))
        between.append(float((~same).sum()) / (6 * 100 * 100))
        degrees.append(2 * parts.shape[1] / 400)
    assert graph.y.bincount().tolist() == [100] * 4
    # edges are drawn with replacement: 3 % of those inside a block fall on one another
    assert sum(inside) / 5 == pytest.approx(0.06, rel=0.05)
    assert sum(between) / 5 == pytest.approx(0.01, rel=0.05)


def test_all_free_pairs_can_be_drawn_and_each_is_drawn_once() -> None:
    edges = torch.triu_indices(7, 7, 1)[:, [0, 5, 6, 20]]  # first, last of a row, first of a row, last
    free = as_set(torch.triu_indices(7, 7, 1)) - as_set(edges)
    drawn = sampled_non_edges(edges, 7, 17, seed=0)
    assert (drawn.shape[1], as_set(drawn)) == (17, free)


def test_non_edges_are_uniform() -> None:
    edges = torch.triu_indices(6, 6, 1)[:, [2, 3, 9]]
    counts: dict[tuple[int, int], int] = {}
    for seed in range(1200):
        for pair in as_set(sampled_non_edges(edges, 6, 1, seed)):
            counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 12
    assert min(counts.values()) > 65  # 100 expected, standard deviation 9.6
    assert max(counts.values()) < 135


def test_shares_that_leave_nothing_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.val and data\.init_args\.test"):
        LinkSplit(KarateClub(), val=0.5, test=0.5)


def test_too_few_edges_or_free_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"78 edges.* hold out 0 and 7"):
        split(KarateClub(), val=0.01)
    complete = torch.triu_indices(5, 5, 1)
    with pytest.raises(ValueError, match="the graph has 1 free pairs"):
        sampled_non_edges(complete[:, 1:], 5, 2, 0)


def test_node_masks_and_labels_come_along() -> None:
    graph, source = split(KarateClub()), KarateClub().read()
    for name in ("x", "y", "train_mask", "test_mask"):
        assert torch.equal(graph[name], source[name])


@pytest.mark.parametrize("name", ["edge_weight", "edge_attr"])
def test_edge_weights_and_features_are_refused(name: str) -> None:
    class Weighted(KarateClub):
        def read(self) -> Data:
            graph = super().read()
            graph[name] = torch.ones(graph.num_edges)
            return graph

    with pytest.raises(ValueError, match=rf"source \(Weighted\) has {name}") as caught:
        split(Weighted())
    assert "\n" not in str(caught.value)
