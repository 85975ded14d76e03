"""The arrays, matrices and tensors of a pickle: notes of what it says, and what is built of them.

See :mod:`datamodules.loading.restricted_pickle`. NumPy's, SciPy's and torch's own constructors get only what
was checked here: types are of a fixed list, sizes are those of the bytes that the file holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.loading.files import Array
from datamodules.loading.sparse import LAYOUTS, checked_matrix


class Refused(Exception):
    """A name or an instruction that no data set needs."""


@dataclass
class Budget:
    """What a pickle may still make.

    Attributes:
        steps: instructions or elements left.
        size: bytes of arrays left; a file holds no more of them than it has bytes itself.
    """

    steps: int
    size: int

    def __post_init__(self) -> None:
        self._given = (self.steps, self.size)

    def count(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise ValueError(f"it claims more than {self._given[0]:,} instructions")

    def take(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise ValueError(f"its arrays claim more than the {self._given[1]:,} bytes of the file")


_CONTAINERS: dict[str, Callable[..., Any]] = {"list": list, "dict": dict, "set": set, "tuple": tuple}
_CONTAINERS |= {"frozenset": frozenset}
_NUMBERS = ("int", "float", "complex", "bool", "str", "bytes", "bytearray", "object")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_SPARSE = {f"{layout}_{kind}": layout for layout in LAYOUTS for kind in ("matrix", "array")}
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,4})")


@dataclass(eq=False)
class Note:
    """What a pickle names or has begun to make.

    Attributes:
        kind: ``builtin``, ``function``, ``sparse`` and ``storage type`` are names; ``array``, ``dtype``,
            ``matrix``, ``scalar``, ``buffer``, ``storage``, ``tensor`` and ``value`` are being made.
        content: the name, or the arguments.
        state: what the pickle sets afterwards.
    """

    kind: str
    content: Any
    state: Any = None

    @property
    def takes_state(self) -> bool:
        """Whether a pickle of NumPy or SciPy sets a state of it."""
        return self.kind in ("array", "dtype", "matrix")

    @classmethod
    def named(cls, module: str, name: str, tensors: bool) -> Note:
        """What a pickle means by a module and a name in it.

        Raises:
            Refused: for what is not admitted.
        """
        if module in ("builtins", "__builtin__") and (name in _CONTAINERS or name in _NUMBERS):
            return cls("builtin", name)
        if module == "collections" and name in ("defaultdict", "OrderedDict"):
            return cls("function", "dict")
        if (module, name) == ("_codecs", "encode"):
            return cls("function", "encode")
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return cls("function", name)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return cls("function", name)
        if module in _MULTIARRAY and name in ("_reconstruct", "scalar"):
            return cls("function", name)
        if module in _NUMERIC and name == "_frombuffer":  # protocol 5
            return cls("function", name)
        if module.startswith("scipy.sparse") and name in _SPARSE:
            return cls("sparse", _SPARSE[name])
        if tensors and (module, name) in (
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch.storage", "_load_from_bytes"),
        ):
            return cls("function", name)
        if tensors and module == "torch" and name in _STORAGES:
            return cls("storage type", _STORAGES[name])
        raise Refused(f"{module}.{name}"[:80])


def called(function: Any, arguments: Any, budget: Budget, storage: Callable[[bytes], Any]) -> Any:
    """What calling a name gives: a note, or a plain value.

    Raises:
        Refused: for a call that no pickled data set makes.
    """
    if not isinstance(function, Note) or not isinstance(arguments, tuple):
        raise Refused("a call of what is no function")
    if function.kind == "sparse":
        return Note("matrix", function.content)
    if function.kind not in ("builtin", "function"):
        raise Refused("a call of what is no function")
    name, count = str(function.content), len(arguments)
    if name == "dict" and (count == 0 or _is_factory(arguments)):
        return {}
    if name in ("list", "tuple", "set", "frozenset") and count <= 1:
        return _container(name, arguments[0] if arguments else [], budget)
    if name == "complex" and count == 2 and all(isinstance(a, int | float) for a in arguments):
        return complex(*arguments)
    if name in ("bytes", "bytearray") and (count == 0 or (count == 1 and isinstance(arguments[0], bytes))):
        return arguments[0] if arguments else b""
    if name == "encode" and 1 <= count <= 2 and isinstance(arguments[0], str):
        if arguments[1:] not in ((), ("latin1",), ("latin-1",)):
            raise Refused("_codecs.encode to another encoding than latin1")
        return arguments[0].encode("latin1")
    if name == "_reconstructor" and isinstance(arguments[0], Note) and arguments[0].kind == "sparse":
        return Note("matrix", arguments[0].content)
    if name == "dtype" and count in (1, 3) and isinstance(arguments[0], str):
        return Note("dtype", arguments[0])
    if name == "_reconstruct":
        return Note("array", None)
    if name == "scalar" and count == 2:
        return Note("scalar", arguments)
    if name == "_frombuffer" and count == 4:
        return Note("buffer", arguments)
    if name == "_load_from_bytes" and count == 1:
        return storage(_raw(arguments[0]))
    if name == "_rebuild_tensor_v2" and count >= 4:
        return Note("tensor", arguments[:4])
    raise Refused(f"a call of {name} with other arguments than data have")


def _is_factory(arguments: tuple[Any, ...]) -> bool:
    """The arguments of a defaultdict: what makes a lacking value, which nobody asks of data."""
    return len(arguments) == 1 and (arguments[0] is None or isinstance(arguments[0], Note))


def _container(name: str, content: Any, budget: Budget) -> Any:
    if not isinstance(content, list | tuple):
        raise Refused(f"{name} of what is no list")
    for _ in content:
        budget.count()
    if name in ("list", "tuple"):
        return _CONTAINERS[name](content)
    if not all(isinstance(v, int | float | str | bytes | None) for v in content) or any(
        isinstance(v, int) and v.bit_length() > 64 for v in content
    ):
        raise ValueError(f"a {name} of other things than numbers and text")
    return _CONTAINERS[name](content)


def plain(value: Any, budget: Budget) -> Any:
    """A value, or what is built of a note; each note once, wherever it stands.

    Raises:
        ValueError: for notes that make no array.
        Refused: for a name that was never called.
    """
    if not isinstance(value, Note):
        return value
    if value.kind == "value":
        return value.content
    makers = {"array": _array, "matrix": _matrix, "scalar": _scalar, "buffer": _buffer, "tensor": _tensor}
    if value.kind not in makers:
        raise Refused(f"{value.kind} {value.content}"[:80])
    made = makers[value.kind](value, budget)
    value.kind, value.content, value.state = "value", made, None
    return made


def _raw(value: Any) -> bytes:
    if isinstance(value, str):  # Python 2 had one type for text and bytes
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"an array whose content is a {type(value).__name__}")
    return bytes(value)


def _dtype(note: Any) -> np.dtype[Any]:
    """A type of the fixed list: numbers and text. The state may set the order of bytes, nothing else."""
    if not isinstance(note, Note) or note.kind != "dtype":
        raise ValueError("an array without type")
    code, state = note.content, note.state
    if not _DTYPE.fullmatch(code):
        raise Refused(f"numpy.dtype {code!r}"[:80])
    dtype = np.dtype(code)
    if state is None:
        return dtype
    if not isinstance(state, tuple) or len(state) not in (8, 9) or any(s is not None for s in state[2:5]):
        raise Refused(f"numpy.dtype {code!r} with fields")
    # of text, the state repeats size and alignment, and its flags say "starts as zeros"
    if dtype.kind not in "SU" and state[5:8] != (-1, -1, 0):
        raise Refused(f"numpy.dtype {code!r} with flags")
    if state[1] not in ("<", ">", "|", "="):
        raise Refused(f"numpy.dtype {code!r} of byte order {state[1]!r}"[:80])
    return dtype if state[1] in "|=" else dtype.newbyteorder(state[1])


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > 32:
        raise ValueError("an array without shape")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in value):
        raise ValueError(f"an array of shape {str(value)[:40]}")
    return tuple(value)


def _filled(raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any, budget: Budget) -> Array:
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array {shape} of {dtype} with {len(raw):,} bytes")
    budget.take(len(raw))
    array = np.frombuffer(raw, dtype).reshape(shape, order=order).copy(order="K")
    if dtype.kind == "b" and bool((array.view(np.uint8) > 1).any()):
        raise ValueError("truth values other than 0 and 1")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _array(note: Note, budget: Budget) -> Array:
    state = note.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("an array without content")
    _, shape, dtype, fortran, raw = state
    return _filled(_raw(raw), _dtype(dtype), _shape(shape), "F" if fortran else "C", budget)


def _buffer(note: Note, budget: Budget) -> Array:
    raw, dtype, shape, order = note.content
    if order not in ("C", "F"):
        raise ValueError("an array in another order than C and F")
    return _filled(_raw(raw), _dtype(dtype), _shape(shape), order, budget)


def _scalar(note: Note, budget: Budget) -> Any:
    dtype, raw = note.content
    return _filled(_raw(raw), _dtype(dtype), (), "C", budget)[()]


def _matrix(note: Note, budget: Budget) -> Any:
    state = note.state
    if isinstance(state, tuple) and len(state) == 2:  # (attributes, slots)
        state = state[0]
    if not isinstance(state, dict):
        raise ValueError("a sparse matrix without content")
    parts = {k: plain(v, budget) for k, v in state.items() if isinstance(k, str)}
    coords = parts.get("coords")
    if isinstance(coords, tuple | list) and len(coords) == 2:  # SciPy from 1.12 on
        parts |= {"row": plain(coords[0], budget), "col": plain(coords[1], budget)}
    shape = parts.get("_shape")
    if isinstance(shape, tuple | list):
        shape = tuple(plain(n, budget) for n in shape)
    return checked_matrix(note.content, shape, parts)


def _tensor(note: Note, budget: Budget) -> Any:
    """A torch tensor of its storage, in order and with memory of its own."""
    import torch

    storage, offset, size, stride = note.content
    if (
        not isinstance(storage, Note)
        or storage.kind != "storage"
        or not isinstance(storage.state, memoryview)
    ):
        raise ValueError("a tensor without storage")
    kind, count = storage.content
    if not isinstance(kind, Note) or kind.kind != "storage type" or not isinstance(count, int):
        raise ValueError("a storage without type")
    dtype, raw = np.dtype(kind.content), storage.state
    if len(raw) != 8 + count * dtype.itemsize or int.from_bytes(raw[:8], "little") != count:
        raise ValueError(f"a storage of {count} numbers with {len(raw):,} bytes")
    shape, steps = _shape(size), _shape(stride)
    last = (
        offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
        if isinstance(offset, int)
        else -1
    )
    if math.prod(shape) and not 0 <= offset <= last < count:
        raise ValueError("a tensor that reaches beyond its storage")
    if not math.prod(shape):
        return torch.from_numpy(np.empty(shape, dtype))
    budget.take(math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(raw, dtype, offset=8)
    view = np.lib.stride_tricks.as_strided(
        flat[offset:], shape, [s * dtype.itemsize for s in steps], writeable=False
    )
    if dtype.kind == "b" and bool((np.ascontiguousarray(view).view(np.uint8) > 1).any()):
        raise ValueError("truth values other than 0 and 1")
    return torch.from_numpy(np.array(view, order="C"))
