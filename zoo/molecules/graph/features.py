"""Atoms and bonds as chemprop describes them: one-hots with a slot for what is not in the list.

=====  =============================================================  =====
v1     atomic number 1-100                                             133
v2     atomic number 1-36 and 53, more hybridisations                   72
bond   null flag, order, conjugated, in a ring, stereo                  14
=====  =============================================================  =====
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.molecules.chemistry import chem

Features = Literal["v1", "v2"]
ATOM_WIDTH: dict[str, int] = {"v1": 133, "v2": 72}
BOND_WIDTH = 14
_NUMBERS: dict[str, Sequence[int]] = {"v1": range(1, 101), "v2": (*range(1, 37), 53)}
_HYBRIDS = {
    "v1": ("SP", "SP2", "SP3", "SP3D", "SP3D2"),
    "v2": ("S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2"),
}
_CHARGES = (-1, -2, 1, 2, 0)
_ORDERS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_STEREO = 6  # rdkit's values 0 to 5


@dataclass(frozen=True)
class MoleculeGraph:
    """Atoms and directed bonds; bond 2k and bond 2k + 1 are the two directions of one.

    Attributes:
        x: float32 (N, F), atoms in the order of the SMILES.
        edge_index: int64 (2, E), from, to.
        edge_attr: float32 (E, 14).
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor


@dataclass(frozen=True)
class GraphBatch:
    """Molecules side by side.

    Attributes:
        x: float32 (N, F).
        edge_index: int64 (2, E), bond e's other direction is e ^ 1.
        edge_attr: float32 (E, 14).
        batch: int64 (N,), the molecule of each atom.
        count: molecules.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    count: int

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> GraphBatch:
        """The same on a device, numbers in ``dtype``."""
        x, edge_attr = self.x.to(device, dtype), self.edge_attr.to(device, dtype)
        return GraphBatch(x, self.edge_index.to(device), edge_attr, self.batch.to(device), self.count)


def _one_hot(row: Any, start: int, choices: Sequence[Hashable], value: Hashable) -> int:
    """Set one of the slots from ``start``, the last for what is no choice; where the next ones begin."""
    row[start + (choices.index(value) if value in choices else len(choices))] = 1
    return start + len(choices) + 1


def atom_features(atom: Any, features: Features = "v2", chirality: bool = True) -> Any:
    """Row of an rdkit atom, float32 (133,) or (72,)."""
    row = np.zeros(ATOM_WIDTH[features], dtype=np.float32)
    place = _one_hot(row, 0, _NUMBERS[features], atom.GetAtomicNum())
    place = _one_hot(row, place, range(6), atom.GetTotalDegree())
    place = _one_hot(row, place, _CHARGES, atom.GetFormalCharge())
    if chirality:
        _one_hot(row, place, range(4), int(atom.GetChiralTag()))
    place = _one_hot(row, place + 5, range(5), int(atom.GetTotalNumHs()))
    place = _one_hot(row, place, _HYBRIDS[features], str(atom.GetHybridization()))
    row[place], row[place + 1] = atom.GetIsAromatic(), 0.01 * atom.GetMass()
    return row


def bond_features(bond: Any, chirality: bool = True) -> Any:
    """Row of an rdkit bond, float32 (14,); its first slot would say that there is none."""
    row = np.zeros(BOND_WIDTH, dtype=np.float32)
    order = str(bond.GetBondType())
    if order in _ORDERS:
        row[1 + _ORDERS.index(order)] = 1
    row[5], row[6] = bond.GetIsConjugated(), bond.IsInRing()
    if chirality:
        _one_hot(row, 7, range(_STEREO), int(bond.GetStereo()))
    return row


def molecule_graph(smiles: str, features: Features = "v2", chirality: bool = True) -> MoleculeGraph:
    """The graph of a SMILES; one atom alone has no bonds.

    Raises:
        ValueError: for a text that rdkit cannot read, or without an atom.
    """
    found = chem().MolFromSmiles(smiles)
    if found is None or found.GetNumAtoms() == 0:
        raise ValueError(f"{smiles[:60]!r} is no SMILES that rdkit can read")
    x = np.stack([atom_features(atom, features, chirality) for atom in found.GetAtoms()])
    ends: list[tuple[int, int]] = []
    rows: list[Any] = []
    for bond in found.GetBonds():
        a, b, row = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond_features(bond, chirality)
        ends += [(a, b), (b, a)]
        rows += [row, row]
    edge_index = torch.tensor(ends, dtype=torch.long).reshape(-1, 2).T.contiguous()
    edge_attr = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, BOND_WIDTH)
    return MoleculeGraph(torch.from_numpy(x), edge_index, edge_attr)


def side_by_side(graphs: Sequence[MoleculeGraph]) -> GraphBatch:
    """Molecules as one batch, no bond between any two."""
    sizes = torch.tensor([len(g.x) for g in graphs])
    bonds = torch.tensor([g.edge_index.shape[1] for g in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([g.edge_index for g in graphs], dim=1) + first.repeat_interleave(bonds)
    return GraphBatch(
        torch.cat([g.x for g in graphs]),
        edges,
        torch.cat([g.edge_attr for g in graphs]),
        torch.arange(len(graphs)).repeat_interleave(sizes),
        len(graphs),
    )
