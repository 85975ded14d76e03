"""The zoo's one rule of randomness: a draw is a pure function of where it happens.

Draws of a training objective (timesteps, noise, label drops, mixup, ...) are a function of (seed, step) and are made
for the *global* batch; a rank then takes its rows. So neither the world size nor a resume changes the optimisation.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor


def global_seed() -> int:
    """The seed of ``seed_everything`` (0 when it was never called)."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derived_seed(*key: int) -> int:
    """A 63-bit seed from non-negative integers; different keys give independent streams."""
    return int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` that depends on ``key`` alone."""
    return torch.Generator(device=device).manual_seed(derived_seed(*key))


def step_generator(module: LightningModule, batch_idx: int) -> torch.Generator:
    """The generator of one training batch: keyed by the seed, the optimiser step and the batch within the epoch.

    The batch index tells the parts of an accumulated step apart. Every rank gets the same stream.
    """
    return generator(global_seed(), module.trainer.global_step, batch_idx, device=module.device)


def local_rows(module: LightningModule, draws: Tensor) -> Tensor:
    """The rows of a global-batch draw (B_global, ...) that belong to this rank, rank::world as the sampler deals."""
    return draws[module.global_rank :: module.trainer.world_size]
