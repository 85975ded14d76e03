"""What a training that goes on takes from its checkpoint besides the weights, and what must be as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.hub.foreign import is_plain
from zoo.hub.weights import EMA_KEY
from zoo.reports import say

_SETTINGS = {
    "ema": (EMA_KEY, ("decay",)),
    "checkpoint": ("Checkpoint", ("monitor", "mode", "keep", "every_n_train_steps")),
    "previews": ("Previews", ("count",)),
}
"""Group of the command line -> its callback among the checkpoint's, and the settings that are kept there."""


def take_settings(checkpoint: Mapping[str, Any], config: Any, flagged: Callable[[str, str], bool]) -> None:
    """Settings of the averages, checkpoints and previews go on as the checkpoint has them, unless a flag says
    otherwise: those of a flag that is left out would be lost with it.

    Args:
        checkpoint: its content.
        config: of the run; its groups are changed.
        flagged: whether the command line sets a key of a group.
    """
    states = checkpoint.get("callbacks")
    for group, (key, names) in _SETTINGS.items():
        state = states.get(key) if isinstance(states, Mapping) else None
        if not isinstance(state, Mapping) or config.get(group) is None:
            continue
        taken = []
        for name in names:
            now, kept = config[group][name], state.get(name)
            if name not in state or kept == now or not is_plain(kept):
                continue
            # a mode is of its monitor
            if flagged(group, name) or (name == "mode" and flagged(group, "monitor")):
                continue
            config[group][name] = kept
            taken.append(f"{group}.{name} {_text(kept)} (not {_text(now)})")
        if taken:
            say(f"{', '.join(taken)}, as the checkpoint has it; a flag changes it")


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


class SameOptimization(Callback):
    """A checkpoint's optimisers and schedules are restored into ones of the same class alone.

    Another class has another meaning for the same state, or none.

    Attributes:
        notes: lines about what is restored, said when it is.

    Raises:
        ValueError: before anything is restored, with both classes.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint.setdefault("zoo", {})["optimization"] = _classes(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        ours = checkpoint.get("zoo") or {}
        states = checkpoint.get("optimizer_states") or []
        self._restored = {"classes": ours.get("optimization"), "states": states}
        if trainer.strategy.restore_checkpoint_after_setup:
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restored, self._restored = self._restored, None
        if restored is None:
            return
        if restored["classes"] is None:  # of a version that did not keep them
            _compare_settings(restored["states"], trainer.optimizers)
        for what, now in _classes(trainer).items():
            before = (restored["classes"] or {}).get(what)
            if restored["classes"] is not None and before != now:
                raise ValueError(
                    f"the checkpoint was trained with {_list(before)}, this run asks for {_list(now)} as its "
                    f"{what}: go on with the same, or start from the checkpoint's weights alone (--weights)"
                )
        for note in self.notes:
            say(note)


def _classes(trainer: Trainer) -> dict[str, list[str]]:
    return {
        "optimizer": [_name(optimizer) for optimizer in trainer.optimizers],
        "lr_scheduler": [_name(config.scheduler) for config in trainer.lr_scheduler_configs],
    }


def _name(thing: Any) -> str:
    """The path that one writes into a config: ``torch.optim.Adam``, not the module that defines it."""
    cls = type(thing)
    for public in (torch.optim, torch.optim.lr_scheduler):
        if getattr(public, cls.__name__, None) is cls:
            return f"{public.__name__}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _list(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "none"


def _compare_settings(states: Sequence[Any], optimizers: Sequence[Any]) -> None:
    """Checkpoints without names of classes: an optimiser of another class has other settings."""
    for state, optimizer in zip(states, optimizers, strict=False):
        for before, now in zip(state["param_groups"], optimizer.param_groups, strict=False):
            strange = sorted(before.keys() - now.keys() - {"initial_lr"})
            if before.get("decoupled_weight_decay", None) != now.get("decoupled_weight_decay", None):
                strange.append("decoupled_weight_decay")  # Adam in the one, AdamW in the other
            if strange:
                raise ValueError(
                    f"the checkpoint's optimizer is no {_name(optimizer)}: it differs in {', '.join(strange)}"
                    "; go on with the same, or start from the checkpoint's weights alone (--weights)"
                )
