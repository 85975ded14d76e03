"""Frames of a user's extended xyz files, also of different molecules, with energies and forces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.loading.arguments import check_choice
from datamodules.loading.files import check_claim
from datamodules.loading.ranges import Many, Part, Seed, Workers, check_ranges
from datamodules.loading.tables import cut, number_of
from datamodules.loading.terminal import say
from datamodules.molecules.atoms import (
    _TURNED,
    SYMBOLS,
    Array,
    Atoms,
    AtomsModule,
    MoleculeItems,
    converted,
)
from datamodules.molecules.trajectory import Unit

_LINE, _ATOMS = 2**20, 10**6
_PAIR = re.compile(r"""([\w.\-]+)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|[^\s"]+)""")
_SPLIT = 415
_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}


@dataclass
class Frame:
    """One frame as the file has it.

    Attributes:
        line: its first one, from 1.
        z: (n,).
        pos: Angstrom (n, 3).
        energy: None where the file has none.
        forces: (n, 3), or None.
        cell: (3, 3) where it is periodic.
        keys: what else the comment line and the columns have.
    """

    line: int
    z: Array
    pos: Array
    energy: float | None
    forces: Array | None
    cell: Array | None
    keys: list[str]


def read_frames(path: Path, energy_key: str, forces_key: str) -> Iterator[Frame]:
    """The frames of an extended xyz file.

    Raises:
        FileNotFoundError, ValueError: one line with file, frame and line on what cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_claim(path, "the file", path.stat().st_size)
    with path.open("rb") as file:
        number = 0

        def line() -> str:
            nonlocal number
            raw = file.readline(_LINE + 1)
            if len(raw) > _LINE:
                raise ValueError(f"{path}, line {number + 1}: more than {_LINE:,} bytes without an end")
            number += bool(raw)
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            return raw.decode("utf-8", "replace")

        frame = 0
        while first := line():
            if not first.strip():
                if file.read(_LINE).strip():
                    raise ValueError(f"{path}, line {number}: empty, but lines follow")
                return
            frame += 1
            start = number
            if not first.strip().isdigit() or not 0 < int(first[:12]) <= _ATOMS:
                raise ValueError(f"{path}, line {number}: frame {frame} begins with {cut(first.strip())}, "
                                 "which is no number of atoms")  # fmt: skip
            atoms, comment = int(first), line()
            rows = []
            for _ in range(atoms):
                row = line().split()
                if not row:
                    raise ValueError(
                        f"{path}, line {number}: frame {frame} says {atoms} atoms and ends before"
                    )
                rows.append(row)
            try:
                yield _frame(start, comment, rows, energy_key, forces_key)
            except ValueError as error:
                raise ValueError(f"{path}, frame {frame}, line {start}: {error}") from None


def _frame(line: int, comment: str, rows: list[list[str]], energy_key: str, forces_key: str) -> Frame:
    said = {key: value.strip("\"'{}[]") for key, value in _PAIR.findall(comment)}
    properties = said.pop("Properties", "species:S:1:pos:R:3").split(":")
    if len(properties) % 3:
        raise ValueError(f"Properties {cut(':'.join(properties))} are no triples of name, type and columns")
    places: dict[str, slice] = {}
    at = 0
    for name, _, width in zip(*[iter(properties)] * 3, strict=True):
        if not width.isdigit() or not 0 < int(width) < 1000:
            raise ValueError(f"Properties say {cut(width)} columns of {cut(name)}")
        places[name] = slice(at, at + int(width))
        at += int(width)
    for row in rows:
        if len(row) != at:
            raise ValueError(f"a row of {len(row)} columns, Properties say {at}")
    species = places.get("species") or places.get("Z") or places.get("atomic_numbers")
    if species is None or "pos" not in places:
        raise ValueError("Properties need species and pos")
    z = np.array([_atomic(row[species][0]) for row in rows], np.int64)
    forces = None if forces_key not in places else _columns(rows, places[forces_key], forces_key)
    energy = None if energy_key not in said else _number(said[energy_key], energy_key)
    cell, lattice, pbc = None, said.get("Lattice"), said.get("pbc", "").replace(",", " ").split()
    truths = [word.lower() in ("t", "true", "1") for word in pbc]
    if any(truths) or (lattice is not None and not pbc):
        if lattice is None or not all(truths):
            raise ValueError("periodic in some directions alone; all three or none can be taken")
        cell = np.array([_number(word, "Lattice") for word in lattice.split()])
        if cell.shape != (9,) or abs(np.linalg.det(cell.reshape(3, 3))) < 1e-6:
            raise ValueError(f"Lattice {cut(lattice)} is no cell")
        cell = cell.reshape(3, 3)
    keys = [k for k in (*said, *places) if k not in ("species", "pos", "Lattice", "pbc")]
    return Frame(line, z, _columns(rows, places["pos"], "pos"), energy, forces, cell, keys)


def _atomic(cell: str) -> int:
    number = _NUMBERS.get(cell.capitalize()) or (int(cell) if cell.isdigit() and len(cell) < 4 else 0)
    if not 0 < number < len(SYMBOLS):
        raise ValueError(f"{cut(cell)} is no element from H to Es")
    return number


def _number(cell: str, name: str) -> float:
    try:
        value = number_of(cell)
    except ValueError:
        raise ValueError(f"{name} is {cut(cell)}, no number") from None
    if not np.isfinite(value):
        raise ValueError(f"{name} is {cut(cell)}, no finite number")
    return value


def _columns(rows: list[list[str]], place: slice, name: str) -> Array:
    if place.stop - place.start != 3:
        raise ValueError(f"{name} has {place.stop - place.start} columns, not 3")
    return np.array([[_number(cell, name) for cell in row[place]] for row in rows])


def stored(
    path: Path, frames: list[Frame], file_unit: str, unit: str, labelled: bool, keys: tuple[str, str]
) -> Atoms:
    """Frames as one store, in the unit of batches.

    Raises:
        ValueError: for a file without frames, and for a frame without energy where it should be ``labelled``.
    """
    if not frames:
        raise ValueError(f"{path} holds no frames")
    for number, frame in enumerate(frames, 1):
        if labelled and frame.energy is None:
            others = ", ".join(dict.fromkeys(frame.keys)) or "no others"
            raise ValueError(
                f"{path}, frame {number}, line {frame.line}: no {keys[0]}; it has {others}; set "
                "data.init_args.energy_key"
            )
    having = [frame.forces is not None for frame in frames]
    if any(having) and not all(having):
        raise ValueError(f"{path}, frame {having.index(False) + 1}: no {keys[1]}, which other frames have")
    sizes = np.array([len(f.z) for f in frames])
    y = np.array([np.nan if f.energy is None else f.energy for f in frames])
    forces = np.concatenate([f.forces for f in frames if f.forces is not None]) if all(having) else None
    if labelled or not np.isnan(y).all():
        flat = np.concatenate([y, [] if forces is None else forces.reshape(-1)])
        flat = converted(flat, file_unit, unit, str(path))
        y, forces = flat[: len(y)], None if forces is None else flat[len(y) :].reshape(-1, 3)
    cells = [np.zeros((3, 3)) if f.cell is None else f.cell for f in frames]
    periodic = any(f.cell is not None for f in frames)
    return Atoms(
        np.concatenate([f.z for f in frames]),
        np.concatenate([f.pos for f in frames]).astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
        y,
        None if forces is None else forces.astype(np.float32),
        np.stack(cells).astype(np.float32) if periodic else None,
    ).check(path, "frame")


class XYZFrames(AtomsModule):
    """Frames of a user's extended xyz files; the batch is that of :class:`AtomsModule`.

    Molecules may differ from frame to frame. Energies stand in the comment line, forces in columns, under
    the names that force fields' data have; coordinates are in Angstrom.

    Args:
        file: training frames.
        val_file: validation frames; null holds out a share of ``file``.
        test_file: test frames; null holds out as large a share of ``file``.
        predict_file: frames to predict, with or without energies; null are the test frames.
        energy_key: of the energy in the comment line.
        forces_key: of the forces among the columns.
        file_unit: of the file's energies; forces are that per Angstrom.
        unit: of batches.
        held_out: share of ``file`` for validation, and as much for the test, where they have no file.
        split_seed: of the draw.
        rotate_train: turn each training frame at random, another way in each epoch.
        rotate_test: turn each test frame at random, always the same way.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("unit",)
    split_of_weights: ClassVar[tuple[str, ...]] = ("held_out", "split_seed")

    def __init__(
        self,
        file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        predict_file: str | None = None,
        energy_key: str = "REF_energy",
        forces_key: str = "REF_forces",
        file_unit: Unit = "eV",
        unit: Unit = "eV",
        held_out: Part = 0.1,
        split_seed: Seed = 0,
        rotate_train: bool = False,
        rotate_test: bool = False,
        batch_size: Many = 10,
        eval_batch_size: Many = 50,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(XYZFrames, locals())
        super().__init__(rotate_train, rotate_test, batch_size, eval_batch_size, num_workers)
        check_choice("unit", unit, Unit)
        check_choice("file_unit", file_unit, Unit)
        if held_out >= 0.5:
            raise ValueError(f"data.init_args.held_out is {held_out} twice, nothing is left to train on")
        self.file, self.val_file, self.test_file, self.predict_file = file, val_file, test_file, predict_file
        self.energy_key, self.forces_key, self.file_unit, self.unit = energy_key, forces_key, file_unit, unit
        self.held_out, self.split_seed = held_out, split_seed

    def setup(self, stage: str) -> None:
        if stage == "predict" and self.predict_file is not None:
            store = self._read(self.predict_file, labelled=False)
            self.predict_set = MoleculeItems(store, np.arange(len(store)))
            self.test_set = self.predict_set
            self._tell(store)
            return
        if self.file is None and (stage != "test" or self.test_file is None):
            raise ValueError("data.init_args.file must name an extended xyz file")
        self._set_up_files(stage)

    def _set_up_files(self, stage: str) -> None:
        if self.file is None:
            store = self._read(str(self.test_file))
            self.test_set = MoleculeItems(store, np.arange(len(store)), self.rotate_test, _TURNED)
            self._tell(store)
            return
        store = self._read(self.file)
        order = np.random.default_rng((_SPLIT, self.split_seed)).permutation(len(store))
        held = int(self.held_out * len(store))
        taken = held * ((self.val_file is None) + (self.test_file is None))
        if (self.val_file is None or self.test_file is None) and not held:
            raise ValueError(
                f"{self.file}: {len(store)} frames leave none for validation and test with "
                f"data.init_args.held_out {self.held_out}; give data.init_args.val_file and test_file"
            )
        self._state(store, order[taken:], order[:0], order[:0])
        last = order[:taken]
        self.val_set, self.test_set = (
            self._of_file(name, last[:held] if first else last[-held:], store, turned)
            for name, first, turned in (
                (self.val_file, True, False),
                (self.test_file, False, self.rotate_test),
            )
        )
        say(
            f"{self.file}: {len(store):,} frames, {len(self.train_set):,} to train on, {len(self.val_set):,} "
            f"to validate, {len(self.test_set):,} to test; {self.unit}, {self.unit}/Angstrom"
        )

    def _of_file(self, name: str | None, rows: Any, store: Atoms, turned: bool) -> MoleculeItems:
        if name is not None:
            store = self._read(name)
            rows = np.arange(len(store))
        return MoleculeItems(store, rows, turned, _TURNED)

    def _read(self, name: str, labelled: bool = True) -> Atoms:
        path, keys = Path(name), (self.energy_key, self.forces_key)
        frames = list(read_frames(path, *keys))
        return stored(path, frames, self.file_unit, self.unit, labelled, keys)
