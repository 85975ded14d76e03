"""Sampled graphs and the GCN normalisation: exact values, and candidates that equal the dense code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.lds.edges import AllPairs, CandidatePairs, choose_candidates, draw_edges, initial_values, project


def normalised(values: Tensor, nodes: int, candidates: bool = False) -> Tensor:
    """Ah as a matrix: the propagation of the identity."""
    pairs = torch.triu_indices(nodes, nodes, 1)
    edges = CandidatePairs(pairs, nodes) if candidates else AllPairs(nodes)
    return edges.propagate(edges.leaf(values), torch.eye(nodes, dtype=values.dtype))


@pytest.mark.parametrize("candidates", [False, True])
def test_normalised_adjacency_of_two_nodes_and_of_a_path(candidates: bool) -> None:
    assert torch.allclose(normalised(torch.tensor([1.0]), 2, candidates), torch.full((2, 2), 0.5))
    path = normalised(torch.tensor([1.0, 0.0, 1.0]), 3, candidates)
    expected = torch.tensor([[0.5, 0.408248, 0], [0.408248, 0.333333, 0.408248], [0, 0.408248, 0.5]])
    assert torch.allclose(path, expected, atol=1e-6)


@pytest.mark.parametrize("candidates", [False, True])
def test_an_isolated_node_keeps_itself_alone(candidates: bool) -> None:
    values = torch.tensor([1.0, 0.0, 0.0])  # pair (0, 1); node 2 is alone
    assert normalised(values, 3, candidates)[2].tolist() == [0, 0, 1]


def test_a_drawn_adjacency_is_symmetric_binary_with_zero_diagonal() -> None:
    edges = AllPairs(40)
    theta = torch.rand(edges.count)
    leaf = edges.leaf(draw_edges(theta, torch.rand(edges.count)))
    assert torch.equal(leaf, leaf.T)
    assert (leaf.diagonal().abs().sum(), set(leaf.unique().tolist())) == (0, {0.0, 1.0})


def test_pairs_are_numbered_row_by_row() -> None:
    leaf = AllPairs(4).leaf(torch.arange(1.0, 7.0))
    assert leaf.triu().tolist() == [[0, 1, 2, 3], [0, 0, 4, 5], [0, 0, 0, 6], [0, 0, 0, 0]]
    assert torch.equal(AllPairs(4).pairs(), torch.triu_indices(4, 4, 1))


def test_numbers_of_pairs_are_read_back_without_a_table() -> None:
    for nodes in (1, 2, 3, 7, 40):
        edges = AllPairs(nodes)
        assert torch.equal(edges._numbered(torch.arange(edges.count)), edges.pairs())


def test_draws_are_certain_at_the_ends_and_have_mean_theta_inside() -> None:
    uniform = torch.rand(200_000)
    assert (draw_edges(torch.zeros(()), uniform).sum(), draw_edges(torch.ones(()), uniform).mean()) == (0, 1)
    assert draw_edges(torch.tensor(0.3), uniform).mean().item() == pytest.approx(0.3, abs=0.005)


def test_projection_clips_to_zero_and_one() -> None:
    assert project(torch.tensor([-0.5, 0.0, 0.4, 1.0, 7.0])).tolist() == pytest.approx([0, 0, 0.4, 1, 1])


@pytest.mark.parametrize("candidates", [False, True])
def test_pair_rules_add_both_entries_or_take_the_upper(candidates: bool) -> None:
    gradient = torch.arange(9.0).view(3, 3)
    edges = CandidatePairs(torch.triu_indices(3, 3, 1), 3) if candidates else AllPairs(3)
    if candidates:
        row, column = torch.triu_indices(3, 3, 1)
        gradient = torch.cat([gradient[row, column], gradient[column, row]])
    assert edges.pair_gradient(gradient, symmetric=True).tolist() == [1 + 3, 2 + 6, 5 + 7]
    assert edges.pair_gradient(gradient, symmetric=False).tolist() == [1, 2, 5]


def test_candidates_drawn_as_zero_receive_a_gradient() -> None:
    edges = CandidatePairs(torch.tensor([[0, 1], [1, 2]]), 4)
    leaf = edges.leaf(torch.tensor([1.0, 0.0])).requires_grad_()
    edges.propagate(leaf, torch.randn(4, 3)).pow(2).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.abs() > 1e-4).all()


def test_initial_values_read_the_given_edges_and_weights() -> None:
    pairs = torch.tensor([[0, 0, 1, 2], [1, 3, 2, 3]])
    edge_index = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 0, 3, 2, 2, 0]])
    weight = torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0, 1.0])
    assert initial_values(pairs, 4, edge_index, None).tolist() == [1, 0, 0, 1]  # 0-2 is no candidate
    assert initial_values(pairs, 4, edge_index, weight).tolist() == [1, 0, 0, 0.5]
    assert initial_values(pairs, 4, torch.zeros(2, 0, dtype=torch.long), None).sum() == 0


def test_candidates_hold_the_given_edges_random_ones_and_the_nearest() -> None:
    features = torch.randn(60, 5)
    edge_index = torch.tensor([[0, 59, 3, 4], [59, 0, 4, 3]])
    chosen = choose_candidates(edge_index, features, 200, 20, torch.Generator().manual_seed(0))
    codes = (chosen[0] * 60 + chosen[1]).tolist()
    assert (len(set(codes)), codes) == (200, sorted(codes))
    assert {0 * 60 + 59, 3 * 60 + 4} <= set(codes)
    unit = torch.nn.functional.normalize(features, dim=1)
    similarity = unit @ unit.T - 2 * torch.eye(60)
    first = {min(i, j) * 60 + max(i, j) for i, j in enumerate(similarity.argmax(dim=1).tolist())}
    assert first <= set(codes)
    nearest = choose_candidates(edge_index, features, 200, 0, torch.Generator().manual_seed(0))
    missing = set(codes) - set((nearest[0] * 60 + nearest[1]).tolist())
    assert 10 <= len(missing) <= 20  # the random ones, of which a few are near too
    again = choose_candidates(edge_index, features, 200, 20, torch.Generator().manual_seed(0), block=7)
    assert torch.equal(chosen, again)
    everything = choose_candidates(edge_index, features, 60 * 59 // 2, 0, torch.Generator())
    assert torch.equal(everything, torch.triu_indices(60, 60, 1))


def test_candidate_numbers_that_cannot_be_are_refused() -> None:
    edge_index, features = torch.tensor([[0, 1], [1, 0]]), torch.randn(5, 2)
    for count, extra in ((0, 0), (5, 5), (11, 0)):
        with pytest.raises(ValueError, match=f"num_candidates is {count}, but the data have 1 given edges"):
            choose_candidates(edge_index, features, count, extra, torch.Generator())


@pytest.mark.parametrize(
    "pairs",
    [[[1], [0]], [[0, 0], [1, 1]], [[1, 0], [2, 1]], [[0], [9]]],
    ids=["order", "double", "sort", "range"],
)
def test_candidate_pairs_must_be_sorted_pairs_of_nodes(pairs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="candidate pairs"):
        CandidatePairs(torch.tensor(pairs), 3)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, float("nan")])
def test_weights_that_are_no_probabilities_are_refused(wrong):
    with pytest.raises(ValueError, match=f"in \\[0, 1\\], but edge_weight holds {wrong:g}"):
        initial_values(
            torch.tensor([[0], [1]]), 2, torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.5, wrong])
        )
