"""The libraries of the extra ``chem``, each imported where it is needed, rdkit's own log silent.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import importlib
from typing import Any


def chem(name: str = "rdkit.Chem") -> Any:
    """A module of rdkit, ase, selfies, vesin or crepes.

    Raises:
        ImportError: naming the extra.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
    except ImportError:
        raise ImportError(
            f"{package} is not installed; install the extra: pip install 'lightning-zoo[chem]'"
        ) from None
    if package == "rdkit":  # what it cannot read is told by us, in one line with the row
        importlib.import_module("rdkit.RDLogger").DisableLog("rdApp.*")
    return importlib.import_module(name)
