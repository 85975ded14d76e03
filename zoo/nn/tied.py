"""Weights that a model of transformers has under several names: one of them in the state dict.

safetensors refuses tensors that share their memory.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_one_name(module: Any, model: nn.Module, attribute: str = "model") -> None:
    """State dicts of ``module`` have each weight of ``model``, its ``attribute``, once."""
    module._names = _other_names(model)
    module._names_under = f"{attribute}."
    module.register_state_dict_post_hook(_drop_other_names)
    module.register_load_state_dict_pre_hook(_add_other_names)


def _other_names(model: nn.Module) -> dict[str, str]:
    """Names of tied weights -> the name under which each is first found."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            found[name] = kept
    return found


def _drop_other_names(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in module._names:
        state.pop(f"{prefix}{module._names_under}{name}", None)


def _add_other_names(module: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    under = f"{prefix}{module._names_under}"
    for name, kept in module._names.items():
        if under + kept in state:
            state[under + name] = state[under + kept]
