"""Molecules as elements and coordinates, laid one behind the other, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_generator
from datamodules.loading.terminal import say

Array = np.ndarray[Any, Any]
_TABLE = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y
Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os
Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es
"""
SYMBOLS = tuple(_TABLE.split())
"""Of the atomic numbers 0 (none) to 99, the rows of the networks' tables."""
IN_EV = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": 0.04336410390059322,
    "kJ/mol": 0.010364269656262175,
    "hartree": 27.211386245988,
}
"""One of each unit of energy in eV."""
_TURNED = 2**33 + 11  # first word of the keys of rotations in evaluation
_PAIRS = 4_000_000
_COINCIDE = 1e-3  # Angstrom


@dataclass
class Atoms:
    """M molecules with N atoms in all.

    Attributes:
        z: int64 (N,), atomic numbers.
        pos: float32 (N, 3), Angstrom.
        ptr: int64 (M + 1,): molecule m has the atoms ``ptr[m]:ptr[m + 1]``.
        y: float64 (M,), the target; NaN where unknown.
        forces: float32 (N, 3), or None.
        cell: float32 (M, 3, 3), rows are the vectors of periodic cells, zeros without one; None has none.
        names: of the molecules; none are their numbers from 0.
    """

    z: Array
    pos: Array
    ptr: Array
    y: Array
    forces: Array | None = None
    cell: Array | None = None
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def sizes(self) -> Array:
        """Atoms of each molecule (M,)."""
        return np.diff(self.ptr)

    def check(self, source: Path | str, what: str = "molecule") -> Atoms:
        """Refuse what no network can take; returns the same.

        Args:
            source: the file, for the words.
            what: one of its parts is: they are counted from 1.

        Raises:
            ValueError: naming the first molecule without atoms, with an element outside of the table, a
                number that is not finite, or two atoms in one place.
        """
        named = [("coordinates", self.pos), ("forces", self.forces)]
        empty = np.flatnonzero(self.sizes < 1)
        if len(empty):
            raise ValueError(f"{source}: {what} {empty[0] + 1} has no atoms")
        strange = np.flatnonzero((self.z < 1) | (self.z > 99))
        if len(strange):
            owner = int(np.searchsorted(self.ptr, strange[0], "right"))
            raise ValueError(
                f"{source}: {what} {owner} has an atom of number {self.z[strange[0]]}; the tables go "
                "from 1 (H) to 99 (Es)"
            )
        for name, values in named:
            bad: Any = [] if values is None else np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                owner = int(np.searchsorted(self.ptr, bad[0], "right"))
                raise ValueError(f"{source}: {what} {owner} has {name} that are not finite numbers")
        unlabelled = np.flatnonzero(np.isinf(self.y))
        if len(unlabelled):
            raise ValueError(f"{source}: {what} {unlabelled[0] + 1} has an infinite target")
        self._check_apart(source, what)
        return self

    def _check_apart(self, source: Path | str, what: str) -> None:
        """Where two atoms lie in one place their distance has no gradient."""
        sizes = self.sizes
        for size in np.unique(sizes):
            if size < 2 or size > 2000:
                continue
            rows = np.flatnonzero(sizes == size)
            a, b = np.triu_indices(int(size), 1)
            step = max(1, _PAIRS // len(a))
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                pos = self.pos[self.ptr[chosen][:, None] + np.arange(size)]  # (m, size, 3)
                close = np.square(pos[:, a] - pos[:, b]).sum(axis=2) < _COINCIDE**2
                if close.any():
                    m, pair = np.argwhere(close)[0]
                    raise ValueError(
                        f"{source}: atoms {a[pair] + 1} and {b[pair] + 1} "
                        f"of {what} {chosen[m] + 1} lie in one place"
                    )


def rotations(stream: int, epochs: Array, rows: Array) -> Array:
    """A random rotation (B, 3, 3) for each (stream, epoch, row), uniform over all of them."""
    q = np.stack(
        [item_generator(stream, int(e), int(r)).normal(size=4) for e, r in zip(epochs, rows, strict=True)]
    )
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return np.stack(entries, axis=1).reshape(-1, 3, 3)


class MoleculeItems(BatchItems):
    """Some molecules of a store; fetches a whole batch at once.

    Args:
        store: all molecules.
        rows: those of this set.
        turned: rotate each at random, coordinates and forces alike, about its centre.
        stream: first word of the keys of the rotations; None is the seed of the run, and another rotation
            in each epoch.
    """

    def __init__(self, store: Atoms, rows: Array, turned: bool = False, stream: int | None = None) -> None:
        self.store, self.rows, self.turned, self.stream = store, np.asarray(rows, np.int64), turned, stream

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        return self.__getitems__([key])  # a batch of one molecule

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        rows, store = self.rows[index], self.store
        sizes = store.sizes[rows]
        owner = np.repeat(np.arange(len(rows)), sizes)
        ends = np.cumsum(sizes)
        atoms = np.arange(len(owner)) + (store.ptr[rows] - (ends - sizes))[owner]
        pos = store.pos[atoms]
        forces = None if store.forces is None else store.forces[atoms]
        if self.turned:
            fixed = self.stream is not None
            turn = rotations(
                global_seed() if self.stream is None else self.stream,
                np.zeros_like(epochs) if fixed else epochs,
                rows,
            )
            centre = np.add.reduceat(pos, ends - sizes, axis=0) / sizes[:, None]
            pos = np.einsum("nij,nj->ni", turn[owner], pos - centre[owner])
            forces = None if forces is None else np.einsum("nij,nj->ni", turn[owner], forces)
        batch = {
            "z": torch.from_numpy(store.z[atoms].astype(np.int64)),
            "pos": torch.from_numpy(pos.astype(np.float32)),
            "batch": torch.from_numpy(owner),
            "y": torch.from_numpy(store.y[rows]),
            "index": torch.from_numpy(rows),
        }
        if forces is not None:
            batch["forces"] = torch.from_numpy(forces.astype(np.float32))
        if store.cell is not None:
            batch["cell"] = torch.from_numpy(store.cell[rows])
        return batch

    # --- what a model takes its scale from ------------------------------------------------------------------

    def targets(self) -> Array:
        """float64 (M,)."""
        return self.store.y[self.rows]

    def compositions(self) -> Array:
        """How many atoms of each number a molecule has: float64 (M, 100)."""
        sizes = self.store.sizes[self.rows]
        owner = np.repeat(np.arange(len(self.rows)), sizes)
        atoms = np.concatenate([np.arange(self.store.ptr[r], self.store.ptr[r + 1]) for r in self.rows])
        counts = np.zeros((len(self.rows), 100))
        np.add.at(counts, (owner, self.store.z[atoms]), 1)
        return counts

    def force_rms(self) -> float | None:
        """Root of the mean square of all force components; None without forces."""
        if self.store.forces is None:
            return None
        atoms = np.concatenate([np.arange(self.store.ptr[r], self.store.ptr[r + 1]) for r in self.rows])
        return float(np.sqrt(np.square(self.store.forces[atoms], dtype=np.float64).mean()))


class AtomsModule(SplitModule):
    """Molecules in space; subclasses state their sets in ``setup``.

    Batch: ``z`` int64 (N,), atomic numbers; ``pos`` float32 (N, 3), Angstrom; ``batch`` int64 (N,), whose an
    atom is, ascending; ``y`` float64 (B,), the target, NaN where unknown; ``index`` int64 (B,), rows of the
    data; where there are any ``forces`` float32 (N, 3) and ``cell`` float32 (B, 3, 3).

    Attributes:
        target: what ``y`` is.
        unit: of ``y``; forces have it per Angstrom.
        atoms: of each molecule, 0 where that varies.
        references: target of a free atom by atomic number, where the data know it.
        names: of the molecules, by row.

    Args:
        rotate_train: turn each training molecule at random, another way in each epoch.
        rotate_test: turn each test molecule at random, always the same way.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    target: str = "energy"
    unit: str
    atoms: int | None = None
    references: Mapping[int, float] | None = None
    names: Sequence[str] = ()

    def __init__(
        self,
        rotate_train: bool = False,
        rotate_test: bool = False,
        batch_size: Many = 10,
        eval_batch_size: Many = 100,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(AtomsModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.rotate_train, self.rotate_test = rotate_train, rotate_test
        self.facts: dict[str, Any] = {}

    def _state(self, store: Atoms, train: Array, val: Array, test: Array) -> None:
        """The three sets of one store."""
        self.train_set = MoleculeItems(store, train, self.rotate_train)
        self.val_set = MoleculeItems(store, val) if len(val) else None
        self.test_set = MoleculeItems(store, test, self.rotate_test, _TURNED)
        self._tell(store)

    def _tell(self, store: Atoms) -> None:
        sizes = np.unique(store.sizes)
        self.atoms = int(sizes[0]) if len(sizes) == 1 else 0
        self.names = store.names


def parts_of(
    count: int, train: int, val: int, test: int | None, source: object, order: Array
) -> tuple[Array, ...]:
    """The first ``train`` of an order, the next ``val``, the next ``test`` or all that are left.

    Raises:
        ValueError: where there are not as many.
    """
    wanted = train + val + (1 if test is None else test)
    if wanted > count:
        what = f"{train:,} + {val:,} + {'some' if test is None else f'{test:,}'}"
        raise ValueError(
            f"{source} holds {count:,} molecules or frames; data.init_args.train, val and test ask for {what}"
        )
    last = count if test is None else train + val + test
    return order[:train], order[train : train + val], order[train + val : last]


def converted(values: Array, given: str, wanted: str, what: str) -> Array:
    """Energies, or forces per Angstrom, in another unit; says so where it is another."""
    if given == wanted:
        return values
    factor = IN_EV[given] / IN_EV[wanted]
    say(f"{what}: {given} to {wanted} (times {factor:.8g})")
    return np.asarray(values) * factor
