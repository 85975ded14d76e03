"""GAug-M's change of the graph, the baselines, and the auto-encoders' losses."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from zoo.gaug.predictor import (
    EdgePredictor,
    kl_term,
    ranking_quality,
    reconstruction_loss,
    sampled_reconstruction_loss,
)
from zoo.gaug.ranking import (
    adaedge,
    class_edge_counts,
    drop_edges,
    edge_homophily,
    modify_adjacency,
    modify_by_list,
    modify_pairs,
    random_modification,
)


def graph_of(edges: int, nodes: int = 20) -> tuple[Tensor, Tensor]:
    """(pairs, probabilities) of a graph with ``edges`` edges and different probabilities everywhere."""
    g = torch.Generator().manual_seed(0)
    every = torch.triu_indices(nodes, nodes, 1)
    pairs = every[:, torch.randperm(every.shape[1], generator=g)[:edges].sort().values]
    upper = torch.rand(nodes, nodes, generator=g).triu(1)
    return pairs, upper + upper.T


def matrix(pairs: Tensor, nodes: int) -> Tensor:
    a = torch.zeros(nodes, nodes)
    a[pairs[0], pairs[1]] = 1
    return a + a.T


@pytest.mark.parametrize(
    ("remove", "add", "left"), [(10, 0, 48), (0, 25, 66), (2, 57, 82), (21, 38, 62), (80, 80, 53)]
)
def test_counts_are_percentages_of_the_original_edges(remove: int, add: int, left: int) -> None:
    pairs, q = graph_of(53)
    changed = modify_adjacency(matrix(pairs, 20), q, remove, add)
    assert int(changed.sum()) == 2 * left
    assert torch.equal(changed, changed.T)
    assert (set(changed.unique().tolist()), changed.diagonal().sum()) == ({0.0, 1.0}, 0)


def test_the_lowest_edges_go_and_the_highest_new_pairs_come() -> None:
    pairs, q = graph_of(53)
    removed_count, added_count = int(53 * 0.21), int(53 * 0.38)
    done = modify_pairs(pairs, q[pairs[0], pairs[1]], lambda a, b: q[a:b], 20, 21, 38, block=20)
    given = {(int(a), int(b)) for a, b in pairs.T}
    ranked = sorted(given, key=lambda p: float(q[p]))
    assert {(int(a), int(b)) for a, b in done.removed.T} == set(ranked[:removed_count])
    others = [(i, j) for i in range(20) for j in range(i + 1, 20) if (i, j) not in given]
    best = sorted(others, key=lambda p: -float(q[p]))[:added_count]
    assert [(int(a), int(b)) for a, b in done.added.T] == best


@pytest.mark.parametrize("block", [1, 3, 7, 20])
def test_blocks_do_not_change_the_result(block: int) -> None:
    pairs, q = graph_of(53)
    scores = q[pairs[0], pairs[1]]
    whole = modify_pairs(pairs, scores, lambda a, b: q[a:b], 20, 10, 80, block=20)
    parts = modify_pairs(pairs, scores, lambda a, b: q[a:b], 20, 10, 80, block=block)
    assert torch.equal(whole.pairs, parts.pairs)


def test_no_change_returns_the_input_with_its_diagonal() -> None:
    a = torch.eye(4)
    assert modify_adjacency(a, torch.rand(4, 4), 0, 0) is a
    a = matrix(graph_of(53)[0], 20) + torch.eye(20)
    assert modify_adjacency(a, graph_of(53)[1], 10, 0).diagonal().sum() == 0


def test_no_more_pairs_are_added_than_there_are() -> None:
    pairs, q = graph_of(180)  # of 190
    changed = modify_adjacency(matrix(pairs, 20), q, 0, 50)
    assert int(changed.sum()) == 2 * 190


def test_a_list_of_likely_pairs_gives_edges_outside_it_probability_zero() -> None:
    pairs = torch.tensor([[0, 0, 1, 2], [1, 2, 2, 3]])
    listed, probability = torch.tensor([[0, 1, 0, 1], [1, 2, 3, 3]]), torch.tensor([0.2, 0.9, 0.6, 0.7])
    done = modify_by_list(pairs, listed, probability, 5, 50, 25)
    assert done.removed.tolist() == [[0, 2], [2, 3]]  # neither is listed; 0 - 1 is, with 0.2
    assert done.added.tolist() == [[1], [3]]


def test_the_random_control_changes_as_much_as_gaug_and_nothing_twice() -> None:
    pairs, _ = graph_of(53)
    done = random_modification(pairs, 20, 21, 38, torch.Generator().manual_seed(1))
    assert (done.removed.shape[1], done.added.shape[1], done.pairs.unique(dim=1).shape[1]) == (11, 20, 62)
    given = {tuple(p) for p in pairs.T.tolist()}
    assert {tuple(p) for p in done.removed.T.tolist()} <= given
    assert not {tuple(p) for p in done.added.T.tolist()} & given
    assert (done.pairs[0] < done.pairs[1]).all()


def test_random_pairs_are_uniform() -> None:
    pairs, counts = torch.tensor([[0], [1]]), torch.zeros(4, 4)
    for seed in range(3000):
        added = random_modification(pairs, 4, 0, 100, torch.Generator().manual_seed(seed)).added
        counts[added[0], added[1]] += 1
    free = counts[torch.triu_indices(4, 4, 1).unbind()][1:]
    assert counts[0, 1] == 0
    assert (free / 3000 - 0.2).abs().max() < 3 * math.sqrt(0.2 * 0.8 / 3000)


def test_dropedge_keeps_a_truncated_share() -> None:
    pairs, _ = graph_of(53)
    kept = drop_edges(pairs, 0.067, torch.Generator().manual_seed(0))
    assert kept.shape[1] == int((1 - 0.067) * 53) == 49
    again = drop_edges(pairs, 0.067, torch.Generator().manual_seed(1))
    assert not torch.equal(kept, again)


def test_adaedge_follows_confident_predictions() -> None:
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.45, 0.55]])
    pairs = torch.tensor([[0, 0, 1], [2, 3, 3]])
    done = adaedge(pairs, p, 4, 100, 100, 0.7, 0.7)
    assert done.removed.tolist() == [[0], [2]]  # 0 - 3 disagree too, but 3 is not sure
    assert done.added.tolist() == [[0], [1]]
    assert adaedge(pairs, p, 4, 0, 0, 0.7, 0.7).pairs.tolist() == pairs.tolist()
    # each change has a threshold of its own
    only_added = adaedge(pairs, p, 4, 100, 100, 0.92, 0.7)
    only_removed = adaedge(pairs, p, 4, 100, 100, 0.7, 0.85)
    assert (only_added.removed.numel(), only_added.added.tolist()) == (0, [[0], [1]])
    assert (only_removed.removed.tolist(), only_removed.added.numel()) == ([[0], [2]], 0)


def test_homophily_and_class_counts() -> None:
    pairs, labels = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.tensor([0, 0, 1])
    assert (class_edge_counts(pairs, labels), edge_homophily(pairs, labels)) == ((1, 2), pytest.approx(1 / 3))
    several = torch.tensor([[1, 0], [1, 1], [0, 1]])
    assert class_edge_counts(pairs, several) == (2, 1)


def test_kl_term_has_the_known_value_and_sign() -> None:
    mean, log_std = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    # row 0: (1 + 1 - 1 - e) + (1 - 4 - 1); row 1: 0. 0.5 / 2 * mean over the two rows
    expected = 0.25 * ((1 - math.e) - 4) / 2
    assert kl_term(mean, log_std).item() == pytest.approx(expected, rel=1e-6)
    assert kl_term(torch.zeros(3, 2), torch.zeros(3, 2)).item() == 0


def test_reconstruction_loss_has_the_known_value() -> None:
    logits, target = torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.eye(2)
    softplus = lambda v: math.log1p(math.exp(v))  # noqa: E731
    expected = 0.7 * (3 * (softplus(-2) + softplus(1)) + 2 * math.log(2)) / 4
    assert reconstruction_loss(logits, target, 3.0, 0.7).item() == pytest.approx(expected, rel=1e-6)


def test_sampled_loss_is_exact_with_all_zeros_and_unbiased_with_some() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 10, generator=g)
    target = (torch.rand(10, 10, generator=g) < 0.3).float()
    positives, negatives = logits[target == 1], logits[target == 0]
    exact = reconstruction_loss(logits, target, 2.5, 0.6)
    whole = sampled_reconstruction_loss(positives, negatives, len(negatives), 10, 2.5, 0.6)
    torch.testing.assert_close(whole, exact)
    count = len(negatives)
    drawn = [negatives[torch.randint(count, (8,), generator=g)] for _ in range(4000)]
    draws = torch.stack([sampled_reconstruction_loss(positives, d, count, 10, 2.5, 0.6) for d in drawn])
    assert abs(float(draws.mean() - exact)) < 3 * float(draws.std()) / math.sqrt(4000)


def test_ranking_quality_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(0)
    positives = (torch.randn(60, generator=g) + 0.5).round(decimals=1)  # with ties
    negatives = torch.randn(90, generator=g).round(decimals=1)
    truth, scores = [1] * 60 + [0] * 90, torch.cat([positives, negatives]).numpy()
    auc, ap = ranking_quality(positives, negatives)
    assert auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [((1433, 128, 32, "gae", "o"), 187_520), ((1433, 32, 16, "vgae", "m"), 46_880)],
)
def test_predictors_have_the_papers_sizes(arguments: tuple[int, int, int, str, str], parameters: int) -> None:
    predictor = EdgePredictor(*arguments)  # type: ignore[arg-type]
    assert sum(p.numel() for p in predictor.parameters()) == parameters


def test_the_inner_predictor_has_no_activation_on_its_hidden_layer_and_no_negative_logit() -> None:
    inner, outer = EdgePredictor(3, 4, 2, "gae", "o"), EdgePredictor(3, 4, 2, "gae", "m")
    x, a = torch.randn(5, 3), torch.rand(5, 5)
    z = inner.embed(x, a)
    torch.testing.assert_close(z, (a @ (a @ x @ inner.w0) @ inner.w1).relu())
    assert (z @ z.T).min() >= 0
    linear = outer.embed(x, a)
    torch.testing.assert_close(linear, a @ (torch.nn.functional.elu(a @ x @ outer.w0) @ outer.w1))
    assert linear.min() < 0


def test_the_inner_vgae_has_a_relu_on_both_heads_and_the_outer_on_none() -> None:
    x, adjacency = torch.rand(5, 4), torch.eye(5)
    for form, least in (("o", 0.0), ("m", -1.0)):
        predictor = EdgePredictor(4, 3, 2, "vgae", form=form)  # type: ignore[arg-type]
        with torch.no_grad():
            for weight in predictor.parameters():
                weight.fill_(1.0)
            predictor.w1.fill_(-1.0)
            predictor.w2.fill_(-1.0)  # type: ignore[union-attr]
        heads = predictor(x, adjacency)
        assert [bool((h >= 0).all()) for h in heads] == [least == 0.0] * 2


def test_a_snapshot_is_a_copy() -> None:
    predictor = EdgePredictor(4, 3, 2, "gae", form="m")
    before, kept = predictor.w0.detach().clone(), predictor.snapshot()
    with torch.no_grad():
        predictor.w0.add_(1)
    assert torch.equal(kept["w0"], before)
