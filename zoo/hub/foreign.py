"""Weights in other projects' files: tensors by name, read without running what a pickle may hold.

Every file of weights that the zoo did not write comes in here, and goes out: :func:`load` (safetensors and
PyTorch), :func:`read_arrays` (npz), :func:`read_json` (configs beside weights),
:func:`read_lines` (texts that a loaded method is asked about), :func:`safetensors_in` (the
zoo's own, too), :func:`written_whole`. Limits and how they are lifted: :mod:`zoo.hub.bounded`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub import torch_files
from zoo.hub.bounded import (
    Damaged,
    Refused,
    TooLarge,
    building,
    not_finite,
    parse_json,
    read_arrays,
    read_json,
    read_lines,
    reading,
    size_text,
)
from zoo.reports import writing

__all__ = [
    "Damaged",
    "Refused",
    "State",
    "TooLarge",
    "Weights",
    "building",
    "check_finite",
    "checked_folder",
    "fitted",
    "load",
    "parse_json",
    "read_arrays",
    "read_json",
    "read_lines",
    "reading",
    "safetensors_in",
    "state_dict",
    "written_whole",
]

State = dict[str, Tensor]
_COUNTER = "num_batches_tracked"


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


def load(path: Path, admitted: Collection[type] = ()) -> Any:
    """Content of a ``.safetensors`` or PyTorch file, on the CPU.

    Args:
        path: the file.
        admitted: classes that a PyTorch file may hold besides tensors and plain values.

    Raises:
        FileNotFoundError, OSError: one line on a file that is missing or cannot be read.
        ValueError: one line on a file that is damaged, claims more than it has or holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".safetensors":
        return safetensors_in(path)[1]
    return torch_files.load(path, admitted=admitted)


def safetensors_in(path: Path, tensors: bool = True) -> tuple[dict[str, str], State]:
    """Metadata and tensors of a ``.safetensors`` file. The library compares all sizes with the file's own.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that cannot be read or is none.
    """
    from safetensors import safe_open

    with reading(path, "readable safetensors file", "download or write it anew"):
        path.open("rb").close()  # the library's errors do not tell rights from damage
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return metadata, {k: file.get_tensor(k) for k in file.keys()} if tensors else {}  # noqa: SIM118


def state_dict(content: Any, path: Path) -> State:
    """``content`` of ``path`` as tensors by name, without the prefixes of DDP and ``torch.compile``.

    Raises:
        ValueError: for anything but a dict of dense tensors of finite numbers.
    """
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} is no state_dict: save model.state_dict()")
    size = path.stat().st_size
    for key, value in content.items():
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise ValueError(f"{path}: {key} is no dense tensor of real numbers; refused")
        if max(value.shape, default=0) > size:  # a side beside one of 0 costs the file nothing
            raise TooLarge(f"{path}: {key} claims shape {list(value.shape)} in {size_text(size)}; refused")
    check_finite(content, path)
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", str(k)): v for k, v in content.items()}


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError for the first tensor that holds NaN or infinity."""
    for key, value in state.items():
        if not_finite(value):
            raise ValueError(f"{path}: {key} holds NaN or infinity; refused")


@contextlib.contextmanager
def checked_folder(path: Path) -> Iterator[None]:
    """Around ``from_pretrained`` of a local folder: its files are looked at, what it builds is bounded.

    Hub ids are let through: what a hub hands out is checked by its own sums.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on the first file that cannot be read or is refused.
    """
    if not path.is_dir():
        yield
        return
    files = [p for p in sorted(path.iterdir()) if p.is_file()]
    for file in files:
        if file.suffix == ".json":
            read_json(file)
        elif file.suffix == ".safetensors":
            safetensors_in(file, tensors=False)
        elif file.suffix in (".bin", ".pt", ".pth"):
            torch_files.load(file, mmap=True)
    with building(path, sum(file.stat().st_size for file in files)):
        yield


def fitted(state: State, wanted: Mapping[str, Tensor], path: Path, what: str = "the network") -> State:
    """``state`` if it has just the tensors of ``wanted``, of the same shapes.

    Batch normalisation's counter of batches is in files of PyTorch 0.4.1 and later alone, and nothing but a
    momentum of None reads it: where the file lacks it, it starts at 0.

    Raises:
        ValueError: with the first tensor that is missing, unknown or of another shape.
    """
    counters = {k: torch.zeros_like(v, device="cpu") for k, v in wanted.items() if k.endswith(_COUNTER)}
    full = counters | {k: v for k, v in state.items() if k in wanted or not k.endswith(_COUNTER)}
    for name in sorted(full.keys() | wanted.keys()):
        theirs = tuple(full[name].shape) if name in full else "missing"
        ours = tuple(wanted[name].shape) if name in wanted else "unknown"
        if theirs != ours:
            raise ValueError(f"{path}: {name} does not fit: it is {theirs} in the file and {ours} in {what}")
    return full


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end: nobody finds half a file.

    Raises:
        CannotWrite: with ``path`` and the reason where it cannot be written; nothing is left behind.
    """
    # safetensors and numpy go by the ending
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner reads
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
