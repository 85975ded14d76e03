"""PyTorch's own files, looked at before torch reads them: what the pickle in them asks for, and checksums.

``torch.load(weights_only=True)`` runs nothing, but it takes whatever memory a pickle asks for, and with a
memory map it compares no checksum. So a pickle is gone through first by a reader that builds nothing: names
become :class:`_Name`, tensors their declared sizes, which are compared with the bytes that the file has.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

from zoo.hub.bounded import (
    LIFT,
    Damaged,
    Refused,
    TooLarge,
    check_members,
    check_tree,
    lifted,
    one_line,
    reading,
    size_text,
)

PICKLE_BYTES = 64 * 2**20
_READS = 10_000_000  # of a pickle: ten seconds; a tensor takes about thirty
_EXPANDED = 1_000_000  # elements of a tensor that repeats its storage
_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
_CHUNK = 2**20
_STORAGES = {cls.__name__ for cls in torch._storage_classes}
_FUNCTIONS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "_codecs.encode",
}
_DCP = "torch.distributed.checkpoint"
# what the index of a sharded checkpoint is made of; torch unpickles it without looking
_INDEX_NAMES = {
    *(
        f"{_DCP}.metadata.{name}"
        for name in (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    f"{_DCP}.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "pathlib.PosixPath",
}
_PureUnpickler: Any = pickle._Unpickler
_verified: set[tuple[int, int, int, int]] = set()


def load(path: Path, mmap: bool = False, admitted: Collection[type] = (), kind: str = "PyTorch file") -> Any:
    """Content of a file of ``torch.save``, in the zip or the older format, on the CPU.

    Args:
        path: the file.
        mmap: read tensors when they are used; of a zip alone.
        admitted: classes besides tensors and plain values that it may hold.
        kind: what an error calls it.

    Raises:
        FileNotFoundError, OSError: for a file that cannot be read.
        Damaged: for one whose content is broken, a wrong checksum among it.
        TooLarge: for one that claims more than it holds.
        Refused: for one with other objects.
    """
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in admitted}
    with reading(path, kind):
        zipped = _check(path, names, kind)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(list(admitted)):
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
        except MemoryError:
            raise TooLarge(f"{path} asks for more memory than there is") from None
    check_tree(content, path)
    return content


def _check(path: Path, names: Collection[str], kind: str) -> bool:
    """Whether it is a zip; raises for what must not reach torch."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise Damaged(f"{path} is empty: damaged or no {kind}")
        zipped = file.read(4) == _ZIP
        file.seek(0)
        if zipped:
            _check_zip(file, path, size, names)
        elif not _is_legacy(file, path):
            raise Damaged(f"{path} is damaged or no {kind}")
        else:
            _check_legacy(file, path, size, names)
    return zipped


def _check_zip(file: BinaryIO, path: Path, size: int, names: Collection[str]) -> None:
    with zipfile.ZipFile(file) as archive:
        check_members(archive, path, size, packed=False)
        roots = {n.partition("/")[0] for n in archive.namelist()}
        root = next(iter(roots), "")
        if len(roots) != 1 or f"{root}/data.pkl" not in archive.namelist():
            raise Damaged(f"{path} is no file of torch.save: there is no data.pkl in it")
        if f"{root}/constants.pkl" in archive.namelist():
            raise Refused(f"{path} is a TorchScript program; refused. Save its state_dict() alone")
        verify_members(archive, path)
        with archive.open(f"{root}/data.pkl") as member:
            asked = _Asked(member, path, names)
            asked.load()
        for key, claimed in asked.storages.items():
            try:
                held = archive.getinfo(f"{root}/data/{key}").file_size
            except KeyError:
                raise Damaged(f"{path} is damaged: its tensor data {key!r} are missing") from None
            if claimed > held:
                raise TooLarge(f"{path} claims {size_text(claimed)} for a tensor that has {size_text(held)}")


def verify_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Compare the checksum of every member, once for each state of a file on the disk.

    Raises:
        Damaged: for the first that differs.
    """
    if lifted():
        return
    status = os.stat(path)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key in _verified:
        return
    for info in archive.infolist():
        try:
            with archive.open(info) as member:
                while member.read(_CHUNK):
                    pass
        except zipfile.BadZipFile as error:
            raise Damaged(f"{path} is damaged ({one_line(error)})") from None
    _verified.add(key)


def verify(path: Path) -> None:
    """Compare the checksums of a file that torch is about to read, if it has any: of the zip format alone.

    Raises:
        FileNotFoundError, OSError: for a file that cannot be read.
        Damaged: for a wrong checksum.
    """
    with reading(path, "checkpoint"), path.open("rb") as file:
        if file.read(4) == _ZIP:
            with zipfile.ZipFile(file) as archive:
                verify_members(archive, path)


def _is_legacy(file: BinaryIO, path: Path) -> bool:
    """Whether the file begins with the magic number, behind which it then stands."""
    try:
        return bool(_Asked(file, path, ()).load() == _MAGIC)
    except Exception:  # any bytes at all
        return False


def _check_legacy(file: BinaryIO, path: Path, size: int, names: Collection[str]) -> None:
    """After the number: version, machine, content and keys, all pickled, then the storages: length, bytes."""
    _Asked(file, path, names).load()
    _Asked(file, path, names).load()
    asked = _Asked(file, path, names)
    asked.load()
    keys = _Asked(file, path, names).load()
    if not isinstance(keys, list) or len(set(keys)) != len(keys) or set(keys) != set(asked.storages):
        raise Damaged(f"{path} is damaged: its tensors are not those that it names")
    for key in keys:
        count, claimed = struct.unpack("<q", file.read(8))[0], asked.storages[key]
        if count * asked.itemsizes[key] != claimed or file.tell() + claimed > size:
            raise TooLarge(f"{path} claims {size_text(claimed)} for a tensor, but is {size_text(size)}")
        file.seek(claimed, os.SEEK_CUR)


def check_shards(folder: Path) -> None:
    """Look at a sharded checkpoint before torch does, which unpickles its index whatever that names.

    Raises:
        FileNotFoundError, OSError: for a file that cannot be read.
        Damaged: for a broken index, or a tensor that is missing or has another checksum.
        Refused: for an index with other objects.
    """
    index = folder / ".metadata"
    with reading(index, "index of a sharded checkpoint"):
        with index.open("rb") as file:
            parts = [
                part.state for part in _Asked(file, index, _INDEX_NAMES).load().state["storage_data"].values()
            ]
        for part in parts:
            name, start, length = str(part["relative_path"]), part["offset"], part["length"]
            if Path(name).name != name or not (_is_size(start) and _is_size(length)):
                raise Damaged(f"{index} is damaged: there is no part {name!r}")
            with reading(folder / name, "part of a checkpoint"), (folder / name).open("rb") as file:
                if start + length > os.fstat(file.fileno()).st_size:
                    raise Damaged(f"{folder / name} is damaged: it is shorter than its index says")
                file.seek(start)
                with zipfile.ZipFile(io.BytesIO(file.read(length))) as archive:
                    if broken := archive.testzip():
                        raise Damaged(f"{folder / name} is damaged (the checksum of {broken})")


# --- the pickle, read without building anything -------------------------------------------------------------


class _Name:
    """A class or function that a pickle names. To call it is to write the call down."""

    def __init__(self, name: str, callable: bool) -> None:
        self.name, self.callable = name, callable


class _Made:
    """What a call would make."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Storage:
    def __init__(self, size: int, itemsize: int) -> None:
        self.size, self.itemsize = size, itemsize


class _Counted:
    """A stream that ends after so many reads: the work that a pickle makes."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path, self.left = file, path, _READS

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0 and not lifted():
            raise TooLarge(
                f"{self.path} holds more than {_READS:,} parts; refused. {LIFT}=off lifts the limit"
            )

    def read(self, size: int) -> bytes:
        self._spend()
        if size > PICKLE_BYTES and not lifted():
            raise TooLarge(
                f"{self.path} claims a text of {size_text(size)}; refused. {LIFT}=off lifts the limit"
            )
        found: bytes = self.file.read(size)
        return found

    def readline(self) -> bytes:
        self._spend()
        found: bytes = self.file.readline(4096)
        return found

    def readinto(self, buffer: Any) -> int:
        raise pickle.UnpicklingError("a byte array")


def _plain_key(key: Any) -> None:
    # a tuple of tuples of tuples ends the process when it is hashed
    if not isinstance(key, str | int | float | bytes | _Made | None):
        raise pickle.UnpicklingError(f"a {type(key).__name__} as a key")


class _Asked(_PureUnpickler):
    """Goes through a pickle in Python: the C reader takes the memory that a memo's number asks for.

    Attributes:
        storages: key -> bytes that the tensors of it claim.
        itemsizes: key -> bytes of an element.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PureUnpickler.dispatch)

    def __init__(self, file: Any, path: Path, names: Collection[str]) -> None:
        super().__init__(_Counted(file, path), encoding="utf-8", errors="replace")
        self.path, self.names = path, names
        self.storages: dict[str, int] = {}
        self.itemsizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if full in _FUNCTIONS or full in self.names:
            return _Name(full, callable=True)
        storage = module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES
        if storage or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return _Name(full, callable=False)
        raise Refused(
            f"{self.path} holds pickled objects ({full[:80]}), more than tensors and plain values; refused, "
            "nothing was run. If you trust it, save its state_dict() alone and use that"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, cls, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(cls, _Name) or not isinstance(key, str) or not _is_size(count):
            raise pickle.UnpicklingError("an unknown reference")
        name = cls.name.rpartition(".")[2]
        itemsize = (
            1
            if name == "UntypedStorage"
            else torch.storage._get_dtype_from_pickle_storage_type(name).itemsize
        )
        self.storages[key] = max(self.storages.get(key, 0), count * itemsize)
        self.itemsizes[key] = itemsize
        if len(pid) > 5 and pid[5] is not None:  # a view, in the older format
            _, start, count = pid[5]
            if not (_is_size(start) and _is_size(count) and (start + count) * itemsize <= self.storages[key]):
                raise pickle.UnpicklingError("a view beyond its tensor")
        return _Storage(count * itemsize, itemsize)

    def _called(self, name: Any, args: Any) -> Any:
        if not isinstance(name, _Name) or not name.callable or not isinstance(args, tuple):
            raise pickle.UnpicklingError("a call of what is no function")
        if name.name == "collections.OrderedDict" and not args:
            return collections.OrderedDict()
        if name.name == "collections.Counter" and len(args) == 1 and isinstance(args[0], dict):
            return args[0]  # the milestones of torch's MultiStepLR
        if name.name.startswith("torch._utils._rebuild_tensor"):
            self._check_tensor(*args[:4])
        if name.name == "builtins.set":
            for key in args[0]:
                _plain_key(key)
        return _Made()

    def _check_tensor(self, storage: Any, start: Any, shape: Any, strides: Any) -> None:
        sides = shape if isinstance(shape, tuple) else None
        if not isinstance(storage, _Storage) or sides is None or not isinstance(strides, tuple):
            raise pickle.UnpicklingError("a tensor of unknown parts")
        if len(sides) != len(strides) or not all(_is_size(n) for n in (start, *sides, *strides)):
            raise pickle.UnpicklingError("a tensor of impossible shape")
        count = math.prod(sides)
        last = start + sum((n - 1) * s for n, s in zip(sides, strides, strict=True)) if count else 0
        repeats = count * storage.itemsize > storage.size and count > _EXPANDED and not lifted()
        if (count and (last + 1) * storage.itemsize > storage.size) or repeats:
            raise TooLarge(
                f"{self.path} claims a tensor of shape {list(sides)} in {size_text(storage.size)}; refused"
            )

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], args)

    def load_setitem(self) -> None:
        _plain_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _plain_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            _plain_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        for key in self.stack:
            _plain_key(key)
        super().load_additems()

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
    }
    for _op in (
        pickle.INST,
        pickle.OBJ,
        pickle.NEWOBJ_EX,
        pickle.FROZENSET,
        pickle.BYTEARRAY8,
        pickle.PERSID,
    ):
        dispatch.pop(_op[0])
    for _op in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch.pop(_op[0])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
