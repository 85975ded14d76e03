"""The spec's check (a0): who can add two symbols when each stream holds one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.mbt.network import build


def accuracy(fusion: str, layer: int, steps: int = 500, seed: int = 0) -> float:
    """Accuracy of (v + a) mod 3 after training on fresh samples of noisy prototypes (4 tokens of 16)."""
    torch.manual_seed(seed)
    size: dict[str, Any] = {"num_classes": 3, "width": 32, "depth": 4, "heads": 4, "mlp": 64}
    network = build(fusion=fusion, fusion_layer=layer, frames=1, image_size=32, spectrogram_frames=32,
                    mel_bins=32, **size)  # fmt: skip
    prototypes = torch.randn(2, 3, 4, 16)
    maps = nn.ModuleList(nn.Linear(16, 32) for _ in range(2))
    names = ("rgb", "spectrogram")

    def forward(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        digits = torch.randint(3, (count, 2))
        streams = {}
        for i, name in enumerate(names):
            tokens = prototypes[i, digits[:, i]] + 0.5 * torch.randn(count, 4, 16)
            cls = network.cls[name].expand(count, -1, -1)
            streams[name] = torch.cat([cls, maps[i](tokens)], dim=1) + network.positions[name]
        return network.classify(network.encode(streams)), digits.sum(dim=1) % 3

    optimizer = torch.optim.AdamW([*network.parameters(), *maps.parameters()], lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50)
        logits, label = forward(64)
        loss = torch.stack([F.cross_entropy(logits[:, i], label) for i in range(2)]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        logits, label = forward(2000)
    return float((logits.mean(dim=1).argmax(dim=1) == label).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "layer", "solves"), [
    ("bottleneck", 0, True), ("bottleneck", 2, True), ("bottleneck", 3, False), ("late", 4, False),
    ("cross_attention", 2, True), ("cross_attention", 3, True),
])  # fmt: skip
def test_the_sum_needs_flow_between_the_streams(fusion: str, layer: int, solves: bool) -> None:
    found = accuracy(fusion, layer)
    print(f"{fusion} {layer}: {found:.3f}")
    assert found >= 0.95 if solves else found <= 0.5
