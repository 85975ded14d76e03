"""Losses, smoothing and mixup against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from zoo.mbt.losses import (
    mixed,
    mixup_partners,
    mixup_weights,
    sample_losses,
    smoothed,
    targets,
    training_loss,
)


def test_a_zero_head_has_the_loss_of_chance() -> None:
    zeros = torch.zeros(4, 2, 527)
    labels = torch.zeros(4, 527)
    labels[:, 3] = 1
    both = labels[:, None].expand(-1, 2, -1)
    assert float(training_loss(zeros, both, "multi_label")) == pytest.approx(527 * math.log(2), abs=1e-3)
    assert 527 * math.log(2) == pytest.approx(365.29, abs=0.01)
    assert float(training_loss(zeros, both, "single_label")) == pytest.approx(math.log(527), abs=1e-5)
    epic = targets(torch.tensor([[3, 5]] * 4), "verb_noun", 397, [97, 300])[:, None].expand(-1, 2, -1)
    loss = training_loss(zeros[:, :, :397], epic, "verb_noun", 0.1, [97, 300])
    assert float(loss) == pytest.approx((math.log(97) + math.log(300)) / 2, abs=1e-5)


def test_binary_cross_entropy_is_summed_over_classes() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(3, 7), (torch.rand(3, 7) > 0.5).float()
    mean = F.binary_cross_entropy_with_logits(x, t)
    assert float(sample_losses(x, t, "multi_label").mean()) == pytest.approx(7 * float(mean), rel=1e-6)


def test_smoothing_is_the_same_rule_for_both_losses() -> None:
    t = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert torch.allclose(smoothed(t, 0.3), torch.tensor([[0.775, 0.075, 0.775, 0.075]]))
    x = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(x, smoothed(t, 0.3), reduction="sum")
    assert float(sample_losses(x, t, "multi_label", 0.3)) == pytest.approx(float(expected))
    one = F.one_hot(torch.tensor([2]), 4).float()
    torch_loss = F.cross_entropy(x, torch.tensor([2]), label_smoothing=0.3)
    assert float(sample_losses(x, one, "single_label", 0.3)) == pytest.approx(float(torch_loss))


def test_verb_and_noun_are_smoothed_with_their_own_counts() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 9)
    label = torch.tensor([[0, 1], [3, 4], [2, 0], [1, 1], [0, 3]])
    t = targets(label, "verb_noun", 9, [4, 5])
    verb = F.cross_entropy(x[:, :4], label[:, 0], label_smoothing=0.2, reduction="none")
    noun = F.cross_entropy(x[:, 4:], label[:, 1], label_smoothing=0.2, reduction="none")
    assert torch.allclose(sample_losses(x, t, "verb_noun", 0.2, [4, 5]), (verb + noun) / 2, atol=1e-6)


def test_the_loss_is_the_mean_of_the_modalities_losses() -> None:
    """Not the loss of the mean logits."""
    logits = torch.tensor([[[4.0, 0.0], [-4.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    expected = (math.log1p(math.exp(-4)) + math.log1p(math.exp(4))) / 2
    assert float(training_loss(logits, target, "single_label")) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(2.018, abs=1e-3) != math.log(2)


def test_absent_modalities_do_not_count() -> None:
    logits = torch.tensor([[[4.0, 0.0], [-4.0, 0.0]], [[4.0, 0.0], [-4.0, 0.0]]])
    target = torch.tensor([1.0, 0.0]).expand(2, 2, 2)
    present = torch.tensor([[True, False], [False, False]])
    loss = training_loss(logits, target, "single_label", present=present)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-4)) / 2, rel=1e-5)  # the second sample has none


def test_partners_are_the_reversed_batch() -> None:
    partner, group = mixup_partners(5, 1)
    assert partner.tolist() == [4, 3, 2, 1, 0]  # the middle one is its own
    assert group.tolist() == [0] * 5


@pytest.mark.parametrize("groups", [2, 4, 6])
def test_two_ranks_mix_as_one_does(groups: int) -> None:
    """Where the number of devices divides the groups, every partner is on the same device."""
    rows = 24
    partner, group = mixup_partners(rows, groups)
    for rank in (0, 1):
        local, own_group = mixup_partners(rows // 2, groups, rank, 2)
        assert group[rank::2].tolist() == own_group.tolist()
        assert partner[rank::2].tolist() == (local * 2 + rank).tolist()


def test_mixing_and_its_labels() -> None:
    x = torch.tensor([[1.0], [0.0], [3.0]])
    w = torch.full((3,), 0.75)
    assert mixed(x, w, torch.tensor([2, 1, 0])).flatten().tolist() == [1.5, 0.0, 2.5]


def test_weights_are_one_per_group_and_on_request_per_modality() -> None:
    shared, apart = (mixup_weights(5, 0.3, 2, 4, independent) for independent in (False, True))
    assert shared.shape == apart.shape == (2, 4)
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(apart[0], apart[1])
    many = mixup_weights(0, 0.3, 1, 20_000, False)
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(many.var()) == pytest.approx(
        0.25 / (2 * 0.3 + 1), abs=0.005
    )  # of Beta(a, a): 1 / (4 (2a + 1))
