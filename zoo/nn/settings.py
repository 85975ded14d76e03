"""A network takes from its module what the two name alike, without a list of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def settings_of(network: Callable[..., Any], hparams: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Those of a module's hyperparameters that a network's constructor takes, by name.

    Args:
        network: class of the network.
        hparams: of the module.
        prefix: of names that mean this network alone: ``unet_channels`` is its ``channels``.
    """
    names = {k: prefix + k if prefix + k in hparams else k for k in inspect.signature(network).parameters}
    return {k: hparams[name] for k, name in names.items() if name in hparams}
