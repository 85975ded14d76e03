"""Unpickling of published data sets without running the code that a pickle may name.

The Planetoid and GAug files are pickles. A pickle is a program: it may call any importable function. This
reader admits numpy arrays, SciPy sparse matrices, plain containers and (where asked for) torch tensors, and
refuses the first other name before anything of it is imported.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PLAIN: dict[str, Any] = {
    t.__name__: t
    for t in (list, dict, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray)
}
_SPARSE = {f"{layout}_{kind}" for layout in ("csr", "csc", "coo") for kind in ("matrix", "array")}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How protocol 2 writes bytes; the real function also runs compression codecs.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _storage(content: bytes) -> Any:
    # torch's own function unpickles whatever the bytes hold
    import torch

    return torch.load(io.BytesIO(content), weights_only=True)


class RestrictedUnpickler(pickle.Unpickler):
    """``pickle.Unpickler`` with a fixed list of admitted names.

    Args:
        file: binary stream.
        encoding: of strings that Python 2 wrote; ``latin1`` for Planetoid.
        tensors: admit torch tensors; their bytes are read with ``weights_only=True``.
    """

    def __init__(self, file: io.BufferedIOBase, encoding: str = "latin1", tensors: bool = False) -> None:
        super().__init__(file, encoding=encoding)
        self._tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        found = self._admitted(module, name)
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return found

    def _admitted(self, module: str, name: str) -> Callable[..., Any] | None:
        if module in ("builtins", "__builtin__") and name in _PLAIN:
            return _PLAIN[name]
        if (module, name) in (("collections", "defaultdict"), ("collections", "OrderedDict")):
            return getattr(collections, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module == "numpy" and name in ("ndarray", "dtype"):
            import numpy

            return getattr(numpy, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            from numpy._core import multiarray

            return getattr(multiarray, name)
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # protocol 5
            from numpy._core import numeric

            return numeric._frombuffer  # type: ignore[attr-defined]
        if module.startswith("scipy.sparse") and name in _SPARSE:
            import scipy.sparse

            return getattr(scipy.sparse, name)
        if self._tensors and (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            from torch._utils import _rebuild_tensor_v2

            return _rebuild_tensor_v2
        if self._tensors and (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        return None


def read_pickle(path: str | Path, encoding: str = "latin1", tensors: bool = False) -> Any:
    """The content of a pickle file of arrays, sparse matrices and plain containers.

    Args:
        path: the file.
        encoding: of strings that Python 2 wrote.
        tensors: admit torch tensors too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: for a damaged file, or one that names anything else; nothing of it has run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return RestrictedUnpickler(file, encoding, tensors).load()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or names more than arrays, sparse matrices and containers ({error}); "
            "refused, nothing was run; download it anew from its official source"
        ) from None
    except Exception as error:  # a damaged pickle may fail anywhere
        text = " ".join(str(error).split())[:80]
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {text}); download it anew from its official source"
        ) from None
