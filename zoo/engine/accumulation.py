"""Optimiser steps over the gradients of several batches."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.reports import say


def effective_batch(trainer: Trainer) -> int | None:
    """Items of one optimiser step: the data module's global batch times the accumulated batches."""
    batch = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return None if batch is None else int(batch) * window(trainer)


def window(trainer: Trainer) -> int:
    """Batches of one optimiser step; an epoch, once its length is known, may have fewer."""
    return int(min(trainer.accumulate_grad_batches, max(trainer.num_training_batches, 1)))


class EqualSteps(Callback):
    """The last step of an epoch, which may see fewer batches than the others, follows their mean, too.

    Lightning divides each loss by ``trainer.accumulate_grad_batches``, also where the epoch ends sooner: that
    step would be shorter by the batches that it lacks. Gradients are scaled before they are clipped. A module
    that divides its gradients itself (``divides_gradients = True``) by what the step has seen is left alone.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if window(trainer) < trainer.accumulate_grad_batches:
            say(
                f"an epoch has {window(trainer)} batches, fewer than trainer.accumulate_grad_batches "
                f"{trainer.accumulate_grad_batches}: an optimiser step sees these, effective batch "
                f"{effective_batch(trainer)}"
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches
        if not batches or not pl_module.automatic_optimization:
            return
        if getattr(pl_module, "divides_gradients", False):
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(trainer.accumulate_grad_batches / batches)


def check_hand_stepped(trainer: dict[str, Any], module: LightningModule) -> None:
    """Methods that step their optimisers themselves neither accumulate nor clip by the trainer's settings.

    Args:
        trainer: its settings.
        module: of the run.

    Raises:
        ValueError: naming the setting.
    """
    if module.automatic_optimization:
        return
    for key, off in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
        if trainer.get(key, off) not in (off, 0, None):
            raise ValueError(
                f"{type(module).__name__} steps its optimisers itself, so trainer.{key} does not reach them: "
                f"leave out trainer.{key}, got {trainer[key]}"
            )
