"""Scores of triples, losses, and ranks among all entities."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.knowledge.network import Embeddings, RelationFrequency
from zoo.knowledge.scores import (
    complex_query,
    cross_entropy,
    filtered_ranks,
    logistic_loss,
    margin_loss,
    n3,
)


def test_transe_is_minus_the_distance_of_head_plus_relation_to_tail() -> None:
    torch.manual_seed(0)
    for norm in (1, 2):
        network = Embeddings(5, 2, "transe", 3, norm).double()
        head, relation = torch.tensor([4, 1]), torch.tensor([3, 0])
        scores = network(head, relation)
        e, r = network.entity.weight, network.relation.weight
        for b in range(2):
            for t in range(5):
                difference = (e[head[b]] + r[relation[b]] - e[t]).abs()
                wanted = -difference.sum() if norm == 1 else -difference.square().sum().sqrt()
                assert float(scores[b, t]) == pytest.approx(float(wanted), abs=1e-12)
        some = torch.tensor([[0, 3], [2, 2]])
        torch.testing.assert_close(network(head, relation, some), scores.gather(1, some))


def test_transe_has_entities_of_length_one_where_it_is_asked() -> None:
    network = Embeddings(4, 1, "transe", 3, unit_entities=True)
    torch.testing.assert_close(network.entity_vectors().norm(dim=1), torch.ones(4))


def test_complex_is_the_real_part_of_the_product_with_the_conjugate_tail() -> None:
    torch.manual_seed(1)
    h, r, t = (torch.randn(6, dtype=torch.complex128) for _ in range(3))
    flat = [torch.cat([x.real, x.imag])[None] for x in (h, r, t)]
    score = (complex_query(flat[0], flat[1]) * flat[2]).sum()
    assert float(score) == pytest.approx(float((h * r * t.conj()).sum().real), abs=1e-12)
    turned = (complex_query(flat[2], flat[1]) * flat[0]).sum()
    assert abs(float(score - turned)) > 0.1  # a relation need not be symmetric


def test_a_network_scores_all_entities_as_it_scores_some() -> None:
    torch.manual_seed(2)
    network = Embeddings(7, 3, "complex", 4)
    head, relation = torch.tensor([0, 6, 3]), torch.tensor([5, 1, 0])
    everything = torch.arange(7).expand(3, 7)
    scores = network(head, relation)
    torch.testing.assert_close(network(head, relation, everything), scores)
    assert network.entity.weight.shape == (7, 8)
    assert network.relation.weight.shape == (6, 8)  # inverse relations have their own


def test_the_nuclear_norm_is_of_moduli() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])  # |3 + 4i|^3 and |2i|^3
    assert float(n3(a, b)) == pytest.approx(125 + 8)
    assert float(n3(torch.cat([a, b]))) == pytest.approx((125 + 8) / 2)


def test_losses_have_their_values() -> None:
    assert float(cross_entropy(torch.zeros(2, 8), torch.tensor([0, 7]))) == pytest.approx(math.log(8))
    right, wrong = torch.tensor([-1.0, -3.0]), torch.tensor([[-1.5, -4.0], [-2.0, -9.0]])
    # 1 + 1 - 1.5, 1 + 1 - 4 < 0, 1 + 3 - 2, 1 + 3 - 9 < 0
    assert float(margin_loss(right, wrong, 1.0)) == pytest.approx((0.5 + 2.0) / 4)
    wanted = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(0.0)) + 0) / 2  # right + 3: 2 and 0
    others = sum(math.log1p(math.exp(x)) for x in (1.5, -1.0, 1.0, -6.0)) / 4
    assert float(logistic_loss(right, wrong, 3.0)) == pytest.approx((wanted + others) / 2)


def test_a_rank_leaves_out_other_answers_and_counts_ties_half() -> None:
    scores = torch.tensor([[5.0, 3.0, 3.0, 1.0, 4.0]])
    tail, nothing = torch.tensor([1]), torch.zeros(1, 5, dtype=torch.bool)
    known = torch.tensor([[True, True, False, False, False]])
    assert filtered_ranks(scores, tail, nothing).tolist() == [3.5]
    assert filtered_ranks(scores, tail, known).tolist() == [2.5]  # entity 0 answers, too
    same = torch.zeros(1, 9)
    assert filtered_ranks(same, tail, torch.zeros(1, 9, dtype=torch.bool)).tolist() == [5.0]
    with pytest.raises(ValueError, match="diverged"):
        filtered_ranks(torch.full((1, 5), math.nan), tail, nothing)


def test_frequency_counts_the_tails_of_each_relation() -> None:
    network = RelationFrequency(4, 1)
    network.count(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 3, 0]))
    found = network(torch.tensor([1, 1]), torch.tensor([0, 1]))
    assert found.tolist() == [[0, 0, 2, 1], [1, 0, 0, 0]]
