"""What rdkit makes of a molecule, kept by (SMILES, options): the second epoch asks rdkit nothing.

rdkit's list costs 10 ms a molecule, so those of a whole training set are kept on the disk, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.hub import foreign
from zoo.molecules.chemistry import chem
from zoo.molecules.graph.descriptors import Descriptors, ecfp, rdkit_names, rdkit_values
from zoo.molecules.graph.features import (
    Features,
    GraphBatch,
    MoleculeGraph,
    molecule_graph,
    side_by_side,
)

_MOST = 200_000  # molecules that are kept
_LONGEST = 4000  # characters of a SMILES, as the files of molecules have it
_ON_DISK = 100  # molecules that are worth a file
_GRAPHS: dict[tuple[str, str, bool], MoleculeGraph] = {}
_BITS: dict[tuple[str, bool], Any] = {}
_VALUES: dict[str, Any] = {}


def canonical(texts: Sequence[str], what: str = "molecule") -> list[str]:
    """Canonical SMILES without atom maps of molecules that Python code gives.

    Raises:
        ValueError: naming the first that is no molecule, or for one text in the place of a list.
    """
    if isinstance(texts, str):
        raise ValueError(f"a list of SMILES is needed, got the text {texts[:60]!r}; write [{texts[:60]!r}]")
    found = []
    for number, text in enumerate(texts):
        read = chem().MolFromSmiles(text) if isinstance(text, str) and len(text) <= _LONGEST else None
        if read is None or read.GetNumAtoms() == 0:
            raise ValueError(f"{what} {number}, {str(text)[:60]!r}, is no SMILES that rdkit can read")
        if any(atom.GetAtomicNum() == 0 for atom in read.GetAtoms()):
            raise ValueError(f"{what} {number}, {text[:60]!r}, has a dummy atom (*)")
        for atom in read.GetAtoms():
            atom.SetAtomMapNum(0)
        found.append(chem().CanonSmiles(chem().MolToSmiles(read)))  # brackets that only held a map go
    return found


def graphs_of(smiles: Sequence[str], features: Features, chirality: bool) -> GraphBatch:
    """The graphs of molecules, side by side."""
    return side_by_side([_graph(text, features, chirality) for text in smiles])


def _graph(smiles: str, features: Features, chirality: bool) -> MoleculeGraph:
    key = (smiles, features, chirality)
    found = _GRAPHS.get(key)
    if found is None:
        found = molecule_graph(smiles, features, chirality)
        if len(_GRAPHS) < _MOST:
            _GRAPHS[key] = found
    return found


def descriptors_of(smiles: Sequence[str], descriptors: Descriptors, chirality: bool) -> Any:
    """Raw descriptors float64 (N, D): ECFP4 bits, then rdkit's list."""
    parts = []
    if descriptors in ("ecfp", "both"):
        parts.append(np.stack([_bits(text, chirality) for text in smiles]).astype(np.float64))
    if descriptors in ("rdkit", "both"):
        parts.append(_values(smiles))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(smiles), 0))


def prepare(smiles: Sequence[str]) -> None:
    """Have rdkit's list of all molecules of a table at hand: one file for all its splits."""
    if len(smiles) >= _ON_DISK:
        _values(smiles)


def _bits(smiles: str, chirality: bool) -> Any:
    key = (smiles, chirality)
    found = _BITS.get(key)
    if found is None:
        found = ecfp(chem().MolFromSmiles(smiles), chirality)
        if len(_BITS) < _MOST:
            _BITS[key] = found
    return found


def _values(smiles: Sequence[str]) -> Any:
    missing = [text for text in dict.fromkeys(smiles) if text not in _VALUES]
    path = _file(missing) if len(missing) >= _ON_DISK else None
    table = _read(path, len(missing)) if path is not None else None
    if table is None:
        table = np.stack([rdkit_values(chem().MolFromSmiles(text)) for text in missing]) if missing else None
        if path is not None:
            _write(path, table)
    fresh = {} if table is None else dict(zip(missing, table, strict=True))
    if len(_VALUES) < _MOST:
        _VALUES.update(fresh)
    return np.stack([fresh[text] if text in fresh else _VALUES[text] for text in smiles])


def _file(smiles: Sequence[str]) -> Path:
    """Of the descriptors of these molecules in this order, by this rdkit."""
    folder = Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo") / "molecules"
    said = "\n".join([chem("rdkit").__version__, *rdkit_names(), "", *smiles])
    return folder / f"rdkit_{hashlib.sha256(said.encode()).hexdigest()[:32]}.npz"


def _read(path: Path, rows: int) -> Any:
    """The table of a file, None where there is none or it is damaged."""
    try:
        table = foreign.read_arrays(path, "values")["values"]
    except (OSError, ValueError, KeyError):
        return None
    fits = table.shape == (rows, len(rdkit_names())) and table.dtype == np.float64
    return table if fits else None


def _write(path: Path, table: Any) -> None:
    """Written whole, or not at all: a cache that cannot be kept is made again next time."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, values=table)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
