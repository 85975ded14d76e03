"""QM9: 130,831 small organic molecules with 19 properties, as released or as a random subset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.arrays import read_npz
from datamodules.loading.files import check_claim, written_whole
from datamodules.loading.ranges import Many, ManyOrZero, Seed, Workers, check_ranges
from datamodules.loading.tables import cut, numbers, read_columns
from datamodules.loading.terminal import say
from datamodules.molecules import qm9pack
from datamodules.molecules.atoms import SYMBOLS, Array, Atoms, AtomsModule, parts_of

Layout = Literal["subset", "sdf", "qm9pack"]
Target = Literal[
    "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv",
    "U0_atom", "U_atom", "H_atom", "G_atom", "A", "B", "C",
]  # fmt: skip
TARGETS: tuple[str, ...] = Target.__args__  # type: ignore[attr-defined]
"""In torch-geometric's order: the rotational constants last, although the csv has them first."""
_HARTREE, _KCAL = 27.211386246, 0.04336414
_ENERGIES = ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G")
_ATOMISATION = ("U0_atom", "U_atom", "H_atom", "G_atom")
UNITS = {
    "mu": "D", "alpha": "a0^3", "r2": "a0^2", "Cv": "cal/mol/K", "A": "GHz", "B": "GHz", "C": "GHz",
    **dict.fromkeys((*_ENERGIES, *_ATOMISATION), "eV"),
}  # fmt: skip
_COLUMNS = (
    "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv",
    "u0_atom", "u298_atom", "h298_atom", "g298_atom", "a", "b", "c",
)  # fmt: skip
_SUBSET = {
    "A": "RotA_GHz", "B": "RotB_GHz", "C": "RotC_GHz", "mu": "Dipole_debye", "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au", "lumo": "LUMO_au", "gap": "HOMO_LUMO_gap_au", "r2": "R2_bohr2", "zpve": "ZPVE_au",
    "U0": "InternalEnergy_0K_au", "U": "InternalEnergy_298K_au", "H": "Enthalphy_298K_au",
    "G": "GibbsFreeEnergy_298K_au", "Cv": "Heatcapacity_Cv_cal_mol_K",
}  # fmt: skip
_FREE = {
    "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
}
"""Free atoms H, C, N, O, F in hartree."""
_ELEMENTS = (1, 6, 7, 8, 9)
_SPLIT, _FORMAT = 413, 2
_ALL, _LEFT_OUT = 133_885, 3_054
_LINE = 2**16


def references_of(target: str) -> dict[int, float] | None:
    """Target of a free atom by atomic number, in the target's unit; None for what has none."""
    if target in _FREE:
        return {z: e * _HARTREE for z, e in zip(_ELEMENTS, _FREE[target], strict=True)}
    return dict.fromkeys(_ELEMENTS, 2.981) if target == "Cv" else None


class QM9(AtomsModule):
    """QM9 (Ramakrishnan et al., Scientific Data 2014); the batch is that of :class:`AtomsModule`.

    ``sdf`` is the release as torch-geometric takes it: ``gdb9.sdf``, ``gdb9.sdf.csv`` and
    ``uncharacterized.txt``, whose 3,054 molecules are left out. ``qm9pack`` is the rest, the same 130,831
    molecules in the same order, with their SMILES, as the package qm9pack (1.0.3) has them in its files
    ``qm9_part1.csv`` to ``qm9_part3.csv``. What is parsed goes to the cache. ``subset`` are 3,901 random
    molecules in ``qm9_subset.npz``, with the same targets in the same units.

    Args:
        target: one of mu (D), alpha (a0^3), homo, lumo, gap (eV), r2 (a0^2), zpve, U0, U, H, G (eV), Cv
            (cal/mol/K), U0_atom, U_atom, H_atom, G_atom (eV, of atomisation), A, B, C (GHz).
        layout: see above.
        root: folder of the files; default ``$ZOO_DATA/molecules`` for ``subset``, ``$ZOO_DATA/molecules/qm9``
            for the others; those of ``qm9pack`` are found in the installed package, too.
        cache: folder of what was parsed; default ``$ZOO_CACHE``, else ``~/.cache/zoo``.
        train: molecules; null is 110,000, of ``subset`` 3,000.
        val: molecules; null is 10,000, of ``subset`` 400.
        test: molecules; null is all that are left.
        split_seed: of the draw.
        rotate_train: turn each training molecule at random, another way in each epoch.
        rotate_test: turn each test molecule at random, always the same way.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("target",)
    split_of_weights: ClassVar[tuple[str, ...]] = ("layout", "train", "val", "split_seed")

    def __init__(
        self,
        target: Target = "U0",
        layout: Layout = "subset",
        root: str | None = None,
        cache: str | None = None,
        train: Many | None = None,
        val: ManyOrZero | None = None,
        test: Many | None = None,
        split_seed: Seed = 0,
        rotate_train: bool = False,
        rotate_test: bool = False,
        batch_size: Many = 100,
        eval_batch_size: Many = 200,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(QM9, locals())
        super().__init__(rotate_train, rotate_test, batch_size, eval_batch_size, num_workers)
        check_choice("target", target, Target)
        check_choice("layout", layout, Layout)
        self.target, self.unit, self.layout = target, UNITS[target], layout
        self.root = data_folder(root, "molecules" if layout == "subset" else "molecules/qm9")
        self.cache = Path(cache or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo") / "qm9"
        whole = layout != "subset"
        self.train = train or (110_000 if whole else 3_000)
        self.val = (10_000 if whole else 400) if val is None else val
        self.test, self.split_seed = test, split_seed
        self.references = references_of(target)

    def prepare_data(self) -> None:
        if self.layout != "subset":
            self._parsed()

    def setup(self, stage: str) -> None:
        store = self._subset() if self.layout == "subset" else self._released()
        self.facts = {"molecules": len(store)}
        order = np.random.default_rng((_SPLIT, self.split_seed)).permutation(len(store))
        self._state(store, *parts_of(len(store), self.train, self.val, self.test, self.root, order))

    def _subset(self) -> Atoms:
        path = self.root / "qm9_subset.npz"
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}, the random subset of 3,901 molecules; the whole set is "
                "data.init_args.layout: sdf or qm9pack"
            )
        keys = ("z", "pos", "n_atoms", "y", "y_names", "smiles")
        content = read_npz(path, *keys)
        names = [str(n) for n in content["y_names"].tolist()]
        ptr = np.concatenate([[0], np.cumsum(content["n_atoms"].astype(np.int64))])
        z, rows = content["z"].astype(np.int64), len(ptr) - 1
        if (
            content["y"].shape != (rows, len(names))
            or len(z) != ptr[-1]
            or content["pos"].shape != (len(z), 3)
        ):
            raise ValueError(f"{path}: z, pos, n_atoms and y are not of the same molecules")
        lacking = [c for c in _SUBSET.values() if c not in names]
        if lacking:
            raise ValueError(f"{path}: y_names lacks {lacking[0]}")
        y = self._of_totals(content["y"], names, z, ptr)
        smiles = [str(s) for s in content["smiles"].tolist()]
        return Atoms(z, content["pos"].astype(np.float32), ptr, y, names=smiles).check(path)

    def _of_totals(self, y: Array, names: Sequence[str], z: Array, ptr: Array) -> Array:
        """The target (M,) from columns with qm9pack's names, without energies of atomisation."""
        plain = self.target.removesuffix("_atom")
        found = y[:, names.index(_SUBSET[plain])].astype(np.float64)
        found = found * _HARTREE if plain in _ENERGIES else found
        if self.target in _ATOMISATION:
            free = np.zeros(100)
            free[list(_ELEMENTS)] = list((references_of(plain) or {}).values())
            found = found - np.add.reduceat(free[z], ptr[:-1])
        return found

    # --- the released files -------------------------------------------------------------------------------

    @property
    def _files(self) -> tuple[Path, ...]:
        if self.layout == "qm9pack":
            folder = qm9pack.folder_of(self.root)
            return tuple(folder / name for name in qm9pack.FILES)
        return self.root / "gdb9.sdf", self.root / "gdb9.sdf.csv", self.root / "uncharacterized.txt"

    def _parsed(self) -> Path:
        """The file of the cache, made where it is not there."""
        files = self._files
        for path in files:
            if not path.is_file():
                raise FileNotFoundError(f"no file {path}; {_WHERE[self.layout]} and put them there")
        stamp = json.dumps([_FORMAT, *((p.stat().st_size, p.stat().st_mtime_ns) for p in files)])
        path = self.cache / ("released.npz" if self.layout == "sdf" else "qm9pack.npz")
        if path.is_file():
            try:
                if str(read_npz(path, "stamp")["stamp"]) == stamp:
                    return path
            except ValueError:
                say(f"{path} is damaged and made anew")
        say(f"{files[0].parent}: the files of QM9 are read once, into {path}")
        molecules, y, names = _of_qm9pack(files) if self.layout == "qm9pack" else _of_release(*files)
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                stamp=np.array(stamp),
                z=np.concatenate([z for z, _ in molecules]).astype(np.uint8),
                pos=np.concatenate([pos for _, pos in molecules]).astype(np.float32),
                n_atoms=np.array([len(z) for z, _ in molecules], np.int64),
                y=y,
                names=np.array(names),
            )
        return path

    def _released(self) -> Atoms:
        content = read_npz(self._parsed(), "z", "pos", "n_atoms", "y", "names")
        ptr = np.concatenate([[0], np.cumsum(content["n_atoms"])])
        z, names = content["z"].astype(np.int64), [str(n) for n in content["names"].tolist()]
        if self.layout == "qm9pack":
            y = self._of_totals(content["y"], list(_SUBSET.values()), z, ptr)
        else:
            y = content["y"][:, TARGETS.index(self.target)].copy()
        return Atoms(z, content["pos"], ptr, y, names=names).check(self._files[0].parent)


Parsed = tuple[list[tuple[Array, Array]], Array, list[str]]
"""Elements and coordinates of M molecules, their numbers (M, C), their names."""
_WHERE = {
    "sdf": "take gdb9.sdf, gdb9.sdf.csv and uncharacterized.txt of QM9 from deepchem.io and figshare",
    "qm9pack": "install qm9pack, or take qm9_part1.csv, qm9_part2.csv and qm9_part3.csv of it",
}


def _of_release(sdf: Path, table: Path, left_out: Path) -> Parsed:
    """Of the release, in the units of the targets, without what is uncharacterized."""
    molecules = list(_sdf(sdf))
    y = numbers(table, ((n, row[1:]) for n, row in read_columns(table, "mol_id", *_COLUMNS)), _COLUMNS)
    if len(molecules) != len(y):
        raise ValueError(f"{sdf} has {len(molecules):,} molecules, {table} {len(y):,} rows")
    skipped = set(_uncharacterized(left_out, len(y)))
    rows = [i for i in range(len(y)) if i not in skipped]
    if not rows:
        raise ValueError(f"{left_out}: all {len(y):,} molecules are in it")
    say(f"{sdf.parent}: {len(rows):,} of {len(y):,} molecules, {len(skipped):,} are uncharacterized")
    factors = [_HARTREE if t in _ENERGIES else _KCAL if t in _ATOMISATION else 1.0 for t in TARGETS]
    return [molecules[i] for i in rows], y[rows] * np.array(factors), [f"gdb_{i + 1}" for i in rows]


def _of_qm9pack(files: Sequence[Path]) -> Parsed:
    """Of the package, in the units of its columns."""
    molecules, rows, names = [], [], []
    for path in files:
        for z, pos, values, smiles in qm9pack.read_molecules(path, list(_SUBSET.values())):
            molecules.append((z, pos))
            rows.append(values)
            names.append(smiles)
    if not rows:
        raise ValueError(f"{files[0].parent}: the files have no molecules")
    say(f"{files[0].parent}: {len(rows):,} molecules")
    return molecules, np.array(rows), names


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file, each of a bounded length."""
    check_claim(path, "the file", path.stat().st_size)
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_LINE + 1):
            number += 1
            if len(raw) > _LINE:
                raise ValueError(f"{path}, line {number}: more than {_LINE:,} bytes without an end")
            yield number, raw.decode("latin-1").rstrip("\r\n")


def _uncharacterized(path: Path, molecules: int) -> list[int]:
    """Rows from 0: of each line that begins with a number, that number less 1.

    Words stand before these lines, and behind them at most one line of words.

    Raises:
        ValueError: for a damaged file: lines of words in between, a number twice or of no molecule, no number
            at all, or other than 3,054 numbers for the 133,885 molecules of QM9.
    """
    rows: dict[int, None] = {}
    words = 0  # the line of words behind the numbers
    for number, line in _lines(path):
        if not line.replace("\t", " ").isprintable():
            raise ValueError(f"{path}, line {number}: {cut(line)} is no text")
        first = line.split(maxsplit=1)[:1]
        if not first:
            continue
        if not (first[0].isdecimal() and first[0].isascii() and len(first[0]) < 10):
            words = words or (number if rows else 0)
            continue
        if words:
            raise ValueError(
                f"{path}, line {words}: it begins with no number, and numbers follow: is it whole?"
            )
        row = int(first[0]) - 1
        if not 0 <= row < molecules:
            raise ValueError(f"{path}, line {number}: there is no molecule {first[0]} of {molecules:,}")
        if row in rows:
            raise ValueError(f"{path}, line {number}: molecule {first[0]} stands in it twice")
        rows[row] = None
    if not rows or (molecules == _ALL and len(rows) != _LEFT_OUT):
        needed = f", and QM9 has {_LEFT_OUT:,}" if molecules == _ALL else ""
        raise ValueError(
            f"{path} has the numbers of {len(rows):,} molecules{needed}: it is damaged or cut off"
        )
    return list(rows)


def _sdf(path: Path) -> Iterator[tuple[Array, Array]]:
    """Atomic numbers and coordinates of each molecule of a V2000 file; its bonds are partly wrong."""
    lines = _lines(path)
    known = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}
    for molecule, _ in enumerate(lines, 1):  # the name
        head = [next(lines, (0, "")) for _ in range(3)]
        number, counts = head[2]
        try:
            atoms = int(counts[:3])
            block = [next(lines)[1] for _ in range(atoms)]
            z = [known[line[31:34].strip()] for line in block]
            pos = [[float(line[10 * k : 10 * k + 10]) for k in range(3)] for line in block]
        except (ValueError, KeyError, StopIteration):
            raise ValueError(
                f"{path}, line {number}: molecule {molecule} is no V2000 block ({cut(counts)})"
            ) from None
        yield np.array(z, np.int64), np.array(pos, np.float64).reshape(-1, 3)
        for _, line in lines:
            if line.startswith("$$$$"):
                break


def written_sdf(z: Any, pos: Any, name: str = "") -> str:
    """A molecule as a V2000 block without bonds, for files of this layout."""
    rows = [
        f"{x:10.4f}{y:10.4f}{w:10.4f} {SYMBOLS[int(a)]:<3} 0  0  0  0  0  0  0  0  0  0  0  0"
        for a, (x, y, w) in zip(z, pos, strict=True)
    ]
    head = [name, "", "", f"{len(rows):3d}  0  0  0  0  0  0  0  0  0999 V2000"]
    return "\n".join([*head, *rows, "M  END", "$$$$"]) + "\n"
