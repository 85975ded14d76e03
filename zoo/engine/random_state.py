"""The global random states in the checkpoint, one set per rank."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from zoo.randomness import derived_seed, global_seed


def _get_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        # weights_only refuses numpy arrays and scalars: tensors, lists and numbers only
        "numpy": [
            str(name),
            torch.tensor(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(words), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class ResumableRandomness(Callback):
    """Gives each rank its own global random state and carries the states of all ranks through checkpoints.

    ``seed_everything`` gives every rank the same seed, so dropout would repeat across ranks: a fresh run is
    reseeded with (seed, rank). Training objectives do not use these states at all, see :mod:`zoo.randomness`.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._ranks: list[dict[str, Any]] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks, self._ranks = self._ranks, None
        if ranks is not None and len(ranks) == trainer.world_size:
            _set_state(ranks[trainer.global_rank])
            return
        if ranks is not None:
            rank_zero_warn(
                f"the checkpoint was written by {len(ranks)} processes, this run has {trainer.world_size}: "
                "dropout and the like are reseeded, the training objective is unaffected"
            )
        seed = derived_seed(global_seed(), trainer.global_rank, trainer.global_step)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Collective: every rank must call it."""
        state = _get_state()
        world = self._trainer.world_size if self._trainer is not None else 1
        if world == 1:
            return {"ranks": [state]}
        ranks: list[Any] = [None] * world
        torch.distributed.all_gather_object(ranks, state)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ranks = state_dict["ranks"]
