"""A step of DEMI against one of the control with the same three forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.demi.views import DRAWS

DIGITS: dict[str, Any] = {"image_size": 8, "channels": 1, "encoder": "cnn", "augmentation": "digits"}
DIGITS |= {"hidden": 128, "embedding": 64}
CIFAR: dict[str, Any] = {"image_size": 32, "encoder": "resnet18", "stem": "cifar"}


@pytest.mark.parametrize(("name", "sizes", "batch"), [("digits", DIGITS, 128), ("cifar", CIFAR, 16)])
def test_a_step_against_the_control(
    name: str,
    sizes: dict[str, Any],
    batch: int,
    record: Callable[[str, float], None],
    request: pytest.FixtureRequest,
) -> None:
    """Views, loss, backward and update, the sides in turns."""
    quick = request.config.getoption("--quick")
    batch, rounds = (4, 1) if quick else (batch, 60 if name == "digits" else 6)
    g = torch.Generator().manual_seed(0)
    side, channels = sizes["image_size"], sizes.get("channels", 3)
    image = 2 * torch.rand(batch, channels, side, side, generator=g) - 1
    u = torch.rand(batch, 3, DRAWS, generator=g)
    noise = torch.randn(batch, 2, channels, side, side, generator=g) if name == "digits" else None
    modules = {o: zoo.DEMI(**sizes, objective=o) for o in ("bo", "is", "multi")}  # type: ignore[arg-type]
    optimizers = {o: m.configure_optimizers() for o, m in modules.items()}
    passes = dict.fromkeys(modules, 0)
    for objective, module in modules.items():

        def count(*_: Any, objective: str = objective) -> None:
            passes[objective] += 1

        module.network.encoder.register_forward_hook(count)

    def step(objective: str) -> None:
        module = modules[objective]
        found, _ = module.bounds(module.views(image, u, noise), 1)
        optimizers[objective].zero_grad()
        (-found["first"] - found["second"]).backward()
        optimizers[objective].step()

    times = interleaved({o: (lambda o=o: step(o)) for o in modules}, rounds)
    assert len({*passes.values()}) == 1
    record(f"{name}/milliseconds/multi", 1000 * median(times, "multi"))
    for objective in ("bo", "is"):
        record(f"{name}/step_ratio/{objective}", ratio(times, objective, "multi"))
