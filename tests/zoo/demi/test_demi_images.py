"""DEMI of images: encoders, views, negatives, terms, probes, and runs that are killed or shared."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from commands import run
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference
from quiet import quiet_trainer
from torch import Tensor, nn

import datamodules
import zoo
from zoo.demi import bounds, views
from zoo.demi.embeddings import neighbours
from zoo.demi.encoders import DigitEncoder, Views, encoder_of
from zoo.demi.negatives import KeyQueue, partner_first
from zoo.demi.probe import linear_probe, nearest_neighbours, raw_pixels, sgd_probe
from zoo.demi.weights import start_from
from zoo.hub import export
from zoo.hub.convert import convert
from zoo.nn.gathered_rows import gathered
from zoo.nn.resnet import ResNet

SMALL: dict[str, Any] = {
    "image_size": 8, "channels": 1, "encoder": "cnn", "augmentation": "digits", "hidden": 8, "embedding": 4,
}  # fmt: skip
FLAGS = (
    "--model.init_args.hidden=16", "--model.init_args.embedding=8", "--model.init_args.warmup_steps=4",
    "--data.init_args.batch_size=32", "--trainer.max_steps=8", "--trainer.log_every_n_steps=2",
    "--trainer.val_check_interval=4", "--checkpoint.every_n_train_steps=2",
    "--trainer.enable_progress_bar=false",
)  # fmt: skip
QUEUE = ("--model.init_args.negatives=queue", "--model.init_args.queue_size=96",
         "--model.init_args.key_momentum=0.9")  # fmt: skip


def images(count: int = 6, size: int = 8, channels: int = 1) -> Tensor:
    return 2 * torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) - 1


def uniform(count: int = 6, *more: int) -> Tensor:
    return torch.rand(count, *more, views.DRAWS, generator=torch.Generator().manual_seed(1))


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- encoders ---------------------------------------------------------------------------------------------


def test_encoders_have_the_parameters_of_the_names_without_a_classifier() -> None:
    with torch.device("meta"):
        assert size_of(encoder_of("resnet18", "imagenet", 3, 64)) == 11_176_512
        assert size_of(encoder_of("resnet50", "imagenet", 3, 64)) == 23_508_032
        assert size_of(encoder_of("resnet18", "cifar", 3, 32)) == 11_176_512 - 64 * 3 * (49 - 9)
    small = encoder_of("resnet18", "cifar", 3, 32).eval()
    assert small(images(1, 32, 3)).shape == (1, small.features)
    for size in (8, 9, 28):
        assert DigitEncoder(1, size)(images(2, size)).shape == (2, DigitEncoder(1, size).features)
    assert DigitEncoder(1, 8).features == 256
    convolutions = [m for m in DigitEncoder(1, 8).layers if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in convolutions] == [(32, 1), (32, 2), (64, 1), (64, 2)]


# --- views ------------------------------------------------------------------------------------------------


def test_a_cutout_hides_half_of_the_area_behind_the_mean() -> None:
    x = images(64, 16)
    hidden = views.restricted("cutout", x, uniform(64)) != x
    assert float(hidden.float().mean()) == pytest.approx(0.5, abs=0.02)
    share = hidden.float().mean(dim=(1, 2, 3))
    assert float((share - 0.5).abs().max()) < 0.05
    found = views.restricted("cutout", x, uniform(64))[hidden].view(-1)
    means = x.mean(dim=(2, 3), keepdim=True).expand_as(x)[hidden].view(-1)
    torch.testing.assert_close(found, means)
    rows = hidden[0, 0].any(dim=1).nonzero()[:, 0]
    columns = hidden[0, 0].any(dim=0).nonzero()[:, 0]
    assert hidden[0, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one rectangle


def test_the_other_subviews_leave_what_they_say() -> None:
    x = images(8, 16)
    masked = (views.restricted("mask", x, uniform(8)) != x).float().unfold(2, 4, 4).unfold(3, 4, 4)
    assert masked.mean(dim=(4, 5)).unique().tolist() == [0.0, 1.0]
    assert masked.mean(dim=(1, 2, 3, 4, 5)).tolist() == [0.5] * 8
    low = views.restricted("lowres", x, uniform(8))
    torch.testing.assert_close(low.mean(dim=(2, 3)), x.mean(dim=(2, 3)), atol=0.05, rtol=0)
    assert float((low[..., 1:] - low[..., :-1]).abs().max()) < 0.5 * float(
        (x[..., 1:] - x[..., :-1]).abs().max()
    )
    cells = torch.arange(16) // 2 % 2 * 2.0 - 1  # a quarter of the side sees none of what half of it sees
    board = (cells[:, None] * cells).expand(8, 1, 16, 16)
    torch.testing.assert_close(views.restricted("lowres", board, uniform(8)), torch.zeros(8, 1, 16, 16))
    ramp = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16)
    crop = views.restricted("crop", ramp, uniform(8))
    span = crop.amax(dim=(1, 2, 3)) - crop.amin(dim=(1, 2, 3))
    torch.testing.assert_close(span, torch.full((8,), 1.0), atol=0.1, rtol=0)  # half of the side
    with pytest.raises(ValueError, match="4 are the least"):
        views.restricted("lowres", images(1, 3), uniform(1))


def test_augmentations_in_the_middle_of_their_range_change_nothing() -> None:
    x, u = images(3, 12), torch.full((3, views.DRAWS), 0.5)
    torch.testing.assert_close(views.digit_view(x, u, torch.zeros_like(x)), x, atol=1e-5, rtol=0)
    whole, zero, no = torch.ones(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(views.cropped(x, whole, zero, u[:, :2], no), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cropped(x, whole, zero, u[:, :2], ~no), x.flip(-1), atol=1e-5, rtol=0)
    colours = (images(3, 12, 3) + 1) / 2
    torch.testing.assert_close(views._coloured(colours, u[:, :4]), colours, atol=1e-4, rtol=0)
    flat = torch.full((3, 1, 12, 12), 0.3)
    torch.testing.assert_close(views._blurred(flat, torch.tensor([0.1, 1.0, 2.0])), flat)
    seen = views.photo_view(images(16, 12, 3), uniform(16))
    assert float(seen.abs().max()) <= 1 + 1e-5
    assert not torch.equal(seen[0], views.photo_view(images(16, 12, 3), uniform(16).flip(0))[0])


def test_augmentations_at_the_ends_of_their_range_are_the_recipe_s() -> None:
    """Slopes and the middle of a ramp seen rotated, scaled and moved."""
    place = (torch.arange(32) * 2 + 1) / 32 - 1
    ramp, step = place.expand(1, 1, 32, 32), 2 / 32
    for column, value, across, down, moved in (
        (0, 1.0, math.cos(math.radians(20)), math.sin(math.radians(20)), 0.0),
        (1, 1.0, 1 / 1.2, 0.0, 0.0),
        (1, 0.0, 1 / 0.8, 0.0, 0.0),
        (2, 1.0, 1.0, 0.0, 1.2 * step),
    ):
        u = torch.full((1, views.DRAWS), 0.5)
        u[:, column] = value
        seen = views.digit_view(ramp, u, torch.zeros_like(ramp))[0, 0, 14:18, 14:18]
        assert float(seen[0, 1] - seen[0, 0]) / step == pytest.approx(across, abs=1e-3)
        assert abs(float(seen[1, 0] - seen[0, 0])) / step == pytest.approx(down, abs=1e-3)
        assert abs(float(seen.mean())) == pytest.approx(moved, abs=1e-4)
    flat = torch.zeros(2, 1, 8, 8)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(views.digit_view(flat, torch.full((2, views.DRAWS), 0.5), noise), 0.1 * noise)


def test_colours_at_the_ends_of_their_range_are_the_recipe_s() -> None:
    x = 0.4 + 0.1 * torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    luma = views._luma(x)
    mean = luma.mean(dim=(2, 3), keepdim=True)
    for column, value, expected in (
        (0, 0.0, 0.2 * x),
        (0, 1.0, 1.8 * x),
        (1, 0.0, mean + 0.2 * (x - mean)),
        (2, 1.0, luma + 1.8 * (x - luma)),
    ):
        u = torch.full((2, 4), 0.5)
        u[:, column] = value
        torch.testing.assert_close(views._coloured(x, u), expected, atol=1e-4, rtol=0)
    u = torch.full((2, 4), 0.5)
    u[:, 3] = 1.0  # hue by a fifth of a turn
    turned = views._coloured(x, u)
    torch.testing.assert_close(views._luma(turned), luma, atol=1e-3, rtol=0)
    chroma = [torch.complex(*torch.einsum("cj,bjhw->cbhw", torch.tensor(
        [[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]), c)) for c in (x, turned)]  # fmt: skip
    angle = (chroma[1] / chroma[0]).angle()
    torch.testing.assert_close(angle, torch.full_like(angle, 0.4 * math.pi), atol=0.02, rtol=0)


def test_each_part_of_a_photo_s_view_is_there_as_often_as_it_says() -> None:
    x = images(2, 16, 3)

    def seen(picture: Tensor = x, **at: float) -> Tensor:
        """The whole picture, no flip, no colour, no blur, no grey, but for what is given."""
        u = torch.full((len(picture), views.DRAWS), 0.5)
        for column, value in {"0": 1.0, "4": 0.9, "9": 0.9, "10": 0.9, "11": 0.9, "12": 1.0, **at}.items():
            u[:, int(column)] = value
        return views.photo_view(picture, u)

    torch.testing.assert_close(seen(), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen(**{"4": 0.49}), x.flip(-1), atol=1e-5, rtol=0)
    for column, share in (("9", 0.8), ("10", 0.2), ("11", 0.5)):
        own = {"5": 0.9} if column == "9" else {}  # a colour that is another
        assert not torch.equal(seen(**own, **{column: share - 0.01}), seen(**own, **{column: share + 0.01}))
        torch.testing.assert_close(seen(**own, **{column: share + 0.01}), x, atol=1e-5, rtol=0)
    grey = seen(**{"10": 0.19})
    torch.testing.assert_close(grey, views._luma(x).expand_as(x), atol=1e-5, rtol=0)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    least = seen(ramp, **{"0": 0.0})
    assert float(least.max() - least.min()) == pytest.approx(2 * math.sqrt(0.2), abs=0.03)


# --- negatives --------------------------------------------------------------------------------------------


def test_each_row_s_own_key_comes_first() -> None:
    scores = torch.arange(24.0).view(3, 8)  # rank 1 of 2 has rows 1, 3, 5 of the global batch
    found = partner_first(torch.cat([scores, scores[:, :0]], dim=1)[:, :6], 1, 2)
    assert found[:, 0].tolist() == [1, 11, 21]
    assert found[1, 1:].tolist() == [8, 9, 10, 12, 13]
    square = torch.randn(4, 4)
    torch.testing.assert_close(
        bounds.info_nce(partner_first(square, 0, 1)), bounds.info_nce(square, "diagonal")
    )
    assert gathered(square, 1) is square


def test_the_queue_turns_round_and_has_no_partner_of_the_step() -> None:
    queue = KeyQueue(6, 2)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(6))
    for step in range(4):
        queue.enqueue(torch.full((2, 2), float(step)))
    assert queue.keys[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="does not divide"):
        queue.enqueue(torch.zeros(4, 2))
    model = zoo.DEMI(**SMALL, negatives="queue", queue_size=32).train()
    x = (images(16), images(16), images(16))
    keys = model.network.keys(x[2])
    scores = model._scores(keys, keys, 1)
    assert scores.shape == (16, 33)
    torch.testing.assert_close(scores[:, 0], torch.full((16,), 1 / 0.15))
    assert float(scores[:, 1:].max()) < 1 / 0.15 - 1e-3


def test_keys_enter_the_queue_behind_the_loss() -> None:
    """Before it they would be negatives of their own images."""
    model, done = zoo.DEMI(**SMALL, negatives="queue", queue_size=32), []
    both = {"bounds": model.bounds, "enqueue": model.queue.enqueue}

    def note(name: str) -> Any:
        def call(*args: Any) -> Any:
            done.append(name)
            return both[name](*args)

        return call

    with (
        mock.patch.object(model, "bounds", note("bounds")),
        mock.patch.object(model.queue, "enqueue", note("enqueue")),
    ):
        data = datamodules.LabelledImages(batch_size=16)
        quiet_trainer(max_steps=3, limit_val_batches=0).fit(model, data)
    assert done == ["bounds", "enqueue"] * 3
    assert int(model.queue.place) == 48 % 32


def test_keys_read_the_same_pixels_as_queries() -> None:
    for momentum in (True, False):
        network = Views("resnet18", "cifar", 3, 16, 8, 4, True, momentum, "imagenet").eval()
        if network.key_head is not None:
            network.key_head.load_state_dict(network.critic.state_dict())
        y = images(2, 16, 3)
        torch.testing.assert_close(network.keys(y), network.critic(network.encoded(y)))


def test_keys_follow_by_momentum_from_the_trained_head() -> None:
    network = Views("cnn", "imagenet", 1, 8, 8, 4, True, True)
    assert network.key_head is None
    with torch.no_grad():
        for p in [*network.encoder.parameters(), *network.critic.parameters()]:
            p.add_(1)
    before = [p.clone() for p in network.key.parameters()]  # type: ignore[union-attr]
    network.follow(0.75)
    for p, b in zip(network.key.parameters(), before, strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(p, b + 0.25)
        assert not p.requires_grad


# --- terms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "passes"), [("bo", 3), ("is", 3), ("multi", 3), ("infonce", 2)])
def test_each_objective_encodes_each_view_once(objective: Any, passes: int) -> None:
    model, calls = zoo.DEMI(**SMALL, objective=objective), []
    model.network.encoder.register_forward_hook(lambda *_: calls.append(1))
    found, _ = model.bounds((images(), images() / 2, images() / 3), 1)
    assert len(calls) == passes
    assert ("second" in found) == (objective != "infonce")
    assert float(found["columns"]) == 6


@pytest.mark.parametrize("objective", ["bo", "is"])
def test_the_second_term_trains_encoder_and_m_but_not_h(objective: Any) -> None:
    model = zoo.DEMI(**SMALL, objective=objective)
    found, _ = model.bounds((images(), images().flip(0) / 2, images() / 3), 1)
    found["second"].backward(retain_graph=True)
    network = model.network
    assert all(p.grad is None for p in network.critic.parameters())
    for part in (network.conditional, network.encoder, network.key_head):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    network.zero_grad()
    found["first"].backward()
    assert all(p.grad is None for p in network.conditional.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.critic.parameters())


def test_terms_are_the_bounds_of_the_spec_s_scores() -> None:
    torch.manual_seed(0)
    model = zoo.DEMI(**SMALL, temperature=0.2)
    x = (30 * images(), 30 * images().flip(0), 20 * images())  # untrained, small numbers drown in biases
    found, keys = model.bounds(x, 1)
    n = model.network
    z, z2 = n.encoder(x[0]), n.encoder(x[1])
    psi, phi = n.critic(z2) @ keys.T / 0.2, n.conditional(torch.cat([z, z2], dim=1)) @ keys.T / 0.2
    swapped = n.conditional(torch.cat([z2, z], dim=1)) @ keys.T / 0.2
    assert float((swapped - phi).detach().abs().max()) > 0.01
    torch.testing.assert_close(found["first"], bounds.info_nce(psi, "diagonal"))
    torch.testing.assert_close(found["second"], bounds.boosted_nce(phi, psi, "diagonal"))
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(6))


def test_the_weight_of_the_second_term_rises_from_0() -> None:
    data = datamodules.LabelledImages(batch_size=16)
    model = zoo.DEMI(**SMALL, warmup_steps=4, conditional_weight=0.5)
    logged: list[dict[str, float]] = []
    original = model._log

    def log(stage: str, found: dict[str, Tensor], size: int) -> None:
        logged.append({k: float(v.detach()) for k, v in found.items()})
        original(stage, found, size)

    with mock.patch.object(model, "_log", log):
        quiet_trainer(max_steps=6, limit_val_batches=0).fit(model, data)
    shares = [(-r["loss"] - r["first"]) / r["second"] for r in logged]
    assert shares == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5], abs=1e-4)


def test_the_jigsaw_branch_shares_keys_and_weighs_what_it_says() -> None:
    model = zoo.DEMI(image_size=32, encoder="resnet18", stem="cifar", hidden=8, embedding=4,
                     jigsaw_weight=0.25, jigsaw_crop=8).eval()  # fmt: skip
    x, n = images(4, 32, 3), model.network
    keys, u = n.keys(images(4, 32, 3).flip(0)), uniform(4)[:, :1].expand(4, 27).contiguous()
    found = model.pieces(x, keys, u, 1)
    cut = model.jigsaw(x, u)
    features = torch.stack([n.encoder(cut[:, i]) for i in range(9)], dim=1)
    embedded = n.pieces(features)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(found, bounds.info_nce(embedded @ keys.T / 0.15, "diagonal"))
    logged: dict[str, float] = {}
    data = datamodules.LabelledImages(batch_size=16)
    tiny = {**SMALL, "encoder": "resnet18", "stem": "cifar"}
    small = zoo.DEMI(**tiny, jigsaw_weight=0.25, jigsaw_crop=2)

    def log(_stage: str, found: dict[str, Tensor], _size: int) -> None:
        logged.update({k: float(v.detach()) for k, v in found.items()})

    with mock.patch.object(small, "_log", log):
        quiet_trainer(max_steps=1, limit_val_batches=0, num_sanity_val_steps=0).fit(small, data)
    expected = 0.75 * -(logged["first"] + logged["second"]) - 0.25 * logged["jigsaw"]
    assert logged["loss"] == pytest.approx(expected, abs=1e-6)


def test_infomins_views_have_randaugment_of_numbers_of_their_own() -> None:
    x, u = images(8, 24, 3), uniform(8)
    plain, both = views.photo_view(x, u), views.photo_view(x, u, rand_augment=True)
    assert both.shape == x.shape
    assert float(both.abs().max()) <= 1
    done = (u.view(8, -1)[:, [17, 21]] < 0.5).any(dim=1)  # whether, of each of two operations
    changed = (both - plain).abs().amax(dim=(1, 2, 3)) > 0.02
    assert not changed[~done].any()
    assert changed[done].any()
    moved = u.clone()
    moved[:, 16:] = u[:, 16:].flip(0)
    torch.testing.assert_close(views.photo_view(x, moved), plain)  # no other step reads them


def test_encoders_of_other_projects(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source: Any = ResNet("resnet18", None)
    state = source.state_dict()
    moco = {f"module.encoder_q.{k}": v for k, v in state.items()}
    moco |= {"module.encoder_k.conv1.weight": torch.zeros(64, 3, 7, 7)}
    moco |= {"module.encoder_q.fc.0.weight": torch.zeros(3, 3)}
    infomin = {f"module.encoder.{k}": v for k, v in state.items()}
    infomin |= {"module.head.0.weight": torch.zeros(3, 3)}
    files: dict[str, Any] = {"moco": {"state_dict": moco}, "infomin": {"model": infomin, "epoch": 200}}
    files["torchvision"] = {**state, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    x = images(2, 64, 3) / 2 + 0.5
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name, content in files.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        out = tmp_path / f"{name}.safetensors"
        lines = list(convert(path, out, "demi", "zoo", ["hidden=8", "image_size=64"], force=False))
        assert "resnet18, stem imagenet" in lines[0]
        model = zoo.load(str(out))
        torch.testing.assert_close(model(x), source.eval()((x - mean) / deviation), atol=1e-4, rtol=1e-4)
    model = zoo.DEMI(64, 3, "resnet18", negatives="queue", queue_size=8, hidden=8)
    said = start_from(model.network, str(tmp_path / "moco.pth"), "centred")
    assert "published weights read imagenet" in said
    for encoder in (model.network.encoder, model.network.key.encoder):
        torch.testing.assert_close(encoder.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match=r"does not fit: it is missing in the file|does not fit"):
        start_from(zoo.DEMI(64, 3, "resnet50", hidden=8).network, str(tmp_path / "moco.pth"), "imagenet")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no conv1.weight"):
        start_from(model.network, str(tmp_path / "other.pth"), "imagenet")


def test_what_makes_no_sense_is_refused() -> None:
    for settings, said in (
        ({"objective": "var"}, "objective must be one of"),
        ({"encoder": "cnn", "stem": "cifar"}, "does not use"),
        ({"queue_size": 64}, "does not use"),
        ({"jigsaw_weight": 0.5}, "jigsaw_weight is 0.5, which encoder: cnn does not use"),
        ({"encoder": "resnet18", "jigsaw_weight": 0.5}, "three do not fit pictures of 8"),
        ({"jigsaw_crop": 2}, "does not use"),
        ({"pixels": "imagenet"}, "is of 3 channels"),
        ({"pretrained": "x.pth"}, "does not use"),
        ({"probe_rate": 1.0}, "does not use"),
        ({"objective": "infonce", "subview": "mask"}, "does not use"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.DEMI(**{**SMALL, **settings})


def test_one_image_alone_has_no_negatives() -> None:
    data = datamodules.LabelledImages(batch_size=1)
    for more in ({}, {"objective": "infonce"}):
        with pytest.raises(ValueError, match=r"batch_size is 1, but the other rows .* set 2 or more"):
            quiet_trainer(max_steps=1, limit_val_batches=0).fit(zoo.DEMI(**SMALL, **more), data)
    queued = zoo.DEMI(**SMALL, negatives="queue", queue_size=8)
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(queued, data)
    assert int(queued.queue.place) == 2


# --- probes and files -------------------------------------------------------------------------------------


def test_probes_by_hand() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    labels, test = torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0.3], [0.1, 5.0]])
    told = (train, labels, test, torch.tensor([0, 1]))
    assert nearest_neighbours(*told, k=1, temperature=0.1) == 1.0
    assert nearest_neighbours(*told, k=50, temperature=100.0) == 0.5  # all alike: the commonest class
    assert nearest_neighbours(*told, k=50, temperature=0.05) == 1.0
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g)
    assert linear_probe(x[:100], (x[:100, 0] > 0).long(), x[100:], (x[100:, 0] > 0).long()) > 0.9
    told = (x[:100], (x[:100, 0] > 0).long(), x[100:], (x[100:, 0] > 0).long())
    assert sgd_probe(*told, 1.0, 12, torch.Generator().manual_seed(0)) > 0.9
    assert sgd_probe(*told, 1e-9, 1, torch.Generator().manual_seed(0)) < 0.9  # the weights it began with
    found = neighbours(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.0, 2.0]]), torch.tensor([0, 1]), 3
    )
    assert found[:, 0].tolist() == [2, 3]
    assert 0 not in found[0].tolist()


@pytest.mark.parametrize("value", [0.1, 0.7, -1.0, 70.0])
def test_a_feature_of_one_value_has_no_say_in_the_probe(value: float) -> None:
    """The mean of many 0.7 is not 0.7: divided by that rounding, a test row's other value decides all."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    train, test = (torch.randn(200, 10, generator=g) + labels[:, None] for _ in range(2))
    dead = torch.full((200, 5), value)
    alive = dead + torch.rand(200, 5, generator=g)
    without = linear_probe(train, labels, test, labels)
    assert without > 0.9
    with_it = linear_probe(torch.cat([train, dead], 1), labels, torch.cat([test, alive], 1), labels)
    assert with_it == pytest.approx(without, abs=0.011)
    # features are standardised, by the training rows: neither their unit nor the test rows matter
    scaled = linear_probe(1e-9 * train + 3e-9, labels, 1e-9 * test[:40] + 3e-9, labels[:40])
    assert scaled == pytest.approx(linear_probe(train, labels, test[:40], labels[:40]), abs=0.026)
    shifted = test + 2
    assert linear_probe(train, labels, shifted, labels) < without - 0.2


def test_large_pictures_are_averaged_before_they_are_features() -> None:
    assert raw_pixels(images(2, 8)).shape == (2, 64)
    assert raw_pixels(images(2, 64, 3)).shape == (2, 3 * 32 * 32)
    torch.testing.assert_close(raw_pixels(images(2, 64)).mean(dim=1), images(2, 64).mean(dim=(1, 2, 3)))


def test_a_run_leaves_probes_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("fit", "demi_digits", tmp_path, *FLAGS)
    weights = f"--weights={newest_checkpoint(folder)}"
    tested = run("test", "demi_digits", tmp_path, weights, "--trainer.enable_progress_bar=false")
    assert "logistic regression (C 1) on 200 labels; knn: 200 cosine neighbours" in capsys.readouterr().out
    table = list(csv.DictReader((tested / "probes.csv").open()))
    assert {row["features"] for row in table} == {"trained encoder", "random encoder", "raw pixels"}
    assert {row["probe"] for row in table} == {
        "logistic regression (C 1)", "200 cosine neighbours, temperature 0.1",
    }  # fmt: skip
    assert {row["labels"] for row in table} == {"200"}
    final = json.loads((tested / "summary_test.json").read_text())["final"]
    assert float(table[0]["top1"]) == pytest.approx(final["test/linear_probe"], abs=1e-4)
    rows = {f"test/{kind}{of}" for kind in ("linear_probe", "knn")
            for of in ("", "_random_encoder", "_raw_pixels")}  # fmt: skip
    assert rows <= set(final)
    assert final["test/linear_probe_raw_pixels"] > 0.8
    predicted = run("predict", "demi_digits", tmp_path, weights, "--trainer.enable_progress_bar=false")
    held = np.load(predicted / "predictions" / "embeddings.npz")
    assert held["features"].shape == (360, 256)
    assert held["index"].tolist() == list(range(360))
    for name in ("scatter", "neighbours"):
        assert (predicted / "predictions" / f"{name}.png").stat().st_size > 5000


def test_the_encoder_is_exported(tmp_path: Path) -> None:
    lines = list(export.write(zoo.DEMI(**SMALL), tmp_path / "encoder.pt2"))
    assert any("largest difference" in line for line in lines)
    features = torch.export.load(tmp_path / "encoder.pt2").module()(images(5))
    assert features.shape == (5, 256)


# --- killed and shared runs -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_a_killed_run_goes_on_to_the_same_bits_with_its_queue(step: int, tmp_path: Path) -> None:
    whole = run("fit", "demi_digits", tmp_path / "whole", *FLAGS, *QUEUE)
    original = zoo.DEMI.training_step

    def killed(self: zoo.DEMI, batch: Any, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        if self.trainer.global_step == step:
            raise Killed  # the queue has the step's keys, the weights do not have its gradient
        return loss

    with mock.patch.object(zoo.DEMI, "training_step", killed), pytest.raises(Killed):
        run("fit", "demi_digits", tmp_path / "killed", *FLAGS, *QUEUE)
    resumed = run("fit", "demi_digits", tmp_path / "killed", *FLAGS, *QUEUE, "--ckpt_path=last")
    assert run_differences(whole, resumed) == []
    state = torch.load(newest_checkpoint(resumed), weights_only=True)["state_dict"]
    assert int(state["queue.place"]) == 8 * 32 % 96


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), QUEUE, ("--model.init_args.objective=is",)], ids=["bo", "queue", "is"])
def test_two_processes_train_what_one_does(more: tuple[str, ...], tmp_path: Path) -> None:
    """By SGD: Adam's steps are as large for gradients that are rounding as for any other."""
    more += ("--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.1}}",)
    one = run("fit", "demi_digits", tmp_path / "one", *FLAGS, *more)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=demi_digits", *FLAGS, *more, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "demi_digits").glob("version_*")
    a, b = (torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, other))
    assert largest_difference(a, b) <= 2e-6
    assert math.isfinite(largest_difference(a, b))
