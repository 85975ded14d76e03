"""Nearest-neighbour graphs of scikit-learn's sets: edges, weights and splits by known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from datamodules import KNNGraph
from datamodules.graphs.knn_graph import knn_matrix, nested_split


@pytest.mark.parametrize(
    ("name", "symmetry", "edges"),
    [("wine", "upper", 918), ("wine", "max", 1199), ("cancer", "upper", 2866), ("cancer", "max", 4163)],
)
def test_the_graphs_have_the_known_numbers_of_edges(name: Any, symmetry: Any, edges: int) -> None:
    data = KNNGraph(name, k=10, metric="cosine", knn_sym=symmetry)
    graph = data.read()
    names = {"wine": ["class_0", "class_1", "class_2"], "cancer": ["malignant", "benign"]}
    assert (data.class_names, graph.edge_index.shape) == (names[name], (2, 2 * edges))
    assert "edge_weight" not in graph
    assert not (graph.edge_index[0] == graph.edge_index[1]).any()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("wine", [10, 10, 10, 148]), ("cancer", [10, 10, 10, 539]), ("digits", [50, 50, 50, 1647])],
)
def test_the_four_sets_are_disjoint_and_cover_all_nodes(name: Any, sizes: list[int]) -> None:
    graph = KNNGraph(name).read()
    masks = torch.stack([graph[f"{part}_mask"] for part in ("train", "val", "es", "test")])
    assert masks.sum(dim=1).tolist() == sizes
    assert (masks.sum(dim=0) == 1).all()


@pytest.mark.parametrize(("symmetry", "pairs"), [
    ("upper", {(0, 1): 1.0, (1, 2): 1.0}), ("max", {(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0}),
    ("mean", {(0, 1): 0.5, (1, 2): 1.0, (2, 3): 0.5}),
])  # fmt: skip
def test_neighbours_of_one_direction_are_lost_kept_or_halved(
    symmetry: Any, pairs: dict[tuple[int, int], float]
) -> None:
    # on a line: the nearest of 0 is 1, of 1 is 2, of 2 is 1, of 3 is 2
    expected = np.zeros((4, 4))
    for pair, weight in pairs.items():
        expected[pair] = weight
    points = np.array([[0.0], [1.0], [1.5], [3.0]])
    assert knn_matrix(points, 1, "minkowski", symmetry).tolist() == expected.tolist()


def test_kernel_weights_fall_with_the_squared_distance_over_the_number_of_features() -> None:
    graph = KNNGraph("wine", graph="rbf").read()
    i, j = graph.edge_index
    x = graph.x.double()
    expected = torch.exp(-((x[i] - x[j]) ** 2).sum(dim=1) / 13)
    assert graph.edge_index.shape == (2, 178 * 177)
    torch.testing.assert_close(graph.edge_weight.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [0, 3])
def test_es_is_the_test_part_of_the_second_split_and_val_of_the_third(seed: int) -> None:
    labels = load_wine().target
    index = np.arange(178)
    first = {"train_size": 30, "test_size": 148, "random_state": seed}
    rest, test = train_test_split(index, stratify=labels, **first)
    second = {"train_size": 20, "test_size": 10, "random_state": seed}
    rest, es = train_test_split(rest, stratify=labels[rest], **second)
    third = {"train_size": 10, "test_size": 10, "random_state": seed}
    train, val = train_test_split(rest, stratify=labels[rest], **third)
    found = nested_split(labels, 10, seed)
    assert [part.tolist() for part in found] == [part.tolist() for part in (train, val, es, test)]
