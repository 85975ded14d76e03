"""Pickles of published data sets, read without running what they say.

The Planetoid, GAug and DCRNN files are pickles. A pickle is a program: it may call any importable function,
and the objects of NumPy, SciPy and torch trust the state that it sets. So nothing of Python's own unpickler
is used here: :class:`_Machine` goes through the instructions, knows those that make numbers, text,
containers, NumPy arrays, SciPy matrices and (where asked for) torch tensors, and refuses the first other one.
Arrays are notes of what the file says until :mod:`datamodules.loading.pickled_arrays` checks and builds them;
the result holds no object that the file has made.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.loading.files import check_claim, memory_named, one_line
from datamodules.loading.pickled_arrays import Budget, Note, Refused, called, plain

_STEPS = 5_000_000
"""Most instructions of a pickle, and elements of what it makes."""
_DEPTH = 100

# how the pickle protocols spell what is admitted
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo of one pickle.

    Args:
        tensors: admit torch tensors.
        persistent: turns a persistent id into what it stands for; None refuses them.
    """

    def __init__(self, budget: Budget, tensors: bool, persistent: Callable[[Any], Any] | None = None) -> None:
        self.budget, self.tensors, self.persistent = budget, tensors, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: io.BytesIO) -> Any:
        """What the pickle leaves that begins where ``file`` stands, which then stands behind it."""
        for opcode, argument, _ in pickletools.genops(file):
            self.budget.count()
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it does not end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSHED:
            stack.append(_number_or_text(argument))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._popped(_TUPLES[name])))
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("PROTO", "FRAME"):
            pass
        else:
            getattr(self, f"_{name.lower()}", self._unknown(name))(argument)

    def _unknown(self, name: str) -> Callable[[Any], None]:
        def refuse(argument: Any) -> None:
            raise Refused(f"instruction {name}")

        return refuse

    def _popped(self, count: int) -> list[Any]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise ValueError("an instruction without what it works on")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def _marked(self) -> list[Any]:
        return self._popped(len(self.stack) - self.marks.pop()) if self.marks else self._popped(1 << 62)

    # instructions by their names in pickletools

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        found = self._marked()
        self.stack.append({})
        self._put_items(found)

    def _append(self, _: Any) -> None:
        self._extend(self._popped(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("elements of what is no list")
        self.stack[-1].extend(values)

    def _setitem(self, _: Any) -> None:
        self._put_items(self._popped(2))

    def _setitems(self, _: Any) -> None:
        self._put_items(self._marked())

    def _put_items(self, found: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(found) % 2:
            raise ValueError("items of what is no mapping")
        self.stack[-1].update((_key(k), v) for k, v in zip(found[::2], found[1::2], strict=True))

    def _additems(self, _: Any) -> None:
        found = self._marked()
        if type(self.stack[-1]) is not set:
            raise ValueError("elements of what is no set")
        self.stack[-1].update(map(_key, found))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(map(_key, self._marked())))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Note.named(module, name, tensors=self.tensors))

    def _stack_global(self, _: Any) -> None:
        module, name = self._popped(2)
        self.stack.append(Note.named(str(module), str(name), tensors=self.tensors))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._popped(2)
        self.stack.append(called(function, arguments, self.budget, self._read_storage))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        note, state = self._popped(2)
        if not isinstance(note, Note) or note.state is not None or not note.takes_state:
            raise Refused("a state of what has none")
        note.state = state
        self.stack.append(note)

    def _binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("a persistent id")
        self.stack.append(self.persistent(self._popped(1)[0]))

    def _read_storage(self, content: bytes) -> Any:
        """The storage of a tensor: torch's old file format, five pickles and then the numbers."""
        storages: dict[str, Any] = {}

        def persistent(identity: Any) -> Any:
            if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
                raise Refused("a persistent id")
            kind, key, count = identity[1], str(identity[2]), identity[4]
            return storages.setdefault(key, Note("storage", (kind, count)))

        file = io.BytesIO(content)
        found = [_Machine(self.budget, True, persistent).run(file) for _ in range(5)]
        if list(storages) != found[4] or len(storages) != 1 or found[3] is not storages[found[4][0]]:
            raise ValueError("a tensor whose storage is not beside it")
        found[3].state = memoryview(content)[file.tell() :]
        return found[3]


def _number_or_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        raise ValueError("a whole number of more than 128 bits")
    return value


def _key(value: Any) -> Any:
    """A key of a mapping or an element of a set: numbers and text, whose hash is cheap, or tuples of them."""
    if isinstance(value, tuple):
        if any(isinstance(v, tuple) for v in value):
            raise ValueError("a key that nests")
        return tuple(map(_key, value))
    if not isinstance(value, int | float | str | bytes | None):
        raise ValueError(f"a key that is a {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > 64:  # many of them may share one hash
        raise ValueError("a key of more than 64 bits")
    return value


def _elements(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """How many elements a container has, each counted as often as it stands there.

    A kilobyte may hold ten lists of the same ten lists and so on: each is gone through once.
    """
    if not isinstance(value, list | tuple | dict):
        return 1
    if depth > _DEPTH:
        raise ValueError(f"containers {_DEPTH} deep, or one that holds itself")
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_elements(v, known, depth + 1) for v in inside)
    return known[id(value)]


def _result(value: Any, budget: Budget) -> Any:
    """What the pickle made, arrays in place of notes."""
    if isinstance(value, list | tuple):
        return type(value)([_result(v, budget) for v in value])
    if isinstance(value, dict):
        return {k: _result(v, budget) for k, v in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a whole number of more than 64 bits")
    return plain(value, budget)


def read_pickle(path: str | Path, encoding: str = "latin1", tensors: bool = False) -> Any:
    """The content of a pickle file of arrays, sparse matrices and plain containers.

    Containers are lists, tuples, dicts (of whatever kind of dict) and sets; arrays are copies of what the
    file holds, so that no more memory is taken than it has bytes.

    Args:
        path: the file.
        encoding: of strings that Python 2 wrote; ``latin1`` is the only one.
        tensors: admit torch tensors too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: for a damaged file, or one that names anything else or claims too much; nothing of it has
            run.
    """
    path = Path(path)
    if encoding != "latin1":
        raise ValueError(f"{path}: strings of Python 2 are read as latin1, not as {encoding!r}")
    try:
        check_claim(path, "the file", path.stat().st_size)
        with memory_named(path, "the file"):
            data = path.read_bytes()
            budget = Budget(_STEPS, len(data))
            left = _Machine(budget, tensors).run(io.BytesIO(data))
            if (claimed := _elements(left, {})) > _STEPS:
                raise ValueError(f"it claims {claimed:,} elements, more than {_STEPS:,}")
            return _result(left, budget)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except Refused as error:
        raise ValueError(
            f"{path} is damaged, or holds more than arrays, sparse matrices and containers ({error}); "
            "refused, nothing was run; download it anew from its official source"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        if str(error).startswith(f"{path}:"):
            raise
        text = one_line(error, 80)
        raise ValueError(f"{path} is damaged ({text}); download it anew from its official source") from None
