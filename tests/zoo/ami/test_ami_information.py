"""The pure functions of AMI, with the numbers of its traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from zoo.ami.information import (
    Cycle,
    advantage,
    backward_loss,
    cut_at_eos,
    forward_loss,
    information_bound,
    join_rows,
    mean_embedding,
    noise_loss,
    noise_strength,
    pair_weights,
    plug_in_information,
    sequence_nll,
)
from zoo.ami.noise import NoiseSampler, placed, straight_through

PAD, BOS, EOS = 1, 2, 3


def test_the_forward_loss_is_reward_times_nll() -> None:
    assert forward_loss(tensor([[1.0, 2.0]]), tensor([[-3.0, -1.0]])) == -2.5


def test_no_gradient_is_taken_of_the_reward() -> None:
    reward = tensor([[-3.0, -1.0]], requires_grad=True)
    forward_loss(tensor([[1.0, 2.0]], requires_grad=True), reward).backward()
    assert reward.grad is None


@pytest.mark.parametrize("baseline", ["leave_one_out", "batch"])
def test_a_bandit_learns_the_reply_that_the_source_is_recovered_from(baseline: str) -> None:
    """log q(S|T'_1) = -1 above log q(S|T'_2) = -3: after 200 steps p(T'_1) > 0.9."""
    scores = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=0.1)
    log_q, g = tensor([-1.0, -3.0]), torch.Generator().manual_seed(0)
    for _ in range(200):
        drawn = torch.multinomial(scores.detach().softmax(0), 8, True, generator=g).view(4, 2)
        nll = -scores.log_softmax(0)[drawn]
        optimizer.zero_grad()
        forward_loss(nll, advantage(log_q[drawn], baseline)).backward()  # type: ignore[arg-type]
        optimizer.step()
    assert scores.softmax(0)[0] > 0.9


def test_baselines() -> None:
    reward = tensor([[-1.0, -2.0], [-3.0, -6.0]])
    assert advantage(reward, "leave_one_out").tolist() == [[2.0, 4.0], [-2.0, -4.0]]
    assert advantage(reward, "batch").tolist() == [[2.0, 1.0], [0.0, -3.0]]
    assert advantage(reward, "batch", tensor(-1.0)).tolist() == [[0.0, -1.0], [-2.0, -5.0]]
    assert advantage(reward, "none") is reward
    assert advantage(reward[:1], "leave_one_out").tolist() == [[-1.0, -2.0]]  # nothing to leave in


def test_each_synthetic_pair_has_its_own_weight() -> None:
    nll = tensor([41.2029, 35.8613, 19.9032, 33.5521])
    weight = tensor([0.1, 0.7, 1.3, 0.4])
    assert -4 * backward_loss(nll, weight) == pytest.approx(68.5182, abs=1e-3)
    # the released broadcast: (sum of nll) x (sum of w) / 4 rows of it
    assert (nll * weight[:, None]).sum() == pytest.approx(326.30, abs=0.01)


def test_weights_of_synthetic_pairs() -> None:
    table = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    ids = tensor([[5, 6, 7]])
    same = mean_embedding(table, ids, PAD)
    assert pair_weights(same, same).abs().max() < 1e-6
    assert pair_weights(tensor([1.0, 0.0]), tensor([0.0, 2.0])) == 1
    assert pair_weights(same, mean_embedding(table, tensor([[PAD, PAD]]), PAD)) == 1  # an empty reply
    padded = mean_embedding(table, tensor([[5, 6, 7, PAD, PAD]]), PAD)
    other = mean_embedding(table, tensor([[4, 8]]), PAD)
    assert torch.equal(pair_weights(padded, other), pair_weights(same, other))
    many = torch.randn(10_000, 5, generator=torch.Generator().manual_seed(0))
    assert (torch.cosine_similarity(many, many) > 1).any()  # rounding alone would reward a gold reply
    assert pair_weights(many, many).min() == 0


def test_nll_is_normalised_by_the_tokens_that_are_no_pads() -> None:
    logits = torch.zeros(1, 6, 50)
    labels = tensor([[4, 7, EOS, PAD, PAD, PAD]])
    assert sequence_nll(logits, labels, PAD) == pytest.approx(math.log(50))
    assert sequence_nll(logits, labels, PAD, mean=False) == pytest.approx(3 * math.log(50), rel=1e-6)
    random = torch.randn(1, 3, 50)
    longer = torch.cat([random, torch.randn(1, 2, 50)], dim=1)
    pads = tensor([[4, 7, EOS, PAD, PAD]])
    assert torch.equal(sequence_nll(random, pads[:, :3], PAD), sequence_nll(longer, pads, PAD))
    assert sequence_nll(random, torch.full((1, 3), PAD), PAD) == 0  # nothing to divide by


def test_a_reply_is_cut_at_its_first_eos() -> None:
    labels, source = cut_at_eos(tensor([[7, 9, 3, 8, 3, 4, 5], [3, 8, 8, 8, 8, 8, 8], [8] * 7]), EOS, PAD)
    assert labels.tolist() == [[7, 9, 3, 1, 1, 1, 1], [3, 1, 1, 1, 1, 1, 1], [8] * 7]
    assert source.tolist() == [[7, 9, 1, 1, 1, 1, 1], [1] * 7, [8] * 7]


def test_a_reply_follows_its_context() -> None:
    context = tensor([[4, 5, 6], [4, PAD, PAD], [PAD, PAD, PAD]])
    reply = tensor([[7, 9], [8, PAD], [PAD, PAD]])
    assert join_rows(context, reply, PAD).tolist() == [[4, 5, 6, 7, 9], [4, 8, 1, 1, 1], [1] * 5]
    nothing = reply.new_zeros(3, 0)
    assert join_rows(nothing, reply, PAD).tolist() == [[7, 9], [8, PAD], [PAD, PAD]]
    assert join_rows(nothing[2:], reply[2:], PAD).tolist() == [[PAD]]  # an empty source has one pad


def test_noise_is_mu_plus_softplus_of_mu_times_the_draw() -> None:
    noise = NoiseSampler(8)
    assert sum(p.numel() for p in NoiseSampler(512).parameters()) == 525_312
    assert sum(p.numel() for p in NoiseSampler(500).parameters()) == 501_000
    memory, draws = torch.randn(2, 3, 8), torch.randn(4, 2, 3, 8)
    assert torch.equal(noise(memory, torch.zeros(1, 2, 3, 8))[0], noise.mu(memory))
    for p in noise.mu[2].parameters():
        torch.nn.init.zeros_(p)
    assert torch.allclose(noise(memory, draws), 0.6931472 * draws)


def test_strength_is_the_norm_over_features() -> None:
    noise = torch.zeros(2, 3, 4, 9)
    noise[0], noise[1] = 1.0, 2.0
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert noise_strength(noise, mask).tolist() == [3.0, 6.0]
    noise[:, :, 3] = 100.0
    mask[:, 3] = False
    assert noise_strength(noise, mask).tolist() == [3.0, 6.0]


def test_strength_is_rewarded_up_to_the_limit_for_each_draw_alone() -> None:
    nll = tensor([[1.0, 3.0], [2.0, 4.0]])
    found = noise_loss(nll, tensor([0.5, 1.5]), rho=0.1, limit=1.0)
    assert found == pytest.approx(((2 - 0.05) + 3) / 2)


def test_the_argmax_gives_the_noise_no_gradient_and_straight_through_one() -> None:
    logits, table = torch.randn(2, 3, 7, requires_grad=True), torch.randn(7, 4)
    extra = straight_through(logits, table)
    assert extra.abs().max() == 0
    at = placed(extra, tensor([1, 0]), tensor([2, 3]), 4)
    assert at.shape == (2, 4, 4)
    direction = torch.randn(2, 4, 4)
    (at * direction).sum().backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient[0, :2].abs().sum() > 0
    assert gradient[0, 2].abs().sum() == 0  # behind the reply's end
    soft = logits.detach().requires_grad_()
    (soft.softmax(-1) @ table * torch.stack([direction[0, 1:4], direction[1, :3]])).sum().backward()
    assert soft.grad is not None
    assert torch.allclose(gradient[1], soft.grad[1], atol=1e-6)


def test_information() -> None:
    assert information_bound(math.log(16), tensor([-0.5, -1.5])) == pytest.approx(math.log(16) - 1)
    topics = torch.arange(16).repeat(10)
    assert plug_in_information(torch.stack([topics, topics * 0 + 3], 1)) == pytest.approx(0, abs=1e-9)
    assert plug_in_information(torch.stack([topics, topics + 5], 1)) == pytest.approx(2.7726, abs=1e-4)


def test_the_cycle_of_twenty_batches() -> None:
    turns = [Cycle().at(b) for b in range(40)]
    assert turns[:20] == turns[20:]
    assert [t for t, _ in turns[:20]] == ["forward"] * 8 + ["backward"] * 8 + ["noise"] * 4
    assert [b for b, (_, extra) in enumerate(turns[:20], 1) if extra] == [2, 4, 6, 8, 10, 12, 14, 16]
    staged = Cycle((3, 2, 1, 1), (1, 1, 0), 1)
    assert [staged.at(b)[0] for b in range(9)] == [
        *["pretrain_forward"] * 3, *["pretrain_backward"] * 2, "pretrain_noise", "pretrain_source",
        "forward", "backward",
    ]  # fmt: skip
    assert staged.at(9) == ("forward", True)
