"""A guided step of ActGen's sampler against an unguided one: time, and bytes that the gradient keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.actgen.generator import EmbeddedGenerator
from zoo.actgen.sampling import Guidance, Job, sample_guided, sample_random


class Kept:
    """Bytes of different tensors that are kept for a backward pass at once, at most."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.most = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.held[storage.data_ptr()] = storage.nbytes()
        self.most = max(self.most, sum(self.held.values()))
        return tensor


def test_a_guided_step_against_an_unguided_one(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    """All steps of one kind, so that the time of a sampling is that of its steps; eight images together."""
    quick = request.config.getoption("--quick")
    batch, steps, rounds = (2, 2, 1) if quick else (8, 10, 7)
    found: Any = zoo.load("actgen_digits")
    generator = EmbeddedGenerator(zoo.load("actgen_generator_digits"), "benchmark")
    network = found.network.requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    guides = 2 * torch.rand(batch, 1, 8, 8, generator=g) - 1
    labels, seeds = [i % 10 for i in range(batch)], list(range(batch))
    memories = [torch.randn(16, 64, generator=g) for _ in range(batch)]
    plain = Job(labels, seeds)
    guided = Job(labels, seeds, guides)
    pushed = Job(labels, seeds, guides, [True] * batch, memories)

    def settings(mask: Any = "normalized") -> Guidance:
        return Guidance(steps=steps, scale=3.0, gradient_steps=steps, margin=12.5, mask=mask)

    sides = {
        "unguided": lambda: sample_random(generator, plain, steps, 3.0),
        "image": lambda: sample_guided(generator, guided, settings("none")),
        "mask": lambda: sample_guided(generator, guided, settings()),
        "gradient": lambda: sample_guided(generator, pushed, settings(), network, 8),
    }
    times = interleaved(sides, rounds)
    record("digits/milliseconds_per_step/unguided", 1000 * median(times, "unguided") / steps)
    for kind in ("image", "mask", "gradient"):
        record(f"digits/step_ratio/{kind}", ratio(times, kind, "unguided"))
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        one = Guidance(steps=2, scale=3.0, gradient_steps=1, margin=12.5)
        sample_guided(generator, pushed, one, network, 8)
    weights = sum(p.numel() * p.element_size() for p in generator.network.parameters())
    record("digits/kept_mebibytes/gradient", kept.most / 2**20)
    record("digits/mebibytes/weights", weights / 2**20)
    assert kept.most > weights
