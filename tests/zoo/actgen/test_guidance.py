"""The rules of guided sampling with the paper's numbers: gammas, masks, losses, gradients, a round's mix."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.actgen.guidance import (
    accumulated_mask,
    adversarial_share,
    default_margin,
    dissimilarity_loss,
    guidance_weight,
    normalized_gradient,
    normalized_mask,
    random_share,
    tiled,
    token_attention,
    towards_guide,
)
from zoo.actgen.module import counts
from zoo.actgen.refusals import status_of
from zoo.nn.optim import EpochWarmupCosine


def test_gammas_are_the_papers() -> None:
    gamma = [guidance_weight(i, 12.5) for i in range(40)]
    assert [gamma[i] for i in (0, 12, 13, 20)] == pytest.approx(
        [0.9999963, 0.6224593, 0.3775407, 0.0005528], abs=5e-8
    )
    assert gamma[12] + gamma[13] == 1.0
    assert sum(gamma) == pytest.approx(13.000002, abs=5e-7)


def test_a_full_mask_gives_the_guide_and_an_empty_one_the_sample_to_the_bit() -> None:
    g = torch.Generator().manual_seed(0)
    x, guide = torch.randn(2, 4, 8, 8, generator=g), 100 * torch.randn(2, 4, 8, 8, generator=g)
    one, none = torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    assert torch.equal(towards_guide(x, guide, 1.0, one), guide)
    assert torch.equal(towards_guide(x, guide, 1.0, None), guide)
    assert torch.equal(towards_guide(x, guide, 0.9, none), x)
    half = towards_guide(x, guide, 0.5, one)
    assert torch.allclose(half, (x + guide) / 2, atol=1e-4)
    mixed = towards_guide(x, guide, 0.7, (torch.arange(8) > 3).float().expand(2, 1, 8, 8))
    assert torch.equal(mixed[..., :4], x[..., :4])  # the background is free
    assert not torch.isclose(mixed[..., 4:], x[..., 4:]).any()


def test_the_papers_mask_is_in_the_unit_interval_and_a_flat_map_has_no_object() -> None:
    maps = [torch.rand(2, 1, s, s, generator=torch.Generator().manual_seed(s)) for s in (4, 8)]
    maps[0][1], maps[1][1] = 0.25, 0.25
    mask = normalized_mask(maps, 8)
    assert (float(mask[0].min()), float(mask[0].max())) == (0.0, 1.0)
    assert torch.equal(mask[1], torch.ones(1, 8, 8))
    alone = normalized_mask([m[:1] for m in maps], 8)
    assert torch.equal(alone, mask[:1])  # of each image by itself


def test_the_codes_mask_begins_at_ones_and_adds_up() -> None:
    maps = [torch.full((1, 1, 4, 4), 0.1), torch.full((1, 1, 4, 4), 0.3)]
    first = accumulated_mask(maps, 8, None)
    second = accumulated_mask(maps, 8, first)
    assert torch.allclose(first, torch.full((1, 1, 8, 8), 1.2))
    assert torch.allclose(second, torch.full((1, 1, 8, 8), 1.4))


def test_columns_of_several_tokens_are_averaged() -> None:
    attention = torch.zeros(1, 4, 5)
    attention[0, :, 2], attention[0, :, 3] = torch.tensor([0.0, 1, 2, 3]), 1.0
    found = token_attention(attention, torch.tensor([[0, 0, 1, 1, 0]]))
    assert found.flatten().tolist() == [0.5, 1.0, 1.5, 2.0]
    assert found.shape == (1, 1, 2, 2)


def test_the_hinge_has_the_papers_example_and_pushes_away() -> None:
    x0 = torch.full((1, 4), 10.0, requires_grad=True)  # |x0| = 20
    loss = dissimilarity_loss(x0, [torch.zeros(3, 4)], 36.0)
    assert loss.tolist() == pytest.approx([16.0])
    (gradient,) = torch.autograd.grad(loss.sum(), x0)
    assert float((x0 - gradient).detach().norm()) > 20  # downhill is away from the memory
    beyond = dissimilarity_loss(x0, [torch.zeros(3, 4)], 19.0)
    assert float(beyond.detach()) == 0.0
    assert torch.autograd.grad(beyond.sum(), x0)[0].abs().sum() == 0
    assert dissimilarity_loss(x0, [torch.empty(0)], 36.0).tolist() == [0.0]
    assert (default_margin(16_384), default_margin(64)) == (200.0, 12.5)


def test_a_latent_at_distance_0_has_a_gradient_that_is_a_number() -> None:
    x0 = torch.ones(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(dissimilarity_loss(x0, [torch.ones(1, 4)], 5.0).sum(), x0)
    assert torch.isfinite(gradient).all()


def test_both_gradient_norms() -> None:
    g = torch.randn(2, 3, 7, 1024, generator=torch.Generator().manual_seed(0))
    token, whole = normalized_gradient(g, "token"), normalized_gradient(g, "global")
    assert torch.allclose(token.norm(dim=2), torch.ones(2, 3, 1024))
    assert token.pow(2).sum(dim=(0, 2, 3)).sqrt().tolist() == pytest.approx([math.sqrt(2048)] * 3)
    assert whole.pow(2).sum(dim=(0, 2, 3)).sqrt().tolist() == pytest.approx([1.0] * 3)
    assert torch.equal(normalized_gradient(g[:, :1], "global"), whole[:, :1])
    assert torch.equal(
        normalized_gradient(torch.full((2, 1, 3, 2), math.nan), "token"), torch.zeros(2, 1, 3, 2)
    )


def test_the_mix_falls_from_half_to_nothing_while_adversaries_rise() -> None:
    assert [random_share(e, 300) for e in (0, 149, 150)] == [0.5, 0.0, 0.0]
    assert random_share(74, 300) == pytest.approx(0.5 * (1 - 74 / 149))
    assert [random_share(0, epochs) for epochs in (1, 2)] == [0.5, 0.5]
    assert random_share(1, 5) == pytest.approx(0.5 * (1 - 1 / 1.5))  # half of E is not rounded
    assert [adversarial_share(e, 300, "code") for e in (0, 149)] == [0.0, 0.5]
    assert adversarial_share(150, 300, "paper") == 0.25


def test_a_short_permutation_is_tiled() -> None:
    assert tiled([5, 3, 9], 8) == [5, 3, 9, 5, 3, 9, 5, 3]
    assert tiled([5, 3, 9, 1], 3) == [5, 3, 9]
    assert tiled([5, 3], 4) == [5, 3, 5, 3]
    assert tiled([], 4) == []


def test_the_schedule_counts_the_steps_of_the_first_set_alone() -> None:
    """3 epochs of 4 counted steps, the set grows by 2 batches an epoch."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = EpochWarmupCosine(optimizer, 3, 4, min_lr=1e-3)
    used: list[list[float]] = []
    for batches in (4, 6, 8):
        used.append([])
        for batch in range(batches):
            used[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if counts(batch, 4, last=batch == batches - 1):
                schedule.step()
    wanted = [1e-3 + 0.099 * (1 + math.cos(math.pi * t / 12)) / 2 for t in range(13)]
    assert [rate for epoch in used for rate in epoch[:4]] == pytest.approx(wanted[:12])
    assert used[1][4:] == [used[1][3]] * 2
    assert used[2][4:] == [used[2][3]] * 4
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)  # behind the last step, not before


def test_what_nobody_should_train_on_is_refused() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 8, 8, generator=g)
    known = torch.rand(5, 3, 8, 8, generator=g)
    assert status_of(image, known, 0.02) == "used"
    assert status_of(torch.full_like(image, math.nan), known, 0.02) == "nan"
    assert status_of(torch.zeros_like(image), known, 0.02) == "constant"
    assert status_of(known[3] + 0.01, known, 0.02) == "duplicate"
    assert status_of(known[3] + 0.03, known, 0.02) == "used"
    assert status_of(image, None, 0.02) == "used"
