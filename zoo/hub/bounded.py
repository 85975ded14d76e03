"""Limits on what a file may ask for: what is read is bounded by the file's own size, never by what it claims.

The environment variable ``ZOO_LIMITS=off`` lifts the limits on sizes, counts and time, and the comparison of
checksums: for files that you trust and that are larger, or odder, than weights usually are. What may run code
is refused all the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LIFT = "ZOO_LIMITS"
NODES, DEPTH = 1_000_000, 100
JSON_BYTES = 16 * 2**20
LINE_BYTES, TEXT_BYTES = 16 * 2**20, 256 * 2**20
BUILD_SECONDS = 20
_MODULES = 10_000  # DiT-XL has five hundred
# numpy's savez_compressed packs weights to a half or so, and a few tables of zeros to nothing
_NPZ_RATIO, _NPZ_SLACK = 20, 64 * 2**20
# free space for what a network has besides the weights in its file: tables, schedules, normalisation
_BUILD_SLACK = 50_000_000
# what a seek to a place or a read of a length that a damaged file names gives
_OF_DAMAGE = (None, errno.EINVAL, errno.EOVERFLOW)
_COUNTED = ("linspace", "logspace", "arange", "range", "eye", "randperm", "scalar_tensor")
_SIZED = ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "new_", "repeat", "empty_strided")

Array = np.ndarray[Any, Any]


class Damaged(ValueError):
    """The content of a file is not what its format promises. Files that cannot be read raise OSError."""


class TooLarge(ValueError):
    """A file asks for more than its size can stand for."""


class Refused(ValueError):
    """A file names more than tensors and plain values. Nothing of it was run."""


def lifted() -> bool:
    """Whether the user has lifted the limits."""
    return os.environ.get(LIFT) == "off"


def size_text(count: float) -> str:
    """Bytes for a reader: ``3.0 GB``."""
    unit = 0
    while count >= 1000 and unit < 6:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} bytes" if unit == 0 else f"{count:.1f} {'kMGTPE'[unit - 1]}B"


def one_line(error: object, length: int = 100) -> str:
    """The text of an error in one line of at most so many characters; its type where it has no text."""
    return " ".join(str(error).split())[:length] or type(error).__name__


@contextlib.contextmanager
def reading(path: Path, kind: str, advice: str = "") -> Iterator[None]:
    """Tells damage from a file that cannot be read now, in one line with the file's name.

    Args:
        path: what is read.
        kind: what it should be, ``npz file``.
        advice: what to do about damage.

    Raises:
        FileNotFoundError: where there is none.
        OSError: for lack of rights, a disk that does not answer, ...
        Damaged: for anything else that reading it raises.
    """
    end = f"; {advice}" if advice else ""
    try:
        yield
    except (Damaged, TooLarge, Refused):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except OSError as error:
        if error.errno in _OF_DAMAGE:
            raise Damaged(f"{path} is damaged or no {kind} ({one_line(error)}){end}") from None
        raise OSError(
            f"cannot read {path} ({error.strerror or one_line(error)}); its content may be "
            "whole: see to its rights and its disk"
        ) from None
    except Exception as error:  # a damaged file may fail anywhere in a library
        raise Damaged(f"{path} is damaged or no {kind} ({one_line(error)}){end}") from None


def check_tree(value: Any, path: Path, what: str = "it") -> None:
    """Refuse containers that are too many once each place is counted, too deep, or within themselves.

    A few hundred bytes of a pickle can hold lists of lists of the same lists, of which there is no end.

    Raises:
        TooLarge: with the file's name.
    """
    if lifted():
        return
    waiting: list[tuple[Any, int]] = [(value, 0)]
    left = NODES
    while waiting:
        item, depth = waiting.pop()
        inner: Any = ()
        if isinstance(item, dict):
            inner = item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            inner = item
        left -= len(inner)
        if left < 0:
            raise TooLarge(
                f"{path}: {what} holds more than {NODES:,} values; refused. {LIFT}=off lifts the limit"
            )
        if depth > DEPTH:
            raise TooLarge(f"{path}: {what} is nested in itself or deeper than {DEPTH} levels; refused")
        waiting += [(i, depth + 1) for i in inner if isinstance(i, dict | list | tuple | set | frozenset)]


# --- JSON ---------------------------------------------------------------------------------------------------


def parse_json(text: str, path: Path, what: str = "it") -> Any:
    """A JSON text of ``path``.

    Raises:
        Damaged, TooLarge: for no JSON, or one that is nested too deep.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise TooLarge(f"{path}: {what} is nested too deep; refused") from None
    except ValueError as error:
        raise Damaged(f"{path}: {what} is not JSON ({one_line(error)})") from None
    check_tree(found, path, what)
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that cannot be read or is none.
    """
    with reading(path, "JSON file"):
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
        if len(content) > JSON_BYTES and not lifted():
            raise TooLarge(
                f"{path} is larger than {size_text(JSON_BYTES)}, no JSON file of a model is; refused"
            )
        text = content.decode()
    return parse_json(text, path)


# --- text ---------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of each line of a text in UTF-8 that is not blank.

    Lines end at ``\\n`` or ``\\r\\n`` alone, a byte order mark is no text: as the data modules read lines.

    Raises:
        FileNotFoundError, OSError: one line on a file that cannot be read.
        Damaged: naming the line of what is no text in UTF-8.
        TooLarge: for a line or a file beyond what anybody's documents have.
    """
    found: list[tuple[int, str]] = []
    with reading(path, "text"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > TEXT_BYTES and not lifted():
            raise TooLarge(
                f"{path} has {size_text(size)}, more than the {size_text(TEXT_BYTES)} that are read at once; "
                f"give its parts one after the other. {LIFT}=off lifts the limit"
            )
        number = 0
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            if len(raw) > LINE_BYTES:
                raise TooLarge(
                    f"{path}, line {number}: more than {size_text(LINE_BYTES)} without an end; refused"
                )
            if b"\0" in raw:
                raise Damaged(f"{path}, line {number}: holds a byte 0, no text in UTF-8; save it as UTF-8")
            try:
                text = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise Damaged(
                    f"{path}, line {number}: byte {error.start + 1} is no text in UTF-8; save it as UTF-8"
                ) from None
            if text.strip():
                found.append((number, text.removesuffix("\n").removesuffix("\r")))
    return found


# --- archives -----------------------------------------------------------------------------------------------


def check_members(archive: zipfile.ZipFile, path: Path, size: int, packed: bool) -> None:
    """Compare what a zip archive declares with its own size, before anything of it is read.

    Args:
        archive: open for reading.
        path: of it.
        size: of the file.
        packed: whether members may be compressed.

    Raises:
        Damaged: for two members of one name, or what no writer of such files makes.
        TooLarge: for a declared size that is a bomb's.
    """
    infos = archive.infolist()
    names = [info.filename.lower() for info in infos]  # torch's reader takes no heed of case
    if len(set(names)) < len(names):
        raise Damaged(f"{path} is damaged: two members of it have one name")
    if lifted():
        return
    compressed = [i for i in infos if i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size]
    if compressed and not packed:
        raise Damaged(
            f"{path} is damaged or no PyTorch file: {compressed[0].filename!r} claims "
            f"{size_text(compressed[0].file_size)} in {size_text(compressed[0].compress_size)}, and PyTorch "
            f"never compresses; refused. {LIFT}=off reads it"
        )
    declared = sum(i.file_size for i in infos)
    if declared > (size * _NPZ_RATIO + _NPZ_SLACK if packed else size):
        raise (TooLarge if packed else Damaged)(
            f"{path} claims {size_text(declared)} and is {size_text(size)}; refused. {LIFT}=off lifts the "
            "limit"
        )


def read_arrays(path: Path, *keys: str) -> dict[str, Array]:
    """The arrays of an npz file: numbers alone, nothing is unpickled, headers agree with the members' sizes.

    Args:
        path: the file.
        keys: the arrays to read, as far as they are there; without them all.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that cannot be read or is none.
    """
    with reading(path, "npz file"), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        check_members(archive, path, os.fstat(file.fileno()).st_size, packed=True)
        found = {}
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if keys and key not in keys:
                continue
            with archive.open(info) as member:
                found[key] = _array(member, info.file_size, f"{path}: {key}")
                member.read(1)  # to the end, where the checksum is compared
        return found


def _array(file: Any, size: int, name: str) -> Array:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise Damaged(f"{name} is no npy array (version {version[0]}.{version[1]})")
    shape, fortran, dtype = readers[version](file)
    if dtype.kind not in "biufc":
        raise Damaged(f"{name} is an array of type {dtype}, not of numbers; refused")
    declared = math.prod(shape) * dtype.itemsize
    if any(side < 0 for side in shape) or declared != size - file.tell():
        raise Damaged(f"{name} claims {shape} of {dtype}, which is not its {size - file.tell()} bytes")
    content = np.frombuffer(file.read(declared), dtype=dtype)
    return content.reshape(shape, order="F" if fortran else "C").copy()  # that can be written to


# --- building -----------------------------------------------------------------------------------------------


class _Sizes(TorchDispatchMode):
    """Looks at the sizes that torch is asked for before it takes the memory."""

    def __init__(self, refuse: Any) -> None:
        super().__init__()
        self.refuse = refuse

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _COUNTED:
            self.refuse(max((int(a) for a in args if isinstance(a, int | float) and a == a), default=0))
        elif name.startswith(_SIZED):
            for given in args:
                if isinstance(given, list | tuple) and all(isinstance(n, int) for n in given):
                    self.refuse(math.prod(given))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):  # of a product, a sum over two axes, ...
            self.refuse(result.numel())
        return result


@contextlib.contextmanager
def building(path: Path, size: int | None = None) -> Iterator[None]:
    """Stop a constructor that makes more modules or numbers than ``size`` bytes can be the weights of.

    Args:
        path: the weights.
        size: of the weights; None is that of the file.

    Each parameter takes a byte or more of the file, so that a network that fits never meets the limit.

    Raises:
        TooLarge: with the file's name.
    """
    if lifted():
        yield
        return
    size = path.stat().st_size if size is None else size
    elements, modules = size + _BUILD_SLACK, 0
    advice = f"refused. {LIFT}=off lifts the limit"

    def refuse(count: int) -> None:
        if count > size + _BUILD_SLACK:
            raise TooLarge(
                f"{path} asks for a tensor of {count:,} numbers, but is {size_text(size)}; {advice}"
            )

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        nonlocal elements
        elements -= 0 if value is None or isinstance(value, nn.UninitializedParameter) else value.numel()
        if elements < 0:
            raise TooLarge(
                f"{path} asks for a network of more than {size + _BUILD_SLACK:,} parameters, but is "
                f"{size_text(size)}; {advice}"
            )

    def module(owner: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > _MODULES:
            raise TooLarge(
                f"{path} asks for more than {_MODULES:,} layers, but is {size_text(size)}; {advice}"
            )

    hooks = nn.modules.module
    handles = [
        hooks.register_module_parameter_registration_hook(parameter),
        hooks.register_module_module_registration_hook(module),
    ]
    try:
        with _Sizes(refuse):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def deadline(path: Path) -> Iterator[None]:
    """Ends a constructor that computes for longer than :data:`BUILD_SECONDS`, in the first thread alone.

    The time is the process's own: a machine that is busy with others refuses no honest file.

    Raises:
        TooLarge: with the file's name.
    """
    if (
        lifted()
        or threading.current_thread() is not threading.main_thread()
        or not hasattr(signal, "setitimer")
    ):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLarge(
            f"{path} asks for a network that is not built within {BUILD_SECONDS} s of computing; refused. "
            f"{LIFT}=off lifts the limit"
        )

    before = signal.signal(signal.SIGPROF, stop)
    seconds, interval = signal.setitimer(signal.ITIMER_PROF, BUILD_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, seconds, interval)
        signal.signal(signal.SIGPROF, before)


def not_finite(value: Tensor) -> bool:
    """Whether a tensor of fractions holds NaN or infinity."""
    return value.is_floating_point() and not bool(torch.isfinite(value).all())
