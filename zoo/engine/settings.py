"""Ranges of the numbers that the engine is told: trainer, callbacks, seed, optimisers and schedules.

Constructors of models and data know their own.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jsonargparse import Namespace

from zoo.engine.errors import Sources, origin
from zoo.nn.ranges import Range

_LARGEST = 3.4e38  # of float32, in which weights and rates are kept
_MOST_ON_CPU = 8  # processes; or one per core


_COUNT, _NOT_NEGATIVE, _FINITE, _SHARE = Range(1), Range(0), Range(), Range(0, 1)
_RATE = Range(0, 1, below=True)
_ENDLESS = (
    "trainer.devices",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.num_sanity_val_steps",
    "checkpoint.keep",
)
"""Where -1 is all, or no end."""

# of a whole number, and of a fraction where a fraction means another thing: a share instead of batches
_BATCHES = (_NOT_NEGATIVE, _SHARE)
SETTINGS: dict[str, tuple[Range, ...]] = {
    "seed_everything": (Range(0, 2**32 - 1),),
    "trainer.devices": (_COUNT,),
    "trainer.num_nodes": (_COUNT,),
    "trainer.max_steps": (_COUNT,),
    "trainer.max_epochs": (_COUNT,),
    "trainer.min_steps": (_NOT_NEGATIVE,),
    "trainer.min_epochs": (_NOT_NEGATIVE,),
    "trainer.limit_train_batches": _BATCHES,
    "trainer.limit_val_batches": _BATCHES,
    "trainer.limit_test_batches": _BATCHES,
    "trainer.limit_predict_batches": _BATCHES,
    "trainer.overfit_batches": _BATCHES,
    "trainer.fast_dev_run": (_NOT_NEGATIVE,),
    "trainer.val_check_interval": (_COUNT, Range(0, 1, above=True)),
    "trainer.check_val_every_n_epoch": (_COUNT,),
    "trainer.num_sanity_val_steps": (_NOT_NEGATIVE,),
    "trainer.log_every_n_steps": (_NOT_NEGATIVE,),
    "trainer.accumulate_grad_batches": (_COUNT,),
    "trainer.gradient_clip_val": (_NOT_NEGATIVE,),
    "trainer.reload_dataloaders_every_n_epochs": (_NOT_NEGATIVE,),
    "checkpoint.every_n_train_steps": (_COUNT,),
    "checkpoint.keep": (Range(2),),
    "ema.decay": (_RATE,),
    "previews.count": (Range(0, 10_000),),
    "energy.watts_per_core": (_NOT_NEGATIVE,),
    "energy.idle_watts": (_NOT_NEGATIVE,),
    "energy.pue": (_COUNT,),
    "energy.intensity": (_NOT_NEGATIVE,),
    "energy.budget_joules": (Range(0, above=True),),
    "cost.runs": (Range(50),),
    "cost.warmup": (_NOT_NEGATIVE,),
}
OF_A_VERB = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
"""The loader without whose batches a verb does nothing."""

OPTIMIZATION: dict[str, Range] = {
    "lr": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "eps": _NOT_NEGATIVE,
    "betas": _RATE,
    "momentum": _RATE,
    "rho": _SHARE,
    "alpha": _NOT_NEGATIVE,
    "lr_decay": _NOT_NEGATIVE,
    "gamma": _NOT_NEGATIVE,
    "factor": _NOT_NEGATIVE,
    "start_factor": _SHARE,
    "end_factor": _SHARE,
    "eta_min": _NOT_NEGATIVE,
    "min_lr": _NOT_NEGATIVE,
    "max_lr": _NOT_NEGATIVE,
    "base_lr": _NOT_NEGATIVE,
    "pct_start": _SHARE,
    "decay_fraction": _SHARE,
    "step_size": _COUNT,
    "milestones": _NOT_NEGATIVE,
    "T_max": _COUNT,
    "T_0": _COUNT,
    "T_mult": _COUNT,
    "epochs": _COUNT,
    "steps_per_epoch": _COUNT,
    "total_steps": _COUNT,
    "total_iters": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "patience": _NOT_NEGATIVE,
    "cooldown": _NOT_NEGATIVE,
    "threshold": _NOT_NEGATIVE,
    "last_epoch": Range(-1),
}
"""Arguments of optimisers and schedules, by their names in torch; others are finite numbers."""


def check_settings(verb: str, config: Namespace, sources: Sources = (), flags: Sequence[str] = ()) -> None:
    """Compare what is set with the ranges above.

    Args:
        verb: that runs.
        config: parsed, of the verb.
        sources: where settings come from besides flags, to say it.
        flags: which win over those.

    Raises:
        ValueError: for the first number outside of its range, naming the key and the range.
    """
    for key, value, allowed in _numbers(verb, config):
        endless = key in _ENDLESS
        if (value in allowed and abs(value) <= _LARGEST) or (endless and value == -1):
            continue
        wanted = f"{allowed!r}{' or -1' * endless}{f' and below {_LARGEST:g}' * (not abs(value) <= _LARGEST)}"
        raise ValueError(f"{key} must be {wanted}, got {value}{origin(key, sources, flags)}")
    seed = config.get("seed_everything")
    if isinstance(seed, bool):  # Lightning would draw one, or leave what is random to chance
        place = origin("seed_everything", sources, flags)
        raise ValueError(f"seed_everything must be a whole number, got {str(seed).lower()}{place}")
    _check_ends(config)
    _check_devices(config, sources, flags)


def _check_ends(config: Namespace) -> None:
    """Lightning ends at the most, whatever the least is."""
    for unit in ("steps", "epochs"):
        least, most = config.get(f"trainer.min_{unit}"), config.get(f"trainer.max_{unit}")
        if _is_number(least) and _is_number(most) and -1 < most < least:
            raise ValueError(
                f"trainer.min_{unit} {least} is more than trainer.max_{unit} {most}: raise the latter"
            )


def _numbers(verb: str, config: Namespace) -> Iterator[tuple[str, float, Range]]:
    """Key, value and range of each number."""
    needed = f"trainer.limit_{OF_A_VERB[verb]}_batches"
    for key, ranges in SETTINGS.items():
        value = config.get(key)
        if key == "trainer.devices":
            value = device_count(value)
        if _is_number(value):
            allowed = ranges[-1] if isinstance(value, float) else ranges[0]
            if key == needed:
                allowed = replace(allowed, above=True) if allowed.low == 0 else allowed
            yield key, value, allowed
    yield from _of_optimization("model.init_args", config.get("model.init_args"))


def _of_optimization(place: str, node: Any) -> Iterator[tuple[str, float, Range]]:
    """Numbers of the classes that the model's arguments name: optimisers and schedules."""
    for name, value in _items(node):
        if isinstance(value, Namespace | Mapping) and value.get("class_path") is not None:
            inner = f"{place}.{name}.init_args"
            for argument, given in _items(value.get("init_args")):
                for number in given if isinstance(given, list | tuple) else [given]:
                    if _is_number(number):
                        yield f"{inner}.{argument}", number, OPTIMIZATION.get(argument, _FINITE)
            yield from _of_optimization(inner, value.get("init_args"))


def _items(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Namespace):
        return list(vars(node).items())
    return list(node.items()) if isinstance(node, Mapping) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ranges_of(cls: type) -> dict[str, str]:
    """What the numbers of a constructor and of those of its parents must be, by name."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        try:
            hints = typing.get_type_hints(vars(parent).get("__init__"), include_extras=True)
            for options in [h for h in hints.values() if typing.get_origin(h) is typing.Unpack]:
                hints |= typing.get_type_hints(typing.get_args(options)[0], include_extras=True)
        except (NameError, TypeError):  # no constructor, or names that are there for type checkers alone
            continue
        found |= {name: text for name, hint in hints.items() if (text := _range_text(hint))}
    return found


def _range_text(hint: Any) -> str:
    """Of the first range in a type: data modules have a class of their own for it."""
    extras = getattr(hint, "__metadata__", ())
    own = next((repr(extra) for extra in extras if type(extra).__name__ == "Range"), "")
    return own or next((text for part in typing.get_args(hint) if (text := _range_text(part))), "")


def device_count(devices: Any) -> Any:
    """A number of devices, which on the command line is a text; None for names and lists of devices."""
    if isinstance(devices, str):
        return int(devices) if re.fullmatch(r"-?\d{1,9}", devices.strip()) else None
    return devices if _is_number(devices) else None


def _check_devices(config: Namespace, sources: Sources, flags: Sequence[str]) -> None:
    """Processes on a CPU are started at once, each with a copy of everything."""
    devices, accelerator = device_count(config.get("trainer.devices")), config.get("trainer.accelerator")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    cores = os.cpu_count() or 1
    if on_cpu and devices is not None and devices > max(_MOST_ON_CPU, cores):
        raise ValueError(
            f"trainer.devices must be at most {max(_MOST_ON_CPU, cores)} on a CPU of {cores} cores, got "
            f"{devices}{origin('trainer.devices', sources, flags)}"
        )
