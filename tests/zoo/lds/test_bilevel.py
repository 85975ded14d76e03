"""Hypergradients against finite differences, reverse loop against unroll, candidates against dense."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.lds.bilevel import (
    DecreaseWatch,
    Draw,
    Hypergradient,
    Problem,
    hypergradient,
    initial_logit,
    learning_rate,
    unrolled_hypergradient,
)
from zoo.lds.edges import AllPairs, CandidatePairs, Edges, Factors
from zoo.lds.network import GCN, Features

NODES, WIDTH, CLASSES = 6, 3, 2
PAIRS = torch.triu_indices(NODES, NODES, 1)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


class Toy:
    """A problem of six nodes with all draws of ``steps`` inner steps fixed."""

    def __init__(self, edges: Edges, steps: int, optimizer: Any = "adam", hidden: Any = (4,)) -> None:
        random = torch.Generator().manual_seed(3)
        network = GCN(WIDTH, hidden, CLASSES).double()
        x = torch.randn(NODES, WIDTH, generator=random)
        labels = torch.tensor([0, 1, 0, 1, 1, 0])
        train, val = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
        self.edges, self.steps = edges, steps
        self.problem = Problem(network, Features(x), labels, train, val, edges, 5e-4, optimizer)
        matrices = [torch.randn(a, b, generator=random) for a, b in network.shapes]
        self.start = self.problem.fresh_state(torch.cat([w.flatten() for w in matrices]))
        values = torch.floor(torch.rand(steps + 1, PAIRS.shape[1], generator=random) + 0.5)
        masks = [[(torch.rand(NODES, h, generator=random) < 0.7) / 0.7 for h in hidden] for _ in range(steps)]
        self.values = values.double()
        self.leaves = [edges.leaf(v) for v in self.values]
        self.draws = [Draw(leaf, mask) for leaf, mask in zip(self.leaves, masks, strict=False)]
        self.rate = torch.tensor(0.02)

    def states(self) -> list[Tensor]:
        states = [self.start]
        for k, draw in enumerate(self.draws):
            states.append(self.problem.step(states[-1], k + 1, draw, self.rate)[0].detach())
        return states

    def reverse(self, truncation: int) -> Hypergradient:
        *states, last = self.states()
        arguments = (self.draws.__getitem__, self.leaves[-1], self.rate, truncation)
        return hypergradient(self.problem, states, last, 1, *arguments)

    def unrolled(self, truncation: int) -> Hypergradient:
        arguments = (self.problem, self.start, 1, self.draws, self.leaves[-1], self.rate, truncation)
        return unrolled_hypergradient(*arguments)

    def loss(self, shift: Tensor, truncation: int, rate: Tensor | None = None) -> float:
        """F when the leaves of the last ``truncation`` steps and of the outer loss are shifted together."""
        state = self.states()[self.steps - truncation]
        for k in range(self.steps - truncation, self.steps):
            draw = Draw(self.leaves[k] + shift, self.draws[k].dropout)
            state = self.problem.step(state, k + 1, draw, self.rate if rate is None else rate)[0].detach()
        return float(self.problem.outer_loss(state[0], self.leaves[-1] + shift))


def central(f: Callable[[float], float], h: float = 5e-6) -> float:
    """Five-point difference quotient, error O(h^4). A small h: Adam's first step is steep where g is tiny."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def dense() -> AllPairs:
    return AllPairs(NODES)


def candidate() -> CandidatePairs:
    return CandidatePairs(PAIRS, NODES)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("tau", [1, 5, 20])
def test_hypergradient_equals_finite_differences(tau: int, optimizer: str) -> None:
    toy = Toy(dense(), tau, optimizer)
    found = toy.reverse(tau)
    largest = float(found.leaf.abs().max())
    for i, j in [(0, 1), (1, 0), (2, 4), (5, 3), (0, 5), (3, 2)]:
        unit = torch.zeros(NODES, NODES)
        unit[i, j] = 1
        expected = central(lambda h, u=unit: toy.loss(h * u, tau))
        assert abs(float(found.leaf[i, j]) - expected) <= 1e-7 * largest
    expected = central(lambda h: toy.loss(torch.zeros(()), tau, toy.rate + h), 1e-6)
    assert float(found.rate) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("tau", [1, 5])
def test_the_pair_rule_is_the_derivative_of_a_symmetric_shift(tau: int) -> None:
    toy = Toy(dense(), tau)
    found = toy.reverse(tau).leaf
    pairs = toy.edges.pair_gradient(found, symmetric=True)
    for number, (i, j) in enumerate(PAIRS.T.tolist()):
        unit = torch.zeros(NODES, NODES)
        unit[i, j] = unit[j, i] = 1
        expected = central(lambda h, u=unit: toy.loss(h * u, tau))
        assert abs(float(pairs[number]) - expected) <= 1e-7 * float(found.abs().max())
    # far from symmetric: taking one entry for two is another gradient
    assert (found - found.T).abs().max() > 0.1 * found.abs().max()


@pytest.mark.parametrize("hidden", [(4,), (4, 4)])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("truncation", [0, 1, 3, 6])
def test_reverse_loop_equals_unroll(truncation: int, optimizer: str, hidden: tuple[int, ...]) -> None:
    toy = Toy(dense(), 6, optimizer, hidden)
    reverse, unrolled = toy.reverse(truncation), toy.unrolled(truncation)
    assert torch.allclose(reverse.leaf, unrolled.leaf, rtol=0, atol=1e-10)
    assert torch.allclose(reverse.rate, unrolled.rate, rtol=1e-10, atol=1e-12)
    assert float(reverse.loss) == pytest.approx(float(unrolled.loss), abs=1e-12)


def test_truncation_zero_is_the_direct_term() -> None:
    toy = Toy(dense(), 4)
    final, leaf = toy.states()[-1], toy.leaves[-1].clone().requires_grad_()
    (direct,) = torch.autograd.grad(toy.problem.outer_loss(final[0], leaf), leaf)
    found = toy.reverse(0)
    assert torch.allclose(found.leaf, direct, rtol=0, atol=1e-14)
    assert float(found.rate) == 0
    assert (toy.reverse(1).leaf - direct).abs().max() > 1e-4


def test_truncation_stops_the_loop_and_earlier_draws_get_nothing() -> None:
    toy, largest = Toy(dense(), 6), 0.0
    for truncation in (1, 3):
        found, unit = toy.reverse(truncation).leaf, torch.zeros(NODES, NODES)
        unit[2, 4] = 1
        expected = central(lambda h, u=unit, t=truncation: toy.loss(h * u, t))
        largest = float(found.abs().max())
        assert abs(float(found[2, 4]) - expected) <= 1e-7 * largest
    assert (toy.reverse(6).leaf - toy.reverse(3).leaf).abs().max() > 1e-3 * largest


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_candidates_over_all_pairs_equal_dense(optimizer: str, symmetric: bool) -> None:
    a, b = Toy(dense(), 5, optimizer), Toy(candidate(), 5, optimizer)
    for x, y in ((a.reverse(5), b.reverse(5)), (a.unrolled(3), b.unrolled(3))):
        p, q = (t.edges.pair_gradient(g.leaf, symmetric) for t, g in ((a, x), (b, y)))
        assert torch.allclose(p, q, rtol=0, atol=1e-14)
        assert torch.allclose(x.rate, y.rate, rtol=1e-12, atol=1e-14)


def test_a_subset_of_candidates_gives_the_dense_gradient_there() -> None:
    chosen, whole = torch.tensor([0, 2, 5, 7, 8, 11, 13]), Toy(dense(), 3)
    whole.values[:, [i for i in range(15) if i not in chosen.tolist()]] = 0
    part = Toy(CandidatePairs(PAIRS, NODES), 3)
    part.edges = CandidatePairs(PAIRS[:, chosen], NODES)
    part.problem = Problem(**{**part.problem.__dict__, "edges": part.edges})
    for toy, values in ((whole, whole.values), (part, whole.values[:, chosen])):
        toy.leaves = [toy.edges.leaf(v) for v in values]
        toy.draws = [Draw(leaf, draw.dropout) for leaf, draw in zip(toy.leaves, toy.draws, strict=False)]
    expected = whole.edges.pair_gradient(whole.reverse(3).leaf, True)[chosen]
    assert torch.allclose(part.edges.pair_gradient(part.reverse(3).leaf, True), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("edges", [dense, candidate])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.5, 1.0])
def test_a_graph_of_its_edges_alone_gives_the_gradient_of_all_pairs(edges: Any, share: float) -> None:
    """Few edges take the sparse product, many the dense one: the numbers are those of the whole matrix."""
    nodes = 30
    pairs = torch.triu_indices(nodes, nodes, 1)
    possible = AllPairs(nodes) if edges is dense else CandidatePairs(pairs, nodes)
    random = torch.Generator().manual_seed(1)
    values = torch.zeros(pairs.shape[1])
    chosen = torch.randperm(pairs.shape[1], generator=random)[: int(share * pairs.shape[1])]
    values[chosen] = torch.rand(len(chosen), generator=random)
    assert_same_gradients(possible, possible.drawn(values), possible.leaf(values))


@pytest.mark.parametrize("edges", [dense, candidate])
def test_a_leaf_need_not_be_symmetric(edges: Any) -> None:
    random = torch.Generator().manual_seed(2)
    possible = edges()
    leaf = torch.rand(possible.leaf(torch.zeros(possible.count)).shape, generator=random)
    assert_same_gradients(possible, possible.graph(leaf), leaf)


def assert_same_gradients(possible: Any, graph: Any, leaf: Tensor) -> None:
    """Products and factors of ``graph`` against plain differentiation of ``leaf``, to the second order."""
    random = torch.Generator().manual_seed(3)
    start, weight = (torch.randn(possible.num_nodes, 4, generator=random) for _ in range(2))
    found = []
    for way in (leaf.clone().requires_grad_(), graph):
        propagate = way.propagate if way is graph else partial(possible.propagate, way)
        signal, factors = start.clone().requires_grad_(), Factors()
        loss = (propagate(signal).tanh() * weight).sum()
        (first,) = torch.autograd.grad(loss, signal, create_graph=True)
        if way is graph:
            with graph.noting(factors):
                second, rows = torch.autograd.grad(first.pow(2).sum(), (signal, graph.degree))
            factors.rows.append(rows)
            found.append([loss, first, second, possible.gradient(factors)])
        else:
            second, by_leaf = torch.autograd.grad(first.pow(2).sum(), (signal, way))
            found.append([loss, first, second, by_leaf])
    for plain, ours in zip(*found, strict=True):
        assert torch.allclose(plain, ours, rtol=0, atol=1e-12)


def test_float32_candidates_equal_dense_at_300_nodes() -> None:
    torch.set_default_dtype(torch.float32)
    nodes = 300
    pairs = torch.triu_indices(nodes, nodes, 1)
    x, labels = torch.randn(nodes, 10), torch.randint(3, (nodes,))
    network = GCN(10, (16,), 3)
    weights = network.initial(torch.Generator().manual_seed(0))
    values = (torch.rand(4, pairs.shape[1]) < 0.03).float()
    found = []
    for edges in (AllPairs(nodes), CandidatePairs(pairs, nodes)):
        problem = Problem(network, Features(x), labels, torch.arange(50), torch.arange(50, 100), edges)
        draws = [Draw(edges.leaf(v), None) for v in values]
        state, states = problem.fresh_state(weights), []
        for k in range(3):
            states.append(state)
            state = problem.step(state, k + 1, draws[k], torch.tensor(0.02))[0].detach()
        g = hypergradient(problem, states, state, 1, draws.__getitem__, draws[3].leaf, torch.tensor(0.02), 3)
        found.append(edges.pair_gradient(g.leaf, True))
    assert (found[0] - found[1]).abs().max() < 1e-5 * found[0].abs().max()


def test_adam_has_epsilon_inside_the_root_and_no_corrected_moments() -> None:
    toy = Toy(dense(), 2)
    weights = toy.start[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(toy.problem.inner_loss(weights, toy.draws[0]), weights)
    state, loss = toy.problem.step(toy.start, 1, toy.draws[0], toy.rate)
    mean, square = 0.1 * gradient, 0.001 * gradient**2
    rate = 0.02 * (1 - 0.999) ** 0.5 / (1 - 0.9)
    assert torch.allclose(state[1], mean, rtol=1e-12)
    assert torch.allclose(state[2], square, rtol=1e-12)
    assert torch.allclose(state[0], toy.start[0] - rate * mean / (square + 1e-10).sqrt(), rtol=1e-12)
    assert float(loss) == pytest.approx(float(toy.problem.inner_loss(toy.start[0], toy.draws[0])))


def test_adams_step_number_counts_on() -> None:
    toy = Toy(dense(), 2)
    early = toy.problem.step(toy.start, 1, toy.draws[0], toy.rate)[0][0] - toy.start[0]
    late = toy.problem.step(toy.start, 100, toy.draws[0], toy.rate)[0][0] - toy.start[0]
    ratio = (1 - 0.999**100) ** 0.5 / (1 - 0.9**100) / ((1 - 0.999) ** 0.5 / (1 - 0.9))
    assert torch.allclose(late, early * ratio, rtol=1e-9)


def test_the_regulariser_is_on_the_first_layer_of_the_inner_loss_alone() -> None:
    toy = Toy(dense(), 1)
    bare = Problem(**{**toy.problem.__dict__, "l2": 0.0})
    weights = toy.start[0]
    first = toy.problem.network.matrices(weights)[0]
    extra = toy.problem.inner_loss(weights, toy.draws[0]) - bare.inner_loss(weights, toy.draws[0])
    assert float(extra) == pytest.approx(0.5 * 5e-4 * float(first.pow(2).sum()), rel=1e-9)
    leaf = toy.leaves[0]
    assert float(toy.problem.outer_loss(weights, leaf)) == float(bare.outer_loss(weights, leaf))


def test_inner_and_outer_loss_look_at_their_own_nodes() -> None:
    toy = Toy(dense(), 1)
    changed = toy.problem.labels.clone()
    changed[3:] = 1 - changed[3:]
    other = Problem(**{**toy.problem.__dict__, "labels": changed})
    weights, draw = toy.start[0], toy.draws[0]
    assert float(other.inner_loss(weights, draw)) == float(toy.problem.inner_loss(weights, draw))
    assert float(other.outer_loss(weights, draw.leaf)) != float(toy.problem.outer_loss(weights, draw.leaf))


def test_learned_rate_starts_at_the_released_value() -> None:
    assert initial_logit(0.02) == pytest.approx(-0.417089, abs=1e-6)
    assert float(learning_rate(torch.tensor(initial_logit(0.02)))) == pytest.approx(0.019921, abs=1e-6)
    assert float(learning_rate(torch.tensor(-50.0))) == pytest.approx(1e-4)
    assert float(learning_rate(torch.tensor(50.0))) == pytest.approx(0.05)


def test_the_watch_counts_steps_in_a_row_without_a_drop_of_a_thousandth() -> None:
    watch = DecreaseWatch(3)
    # 0.9995 and 0.9991 are no drop of 0.1 % below 1; 0.9989 is, and becomes the best
    results = [watch.exhausted(x) for x in (1.0, 0.9995, 0.9991, 0.9989, 0.9985, 5.0, 0.9989)]
    assert results == [False, False, False, False, False, False, True]
    assert (watch.best, watch.count) == (0.9989, 3)
    exact = DecreaseWatch(1, least=0.5)
    assert [exact.exhausted(x) for x in (1.0, 0.5, 0.25)] == [False, False, False]  # not above is a decrease


def test_gcn_is_two_normalised_layers_without_biases() -> None:
    toy = Toy(dense(), 1)
    leaf, weights = toy.leaves[0], toy.start[0]
    with_loops = leaf + torch.eye(NODES)
    scale = with_loops.sum(dim=1) ** -0.5
    ah = scale[:, None] * with_loops * scale
    w0, w1 = toy.problem.network.matrices(weights)
    x = toy.problem.x.project(torch.eye(WIDTH))
    expected = ah @ (ah @ x @ w0).relu() @ w1
    found = toy.problem.network.logits(weights, toy.problem.x, toy.edges, leaf)
    assert torch.allclose(found, expected, atol=1e-12)
    mask = toy.draws[0].dropout
    assert mask is not None
    dropped = ah @ ((ah @ x @ w0).relu() * mask[0]) @ w1
    found = toy.problem.network.logits(weights, toy.problem.x, toy.edges, leaf, mask)
    assert torch.allclose(found, dropped, atol=1e-12)


@pytest.mark.parametrize(
    ("features", "classes", "count"),
    [(13, 3, 256), (30, 2, 512), (64, 10, 1184), (1433, 7, 23040), (3703, 6, 59344)],
    ids=["wine", "cancer", "digits", "cora", "citeseer"],
)
def test_weight_counts_are_the_papers(features: int, classes: int, count: int) -> None:
    assert GCN(features, (16,), classes).size == count


def test_glorot_uniform_fills_its_range_and_no_more() -> None:
    network = GCN(100, (50,), 20)
    first, second = network.matrices(network.initial(torch.Generator().manual_seed(0)))
    for matrix, bound in ((first, (6 / 150) ** 0.5), (second, (6 / 70) ** 0.5)):
        assert 0.98 * bound < matrix.abs().max() <= bound
        assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_dropout_masks_are_inverted() -> None:
    (mask,) = GCN(3, (16,), 2, 0.25).draw_dropout(1000, torch.Generator().manual_seed(0))
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert mask.mean().item() == pytest.approx(1, abs=0.02)


def test_each_hidden_layer_has_a_dropout_mask_of_its_own() -> None:
    toy = Toy(dense(), 1, hidden=(4, 4))
    weights, (one, none) = toy.start[0], (torch.ones(NODES, 4), torch.zeros(NODES, 4))
    logits = [
        toy.problem.network.logits(weights, toy.problem.x, toy.edges, toy.leaves[0], masks)
        for masks in ((one, none), (none, one), (one, one))
    ]
    assert [bool(v.any()) for v in logits] == [False, False, True]
    half = torch.cat([torch.ones(NODES, 2), torch.zeros(NODES, 2)], dim=1)
    first, second = (
        toy.problem.network.logits(weights, toy.problem.x, toy.edges, toy.leaves[0], masks)
        for masks in ((half, one), (one, half))
    )
    assert not torch.allclose(first, second)


def test_sparse_features_give_the_dense_result_and_second_derivatives() -> None:
    x = (torch.rand(30, 40) < 0.05).double()
    sparse, full = Features(x), Features(x, sparse_below=-1)
    assert sparse.sparse
    assert not full.sparse
    weight, found = torch.randn(40, 4, requires_grad=True), []
    for features in (sparse, full):
        (g,) = torch.autograd.grad(features.project(weight).pow(3).sum(), weight, create_graph=True)
        (h,) = torch.autograd.grad(g.pow(2).sum(), weight)
        found.append((g.detach(), h))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-12)


def test_expected_output_averages_logits_or_probabilities() -> None:
    toy = Toy(dense(), 3)
    network, weights = toy.problem.network, toy.start[0]
    each = torch.stack([network.logits(weights, toy.problem.x, toy.edges, leaf) for leaf in toy.leaves])
    logits = network.expected(weights, toy.problem.x, toy.edges, toy.leaves)
    probs = network.expected(weights, toy.problem.x, toy.edges, toy.leaves, "probs")
    assert torch.allclose(logits, each.mean(dim=0), atol=1e-12)
    assert torch.allclose(probs, each.softmax(dim=2).mean(dim=0).log(), atol=1e-12)
