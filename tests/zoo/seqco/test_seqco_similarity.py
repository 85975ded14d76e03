"""The similarity of two sequences and the weights of the pairs, with the numbers of the specification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.seqco.similarity import (
    CrossAttention,
    attention_loss,
    first_token_loss,
    in_batch_loss,
    mean_of_rows,
    mean_token_loss,
    pooled,
    spread,
    unit,
)
from zoo.seqco.weighting import DIRECTIONS, directions, schedule


def identity_attention(width: int = 2) -> CrossAttention:
    attention = CrossAttention(width, 1, 0.0)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(width).repeat(3, 1))
        attention.out_proj.weight.copy_(torch.eye(width))
        attention.in_proj_bias.zero_()
    return attention


A = torch.tensor([[[1.0, 0.0]]])
B = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


def test_the_query_is_the_target_and_the_two_token_example_holds() -> None:
    attention = identity_attention()
    forward, backward = attention_loss(A, B, attention), attention_loss(B, A, attention)
    assert forward.item() == pytest.approx(0.5, abs=1e-6)
    assert backward.item() == pytest.approx(0.103100, abs=1e-6)
    assert (forward + backward).item() == pytest.approx(0.603100, abs=2e-6)
    shapes = []

    def watched(query: Tensor, *others: Tensor, **settings: object) -> tuple[Tensor, None]:
        shapes.append((query.shape[1], others[0].shape[1]))
        return attention(query, *others, **settings)

    attention_loss(A, B, watched)
    assert shapes == [(2, 1)]  # |b| queries, |a| keys


def test_features_are_unit_vectors_of_each_token() -> None:
    features = unit(torch.randn(3, 5, 7) * 9)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3, 5), rtol=0, atol=1e-5)


def test_padding_changes_nothing_with_masks_and_something_without() -> None:
    attention = CrossAttention(8, 2, 0.0)
    a, b = unit(torch.randn(2, 4, 8)), unit(torch.randn(2, 3, 8))
    masks = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    junk = unit(torch.randn(2, 3, 8))
    long_a, long_b = torch.cat([a, junk], dim=1), torch.cat([b, junk[:, :2]], dim=1)
    long_masks = functional.pad(masks[0], (0, 3)), functional.pad(masks[1], (0, 2))
    plain = attention_loss(a, b, attention, *masks)
    assert attention_loss(long_a, long_b, attention, *long_masks).item() == pytest.approx(
        plain.item(), abs=1e-5
    )
    assert abs(attention_loss(long_a, long_b, attention).item() - plain.item()) > 1e-3


def test_sequences_count_alike_whatever_their_length() -> None:
    # the mean over a sequence's own tokens first: a long one does not outweigh a short one
    attention = identity_attention()
    online = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    found = attention_loss(online, target, attention, None, mask)
    assert found.item() == pytest.approx(0.5)  # (0 + 1) / 2, not (0 + 0 + 1) / 3


def test_rows_without_text_are_left_out_and_none_gives_a_connected_zero() -> None:
    values = torch.tensor([1.0, 3.0, 100.0], requires_grad=True)
    assert mean_of_rows(values, torch.tensor([True, True, False])).item() == 2
    nothing = mean_of_rows(values, torch.zeros(3, dtype=torch.bool))
    assert nothing.item() == 0
    nothing.backward()
    assert torch.equal(values.grad, torch.zeros(3))


def test_the_first_token_variant_is_byols_loss() -> None:
    online, target = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    found = first_token_loss(online, target, nn.Identity())
    expected = 1 - functional.cosine_similarity(online[:, 0], target[:, 0]).mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_in_batch_negatives_leave_out_rows_as_keys_too() -> None:
    vectors = unit(torch.randn(4, 6))
    rows = torch.tensor([True, True, True, False])
    found = in_batch_loss(vectors, vectors, 0.5, rows)
    scores = vectors[:3] @ vectors[:3].T / 0.5
    assert found.item() == pytest.approx(functional.cross_entropy(scores, torch.arange(3)).item(), abs=1e-6)


@pytest.mark.parametrize(("width", "expected"), [(1024, 0.031), (64, 0.125)])
def test_the_collapse_monitor_knows_isotropic_vectors(width: int, expected: float) -> None:
    vectors = unit(torch.randn(4000, width))
    assert spread(vectors).item() == pytest.approx(expected, rel=0.02)
    assert spread(vectors[:1].expand(5, -1)).item() == pytest.approx(0, abs=1e-8)
    assert math.isnan(spread(vectors[:1]))


def test_pooling_sees_real_tokens_alone() -> None:
    features = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]])
    found = pooled(features, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_uniform_logits_lose_the_logarithm_of_the_vocabulary(smoothing: float) -> None:
    labels = torch.tensor([[5, 6, -100], [7, -100, -100]])
    total, tokens = mean_token_loss(torch.zeros(2, 3, 11), labels, smoothing)
    assert tokens.item() == 3
    assert (total / tokens).item() == pytest.approx(math.log(11), abs=1e-6)


def test_label_smoothing_is_spread_over_the_vocabulary_and_pads_are_out() -> None:
    logits, labels = torch.randn(2, 3, 11), torch.tensor([[5, 6, -100], [7, -100, -100]])
    log = logits.log_softmax(-1)
    expected = 0.0
    for row, place in ((0, 0), (0, 1), (1, 0)):
        nll = -log[row, place, labels[row, place]]
        expected += 0.9 * nll - 0.1 / 11 * log[row, place].sum()
    total, _ = mean_token_loss(logits, labels, 0.1)
    assert total.item() == pytest.approx(float(expected), abs=1e-5)


def test_the_attention_begins_as_fairseqs() -> None:
    attention = CrossAttention(256, 4, 0.1)
    bound = math.sqrt(6 / 512)
    for part in attention.in_proj_weight.chunk(3):
        assert part.abs().max().item() == pytest.approx(bound / math.sqrt(2), rel=0.01)
    assert attention.out_proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not attention.out_proj.bias.any()
    assert sum(p.numel() for p in attention.parameters()) == 4 * (256**2 + 256)


# --- weights ------------------------------------------------------------------------------------------------


def test_schedules_are_linear_between_their_points_and_hold_the_last() -> None:
    found = schedule("0:0,100:1,200:0.5", "w")
    assert [found(u) for u in (0, 50, 100, 150, 200, 9999)] == [0, 0.5, 1, 0.75, 0.5, 0.5]
    assert schedule(0.3, "w")(7) == schedule("0.3", "w")(7) == 0.3
    assert schedule(0, "w").is_zero
    assert not schedule("0:0,10:1", "w").is_zero  # it begins at 0 and is not nothing


@pytest.mark.parametrize(
    "given", ["5:1,10:2", "0:1,10:2,10:3", "0:1,5", "much", "0:-1", "-1", "0:nan", "1.5:2"]
)
def test_other_schedules_are_refused_by_name(given: str) -> None:
    with pytest.raises(ValueError, match="weight_xy"):
        schedule(given, "model.init_args.weight_xy")


def test_one_direction_is_the_official_one() -> None:
    assert directions("xy", False) == (("y", "x"),)
    assert directions("xyhat", False) == (("x", "yhat"),)
    assert directions("yyhat", False) == (("y", "yhat"),)
    assert all(len(directions(pair, True)) == 2 for pair in DIRECTIONS)
