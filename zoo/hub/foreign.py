"""Weights in other projects' files: tensors by name, read without running what a pickle may hold."""

from __future__ import annotations

import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Weights:
    """A checked weights file.

    Attributes:
        path: the file, or the folder of a sharded checkpoint.
        class_path: public name of the module, ``zoo.X``; None when the file does not say.
        hparams: plain constructor arguments.
        state_dict: tensors; of an averaged model the averaged ones where asked for.
        config: name of the config it was trained with.
        averaged: whether ``state_dict`` holds EMA weights.
        data: what they were trained on: ``class_path``, ``init_args`` that matter and ``facts`` of the files,
            all of them plain values; None when the file does not say.
    """

    path: Path
    class_path: str | None
    hparams: dict[str, Any]
    state_dict: dict[str, Tensor] = field(default_factory=dict)
    config: str | None = None
    averaged: bool = False
    data: dict[str, Any] | None = None


def is_plain(value: Any) -> bool:
    """Whether a value is None, a boolean, a number, a text, or a list of those."""
    items = value if isinstance(value, list | tuple) else [value]
    return all(item is None or isinstance(item, bool | int | float | str) for item in items)


def check_data(data: Any, path: Path) -> dict[str, Any] | None:
    """What a file says of the data of its weights. Nothing in it is imported.

    Raises:
        ValueError: for anything but plain values where they belong.
    """
    if data is None:
        return None
    kinds = {"class_path": str, "init_args": dict, "facts": dict}
    if not isinstance(data, dict) or any(not isinstance(data.get(k), kind) for k, kind in kinds.items()):
        raise ValueError(f"{path} has damaged metadata (data is no {', '.join(kinds)}); write it anew")
    values = [*data["init_args"].items(), *data["facts"].items()]
    for key, value in values:
        if not isinstance(key, str) or not is_plain(value):
            raise ValueError(f"{path} has damaged metadata (data: {key!r} is no plain value); write it anew")
    return {key: data[key] for key in kinds}


def load(path: Path) -> Any:
    """Content of a ``.safetensors`` or PyTorch file, on the CPU.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, damaged or holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no readable safetensors file ({error})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its text advises to switch the safety off
        kind = type(error).__name__
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{path} is damaged or no PyTorch file, or an old one with more than tensors ({kind}); "
                "refused, nothing was run"
            ) from None
        raise ValueError(
            f"{path} holds more than tensors ({kind}); refused, nothing was run. Save the model's "
            "state_dict() alone"
        ) from None
    except Exception as error:  # RuntimeError, EOFError, BadZipFile, KeyError, ...
        raise ValueError(f"{path} is damaged or no PyTorch file ({type(error).__name__})") from None


def state_dict(content: Any, path: Path) -> State:
    """``content`` of ``path`` as tensors by name, without the prefixes of DDP and ``torch.compile``.

    Raises:
        ValueError: for anything but a dict of tensors.
    """
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} is no state_dict: save model.state_dict()")
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", str(k)): v for k, v in content.items()}
