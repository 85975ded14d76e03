"""MBT's cost over the fusion layer, counted by torch: bottleneck against cross-attention and joint attention.

Counts, not times: the shape of the paper's curve must come out at ViT-B size. One forward pass of a smaller
network is timed as well, its sides interleaved.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.interleaved import interleaved, ratio
from zoo.mbt.cost import macs
from zoo.mbt.network import build

LAYERS = (0, 4, 8, 10, 12)
# GMAC of the spec, ViT-B, 1569 + 401 tokens
TABLE = {
    "bottleneck": (218.0, 217.6, 217.2, 217.0, 216.8),
    "cross_attention": (267.9, 250.9, 233.8, 225.3, 216.8),
    "shared_self_attention": (240.0, 232.3, 224.6, 220.7, 216.8),
}
TOKENS = {4: 217.2, 36: 219.8, 64: 222.1, 256: 238.4, 1024: 312.6}


def gmac(fusion: str, layer: int, tokens: int = 4) -> float:
    found = macs(
        fusion=fusion, fusion_layer=layer, num_bottlenecks=tokens, extra_bottleneck=fusion == "bottleneck"
    )
    return found / 1e9


def test_cost_by_fusion_layer_is_the_papers_curve(record: Callable[[str, float], None]) -> None:
    late = gmac("late", 12)
    record("late/gmac", late)
    for fusion, expected in TABLE.items():
        found = [gmac(fusion, layer) for layer in LAYERS]
        for layer, value in zip(LAYERS, found, strict=True):
            record(f"{fusion}/layer_{layer}/gmac", value)
        assert found == pytest.approx(expected, abs=0.05)
        if fusion == "bottleneck":
            # within 1 % of late fusion at every layer, and nearly flat
            assert max(found) / late < 1.01
        else:
            assert found == sorted(found, reverse=True)
    for layer in LAYERS[:-1]:
        costs = [gmac(f, layer) for f in ("bottleneck", "shared_self_attention", "cross_attention")]
        assert costs == sorted(costs)


def test_cost_by_number_of_tokens(record: Callable[[str, float], None]) -> None:
    for tokens, expected in TOKENS.items():
        value = gmac("bottleneck", 8, tokens)
        record(f"tokens_{tokens}/gmac", value)
        assert value == pytest.approx(expected, abs=0.05)


def test_time_of_a_forward_pass(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    """tiny, the paper's token numbers, early fusion: where the sides differ most."""
    quick = request.config.getoption("--quick")
    size = {"width": 192, "depth": 2 if quick else 4, "heads": 4, "mlp": 768, "fusion_layer": 0}
    networks = {
        f: build(fusion=f, **size).eval()
        for f in ("bottleneck", "cross_attention", "shared_self_attention", "late")
    }
    inputs = networks["late"].example_inputs(1)
    with torch.no_grad():
        times = interleaved(
            {n: (lambda net=net: net(**inputs)) for n, net in networks.items()}, 2 if quick else 7
        )
    for name in ("bottleneck", "cross_attention", "shared_self_attention"):
        record(f"{name}/time_by_late", ratio(times, name, "late"))
