"""GAug-O's sampled graph: the exact values and gradients that the paper's code gives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import RelaxedBernoulli

from zoo.gaug.adjacency import (
    EdgeList,
    mean_degree,
    row_normalised,
    sparse_if_thin,
    symmetrically_normalised,
    with_self_loops,
)
from zoo.gaug.edges import (
    EPS,
    change_count,
    edge_probabilities,
    rank_edit,
    relaxed_bernoulli,
    rounded,
    sample_dense,
    sample_pairs,
    symmetrised,
    symmetrised_pairs,
    warmup_factor,
)
from zoo.gaug.predictor import balance, pair_logits

PATH = torch.tensor([[0, 1], [1, 2]])  # 0 - 1 - 2


def random_graph(nodes: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(A~, Z, all pairs i < j) of a small graph."""
    g = torch.Generator().manual_seed(seed)
    a = (torch.rand(nodes, nodes, generator=g) < 0.25).float().triu(1)
    z = torch.rand(nodes, 4, generator=g) * (torch.rand(nodes, 4, generator=g) < 0.6)
    return a + a.T + torch.eye(nodes), z, torch.triu_indices(nodes, nodes, 1)


def test_probabilities_divide_by_the_largest_logit_and_no_sigmoid_touches_them() -> None:
    logits = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    p = edge_probabilities(logits, torch.eye(2), alpha=1.0)
    assert p.tolist() == [[1.0, 0.25], [0.25, 0.5]]  # max exactly 1
    mixed = edge_probabilities(logits, torch.eye(2), alpha=0.5)
    assert mixed.tolist() == [[1.0, 0.125], [0.125, 0.75]]
    paper = edge_probabilities(logits, torch.eye(2), 1.0, "sigmoid")
    assert paper[0, 1].item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_gradient_flows_through_the_maximum() -> None:
    logits = torch.tensor([4.0, 1.0], requires_grad=True)
    edge_probabilities(logits, torch.zeros(2), 1.0)[1].backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [-1 / 16, 1 / 4]


def test_a_dead_relu_gives_zero_not_nan() -> None:
    p = edge_probabilities(torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), 0.5)
    assert p.tolist() == [0.5, 0.0, 0.0]


def test_alpha_zero_samples_the_given_graph_and_the_predictor_gets_no_gradient() -> None:
    adjacency, z, _ = random_graph()
    z = z.clone().requires_grad_()
    p = edge_probabilities(z @ z.T, adjacency, alpha=0.0)
    sample = relaxed_bernoulli(p, torch.rand(12, 12), 1.0)
    assert torch.equal(symmetrised(sample), adjacency)
    sample.sum().backward()
    assert z.grad is not None
    assert z.grad.abs().max() == 0


@pytest.mark.parametrize("temperature", [0.1, 1.2, 2.1])
def test_samples_are_exactly_bernoulli_at_any_temperature(temperature: float) -> None:
    p = torch.tensor([0.02, 0.3, 0.5, 0.9])
    u = torch.rand(10_000, 4, generator=torch.Generator().manual_seed(1))
    mean = relaxed_bernoulli(p.expand(10_000, 4), u, temperature).mean(dim=0)
    assert ((mean - p).abs() <= 3 * (p * (1 - p) / 10_000).sqrt()).all()


def test_temperature_changes_gradients_alone() -> None:
    u = torch.rand(200, generator=torch.Generator().manual_seed(2))
    samples, gradients = [], []
    for temperature in (0.5, 2.0):
        p = torch.full((200,), 0.4, requires_grad=True)
        sample = relaxed_bernoulli(p, u, temperature)
        sample.sum().backward()
        samples.append(sample.detach())
        gradients.append(p.grad)
    assert torch.equal(*samples)
    assert not torch.allclose(*gradients)  # type: ignore[arg-type]


def test_the_relaxed_sample_and_its_gradient_are_those_of_torch_distributions() -> None:
    p = torch.tensor([0.1, 0.5, 0.8], requires_grad=True)
    torch.manual_seed(5)
    soft = RelaxedBernoulli(torch.tensor(0.7), probs=p).rsample()
    soft.sum().backward()
    expected, p.grad = p.grad, None
    torch.manual_seed(5)
    hard = relaxed_bernoulli(p, torch.rand(3), 0.7)
    hard.sum().backward()
    assert torch.equal(hard, soft.detach().round())
    torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=0)


def test_certain_edges_keep_probability_one_minus_eps() -> None:
    assert EPS == 2.0**-23
    p, u = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1e-9, 0.5, 0.5])
    # u below eps is clamped to eps: logit(1 - eps) + logit(eps) = 0 to rounding, sigmoid .5 rounds to even
    assert relaxed_bernoulli(p, u, 1.0)[1:].tolist() == [1.0, 0.0]


def test_symmetrised_uses_the_upper_triangle_and_leaves_the_sample_alone() -> None:
    sample = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    before, graph = sample.clone(), symmetrised(sample)
    assert graph.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert torch.equal(sample, before)
    assert sample.diagonal().tolist() == [0, 0, 1]


def test_self_loops_are_set_not_added() -> None:
    index = torch.tensor([[0, 0, 1], [0, 1, 0]])
    assert with_self_loops(index, 3).to_dense().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_the_mean_degree_leaves_the_node_itself_out() -> None:
    path = with_self_loops(torch.cat([PATH, PATH.flip(0)], dim=1), 3)
    assert float(mean_degree(path)) == pytest.approx(4 / 3)
    assert float(mean_degree(path.to_dense())) == pytest.approx(4 / 3)


def test_thin_features_alone_become_sparse() -> None:
    thin, full = torch.eye(20), torch.ones(20, 20)
    assert sparse_if_thin(thin).is_sparse
    assert not sparse_if_thin(full).is_sparse
    assert torch.equal(sparse_if_thin(thin).to_dense(), thin)


def test_gcn_normalisation_has_the_known_values_on_a_path() -> None:
    """Degrees with the loop are 2, 3, 2."""
    w = 1 / math.sqrt(6)
    expected = torch.tensor([[1 / 2, w, 0], [w, 1 / 3, w], [0, w, 1 / 2]])
    listed = with_self_loops(torch.cat([PATH, PATH.flip(0)], dim=1), 3)
    torch.testing.assert_close(symmetrically_normalised(listed).to_dense(), expected)  # type: ignore[union-attr]
    torch.testing.assert_close(symmetrically_normalised(listed.to_dense()), expected)
    rows = torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]])
    torch.testing.assert_close(row_normalised(listed).to_dense(), rows)  # type: ignore[union-attr]


def test_absent_pairs_get_a_gradient_through_gcns_degree_but_not_through_graphsages() -> None:
    path = with_self_loops(torch.cat([PATH, PATH.flip(0)], dim=1), 3).to_dense()
    x, gradients = torch.tensor([[1.0], [2.0], [4.0]]), {}
    for name, normalise in (("gcn", symmetrically_normalised), ("sage", row_normalised)):
        a = path.clone().requires_grad_()
        (normalise(a) @ x)[0].sum().backward()
        assert a.grad is not None
        gradients[name] = a.grad
    # sage: d/da_02 of row 0 is x_2 / d - sum / d^2 |a|' with |0|' = 0: 4 / 2 alone, and not 4 / 2 - 3 / 4
    assert gradients["sage"][0, 2].item() == pytest.approx(2.0)
    assert gradients["sage"][0, 1].item() == pytest.approx(2 / 2 - 3 / 4)
    # gcn: x_2 / sqrt(d_0 d_2) through the entry, -1/(2 d_0) times the row's value through the degree of 0
    value = 1 / 2 + 2 / math.sqrt(6)
    assert gradients["gcn"][0, 2].item() == pytest.approx(4 / 2 - (value + 1 / 2) / 4, rel=1e-5)


@pytest.mark.parametrize("normalise", [symmetrically_normalised, row_normalised])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_sparse_path_equals_the_dense_one_on_all_pairs(normalise: object, alpha: float) -> None:
    """Values and gradients, when the candidates are all pairs: max M lies on the diagonal."""
    adjacency, z, pairs = random_graph()
    uniform = torch.rand(12, 12, generator=torch.Generator().manual_seed(3))
    x, results = torch.randn(12, 5), []
    for sparse in (False, True):
        code = z.clone().requires_grad_()
        if sparse:
            logits = pair_logits(code, pairs)
            largest = code.square().sum(dim=1).max()
            edges, u = adjacency[pairs[0], pairs[1]], uniform[pairs[0], pairs[1]]
            values = sample_pairs("relaxed", logits, edges, u, 12, alpha, 0.8, largest=largest)
            sampled = symmetrised_pairs(values, pairs, 12)
        else:
            sampled = symmetrised(sample_dense("relaxed", code @ code.T, adjacency, uniform, alpha, 0.8))
        out = normalise(sampled) @ x  # type: ignore[operator]
        (out * torch.arange(60.0).view(12, 5)).sum().backward()
        results.append((out.detach(), code.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-3)
    assert results[0][1].abs().max() > 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("sampler", ["add_round", "rand", "edge"])
def test_other_samplers_agree_dense_and_sparse(sampler: str) -> None:
    adjacency, z, pairs = random_graph()
    uniform = torch.rand(12, 12)
    dense = sample_dense(sampler, z @ z.T, adjacency, uniform, 0.6, 1.0)  # type: ignore[arg-type]
    largest = z.square().sum(dim=1).max()
    given = [pair_logits(z, pairs), *(a[pairs[0], pairs[1]] for a in (adjacency, uniform)), 12, 0.6, 1.0]
    listed = sample_pairs(sampler, *given, largest=largest)  # type: ignore[arg-type]
    assert torch.equal(dense[pairs[0], pairs[1]], listed)
    assert 0 < listed.sum() < len(listed)


def test_a_product_with_an_edge_list_has_the_gradients_of_the_dense_product() -> None:
    index = torch.randint(6, (2, 15))
    weight, x = torch.randn(15, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    listed, factor = EdgeList(index, weight, 6), torch.randn(6, 3)
    sparse = torch.autograd.grad(((listed @ x) * factor).sum(), (weight, x))
    dense = torch.autograd.grad(((listed.to_dense() @ x) * factor).sum(), (weight, x))
    torch.testing.assert_close(sparse, dense)


def test_rank_sampler_counts_self_loops_and_takes_the_extremes() -> None:
    assert change_count(2 * 31 + 14, 0.1) == 3  # int((2 m + N) alpha / 2)
    # edges (0,1) M 5, (0,2) M 1; others (0,3) M 0, (1,2) M 2, (1,3) M 4, (2,3) M 3
    upper = torch.tensor([[9.0, 5, 1, 0], [0, 9, 2, 4], [0, 0, 9, 3], [0, 0, 0, 9]])
    logits = upper + upper.triu(1).T
    a = torch.zeros(4, 4)
    a[0, 1] = a[0, 2] = 1
    adjacency = a + a.T + torch.eye(4)
    logits.requires_grad_()
    edited = rank_edit(logits, adjacency, alpha=0.25)  # k = int(8 * .25 / 2) = 1
    assert edited.nonzero().tolist() == [[0, 1], [1, 3]]  # (0,2) removed, (1,3) added
    edited.sum().backward()
    assert logits.grad is not None
    # scaled by the largest entry above the diagonal, 5: +1/5 on the added, -1/5 on the removed pair
    assert logits.grad[1, 3].item() == pytest.approx(1 / 5)
    assert logits.grad[0, 2].item() == pytest.approx(-1 / 5)
    # k = 4, but only three non-edges have M > 0, and both edges go
    assert rank_edit(logits, adjacency, alpha=1.0).nonzero().tolist() == [[1, 2], [1, 3], [2, 3]]


def test_rounding_passes_the_gradient_straight_through() -> None:
    p = torch.tensor([0.3, 0.7], requires_grad=True)
    sample = rounded(p)
    assert sample.tolist() == [0.0, 1.0]
    (sample * torch.tensor([2.0, 3.0])).sum().backward()
    assert p.grad is not None
    assert p.grad.tolist() == [2.0, 3.0]


def test_balance_counts_the_self_loops() -> None:
    pos_weight, norm = balance(14, 62)
    assert (pos_weight, norm) == (pytest.approx(2.16129, abs=1e-5), pytest.approx(0.731343, abs=1e-6))


def test_warmup_starts_at_zero_rises_and_ends_at_one() -> None:
    factors = [warmup_factor(e, 200, 10) for e in range(200)]
    assert (factors[0], factors[-1]) == (0, 1)
    assert all(a < b for a, b in itertools.pairwise(factors))
    assert factors[100] == pytest.approx(0.5126, abs=1e-3)
    assert [warmup_factor(e, 200, 0) for e in (0, 7)] == [1.0, 1.0]
