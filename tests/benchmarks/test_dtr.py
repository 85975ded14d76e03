"""DTR on DiT: its training step against diffusers' DiT, what routing and EMA cost, sampling, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.dtr.network import DiT
from zoo.dtr.weights import diffusers_state
from zoo.engine.ema import EMA

ROOT = Path(__file__).parent.parent.parent
Record = Callable[[str, float], None]
EMBEDDED = {"size": "S", "width": 64, "depth": 4, "heads": 4, "input_size": 8, "in_channels": 1}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    # name: (arguments, batch, rounds)
    "embedded": ({**EMBEDDED, "num_classes": 10}, 128, 60),
    "s2": ({"size": "S"}, 4, 10),
}


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


def module(size: str, routing: str = "none") -> zoo.DTR:
    """A network with random weights everywhere: a fresh one has gates of 0."""
    torch.manual_seed(0)
    model = zoo.DTR(routing=routing, **SIZES[size][0])  # type: ignore[arg-type]
    for p in model.network.parameters():
        nn.init.normal_(p, std=0.02)
    return model


def diffusers_twin(model: zoo.DTR) -> DiTTransformer2DModel:
    """The same network in diffusers: config, weights, and DiT's own time frequencies."""
    config, state = diffusers_state(model)
    twin = DiTTransformer2DModel.from_config(config)
    twin.load_state_dict(state, strict=False)
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return twin.train()


def batch_of(network: DiT, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(size, network.in_channels, network.input_size, network.input_size)
    return x, torch.randint(1000, (size,)), torch.randint(network.num_classes, (size,)), torch.randn_like(x)


def training_step(network: nn.Module, call: Callable[[], Tensor], noise: Tensor) -> Callable[[], None]:
    """Forward, squared error of eps, backward, AdamW: the same for every side."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)

    def step() -> None:
        eps = call()[:, : noise.shape[1]]
        (eps - noise).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_training_step_against_diffusers(size: str, compiled: bool, quick: bool, record: Record) -> None:
    if (quick and (compiled or size == "s2")) or (compiled and size == "s2"):
        pytest.skip("too long: compiling S/2 for a CPU takes minutes")
    _, batch, rounds = SIZES[size]
    ours, routed = module(size), module(size, "dtr")
    theirs = diffusers_twin(ours)
    x, t, y, noise = batch_of(ours.network, 8 if quick else batch)

    def their_output() -> Tensor:
        return theirs(x, timestep=t, class_labels=y).sample

    theirs.eval()  # its label dropout draws from the global generator
    with torch.no_grad():
        torch.testing.assert_close(ours.network(x, t, y), their_output(), atol=1e-5, rtol=1e-4)
    if compiled:
        for network in (ours.network, routed.network):
            for block in network.blocks:
                block.compile()
        for block in theirs.transformer_blocks:
            block.compile()
    sides = {
        "ours": training_step(ours.network, lambda: ours.network(x, t, y), noise),
        "routed": training_step(routed.network, lambda: routed.network(x, t, y), noise),
        "diffusers": training_step(theirs, their_output, noise),
    }
    times = interleaved(sides, 2 if quick else rounds)
    name = f"{size}-{'compiled' if compiled else 'eager'}"
    record(f"step/{name}/milliseconds", 1e3 * median(times, "ours"))
    record(f"step/{name}/diffusers", ratio(times, "diffusers", "ours"))
    record(f"step/{name}/routing", ratio(times, "routed", "ours"))


@pytest.mark.parametrize("size", SIZES)
def test_averaging_is_a_small_share_of_a_step(size: str, quick: bool, record: Record) -> None:
    _, batch, rounds = SIZES[size]
    model, ema = module(size, "dtr"), EMA(0.999)
    trainer: Any = SimpleNamespace(global_step=0)
    ema.on_train_start(trainer, model)
    x, t, y, noise = batch_of(model.network, 2 if quick else batch)

    def average() -> None:
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, model)

    step = training_step(model.network, lambda: model.network(x, t, y), noise)
    times = interleaved({"step": step, "average": average}, 2 if quick else rounds)
    name = "network.final_layer.linear.weight"
    assert not torch.equal(ema.shadow[name], model.network.final_layer.linear.weight)
    record(f"ema/{size}/share", ratio(times, "average", "step"))


def test_sampling(quick: bool, record: Record) -> None:
    """Ours against the loop that one writes with diffusers' scheduler: two calls of the network per step."""
    model = zoo.load("dtr_dit_digits")
    count, steps, guidance = (4, 5, 1.5) if quick else (64, 50, 1.5)
    labels = torch.arange(count) % 10
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, clip_sample=True, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)

    @torch.no_grad()
    def loop() -> Tensor:
        x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        null = torch.full_like(labels, 10)
        for t in scheduler.timesteps:
            time_ = t.expand(count)
            eps = model.network(x, time_, labels)[:, :1]
            empty = model.network(x, time_, null)[:, :1]
            x = scheduler.step(empty + guidance * (eps - empty), int(t), x).prev_sample
        return x

    sides: dict[str, Callable[[], object]] = {
        "loop": loop,
        "ddim": lambda: model.sample(labels, sampler="ddim", steps=steps, guidance=guidance),
        "ddpm": lambda: model.sample(labels, sampler="ddpm", steps=steps, guidance=guidance),
        "dpm": lambda: model.sample(labels, sampler="dpm++", steps=max(steps // 2, 2), guidance=guidance),
    }
    times = interleaved(sides, 1 if quick else 7)
    for name in ("ddim", "ddpm", "dpm"):
        record(f"sampling/{name}/images-per-second", count / median(times, name))
    record("sampling/ddim/diffusers-loop", ratio(times, "loop", "ddim"))


def test_start_up(quick: bool, record: Record) -> None:
    """Seconds from the shell: `zoo list` (no torch), `import torch` alone, the parsed settings of a run."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    commands = {
        "list": ["cli.py", "list"],
        "torch": ["-c", "import torch"],
        "lightning": ["-c", "import lightning.pytorch.cli, torchmetrics"],
        "fit": ["cli.py", "fit", "--config", "dtr_dit_digits", "--print_config"],
    }

    def run(arguments: list[str]) -> Callable[[], None]:
        def call() -> None:
            done = subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, timeout=300
            )
            assert done.returncode == 0, done.stderr[-500:]

        return call

    times = interleaved({n: run(c) for n, c in commands.items()}, 1 if quick else 5, warmup=0 if quick else 1)
    for name in commands:
        record(f"start-up/{name}/seconds", median(times, name))
