"""PPI and Reddit as PyG lays them out, and sampled neighbourhoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.node_graphs import fake_ppi, fake_reddit
from torch_geometric.data import Data
from torch_geometric.datasets import PPI as PyGPPI
from torch_geometric.datasets import Reddit as PyGReddit

from datamodules import PPI, BlockModel, KarateClub, LinkSplit, NeighborSampling, Reddit
from datamodules.graphs.neighbors import SampledNeighborhoods


def pairs_of(edge_index: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.T.tolist()))


def test_reddit_is_what_pyg_reads(tmp_path):
    fake_reddit(tmp_path)
    data = Reddit(str(tmp_path))
    data.setup("fit")
    reference = PyGReddit(str(tmp_path))[0]
    for key in ("x", "y", "edge_index", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(data.graph[key], reference[key]), key
    assert (data.num_classes, data.num_features) == (41, 602)


def test_ppi_graphs_are_those_of_pyg_and_isolated_nodes_stay(tmp_path):
    """PyG shifts the nodes of a graph whose first node has no edge; ours keeps every number."""
    fake_ppi(tmp_path)
    data = PPI(str(tmp_path))
    data.setup("fit")
    assert [len(g) for g in (data.train_graphs, data.val_graphs, data.test_graphs)] == [4, 2, 2]
    assert (data.num_features, data.num_classes) == (50, 121)
    for split, graphs in (("train", data.train_graphs), ("test", data.test_graphs)):
        for ours, theirs in zip(graphs, PyGPPI(str(tmp_path), split), strict=True):
            assert torch.equal(ours.x, theirs.x)
            assert torch.equal(ours.y, theirs.y)
            assert pairs_of(ours.edge_index) == pairs_of(theirs.edge_index + 1)
            assert not ours.has_self_loops()
    batch = next(iter(data.train_dataloader()))
    assert int(batch.batch.max()) == 1
    assert len(next(iter(data.val_dataloader())).x) == len(data.val_graphs[0].x)


def test_missing_files_get_one_line_and_nothing_is_downloaded(tmp_path):
    for data, name in ((PPI(str(tmp_path)), "train_feats.npy"), (Reddit(str(tmp_path)), "reddit_data.npz")):
        with pytest.raises(FileNotFoundError, match=f"{name}: needed are .*download: true") as caught:
            data.prepare_data()
        assert "\n" not in str(caught.value)


def test_damaged_files_get_one_line(tmp_path):
    fake_ppi(tmp_path / "ppi")
    (tmp_path / "ppi/raw/valid_graph.json").write_text('{"links": [')
    with pytest.raises(ValueError, match=r"valid_graph\.json is damaged"):
        PPI(str(tmp_path / "ppi")).setup("fit")
    fake_reddit(tmp_path / "reddit")
    np.savez(
        tmp_path / "reddit/raw/reddit_data.npz", feature=np.zeros((3, 2)), label=np.zeros(3), node_types=[1]
    )
    with pytest.raises(ValueError, match="do not fit together"):
        Reddit(str(tmp_path / "reddit")).setup("fit")


def sampled(neighbors: list[int], seed: int = 0) -> tuple[Data, SampledNeighborhoods]:
    data = BlockModel(nodes=200, degree=12.0, val_nodes=20, test_nodes=40)
    data.setup("fit")
    return data.graph, SampledNeighborhoods(data.graph, torch.arange(50, 120), neighbors, seed)


def test_sampled_edges_are_edges_and_the_asked_for_nodes_come_first():
    graph, parts = sampled([4, 3])
    batch = parts.__getitems__([(0, 3), (0, 9)])
    assert (batch.batch_size, batch.n_id[:2].tolist()) == (2, [53, 59])
    assert len(batch.n_id.unique()) == len(batch.n_id)
    assert torch.equal(batch.x, graph.x[batch.n_id])
    edges = pairs_of(graph.edge_index)
    assert pairs_of(batch.n_id[batch.edge_index]) <= edges
    into = torch.bincount(batch.edge_index[1], minlength=len(batch.n_id))
    assert into[:2].tolist() == [4, 4]  # both have more neighbours than that
    assert int(into.max()) <= 4


def test_edge_weights_and_features_come_with_the_sampled_edges():
    graph, _ = sampled([3])
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(4))
    graph.edge_index = graph.edge_index[:, order]
    source, target = graph.edge_index  # each edge says which one it is
    graph.edge_weight, graph.edge_attr = source + target / 1000, torch.stack([target, source], dim=1)
    batch = SampledNeighborhoods(graph, torch.arange(50, 120), [3, -1])[5]
    source, target = batch.n_id[batch.edge_index]
    assert len(source) > 3
    assert torch.equal(batch.edge_weight, source + target / 1000)
    assert torch.equal(batch.edge_attr, torch.stack([target, source], dim=1))


def test_all_neighbours_give_the_whole_graphs_outputs():
    from zoo.graphs.node.network import NodeNetwork

    graph, parts = sampled([-1, -1])
    torch.manual_seed(0)
    network = NodeNetwork("sage", 16, 8, 4).eval()
    batch = parts.__getitems__([(0, i) for i in range(10)])
    whole = network(graph.x, graph.edge_index)[50:60]
    torch.testing.assert_close(network(batch.x, batch.edge_index)[:10], whole, atol=1e-5, rtol=1e-5)


def test_a_draw_is_a_function_of_seed_epoch_and_node():
    _, parts = sampled([3])

    def neighbours(
        key: tuple[int, int], keys: list[tuple[int, int]], parts: SampledNeighborhoods = parts
    ) -> list:
        batch = parts.__getitems__(keys)
        row = keys.index(key)
        return batch.n_id[batch.edge_index[0][batch.edge_index[1] == row]].tolist()

    alone = neighbours((0, 5), [(0, 5)])
    assert neighbours((0, 5), [(0, 1), (0, 2), (0, 5)]) == alone  # whatever else is in the batch
    others = {tuple(neighbours((e, 5), [(e, 5)])) for e in range(1, 6)}
    assert len(others | {tuple(alone)}) >= 5
    assert neighbours((0, 5), [(0, 5)], sampled([3], seed=1)[1]) != alone


def test_draws_are_uniform_over_the_neighbours():
    graph, parts = sampled([2])
    node = int(torch.bincount(graph.edge_index[1])[50:120].argmax())
    counts = torch.zeros(200)
    for epoch in range(1500):
        batch = parts.__getitems__([(epoch, node)])
        counts += torch.bincount(batch.n_id[batch.edge_index[0]], minlength=200)
    found = counts[counts > 0]
    degree = int((graph.edge_index[1] == 50 + node).sum())
    assert len(found) == degree
    expected = 3000 / degree
    assert float(((found - expected) ** 2 / expected).sum()) < degree + 4 * (2 * degree) ** 0.5


def test_sampling_deals_out_each_split_once_and_refuses_nonsense():
    data = NeighborSampling(BlockModel(), neighbors=[5, 5], batch_size=16)
    data.setup("fit")
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        seen = torch.cat([b.n_id[: b.batch_size] for b in loader])
        assert torch.equal(seen, data.graph[f"{split}_mask"].nonzero()[:, 0])
    for neighbors in ([], [5, 0]):
        with pytest.raises(ValueError, match="a positive number or -1 for each layer"):
            NeighborSampling(BlockModel(), neighbors=neighbors)


def test_the_surveys_block_model():
    """400 nodes, 4 blocks, p_in .06, p_out .01: 8.94 neighbours, two thirds of them in the block."""
    data = BlockModel(degree=8.94, homophily=0.664)
    data.setup("fit")
    graph = data.graph
    inside = graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]
    assert float(inside.sum()) / (400 * 99) == pytest.approx(0.06, abs=0.006)
    assert float((~inside).sum()) / (400 * 300) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize(("changed", "words"), [
    ({"edge_weight": -torch.ones(156)}, r"edge_weight must not lie below 0, got -1"),
    ({"edge_weight": torch.full((156,), torch.nan)}, "edge_weight holds NaN"),
    ({"edge_weight": torch.ones(9)}, "9 rows of edge_weight for 156 edges"),
    ({"edge_index": torch.tensor([[0], [34]])}, r"edge_index must lie in 0\.\.33, got 0\.\.34"),
    ({"x": torch.empty(0, 3), "y": torch.empty(0, dtype=torch.long)}, r"x is \(0, 3\), .* at least one node"),
    ({"x": torch.full((34, 2), torch.inf)}, "x holds NaN or infinite values"),
    ({"y": torch.zeros(34)}, "y of one label a node must be int64"),
    ({"train_mask": torch.zeros(34, dtype=torch.bool)}, "train_mask is empty"),
    ({"train_mask": torch.ones(34, dtype=torch.bool)}, "train_mask and val_mask overlap in 8 nodes"),
    ({"test_mask": torch.ones(34)}, "test_mask must be bool"),
])  # fmt: skip
def test_a_graph_of_the_users_own_is_judged_as_files_are(changed, words):
    class Own(KarateClub):
        def read(self):
            graph = super().read()
            for name, value in changed.items():
                graph[name] = value
            return graph

    for data in (Own(), LinkSplit(Own())):
        with pytest.raises(ValueError, match=rf"Own\)?: {words}"):
            data.setup("fit")
