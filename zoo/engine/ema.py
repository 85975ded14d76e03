"""Exponential moving average of a network's weights: one process, DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from zoo.hub.weights import EMA_KEY
from zoo.reports import say


def _local(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def averaged_parameters(module: LightningModule) -> dict[str, nn.Parameter]:
    """The trainable parameters of ``module.network``, named as in the module's state dict.

    Buffers, fixed tables and what lies outside the network (loss scales, say) are not averaged.
    """
    network = getattr(module, "network", module)
    prefix = "" if network is module else "network."
    return {prefix + name: p for name, p in network.named_parameters() if p.requires_grad}


class EMA(Callback):
    """shadow = decay shadow + (1 - decay) weights after each optimiser step, from step 0 as a copy, no
    warm-up.

    Validation, test and prediction run with the averaged weights. A checkpoint holds the raw weights in
    ``state_dict`` and the averaged ones here; :func:`zoo.load` gives the averaged ones.

    A training that goes on without a decay drops the averages of its checkpoint, and says so: nothing would
    bring them up to date.

    Args:
        decay: in [0, 1); null switches averaging off.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, decay: float | None = None) -> None:
        super().__init__()
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"ema.decay must lie in [0, 1) or be null, got {decay}")
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._step = -1
        self._going_on = False
        self._decay_before: float | None = None

    @property
    def state_key(self) -> str:
        return EMA_KEY

    # ModelParallelStrategy restores callbacks after on_fit_start, so the shadow is made in the first *_start
    # hook.
    def _prepare(self, module: LightningModule, fresh: bool) -> None:
        parameters = averaged_parameters(module)
        if self._restored:
            missing = set(parameters) ^ set(self._restored)
            if missing:
                raise ValueError(
                    f"the checkpoint's averaged weights do not fit the model, for example {min(missing)!r}"
                )
            self.shadow = {n: _like(self._restored[n], p) for n, p in parameters.items()}
            self._restored = {}
        elif fresh:
            self.shadow = {n: p.detach().clone() for n, p in parameters.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._going_on:
            self._say_changes(trainer)
            self._going_on = False
        if self.decay is None:
            self.shadow, self._restored = {}, {}
        else:
            self._prepare(pl_module, fresh=not self.shadow)
        self._step = trainer.global_step

    def _say_changes(self, trainer: Trainer) -> None:
        before, now, step = self._decay_before, self.decay, trainer.global_step
        if before == now or not trainer.is_global_zero:
            return
        if now is None:
            say(f"note: ema.decay was {before} and is null: the averaged weights are dropped at step {step}")
        elif before is None:
            say(f"note: ema.decay was null and is {now}: the average starts from the weights of step {step}")
        else:
            say(f"note: ema.decay was {before} in the checkpoint and is {now} from step {step} on")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.decay is None or trainer.global_step == self._step:  # no optimiser step: accumulating
            return
        self._step = trainer.global_step
        parameters = averaged_parameters(pl_module)
        with torch.no_grad():
            torch._foreach_lerp_(
                [_local(self.shadow[n]) for n in parameters],
                [_local(p.detach()) for p in parameters.values()],
                1 - self.decay,
            )

    def _swap_in(self, module: LightningModule) -> None:
        if self._restored:
            self._prepare(module, fresh=False)
        if not self.shadow or self._raw:
            return
        _reshard(module)
        with torch.no_grad():
            for name, p in averaged_parameters(module).items():
                self._raw[name] = _local(p).clone()
                _local(p).copy_(_local(self.shadow[name]))

    def _swap_out(self, module: LightningModule) -> None:
        if not self._raw:
            return
        # FSDP2 leaves the root unsharded after an eval forward; its shards must be in place before the copy.
        _reshard(module)
        with torch.no_grad():
            for name, p in averaged_parameters(module).items():
                _local(p).copy_(self._raw[name])
        self._raw = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._swap_out(pl_module)

    @contextmanager
    def averaged(self, module: LightningModule) -> Iterator[None]:
        """Run a block with the averaged weights in place."""
        already = bool(self._raw)
        self._swap_in(module)
        try:
            yield
        finally:
            if not already:
                self._swap_out(module)

    def state_dict(self) -> dict[str, Any]:
        """Collective under FSDP2: every rank must call it."""
        shadow = self.shadow or self._restored
        return {
            "decay": self.decay,
            "shadow": {n: t.full_tensor().cpu() if isinstance(t, DTensor) else t for n, t in shadow.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._going_on, self._decay_before = True, state_dict["decay"]
        # without a decay they are of an earlier step, which former versions kept
        self._restored = {} if self._decay_before is None else dict(state_dict["shadow"])


def _like(full: Tensor, parameter: nn.Parameter) -> Tensor:
    if full.shape != parameter.shape:
        raise ValueError(
            f"averaged weight of shape {tuple(full.shape)} for a parameter of {tuple(parameter.shape)}"
        )
    full = full.to(device=parameter.device, dtype=parameter.dtype)
    if isinstance(parameter, DTensor):
        return distribute_tensor(full, parameter.device_mesh, parameter.placements)
    return full.clone()


def _reshard(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
