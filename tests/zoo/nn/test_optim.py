"""The warm-up, plateau, cosine-tail schedule."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.nn.optim import (
    EpochWarmupCosine,
    Halving,
    Noam,
    WarmupStableDecay,
    decayed_groups,
    with_schedule,
)
from zoo.nn.vision_transformer import NO_WEIGHT_DECAY, VisionTransformer


def rates(steps: int, **kwargs: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = WarmupStableDecay(optimizer, **kwargs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_plateau_and_tail_have_the_stated_values() -> None:
    found = rates(13, total_steps=10, warmup_steps=4, decay_fraction=0.4)
    tail = [1 + math.cos(math.pi * i / 4) for i in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, *tail, 0.0, 0.0], abs=1e-12)
    assert found[10] == 0.0


def test_without_a_tail_the_rate_stays() -> None:
    assert rates(6, total_steps=4, decay_fraction=0.0) == [2.0] * 6


def test_the_digits_recipe() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupStableDecay(optimizer, total_steps=2500, warmup_steps=200, decay_fraction=0.3)
    expected = {0: 0.005, 99: 0.5, 199: 1.0, 200: 1.0, 1750: 1.0, 2125: 0.5, 2500: 0.0}
    assert {s: schedule.factor(s) for s in expected} == pytest.approx(expected, abs=1e-12)


def test_every_group_is_scaled_from_its_own_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 0.025)]
    optimizer = torch.optim.AdamW(groups)
    WarmupStableDecay(optimizer, total_steps=10, warmup_steps=2)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-4, 0.0125]


def test_a_resume_takes_the_position_and_the_new_length() -> None:
    def build(total: int) -> WarmupStableDecay:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return WarmupStableDecay(optimizer, total_steps=total, decay_fraction=0.5)

    short = build(10)
    for _ in range(10):
        short.optimizer.step()
        short.step()
    assert short.get_last_lr() == [0.0]
    longer = build(100)
    longer.load_state_dict(short.state_dict())
    assert longer.last_epoch == 10
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr() == [1.0]


@pytest.mark.parametrize(
    "bad",
    [{"total_steps": 0}, {"total_steps": 10, "decay_fraction": 1.5}, {"total_steps": 10, "warmup_steps": 9}],
)
def test_impossible_shapes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        rates(1, **bad)


def test_a_schedule_goes_to_lightning_beside_its_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    assert with_schedule(optimizer, None) is optimizer
    found = with_schedule(optimizer, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.25), "epoch")
    assert found["optimizer"] is optimizer
    assert found["lr_scheduler"]["interval"] == "epoch"
    assert found["lr_scheduler"]["scheduler"].get_last_lr() == [0.5]


def test_noam_peaks_at_the_end_of_its_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Noam(optimizer, width=512, factor=2.0, warmup_steps=8000)
    rates = {k: schedule.factor(k - 1) for k in (1, 4000, 8000, 32000)}
    assert rates[8000] == pytest.approx(9.882e-4, rel=1e-3)
    assert rates == pytest.approx({1: rates[8000] / 8000, 4000: rates[8000] / 2, 8000: rates[8000],
                                   32000: rates[8000] / 2})  # fmt: skip


def test_halving_begins_at_its_step() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Halving(optimizer, start=50_000, every=10_000)
    found = [schedule.factor(k) for k in (49_999, 50_000, 59_999, 60_000, 70_000)]
    assert found == [1.0, 0.5, 0.5, 0.25, 0.125]


def of_epochs(steps: int, **kwargs: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = EpochWarmupCosine(optimizer, **kwargs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_is_constant_in_an_epoch_and_the_cosine_of_every_step() -> None:
    shape = {"epochs": 10, "steps_per_epoch": 3, "warmup_epochs": 2, "warmup_lr": 1e-7, "min_lr": 1e-6}
    found = of_epochs(33, **shape)
    assert found[:6] == pytest.approx([1e-7] * 3 + [(1e-3 + 1e-7) / 2] * 3, rel=1e-12)
    assert found[6] == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * 6 / 30)) / 2, rel=1e-12)
    assert found[15] == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-12)
    assert found[30:] == pytest.approx([1e-6] * 3, rel=1e-12)
    later = of_epochs(33, **shape, after_warmup=True)
    assert later[6] == pytest.approx(1e-3, rel=1e-12)
    assert later[18] == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-12)
    # without a warm-up: the rate of step t of E n, which reaches the least only after the last one
    plain = of_epochs(12, epochs=4, steps_per_epoch=3, min_lr=1e-6)
    assert plain[11] == pytest.approx(1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * 11 / 12)) / 2, rel=1e-12)
    with pytest.raises(ValueError, match="warmup_epochs must be less than epochs = 3, got 3"):
        of_epochs(1, epochs=3, steps_per_epoch=1, warmup_epochs=3)


def test_a_resume_of_epochs_takes_the_position_and_the_new_length() -> None:
    def build(epochs: int) -> EpochWarmupCosine:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return EpochWarmupCosine(optimizer, epochs=epochs, steps_per_epoch=5)

    short = build(2)
    for _ in range(5):
        short.optimizer.step()
        short.step()
    longer = build(4)
    longer.load_state_dict(short.state_dict())
    assert (longer.last_epoch, longer.epochs) == (5, 4)
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr() == pytest.approx([(1 + math.cos(math.pi * 6 / 20)) / 2])


def test_biases_norms_and_named_parameters_are_not_decayed() -> None:
    network = VisionTransformer("vit_tiny_patch16_224", 5, image_size=32)
    network.blocks[3].requires_grad_(False)
    decayed, free = decayed_groups(network, exempt=NO_WEIGHT_DECAY)
    names = {id(p): name for name, p in network.named_parameters()}
    assert "weight_decay" not in decayed
    assert free["weight_decay"] == 0.0
    found = {names[id(p)] for p in decayed["params"]}
    assert found == {
        "patch_embed.proj.weight",
        "head.weight",
        *(
            f"blocks.{i}.{part}.weight"
            for i in range(12)
            if i != 3
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ),
    }
    rest = {names[id(p)] for p in free["params"]}
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias", "blocks.0.norm1.weight"} <= rest
    assert not any(name.startswith("blocks.3.") for name in found | rest)
    assert len(found) + len(rest) == sum(p.requires_grad for p in network.parameters())
    assert {names[id(p)] for p in decayed_groups(network)[0]["params"]} == found | {"cls_token", "pos_embed"}
    optimizer = torch.optim.AdamW(decayed_groups(network), lr=1e-3, weight_decay=0.05)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    with pytest.raises(ValueError, match="dist_token is no trainable parameter of VisionTransformer"):
        decayed_groups(network, exempt=("dist_token",))
