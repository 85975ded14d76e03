"""Planetoid graphs and the karate club: splits, damage to the edges, refusals; the real files where given."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.planetoid import fake_planetoid

from datamodules import KarateClub, Planetoid
from datamodules.graphs.full_graph import (
    coin_split,
    mirrored,
    node_pairs,
    random_split,
    retain_edges,
    rewire_edges,
)
from datamodules.loading.restricted_pickle import read_pickle

DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid"
needs_data = pytest.mark.skipif(
    not (DATA / "Cora" / "raw").is_dir(),
    reason="ZOO_DATA has no graphs/planetoid: the real files are not there",
)
MASKS = ("train_mask", "val_mask", "test_mask")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_planetoid(tmp_path_factory.mktemp("planetoid"))


def graph(root: Path | None = None, **settings: Any) -> Any:
    module = Planetoid(root=None if root is None else str(root), **settings)
    module.setup("fit")
    return module.graph


@needs_data
@pytest.mark.parametrize(
    ("name", "nodes", "features", "edges", "train", "classes"),
    [("Cora", 2708, 1433, 10556, 140, 7), ("CiteSeer", 3327, 3703, 9104, 120, 6)],
)
def test_the_real_graphs_have_the_known_sizes(
    name: Any, nodes: int, features: int, edges: int, train: int, classes: int
) -> None:
    module = Planetoid(name)
    module.setup("fit")
    data = module.graph
    assert (tuple(data.x.shape), tuple(data.edge_index.shape)) == ((nodes, features), (2, edges))
    assert [int(data[m].sum()) for m in MASKS] == [train, 500, 1000]
    assert (module.num_classes, module.num_features) == (classes, features)
    assert not (data.train_mask & data.val_mask | data.val_mask & data.test_mask).any()
    sums = data.x.sum(dim=1)
    assert torch.allclose(sums[sums > 0], torch.ones(()), atol=1e-5)
    assert int((sums == 0).sum()) == {"Cora": 0, "CiteSeer": 15}[name]


@needs_data
@pytest.mark.parametrize(("name", "ones"), [("Cora", 49_216), ("CiteSeer", 105_165)])
def test_the_real_features_are_the_known_number_of_ones(name: Any, ones: int) -> None:
    raw, rows = graph(name=name, normalize_features=False).x, graph(name=name).x
    assert (float(raw.double().sum()), set(raw.unique().tolist())) == (ones, {0.0, 1.0})
    sums = raw.sum(dim=1, keepdim=True)
    torch.testing.assert_close(rows, raw / sums.clamp(min=1))


@needs_data
def test_citeseer_has_48_nodes_without_edges() -> None:
    data = graph(name="CiteSeer")
    assert 3327 - len(data.edge_index[0].unique()) == 48


def test_public_split_and_test_order_of_the_twin(root: Path) -> None:
    data = graph(root, normalize_features=False)
    assert [int(data[m].sum()) for m in MASKS] == [140, 500, 60]
    assert data.y[:140].bincount().tolist() == [20] * 7
    # each node carries the feature of its class: wrong for test nodes if test.index were read in order
    assert (data.x[torch.arange(700), data.y] == 1).all()


def test_full_split_trains_all_that_neither_validates_nor_tests(root: Path) -> None:
    data = graph(root, split="full")
    assert torch.equal(data.train_mask, ~(data.val_mask | data.test_mask))
    assert [int(data[m].sum()) for m in MASKS] == [140, 500, 60]


def test_random_split_is_a_function_of_the_seed(root: Path) -> None:
    sizes = {"split": "random", "train_per_class": 5, "val_nodes": 50, "test_nodes": 100}
    first, again, other = (graph(root, seed=s, **sizes) for s in (3, 3, 4))
    assert first.y[first.train_mask].bincount().tolist() == [5] * 7
    assert [int(first[m].sum()) for m in MASKS] == [35, 50, 100]
    assert not sum(first[m].int() for m in MASKS).gt(1).any()
    assert all(torch.equal(first[m], again[m]) for m in MASKS)
    assert not torch.equal(first.train_mask, other.train_mask)


def test_the_coin_deals_validation_nodes_to_two_sets(root: Path) -> None:
    data, other = graph(root, early_stopping=True), graph(root, early_stopping=True, seed=1)
    whole = graph(root)
    assert torch.equal(data.val_mask | data.es_mask, whole.val_mask)
    assert not (data.val_mask & data.es_mask).any()
    assert 200 < int(data.es_mask.sum()) < 300
    assert not torch.equal(data.es_mask, other.es_mask)
    assert "es_mask" not in whole


def test_pairs_are_each_edge_once_and_mirroring_goes_back() -> None:
    edges = torch.tensor([[1, 0, 2, 2, 3], [0, 1, 2, 0, 2]])
    assert node_pairs(edges).tolist() == [[0, 0, 2], [1, 2, 3]]
    assert mirrored(node_pairs(edges)).tolist() == [[0, 0, 1, 2, 2, 3], [1, 2, 0, 0, 3, 2]]


def test_edges_retained_is_the_fraction_kept_not_deleted(root: Path) -> None:
    whole = graph(root)
    total = whole.edge_index.shape[1]
    for fraction in (0.25, 0.75):
        kept = graph(root, edges_retained=fraction)
        assert kept.edge_index.shape[1] / total == pytest.approx(fraction, abs=0.04)
        assert torch.equal(kept.true_edge_index, whole.edge_index)
        codes = set((kept.edge_index[0] * 700 + kept.edge_index[1]).tolist())
        assert codes <= set((whole.edge_index[0] * 700 + whole.edge_index[1]).tolist())
        assert torch.equal(kept.edge_index, mirrored(node_pairs(kept.edge_index)))
    assert graph(root, edges_retained=0.0).edge_index.shape == (2, 0)
    assert torch.equal(graph(root, edges_retained=1.0).edge_index, whole.edge_index)


def test_edges_kept_are_a_function_of_the_seed() -> None:
    pairs = node_pairs(torch.randint(100, (2, 500)))
    assert torch.equal(retain_edges(pairs, 0.5, 7), retain_edges(pairs, 0.5, 7))
    assert not torch.equal(retain_edges(pairs, 0.5, 7), retain_edges(pairs, 0.5, 8))


def test_rewiring_moves_exactly_the_fraction_to_pairs_that_were_no_edges() -> None:
    pairs = node_pairs(torch.randint(60, (2, 400)))
    moved = rewire_edges(pairs, 60, 0.25, 0)
    before, after = ({(a, b) for a, b in p.T.tolist()} for p in (pairs, moved))
    assert len(after) == len(before) == pairs.shape[1]
    assert len(after - before) == round(0.25 * len(before))
    assert all(a < b for a, b in after)


def test_rewiring_a_full_graph_is_refused() -> None:
    pairs = torch.triu_indices(6, 6, 1)
    with pytest.raises(ValueError, match=r"edges_rewired 0\.5"):
        rewire_edges(pairs, 6, 0.5, 0)


def test_impossible_random_splits_are_refused() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="class 0 has 3 nodes"):
        random_split(labels, 4, 0, 0, 0)
    with pytest.raises(ValueError, match="exceed the 2 nodes"):
        random_split(labels, 2, 2, 1, 0)


def test_the_coin_is_fair_and_exhaustive() -> None:
    mask = torch.arange(10_000) < 4000
    first, second = coin_split(mask, 0)
    assert torch.equal(first | second, mask)
    assert int(first.sum()) == pytest.approx(2000, abs=130)


def test_every_batch_is_the_whole_graph(root: Path) -> None:
    module = Planetoid(root=str(root), steps_per_epoch=3)
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert len(batches) == 3
    assert all(b is module.graph for b in batches)
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert [b.num_nodes for b in loader] == [700]


def test_karate_club_is_pygs_with_disjoint_masks() -> None:
    module = KarateClub(early_stopping=True)
    module.setup("fit")
    data = module.graph
    assert (data.num_nodes, data.edge_index.shape[1], module.num_classes, module.num_features) == (
        34,
        156,
        4,
        34,
    )
    assert data.train_mask.nonzero()[:, 0].tolist() == [0, 4, 8, 24]
    masks = [data[m].int() for m in (*MASKS, "es_mask")]
    assert torch.equal(sum(masks), torch.ones(34, dtype=torch.int32))
    assert int(data.test_mask.sum()) == 22
    assert data.y[data.val_mask | data.es_mask].bincount().tolist() == [2, 2, 2, 2]


def test_a_missing_file_is_named_with_layout_and_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ind\.cora\.x.*kimiyoung/planetoid.*ZOO_DATA"):
        graph(tmp_path)


def test_files_of_two_graphs_do_not_fit_together(tmp_path: Path, root: Path) -> None:
    fake_planetoid(tmp_path, seed=1)
    (tmp_path / "Cora/raw/ind.cora.ty").write_bytes(pickle.dumps(np.eye(3, dtype=np.int32), protocol=2))
    with pytest.raises(ValueError, match="do not fit together"):
        graph(tmp_path)


@pytest.mark.parametrize(("part", "content", "words"), [
    ("graph", {0: [1], 5: [10**6]}, r"ind\.cora\.graph: its nodes must lie in 0\.\.699, got 0\.\.1000000"),
    ("graph", {0: [0.5]}, r"ind\.cora\.graph: its nodes must be whole numbers"),
    ("graph", [[1], [0]], r"ind\.cora\.graph must hold a mapping"),
    ("allx", np.full((640, 1433), np.nan), r"ind\.cora\.allx: its matrix holds NaN"),
    ("test.index", "".join(f"{640 + i % 59}\n" for i in range(60)), "60 test nodes, 59 of them different"),
    ("test.index", "1000000000\n", r"test nodes must lie in 640\.\."),
    ("test.index", "6x\n", "'6x' is no whole"),
])  # fmt: skip
def test_numbers_that_no_planetoid_graph_holds(part: str, content: Any, words: str, tmp_path: Path) -> None:
    path = fake_planetoid(tmp_path) / f"Cora/raw/ind.cora.{part}"
    path.write_bytes(content.encode() if isinstance(content, str) else pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=words) as caught:
        graph(tmp_path)
    assert "Cora/raw" in str(caught.value)


def test_more_neighbours_than_nodes_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.k is 700, but the graph has 700 nodes"):
        graph(root, graph="knn", k=700)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_is_refused_in_one_line_and_nothing_runs(tmp_path: Path) -> None:
    fake_planetoid(tmp_path)
    target = tmp_path / "was_run"
    (tmp_path / "Cora/raw/ind.cora.graph").write_bytes(pickle.dumps(Malicious(target), protocol=2))
    with pytest.raises(ValueError, match=r"mkdir\); refused, nothing was run") as caught:
        graph(tmp_path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("code", [
    b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cbuiltins\ngetattr\n.",
    b"cnumpy\nload\n.", b"cscipy.sparse\nload_npz\n.", b"ctorch\nload\n.",
    b"ctorch.storage\n_load_from_bytes\n.", b"c_codecs\nencode\n(V1\nVbz2\ntR.",
])  # fmt: skip
def test_names_outside_the_list_are_refused(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(code)
    with pytest.raises(ValueError, match="refused, nothing was run"):
        read_pickle(path)


def test_a_truncated_pickle_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(pickle.dumps(np.arange(100), protocol=2)[:-40])
    with pytest.raises(ValueError, match="is damaged"):
        read_pickle(path)


def test_tensors_are_read_where_asked_for_and_never_their_code(tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(pickle.dumps(torch.arange(5)))
    assert torch.equal(read_pickle(path, tensors=True), torch.arange(5))
    with pytest.raises(ValueError, match="torch"):
        read_pickle(path)
    evil = pickle.dumps(Malicious(tmp_path / "was_run"), protocol=2)
    call = b"ctorch.storage\n_load_from_bytes\n" + b"(C" + bytes([len(evil)]) + evil + b"tR."
    path.write_bytes(call)
    with pytest.raises(ValueError, match=r"refused|damaged"):
        read_pickle(path, tensors=True)
    assert not (tmp_path / "was_run").exists()


def test_arrays_scalars_sparse_matrices_and_containers_pass(tmp_path: Path) -> None:
    from scipy.sparse import coo_matrix, csr_matrix

    content = {
        "a": np.arange(3.0),
        "s": np.float32(2),
        "csr": csr_matrix(np.eye(3)),
        "coo": coo_matrix(np.eye(2)),
        "c": [(1, "x"), {2}, b"y", None],
    }
    for protocol in range(2, 6):
        path = tmp_path / f"p{protocol}"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        read = read_pickle(path)
        assert read["a"].tolist() == [0, 1, 2]
        assert (read["csr"].toarray() == np.eye(3)).all()
        assert read["c"] == content["c"]


def test_nearest_neighbours_take_the_place_of_the_citations(tmp_path: Path) -> None:
    root = str(fake_planetoid(tmp_path, "Cora", nodes=720))
    found = {}
    for symmetry in ("upper", "max", "mean"):
        data = Planetoid(root=root, graph="knn", k=5, knn_sym=symmetry, early_stopping=True)  # type: ignore
        found[symmetry] = data.read()
    given = Planetoid(root=root).read()
    x = given.x.double()
    unit = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    near = (unit @ unit.T).fill_diagonal_(-2).topk(5).values[:, -1]
    row, column = found["max"].edge_index
    cosine = (unit[row] * unit[column]).sum(dim=1)
    # one of an edge's ends is among the five nearest of the other, ties included
    assert bool((cosine >= torch.minimum(near[row], near[column]) - 1e-9).all())
    assert found["upper"].edge_index.shape[1] < found["max"].edge_index.shape[1]
    assert torch.equal(found["mean"].edge_index, found["max"].edge_index)
    assert set(found["mean"].edge_weight.tolist()) == {0.5, 1.0}
    assert "edge_weight" not in found["max"]
    assert torch.equal(found["max"].true_edge_index, given.edge_index)
    assert torch.equal(found["max"].x, given.x)
    for options, words in (
        ({"graph": "rbf"}, "graph must be one of given, knn"),
        ({"graph": "knn", "edges_retained": 0.5}, "neither edges_retained nor edges_rewired"),
    ):
        with pytest.raises(ValueError, match=words):
            Planetoid(**options)  # type: ignore[arg-type]
