"""Sets of graphs: what they hold, how they are split, and the random breadth-first orders."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from fakes.tu import fake_tu_set

from datamodules import GraphSet, TUGraphSet
from datamodules.graphs.graph_sets import (
    OrderedGraphs,
    bfs_order,
    canonical_order,
    community,
    from_pairs,
    grid,
    largest_component,
    neighbours,
    span,
)
from datamodules.loading.sampling import item_generator

DATA = Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "tu"


def slow_bfs(adjacency: np.ndarray, start: int) -> list[int]:
    """A queue; neighbours in ascending index."""
    order, queue = [start], deque([start])
    while queue:
        v = queue.popleft()
        for u in range(len(adjacency)):
            if adjacency[v, u] and u not in order:
                order.append(u)
                queue.append(u)
    return order


def ready(module: GraphSet | TUGraphSet) -> GraphSet | TUGraphSet:
    module.setup("fit")
    return module


def test_grid_has_the_edges_of_a_grid() -> None:
    assert grid(1, 3).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    a = grid(3, 4)
    assert (a.shape, a.sum() // 2) == ((12, 12), 2 * 12 - 3 - 4)
    assert sorted(a.sum(axis=0)) == [2] * 4 + [3] * 6 + [4] * 2


def test_orders_are_queue_bfs_after_a_permutation() -> None:
    a = community(16, 0.6, 0.1, np.random.default_rng(3))
    for seed in range(20):
        permutation = np.random.default_rng(seed).permutation(len(a))
        expected = permutation[slow_bfs(a[np.ix_(permutation, permutation)], int(_second_draw(seed, len(a))))]
        assert bfs_order(neighbours(a), np.random.default_rng(seed)).tolist() == expected.tolist()


def _second_draw(seed: int, nodes: int) -> int:
    random = np.random.default_rng(seed)
    random.permutation(nodes)
    return int(random.integers(nodes))


def test_starts_and_orders_are_spread_evenly() -> None:
    a, random = grid(3, 3), np.random.default_rng(0)
    orders = [bfs_order(neighbours(a), random) for _ in range(900)]
    starts = np.bincount([o[0] for o in orders], minlength=9)
    assert starts.min() > 70  # 100 expected
    seconds = np.bincount([o[1] for o in orders if o[0] == 4], minlength=9)
    assert (seconds[[1, 3, 5, 7]] > 0).all()
    assert seconds[[0, 2, 4, 6, 8]].sum() == 0


def test_an_order_is_a_function_of_seed_epoch_and_index() -> None:
    graphs = [grid(3, 4), grid(4, 4), grid(2, 7)]
    items = OrderedGraphs(graphs, "bfs", seed=1, items=9)
    together = items.__getitems__([(2, 4), (2, 8), (0, 0)])
    assert (together["adjacency"].shape, together["nodes"].tolist()) == ((3, 16, 16), [16, 14, 12])
    assert together["index"].tolist() == [4, 8, 0]
    for place, key in enumerate([(2, 4), (2, 8), (0, 0)]):
        alone = items[key]["adjacency"]
        n = len(alone)
        assert (together["adjacency"][place, :n, :n] == alone).all()
        assert together["adjacency"][place].sum() == alone.sum()
    # another epoch, another visit of the same graph, another seed or split: another order
    reference = items.ordered(2, 4)
    others = [
        items.ordered(3, 4),
        items.ordered(2, 7),
        OrderedGraphs(graphs, "bfs", seed=2, items=9).ordered(2, 4),
        OrderedGraphs(graphs, "bfs", seed=1, split=1, items=9).ordered(2, 4),
    ]
    assert all((o != reference).any() for o in others)
    assert (OrderedGraphs(graphs, "bfs", seed=1, items=9).ordered(2, 4) == reference).all()


def test_canonical_orders_start_at_the_highest_degree_and_never_change() -> None:
    star = from_pairs(np.array([[3, 3, 3], [0, 1, 2]]), 4)
    assert canonical_order(star).tolist() == [3, 0, 1, 2]
    items = OrderedGraphs([grid(3, 3)], "canonical", seed=0, items=5)
    assert all((items.ordered(e, i) == items.ordered(0, 0)).all() for e, i in ((1, 0), (0, 3), (7, 4)))
    assert items.ordered(0, 0)[0].sum() == 4


def test_largest_component() -> None:
    a = from_pairs(np.array([[0, 2, 3, 4], [1, 3, 4, 5]]), 6)
    assert largest_component(a).tolist() == from_pairs(np.array([[0, 1, 2], [1, 2, 3]]), 4).tolist()


def test_span_is_the_longest_link() -> None:
    assert span(from_pairs(np.array([[0, 1, 0], [1, 2, 4]]), 5)) == 4
    assert span(np.zeros((3, 3), dtype=np.uint8)) == 0


@pytest.mark.parametrize(("name", "counts", "sizes"), [
    ("grid_small", (70, 18, 22), (10, 20)), ("ladder_small", (38, 10, 12), (10, 20)),
    ("community_small", (64, 16, 20), (12, 20)), ("grid", (64, 16, 20), (100, 361)),
    ("community", (320, 80, 100), (60, 160)),
])  # fmt: skip
def test_sets_have_graphrnns_sizes_and_split(
    name: str, counts: tuple[int, int, int], sizes: tuple[int, int]
) -> None:
    module = ready(GraphSet(name, bfs_draws=0))  # type: ignore[arg-type]
    assert tuple(len(module.graphs[s]) for s in ("train", "val", "test")) == counts
    every = [g for part in module.graphs.values() for g in part]
    assert ((min(map(len, every)), max(map(len, every))), module.max_nodes) == (sizes, sizes[1])
    assert all((g == g.T).all() and not g.diagonal().any() for g in every)
    assert all(len(largest_component(g)) == len(g) for g in every)


def test_splits_are_disjoint_and_do_not_depend_on_the_seed_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(GraphSet("community_small"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    second = ready(GraphSet("community_small"))
    for part in first.graphs:
        assert all((a == b).all() for a, b in zip(first.graphs[part], second.graphs[part], strict=True))
    every = [g.tobytes() for part in first.graphs.values() for g in part]
    assert (len(set(every)), first.bandwidth) == (len(every), second.bandwidth)
    batch = first.sets["train"].__getitems__([(0, 0)])["adjacency"]
    assert (batch != second.sets["train"].__getitems__([(0, 0)])["adjacency"]).any()


def test_communities_are_dense_inside_and_joined_by_few_edges() -> None:
    a = community(100, 0.3, 0.05, np.random.default_rng(0))
    between = a[:50, 50:].sum()
    assert between == 5
    inside = (a.sum() / 2 - between) / (2 * 50 * 49 / 2)
    assert inside == pytest.approx(0.3, abs=0.03)


def test_bandwidth_covers_the_orders_that_were_drawn() -> None:
    module = ready(GraphSet("grid_small"))
    random = item_generator(0, 999)
    spans = []
    for graph in module.graphs["train"]:
        for _ in range(20):
            order = bfs_order(neighbours(graph), random)
            spans.append(span(graph[np.ix_(order, order)]))
    assert max(spans) == module.bandwidth == 8


def test_tu_files_give_largest_components_without_loops(tmp_path: Path) -> None:
    module = ready(TUGraphSet(root=str(fake_tu_set(tmp_path))))
    every = sorted(len(g) for part in module.graphs.values() for g in part)
    assert every == [10, 11, *range(13, 25)]  # graph 2 is too small, graph 1 has lost its pair of nodes
    assert all(g.sum() // 2 == len(g) + 1 and not g.diagonal().any() for g in module.graphs["train"])


def test_missing_and_damaged_tu_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*ENZYMES_A\.txt: unpack .* data.init_args.root"):
        ready(TUGraphSet(root=str(tmp_path)))
    raw = fake_tu_set(tmp_path) / "ENZYMES" / "raw"
    whole = (raw / "ENZYMES_A.txt").read_text()
    (raw / "ENZYMES_A.txt").write_text(whole + "1, 99999\n")
    with pytest.raises(ValueError, match="damaged or do not fit together"):
        ready(TUGraphSet(root=str(tmp_path)))
    (raw / "ENZYMES_A.txt").write_text(whole + "1, 40\n")
    with pytest.raises(ValueError, match="damaged or do not fit together"):
        ready(TUGraphSet(root=str(tmp_path)))
    (raw / "ENZYMES_A.txt").write_text("1, x\n")
    with pytest.raises(ValueError, match="damaged or do not fit together"):
        ready(TUGraphSet(root=str(tmp_path)))
    (raw / "ENZYMES_A.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match="damaged or do not fit together"):
        ready(TUGraphSet(root=str(tmp_path)))


@pytest.mark.skipif(not (DATA / "ENZYMES/raw").is_dir(), reason="ZOO_DATA has no graphs/tu/ENZYMES")
def test_real_enzymes() -> None:
    module = ready(TUGraphSet(bfs_draws=0))
    every = [g for part in module.graphs.values() for g in part]
    assert len(every) == 584  # of 600; 16 have a largest component below 10 nodes
    assert module.max_nodes == 125
    assert module.bandwidth <= 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "grids"}, "must be one of grid_small"),
        ({"order": "dfs"}, "order must be one of bfs, canonical"),
    ],
)
def test_impossible_settings(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GraphSet(**arguments)  # type: ignore[arg-type]
