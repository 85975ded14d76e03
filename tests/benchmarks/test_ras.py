"""RAS against the straightforward port of its equations: seconds per picture and per training step on a CPU.

The port multiplies the raw features, keeps torch's default memory order and enlarges all side outputs, as the
published codes do. Before the clock starts both sides are given the same weights and must give the same maps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import zoo
from benchmarks.interleaved import interleaved, ratio
from zoo.ras.losses import side_losses


def port(network: Any, image: Tensor) -> list[Tensor]:
    """Side outputs at the picture's size, fine to coarse, from the paper's equations line by line."""
    f = network.backbone(network.normalise(image))
    d = network.dsn6
    y = d.conv1(f[5])
    y = torch.relu(d.conv2(y))
    y = torch.relu(d.conv3(y))
    y = torch.relu(d.conv4(y))
    y = d.conv5(y)
    found = [y]
    for i in (5, 4, 3, 2, 1):
        u = functional.interpolate(y, f[i - 1].shape[2:], mode="bilinear", align_corners=False)
        g = f[i - 1] * (1 - torch.sigmoid(u)).expand_as(f[i - 1])
        stage = network.stage(i)
        r = stage.conv1(g)
        r = torch.relu(stage.conv2(r))
        r = torch.relu(stage.conv3(r))
        y = stage.conv4(r) + u
        found.append(y)
    size = image.shape[2:]
    return [functional.interpolate(y, size, mode="bilinear", align_corners=False) for y in found[::-1]]


def cpu_seconds(function: Callable[[], object], rounds: int = 5) -> float:
    """Median CPU seconds of a call on one thread."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


@pytest.mark.parametrize(
    ("variant", "height", "width", "batch"), [("vgg16", 300, 400, 1), ("tiny", 96, 96, 8)]
)
def test_a_picture_against_the_straightforward_port(
    variant: Any,
    height: int,
    width: int,
    batch: int,
    record: Callable[[str, float], None],
    request: pytest.FixtureRequest,
) -> None:
    quick = request.config.getoption("--quick")
    torch.manual_seed(0)
    module = zoo.RAS(variant).eval()
    part = 4 if quick and variant == "vgg16" else 1  # five poolings leave nothing of less than 32 pixels
    image = torch.rand(batch, 3, height // part, width // part)

    @torch.no_grad()
    def ours() -> Tensor:
        return module(image)

    @torch.no_grad()
    def theirs() -> Tensor:
        return port(module.network, image)[0].sigmoid()

    torch.testing.assert_close(ours(), theirs(), rtol=0, atol=1e-5)
    times = interleaved({"zoo": ours, "port": theirs}, 3 if quick else 7 if variant == "vgg16" else 31)
    # CPU seconds: those of the wall say how busy the machine was
    record(f"{variant}/pictures_per_cpu_second", batch / cpu_seconds(ours))
    record(f"{variant}/port", ratio(times, "port", "zoo"))
    record(f"{variant}/megabytes", 4e-6 * sum(p.numel() for p in module.parameters()))


def test_a_training_step_against_the_straightforward_port(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    torch.manual_seed(0)
    module = zoo.RAS("tiny")
    image, mask = torch.rand(8, 3, 96, 96), (torch.rand(8, 1, 96, 96) > 0.7).float()

    def finished(loss: Tensor) -> Tensor:
        module.zero_grad()
        loss.backward()
        gradient = module.network.backbone.features[0].weight.grad
        assert gradient is not None
        return gradient.clone()

    def ours() -> Tensor:
        return finished(side_losses(module.network(module._ordered(image), True), mask).sum())

    def theirs() -> Tensor:
        loss = sum(functional.binary_cross_entropy_with_logits(y, mask) for y in port(module.network, image))
        assert isinstance(loss, Tensor)
        return finished(loss)

    torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-5)
    times = interleaved({"zoo": ours, "port": theirs}, 3 if quick else 21, warmup=2)
    record("tiny/step_cpu_milliseconds", 1000 * cpu_seconds(ours))
    record("tiny/step_port", ratio(times, "port", "zoo"))
