"""Mixup and CutMix: boxes and shares, targets, partners over processes, the loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoo.nn.mixing import Mix, Mixing, _boxed, mirrored, soft_cross_entropy, soft_targets


def test_the_kinds_come_as_often_as_asked() -> None:
    def kinds(mixing: Mixing) -> list[str]:
        drawn = [mixing.drawn(32, 32, 1, i) for i in range(2000)]
        return ["none" if m == Mix(1.0) else "cut" if m.box else "mixup" for m in drawn]

    both = kinds(Mixing())
    assert both.count("cut") == pytest.approx(1000, abs=70)
    assert both.count("none") < 10
    rare = kinds(Mixing(probability=0.25, switch=0.2))
    assert rare.count("none") == pytest.approx(1500, abs=60)
    assert rare.count("cut") == pytest.approx(100, abs=35)
    assert set(kinds(Mixing(cutmix=0))) <= {"mixup", "none"}
    assert set(kinds(Mixing(mixup=0))) <= {"cut", "none"}
    assert set(kinds(Mixing(mixup=0, cutmix=0))) == {"none"}
    mixing = Mixing()
    assert mixing.drawn(32, 32, 5) == mixing.drawn(32, 32, 5)


def test_shares_are_beta() -> None:
    shares = torch.tensor([Mixing(mixup=0.2, cutmix=0).drawn(8, 8, 2, i).share for i in range(5000)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(0.25 / (2 * 0.2 + 1), abs=0.006)  # of Beta(a, a)


def test_a_box_has_the_area_that_is_not_kept_and_the_share_follows_the_edge() -> None:
    # sides of .75^.5 of 32 x 24, 27 and 20, about the middle, rounded down to even ones
    mix = _boxed(0.25, 32, 24, 0.5, 0.5)
    assert mix.box == (3, 29, 2, 22)
    assert mix.share == pytest.approx(1 - 26 * 20 / (32 * 24))
    corner = _boxed(0.25, 32, 24, 0.0, 0.999)
    assert corner.box == (0, 13, 13, 24)
    assert corner.share == pytest.approx(1 - 13 * 11 / (32 * 24))
    own, partner = torch.zeros(2, 3, 32, 24), torch.ones(2, 3, 32, 24)
    assert float(corner.images(own, partner).mean()) == pytest.approx(1 - corner.share)
    assert corner.images(own, partner)[:, :, :13, 13:].all()
    assert not own.any()
    torch.testing.assert_close(Mix(0.3).images(own, partner), torch.full_like(own, 0.7))


def test_targets_are_mixed_as_the_images_and_sum_to_1() -> None:
    labels = torch.tensor([0, 2, 1, 3])
    targets = soft_targets(labels, 4, 0.1)
    assert targets[1].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])
    mixed = Mix(0.75).targets(targets, targets.flip(0))
    assert mixed[0].tolist() == pytest.approx(
        [0.75 * 0.925 + 0.25 * 0.025, 0.025, 0.025, 0.25 * 0.925 + 0.75 * 0.025]
    )
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(4))
    with pytest.raises(ValueError, match="labels must be 0 to 2, found 0 to 3"):
        soft_targets(labels, 3)
    with pytest.raises(ValueError, match="smoothing"):
        soft_targets(labels, 4, 1.0)


def test_the_loss_is_torchs_of_labels_and_survives_half_precision() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 30
    labels = torch.tensor([0, 1, 2, 3, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, soft_targets(labels, 4, 0.1)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = soft_cross_entropy(logits.bfloat16(), soft_targets(labels, 4))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, torch.nn.functional.cross_entropy(logits.bfloat16().float(), labels))
    with pytest.raises(ValueError, match=r"must both be \(B, K\)"):
        soft_cross_entropy(logits, labels)


def test_partners_are_the_same_for_any_number_of_processes() -> None:
    rows = torch.arange(12.0).view(6, 2)

    def module(rank: int, world: int) -> Any:
        gathered = torch.stack([rows[r::world] for r in range(world)])
        return SimpleNamespace(
            trainer=SimpleNamespace(world_size=world), global_rank=rank, all_gather=lambda own: gathered
        )

    alone = mirrored(module(0, 1), rows)
    assert torch.equal(alone, rows.flip(0))
    for world in (2, 3):
        for rank in range(world):
            assert torch.equal(mirrored(module(rank, world), rows[rank::world]), alone[rank::world])


def test_numbers_out_of_their_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="mixup is -1"):
        Mixing(mixup=-1)
    with pytest.raises(ValueError, match="switch is 2"):
        Mixing(switch=2)
