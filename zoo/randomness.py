"""The zoo's one rule of randomness: a draw is a pure function of where it happens.

Draws of a training objective (timesteps, noise, label drops, mixup, ...) are a function of (seed, step),
made for the *global* batch; a rank then takes its rows. So neither the world size nor a resume changes the
optimisation.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

# First word of the keys of training draws, so that no other stream of a method can meet them.
_TRAINING_DRAWS = 100


def global_seed() -> int:
    """The seed of ``seed_everything`` (0 when it was never called)."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derived_seed(*key: int) -> int:
    """A 63-bit seed from integers; different keys, also of different lengths, give independent streams.

    Raises:
        ValueError: for integers outside 0..2^64 - 1.
    """
    # SeedSequence pads with zeros and splits large numbers: alone, (5,), (5, 0) and (5, 0, 0) are one stream.
    words = [len(key)]
    for number in key:
        if not 0 <= number < 2**64:
            raise ValueError(f"seeds must lie in 0..2^64 - 1, got {number}")
        words += [number & 0xFFFF_FFFF, number >> 32]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` that depends on ``key`` alone."""
    return torch.Generator(device=device).manual_seed(derived_seed(*key))


def step_generator(module: LightningModule, batch_idx: int) -> torch.Generator:
    """The generator of one training batch: keyed by the seed, the optimiser step and the batch in the epoch.

    The batch index tells the parts of an accumulated step apart. Every rank gets the same stream.
    """
    key = (_TRAINING_DRAWS, global_seed(), module.trainer.global_step, batch_idx)
    return generator(*key, device=module.device)


def local_rows(module: LightningModule, draws: Tensor) -> Tensor:
    """This rank's rows of a global-batch draw (B_global, ...): rank::world, as the data sampler deals."""
    return draws[module.global_rank :: module.trainer.world_size]
