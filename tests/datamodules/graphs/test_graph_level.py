"""Graph sets: what PyG reads, what a batch is, the splits of the fair protocol, sharing of batches."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.tu import fake_tu, write_tu
from torch_geometric.data import Batch
from torch_geometric.datasets import TUDataset

from datamodules import SyntheticGraphs, TUGraphs
from datamodules.graphs.graph_level import GraphStore, stratified_folds, stratified_holdout
from datamodules.graphs.synthetic_graphs import cycle, grid
from datamodules.graphs.tu_graphs import read_tu
from datamodules.loading.sampling import GlobalBatchSampler

DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "tu"
needs_enzymes = pytest.mark.skipif(
    not (DATA / "ENZYMES/raw").is_dir(), reason="ZOO_DATA has no graphs/tu/ENZYMES"
)


def tu(root: Path, **settings: Any) -> TUGraphs:
    data = TUGraphs(**{"root": str(root), "cache": str(root / "cache"), "folds": 5, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return fake_tu(tmp_path, attributes=2, edge_labels=2)


@needs_enzymes
def test_enzymes_has_the_sizes_of_the_table(tmp_path: Path) -> None:
    before = {p.name for p in (DATA / "ENZYMES").iterdir()}
    data = tu(DATA, cache=str(tmp_path), folds=10)
    store = data.store
    assert (len(store), data.num_features, data.num_classes, data.num_edge_features) == (600, 21, 6, 0)
    assert torch.equal(store.y.bincount(), torch.full((6,), 100))
    assert float(store.sizes.float().mean()) == pytest.approx(32.63, abs=0.005)
    assert store.edge_index.shape[1] / 2 / 600 == pytest.approx(62.14, abs=0.005)
    assert {p.name for p in (DATA / "ENZYMES").iterdir()} == before  # nothing is written beside the raw files
    assert torch.equal(store.x[:, 18:].sum(dim=1), torch.ones(len(store.x)))


def test_graphs_are_those_of_pygs_own_data_set(small: Path, tmp_path: Path) -> None:
    data = tu(small)
    theirs = TUDataset(str(small), "ENZYMES", use_node_attr=True, use_edge_attr=True)
    assert len(theirs) == len(data.store) == 40
    for ours, expected in zip(data.store.batch(torch.arange(40)).to_data_list(), theirs, strict=True):
        for key in ("x", "edge_index", "edge_attr", "y"):
            assert torch.equal(ours[key], expected[key]), key


def test_a_batch_is_pygs_batch(small: Path) -> None:
    store = tu(small).store
    batch = store.batch(torch.tensor([7, 0, 39]))
    again = Batch.from_data_list(batch.to_data_list())
    assert batch.num_graphs == again.num_graphs == 3
    assert set(batch.keys()) == set(again.keys())
    for key in batch.keys():  # noqa: SIM118
        assert torch.equal(batch[key], again[key]), key
    assert torch.equal(batch.graph_number, torch.tensor([7, 0, 39]))


def test_a_lone_last_node_keeps_the_number_of_graphs(small: Path) -> None:
    store = tu(small).store
    last = store.batch(torch.tensor([3, 39]))
    assert last.num_graphs == 2
    assert int(last.edge_index.max()) < len(last.x) - 1  # the last node has no edge
    assert (int(last.batch[-1]), int(last.ptr[-1])) == (1, len(last.x))


def test_self_loops_and_double_edges_are_taken_out(small: Path) -> None:
    batch = tu(small).store.batch(torch.arange(40))
    a, b = batch.edge_index
    assert not bool((a == b).any())
    assert len(torch.unique(a * len(batch.x) + b)) == len(a)


def test_parsed_data_are_read_from_the_cache_and_parsed_anew_when_files_change(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tu(small).store
    calls = []

    def counting(*args: Any) -> Any:
        calls.append(args)
        return read_tu(*args)

    monkeypatch.setattr("datamodules.graphs.tu_graphs.read_tu", counting)
    assert torch.equal(tu(small).store.x, first.x)
    assert calls == []
    cache = small / "cache/tu/ENZYMES/data.pt"
    cache.write_bytes(b"half a file")
    assert torch.equal(tu(small).store.x, first.x)
    with zipfile.ZipFile(cache, "w") as archive:  # torch advises to unpickle it
        archive.writestr("data/data.pkl", b"garbage")
        archive.writestr("data/version", b"3")
    assert torch.equal(tu(small).store.x, first.x)
    labels = small / "ENZYMES/raw/ENZYMES_graph_labels.txt"
    labels.write_text(labels.read_text().replace("2", "5"))
    assert tu(small).class_names == ["1", "5"]  # the file's own labels
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 5),
        ({"use_node_attr": False}, 3),
        ({"features": "degree"}, 1),
        ({"features": "degree_onehot", "max_degree": 4}, 5),
        ({"features": "constant"}, 1),
    ],
)
def test_features(settings: dict[str, Any], width: int, small: Path) -> None:
    data = tu(small, **settings)
    assert data.num_features == width
    batch = data.store.batch(torch.arange(40))
    degrees = torch.bincount(batch.edge_index[1], minlength=len(batch.x))
    if settings.get("features") == "degree":
        assert torch.equal(batch.x[:, 0], degrees.float())
    if settings.get("features") == "degree_onehot":
        assert torch.equal(batch.x.argmax(dim=1), degrees.clamp(max=4))
    if settings.get("features") == "constant":
        assert torch.equal(batch.x, torch.ones(len(degrees), 1))


def test_a_set_without_features_has_the_degree(tmp_path: Path) -> None:
    fake_tu(tmp_path, "IMDB-BINARY", labels=0)
    data = tu(tmp_path, name="IMDB-BINARY")
    batch = data.store.batch(torch.arange(40))
    assert data.num_features == 1
    assert torch.equal(batch.x[:, 0], torch.bincount(batch.edge_index[1], minlength=len(batch.x)).float())
    with pytest.raises(ValueError, match=r"IMDB-BINARY has no node .*labels; set data.init_args.features"):
        tu(tmp_path, name="IMDB-BINARY", features="given")


def test_missing_and_damaged_files_are_one_line(small: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*NCI1_A.txt: unpack https.*NCI1.zip"):
        tu(small, name="NCI1")
    indicator = small / "ENZYMES/raw/ENZYMES_graph_indicator.txt"
    content = indicator.read_text()
    for damage in (content + "41\n", content.replace("3", "x", 1), "1\n2\n"):
        indicator.write_text(damage)
        with pytest.raises(ValueError, match="are damaged or do not fit together") as caught:
            tu(small)
        assert "\n" not in str(caught.value)


def test_counts_that_a_set_claims_are_compared_with_its_lines(small: Path) -> None:
    raw = small / "ENZYMES/raw"
    for part, line, words in (
        ("graph_indicator", "1000000000", r"must count up from 1 to the 40 graphs .* claims 1\.\.1000000000"),
        ("node_labels", "1000000000", r"claims labels from 1 to 1000000000 on \d+ lines"),
        ("edge_labels", "9" * 30, "ENZYMES_edge_labels.txt, line .*is no whole number"),
        ("node_attributes", "nan, 1", "ENZYMES_node_attributes.txt, line .*no finite number"),
    ):
        path = raw / f"ENZYMES_{part}.txt"
        whole = path.read_text()
        path.write_text("\n".join([*whole.splitlines()[:-1], line]))
        with pytest.raises(ValueError, match=words):
            read_tu(raw, "ENZYMES")
        path.write_text(whole)


def test_a_set_may_have_one_graph_and_graphs_without_nodes(tmp_path: Path) -> None:
    one = read_tu(write_tu(tmp_path, "ONE", [(0, 1), (1, 0)], [2], [1]), "ONE")
    assert (one["node_ptr"].tolist(), one["edge_index"].tolist(), one["y"].tolist()) == (
        [0, 2],
        [[0, 1], [1, 0]],
        [0],
    )
    # the second and the last graph have no nodes; the first no edge
    gaps = read_tu(write_tu(tmp_path, "GAPS", [(1, 2), (2, 1)], [1, 0, 2, 0], [1, 2, 1, 2]), "GAPS")
    assert (gaps["node_ptr"].tolist(), gaps["edge_ptr"].tolist()) == ([0, 1, 1, 3, 3], [0, 0, 0, 2, 2])
    assert gaps["edge_index"].tolist() == [[0, 1], [1, 0]]


def test_folds_are_stratified_and_hold_each_graph_once() -> None:
    labels = np.repeat(np.arange(6), 100)
    folds = stratified_folds(labels, 10, 0)
    assert sorted(i for f in folds for i in f) == list(range(600))
    for fold in folds:
        assert np.array_equal(np.bincount(labels[fold]), np.full(6, 10))
    assert folds != stratified_folds(labels, 10, 1)
    with pytest.raises(ValueError, match="folds is 101, but the smallest class has 100"):
        stratified_folds(labels, 101, 0)


def test_hold_outs_are_stratified_and_differ() -> None:
    labels = np.repeat(np.arange(6), 90)
    index = np.arange(540)
    held = [stratified_holdout(labels, index, 0.1, 0, 0, h) for h in range(4)]
    for rest, out in held:
        assert sorted(rest + out) == list(range(540))
        assert np.array_equal(np.bincount(labels[out]), np.full(6, 9))
    assert len({tuple(out) for _, out in held}) == 4
    # largest remainders: 10 % of 15, 15 and 5 are 1.5, 1.5 and .5
    uneven = np.repeat(np.arange(3), [15, 15, 5])
    _, out = stratified_holdout(uneven, np.arange(35), 0.1, 0)
    assert len(out) == 4


def test_the_protocol_of_a_fold(small: Path) -> None:
    parts = {h: tu(small, fold=2, holdout=h).splits() for h in range(4)}
    assert len({tuple(p["test"]) for p in parts.values()}) == 1  # retrainings share the test graphs
    assert len({tuple(p["val"]) for p in parts.values()}) == 4  # and have hold-outs of their own
    for p in parts.values():
        assert sorted(p["train"] + p["val"] + p["test"]) == list(range(40))
    tests = [i for fold in range(5) for i in tu(small, fold=fold).splits()["test"]]
    assert sorted(tests) == list(range(40))


def test_splits_are_kept_as_json_and_read_back(small: Path, tmp_path: Path) -> None:
    parts = tu(small, fold=1).splits()
    (path,) = (small / "cache/tu/ENZYMES").glob("splits_*.json")
    content = json.loads(path.read_text())
    assert (len(content), content[1]["test"]) == (5, parts["test"])
    assert content[1]["model_selection"] == [{"train": parts["train"], "validation": parts["val"]}]
    # the file decides, not the code that would make another one
    content[1]["test"], content[2]["test"] = content[2]["test"], content[1]["test"]
    for fold in content[1:3]:
        rest = [i for i in range(40) if i not in fold["test"]]
        fold["model_selection"] = [{"train": rest[4:], "validation": rest[:4]}]
    given = tmp_path / "given.json"
    given.write_text(json.dumps(content))
    assert tu(small, fold=2, splits=str(given)).splits()["test"] == parts["test"]


def test_splits_of_the_cache_that_are_broken_are_made_anew(small: Path) -> None:
    parts = tu(small).splits()
    kept = next((small / "cache/tu/ENZYMES").glob("splits_*.json"))
    kept.write_text(kept.read_text()[:50])
    with pytest.warns(UserWarning, match=rf"{kept.name} holds no splits of these data .* it is made anew"):
        assert tu(small).splits() == parts
    assert json.loads(kept.read_text())[0]["test"] == parts["test"]


@pytest.mark.parametrize("damage", ["[1, 2]", "{", '[{"test": []}]'])
def test_a_split_file_that_does_not_fit_is_one_line(damage: str, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(damage)
    with pytest.raises(ValueError, match="holds no splits of these data"):
        tu(small, splits=str(path))


def test_sizes_and_degrees_are_those_of_the_training_graphs(small: Path) -> None:
    """Pooled sizes and degrees come from the training graphs alone."""
    data = tu(small)
    assert data.train_sizes == data.store.sizes[data.train_set.index].tolist()
    batch = data.store.batch(data.train_set.index)
    degrees = torch.bincount(batch.edge_index[1], minlength=len(batch.x))
    assert torch.equal(data.train_degrees(), torch.bincount(degrees))


def test_two_processes_share_the_batches_of_one(small: Path) -> None:
    train = tu(small).train_set
    one = [[i for _, i in b] for b in GlobalBatchSampler(len(train), 8, seed=3)]
    shares = [[[i for _, i in b] for b in GlobalBatchSampler(len(train), 8, r, 2, seed=3)] for r in (0, 1)]
    for whole, first, second in zip(one, *shares, strict=True):
        assert sorted(whole) == sorted(first + second)
        assert len(first) == len(second) == 4


def test_loaders_give_finished_batches(small: Path) -> None:
    data = tu(small, batch_size=7)
    batches = list(data.train_dataloader())
    assert [b.num_graphs for b in batches] == [7] * (len(data.train_set) // 7)
    assert sum(b.num_graphs for b in data.val_dataloader()) == len(data.val_set)
    (test,) = list(data.predict_dataloader())
    assert test.graph_number.tolist() == data.test_set.index.tolist()


def synthetic(**settings: Any) -> SyntheticGraphs:
    data = SyntheticGraphs(**{"graphs": 200, **settings})
    data.setup("fit")
    return data


def edges_of(store: GraphStore, i: int) -> int:
    return int(store.edge_ptr[i + 1] - store.edge_ptr[i]) // 2


def test_the_four_kinds_of_generated_graphs() -> None:
    store = synthetic(edges_rewired=0.0).store
    assert torch.equal(store.y.bincount(), torch.full((4,), 50))
    grids = {12: 17, 16: 24, 18: 27, 20: 31, 24: 38, 28: 45, 30: 49}
    for i in range(200):
        nodes, kind, edges = int(store.sizes[i]), int(store.y[i]), edges_of(store, i)
        expected = {0: {nodes}, 1: {nodes // 2 * 3 - 2}, 2: {grids[nodes]}}
        expected[3] = expected[0] | expected[1] | expected[2]  # matched degrees
        assert edges in expected[kind]
        batch = store.batch(torch.tensor([i]))
        degrees = torch.bincount(batch.edge_index[1], minlength=nodes).unique().tolist()
        if kind < 3:
            assert degrees == {0: [2], 1: [2, 3], 2: [2, 3, 4]}[kind]
    random = [edges_of(store, i) / int(store.sizes[i]) for i in range(200) if store.y[i] == 3]
    assert 1.2 < float(np.mean(random)) < 1.55  # between a cycle's 1 and a grid's 1.5 and more


def test_rewiring_keeps_the_number_of_edges() -> None:
    calm, moved = synthetic(edges_rewired=0.0).store, synthetic(edges_rewired=0.3).store
    assert torch.equal(calm.edge_ptr, moved.edge_ptr)
    assert torch.equal(calm.node_ptr, moved.node_ptr)
    assert not torch.equal(calm.edge_index, moved.edge_index)


def test_generated_graphs_are_a_function_of_the_seed_and_their_number() -> None:
    a, b, c = (synthetic(graphs=n, seed=s).store for n, s in ((200, 1), (40, 1), (40, 2)))
    end = int(b.edge_ptr[-1])
    assert torch.equal(a.edge_index[:, :end], b.edge_index)
    assert not torch.equal(b.edge_index[:, :50], c.edge_index[:, :50])


def test_cycles_and_grids() -> None:
    assert (cycle(3), sorted(grid(2, 2))) == ([(0, 1), (1, 2), (2, 0)], [(0, 1), (0, 2), (1, 3), (2, 3)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fold": 5}, "fold in 0..folds-1, got 5 and 5"),
        ({"graphs": 19}, "at least 4 x folds = 20, got 19"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SyntheticGraphs(**settings)
