"""GAug's released files in both layouts, and the noisy graph of digits."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.gaug import fake_gaug

from datamodules import DigitsGraph, GAugGraph
from datamodules.graphs.full_graph import node_pairs

REAL = Path(os.environ.get("ZOO_DATA", "nowhere")) / "graphs" / "gaug"


def graph_of(data: Any) -> Any:
    data.setup("fit")
    return data.graph


@pytest.mark.parametrize("several", [False, True])
def test_both_layouts_hold_the_same_graph(several: bool, tmp_path: Path) -> None:
    root = str(fake_gaug(tmp_path, "own", several=several))
    npz, pkl = (graph_of(GAugGraph("own", root, layout)) for layout in ("npz", "pickle"))  # type: ignore[arg-type]
    for key in ("x", "y", "edge_index", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(npz[key], pkl[key]), key
        assert npz[key].dtype == pkl[key].dtype
    assert not npz.has_self_loops()  # the pickled adjacency has a diagonal
    assert npz.is_undirected()
    assert [int(npz[f"{s}_mask"].sum()) for s in ("train", "val", "test")] == [20, 15, 25]
    torch.testing.assert_close(npz.x.sum(dim=1), torch.ones(60))
    assert npz.y.dtype == (torch.float32 if several else torch.int64)


def test_classes_of_multi_hot_labels_are_their_columns(tmp_path: Path) -> None:
    data = GAugGraph("own", str(fake_gaug(tmp_path, "own", several=True)))
    data.setup("fit")
    assert (data.num_classes, data.num_features) == (3, 12)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs $ZOO_DATA/graphs/gaug")
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "features", "classes", "split", "homophily"),
    [
        ("cora", 2708, 5278, 1433, 7, (140, 500, 1000), 0.810),
        ("citeseer", 3327, 4552, 3703, 6, (120, 500, 1000), 0.736),
        ("airport", 1190, 13599, 238, 4, (119, 238, 833), 0.698),
    ],
)
def test_the_released_graphs_have_the_papers_numbers(
    name: str, nodes: int, edges: int, features: int, classes: int, split: tuple[int, ...], homophily: float
) -> None:
    by_layout = []
    for layout in ("npz", "pickle"):
        data = GAugGraph(name, layout=layout)  # type: ignore[arg-type]
        graph = graph_of(data)
        assert (tuple(graph.x.shape), data.num_classes) == ((nodes, features), classes)
        pairs = node_pairs(graph.edge_index)
        assert pairs.shape[1] == edges
        assert tuple(int(graph[f"{s}_mask"].sum()) for s in ("train", "val", "test")) == split
        same = (graph.y[pairs[0]] == graph.y[pairs[1]]).float().mean()
        assert float(same) == pytest.approx(homophily, abs=5e-4)
        by_layout.append(graph)
    assert torch.equal(by_layout[0].x, by_layout[1].x)
    assert torch.equal(by_layout[0].y, by_layout[1].y)
    assert torch.equal(by_layout[0].edge_index, by_layout[1].edge_index)


def test_normalisation_follows_the_paper(tmp_path: Path) -> None:
    kinds = {
        n: GAugGraph(n).normalize for n in ("cora", "citeseer", "airport", "ppi", "blogcatalog", "flickr")
    }
    expected = {"cora": "l1", "citeseer": "l1", "airport": "l1", "ppi": "zscore"}
    assert kinds == expected | {"blogcatalog": "none", "flickr": "none"}
    x = graph_of(GAugGraph("own", str(fake_gaug(tmp_path, "own")), normalize="zscore")).x
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(12), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(dim=0, correction=0), torch.ones(12), atol=1e-5, rtol=0)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("part", ["adj", "features", "labels", "tvt_nids"])
def test_pickles_that_run_code_are_refused(part: str, tmp_path: Path) -> None:
    root = fake_gaug(tmp_path / "data", "own")
    (root / f"own_{part}.pkl").write_bytes(pickle.dumps(Trap(str(tmp_path / "executed"))))
    with pytest.raises(ValueError, match=rf"own_{part}\.pkl .*refused, nothing was run"):
        graph_of(GAugGraph("own", str(root), "pickle"))
    assert not (tmp_path / "executed").exists()


def test_edge_probabilities_come_as_matrix_or_list(tmp_path: Path) -> None:
    root = fake_gaug(tmp_path, "own")
    q = np.random.default_rng(1).random((60, 60)).astype(np.float32)
    with (root / "own_graph_1_logits.pkl").open("wb") as file:
        pickle.dump(q, file)
    graph = graph_of(GAugGraph("own", str(root), edge_probabilities="own_graph_1_logits.pkl"))
    assert torch.equal(graph.edge_probability, torch.from_numpy(q))
    np.savez(root / "top.npz", pairs=np.array([[5, 1], [2, 7]]), probability=np.array([0.9, 0.8]))
    graph = graph_of(GAugGraph("own", str(root), edge_probabilities=str(root / "top.npz")))
    assert graph.probable_pairs.tolist() == [[1, 2], [7, 5]]
    assert graph.pair_probability.tolist() == pytest.approx([0.8, 0.9])
    np.save(root / "small.npy", q[:5, :5])
    with pytest.raises(ValueError, match="5 x 5, the graph has 60 nodes"):
        graph_of(GAugGraph("own", str(root), edge_probabilities="small.npy"))


def test_a_list_names_each_pair_once_and_no_node_with_itself(tmp_path: Path) -> None:
    root = fake_gaug(tmp_path, "own")
    file = root / "top.npz"

    def read() -> Any:
        return graph_of(GAugGraph("own", str(root), edge_probabilities=str(file)))

    np.savez(file, pairs=np.array([[2, 3, 2], [3, 2, 3]]), probability=np.array([0.5, 0.9, 0.7]))
    assert read().probable_pairs.tolist() == [[2], [3]]
    assert read().pair_probability.tolist() == pytest.approx([0.9])
    for wrong in ((4, 4), (-1, 2), (2, 60)):
        np.savez(file, pairs=np.array([(2, 3), wrong]).T, probability=np.array([0.5, 0.9]))
        words = r"top\.npz: pairs must (be .* two different nodes of|lie in) 0\.\.59"
        with pytest.raises(ValueError, match=words):
            read()


def test_early_stopping_nodes_are_a_part_of_the_validation_nodes(tmp_path: Path) -> None:
    root = str(fake_gaug(tmp_path, "own"))
    for made in (partial(GAugGraph, "own", root), DigitsGraph):
        whole, split = graph_of(made()), graph_of(made(early_stopping=True))
        assert "es_mask" not in whole
        assert torch.equal(split.val_mask | split.es_mask, whole.val_mask)
        assert not bool((split.val_mask & split.es_mask).any())
        assert 0.25 < float(split.es_mask.sum() / whole.val_mask.sum()) < 0.75
        assert torch.equal(split.train_mask, whole.train_mask)
    first, other = (graph_of(GAugGraph("own", root, early_stopping=True, seed=s)) for s in (0, 1))
    assert not torch.equal(other.es_mask, first.es_mask)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cora\.npz.*zhao-tong/GAug.*ZOO_DATA"):
        graph_of(GAugGraph("cora", str(tmp_path), "npz"))
    with pytest.raises(FileNotFoundError, match=r"cora_adj\.pkl"):
        graph_of(GAugGraph("cora", str(tmp_path)))
    with pytest.raises(ValueError, match="layout must be"):
        GAugGraph("cora", layout="csv")  # type: ignore[arg-type]
    root = fake_gaug(tmp_path, "own")
    (root / "own.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"own\.npz is damaged"):
        graph_of(GAugGraph("own", str(root)))
    with (root / "own_tvt_nids.pkl").open("wb") as file:
        pickle.dump([np.arange(20), np.arange(10, 30), np.arange(30, 60)], file)
    with pytest.raises(ValueError, match="overlap"):
        graph_of(GAugGraph("own", str(root), "pickle"))


def _nodes_in_a_path(**changed: Any) -> dict[str, Any]:
    """20 nodes in a path, 5 features, 3 classes."""
    nodes, node = 20, np.arange(20)
    content: dict[str, Any] = {
        "edges": np.stack([node[:-1], node[1:]]), "num_nodes": nodes, "x_row": node, "x_col": node % 5,
        "x_val": np.ones(nodes, np.float32), "x_shape": np.array([nodes, 5]), "y": node % 3,
        "train": node[:6], "val": node[6:12], "test": node[12:],
    }  # fmt: skip
    return content | changed


NODE = np.arange(20)
WRONG = {
    "edges below 0": ({"edges": np.array([[0, -1], [1, 2]])}, r"edges must lie in 0\.\.19, got -1\.\.2"),
    "edges in columns": (
        {"edges": np.array([[0, 1], [1, 2], [2, 3]])},
        r"edges must be \(2, m\), .*\(3, 2\)",
    ),
    "edges in a row": ({"edges": np.arange(4)}, r"edges must be \(2, m\)"),
    "halves of edges": ({"edges": np.array([[0.5, 1], [1, 2]])}, "edges must be whole numbers .* float64"),
    "halves of classes": ({"y": NODE % 3 + 0.5}, "labels must be whole numbers"),
    "a class below 0": ({"y": NODE % 3 - 1}, r"labels must lie in 0\.\.999, got -1\.\.1"),
    "a class of millions": ({"y": NODE * 10**6}, r"labels must lie in 0\.\.999"),
    "several labels of 2": ({"y": np.full((20, 3), 2.0)}, "labels of several labels a node must be 0 or 1"),
    "a split of halves": ({"train": np.array([0.5, 1])}, "train must be whole numbers"),
    "a table as split": ({"val": np.array([[6], [7]])}, r"val must be whole numbers of 1 dimensions"),
    "a node twice": ({"test": np.array([12, 13, 12])}, "test names 1 nodes more than once"),
    "a short mask": ({"test": NODE[:15] > 12}, r"test is a mask \(15,\), the graph has 20 nodes"),
    "an empty mask": ({"test": NODE > 99}, "test is empty"),
    "NaN": ({"x_val": np.full(20, np.nan, np.float32)}, "x_val holds NaN or infinite values"),
    "beyond float32": ({"x_val": np.full(20, 1e300)}, "x_val holds NaN or infinite values"),
    "other nodes": ({"num_nodes": 21}, "num_nodes is 21, but x_shape has 20 rows"),
    "features outside": ({"x_col": NODE}, r"x_col must lie in 0\.\.4, got 0\.\.19"),
    "a wide table": (
        {"x_shape": np.array([20, 2 * 10**8])},
        r"x_shape \(20, 200,000,000\) claims 16,000,000,000",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_graph_holds_is_refused_with_the_files_name(case: str, tmp_path: Path) -> None:
    changed, words = WRONG[case]
    np.savez(tmp_path / "cora.npz", **_nodes_in_a_path(**changed))
    with pytest.raises(ValueError, match=rf"cora\.npz: {words}"):
        graph_of(GAugGraph("cora", str(tmp_path)))


def test_a_boolean_split_is_a_mask(tmp_path: Path) -> None:
    """Not the indices 0 and 1 that truth values are as numbers."""
    np.savez(tmp_path / "cora.npz", **_nodes_in_a_path(train=NODE < 6, val=(NODE >= 6) & (NODE < 12)))
    graph = graph_of(GAugGraph("cora", str(tmp_path)))
    assert torch.equal(graph.train_mask, torch.arange(20) < 6)
    assert int(graph.val_mask.sum()) == 6


def test_the_graph_of_digits_has_the_stated_noise_and_split() -> None:
    graph = graph_of(DigitsGraph())
    assert (tuple(graph.x.shape), graph.y.bincount().tolist()) == ((600, 64), [60] * 10)
    assert graph.y[graph.train_mask].bincount().tolist() == [5] * 10
    assert (graph.y[graph.val_mask].bincount().tolist(), int(graph.test_mask.sum())) == ([20] * 10, 350)
    given, true = node_pairs(graph.edge_index), node_pairs(graph.true_edge_index)
    assert given.shape == true.shape
    kept = torch.isin(given[0] * 600 + given[1], true[0] * 600 + true[1]).float().mean()
    assert float(kept) == pytest.approx(0.6, abs=1e-3)
    same = (graph.y[given[0]] == graph.y[given[1]]).float().mean()
    assert 0.55 < float(same) < 0.65  # the spec's run had .59
    assert float(graph.x.max()) == 1.0


def test_the_graph_of_digits_depends_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = graph_of(DigitsGraph())
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    torch.manual_seed(3)
    assert torch.equal(graph_of(DigitsGraph()).edge_index, first.edge_index)
    assert not torch.equal(graph_of(DigitsGraph(seed=1)).edge_index, first.edge_index)


def test_pixels_can_be_masked_and_everything_taken() -> None:
    graph = graph_of(DigitsGraph(nodes=1797, masked_pixels=0.8, train_per_class=10, normalize="l1"))
    assert len(graph.x) == 1797
    assert float((graph.x > 0).float().mean()) < 0.15
    sums = graph.x.sum(dim=1)
    assert bool((((sums - 1).abs() < 1e-5) | (sums == 0)).all())
    for settings in ({"nodes": 605}, {"rewired": 1.5}, {"val_per_class": 60}, {"neighbors": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            DigitsGraph(**settings)  # type: ignore[arg-type]
