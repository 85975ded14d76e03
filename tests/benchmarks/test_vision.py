"""A training step of the ViT against transformers' own, and of the MAE against an encoder of all patches.

Before the clock starts both ViTs have the same weights, and their losses must agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.vision.encoder import SIZES
from zoo.vision.encoder_weights import STEM, config_entries, layers_to
from zoo.vision.masking import masked_error, masks

SMALL: dict[str, Any] = {
    "image_size": 64, "channels": 3, "shape": "free", "patch_size": 8, "width": 96, "depth": 6, "heads": 4,
    "norm_eps": 1e-12,
}  # fmt: skip


def stepping(module: torch.nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def test_a_step_against_transformers(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    module: Any = zoo.ViTClassifier(**SMALL, num_classes=10)
    sizes = {k: SMALL[k] for k in SIZES}
    config = ViTConfig(**config_entries(module, sizes))
    config.num_labels = 10
    theirs: Any = ViTForImageClassification(config).train()
    own = module.network.state_dict()
    state = layers_to(own, "blocks", "vit.layers")
    state |= {f"vit.{name}": own[ours] for name, ours in STEM.items()}
    state |= {f"classifier.{kind}": own[f"head.{kind}"] for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    image, label = torch.rand(32, 3, 64, 64), torch.arange(32) % 10

    def ours_loss() -> Tensor:
        return functional.cross_entropy(module(image), label)

    def their_loss() -> Tensor:
        found: Tensor = theirs((image - 0.5) / 0.5, labels=label).loss
        return found

    torch.testing.assert_close(ours_loss(), their_loss(), atol=1e-5, rtol=1e-5)
    rounds = 2 if request.config.getoption("--quick") else 12
    both = {"zoo": stepping(module, ours_loss), "transformers": stepping(theirs, their_loss)}
    times = interleaved(both, rounds, clock=time.process_time)
    record("vit_step/milliseconds", 1000 * median(times, "zoo"))
    record("vit_step/transformers", ratio(times, "transformers", "zoo"))


def test_an_encoder_of_the_visible_patches_alone(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    settings = {**SMALL, "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}
    module: Any = zoo.MAE(**settings)
    image, order = torch.rand(32, 3, 64, 64), masks(torch.arange(32), 64, 0.75, 0)

    def step(count: int) -> Tensor:
        """With ``count`` patches through the encoder; the loss is on the same hidden ones."""
        predicted = module.network(image, order, count)
        target = module.network.target(image, True)
        return masked_error(predicted, target, order, module.seen).mean()

    rounds = 2 if request.config.getoption("--quick") else 12
    both = {"visible": stepping(module, lambda: step(module.seen)), "all": stepping(module, lambda: step(64))}
    times = interleaved(both, rounds, clock=time.process_time)
    record("mae_step/milliseconds", 1000 * median(times, "visible"))
    record("mae_step/all_patches", ratio(times, "all", "visible"))
