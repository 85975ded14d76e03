"""Frames of one molecule with energies and forces: MD17, rMD17, a user's npz, and ethanol that is bundled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.arrays import read_npz
from datamodules.loading.ranges import Many, ManyOrZero, Seed, Workers, check_ranges
from datamodules.loading.tables import numbers, read_rows
from datamodules.loading.variants import Uses, check_variants
from datamodules.molecules.atoms import Array, Atoms, AtomsModule, converted, parts_of

Set = Literal["ethanol_gfn2", "md17", "rmd17", "file"]
Unit = Literal["kcal/mol", "eV", "meV", "kJ/mol", "hartree"]
Split = Literal["random", "block", "official"]
_BUNDLED = Path(__file__).parent / "files" / "ethanol_gfn2.npz"
_KEYS = (("R", "E", "F", "z"), ("coords", "energies", "forces", "nuclear_charges"))
_SPLIT = 411


class MDTrajectory(AtomsModule):
    """Energies and forces along a trajectory; the batch is that of :class:`AtomsModule`.

    The bundled set are 2,000 frames of ethanol, 5 fs apart, at 500 K, computed with GFN2-xTB, a
    semi-empirical method: its numbers say how methods compare, not what a molecule's energy is.

    Args:
        set: ``ethanol_gfn2``, bundled; ``md17``: ``<root>/md17/md17_<molecule>.npz`` with R, E, F, z;
            ``rmd17``: ``<root>/rmd17/npz_data/rmd17_<molecule>.npz`` with coords, energies, forces,
            nuclear_charges; ``file``: any npz with the arrays of either.
        molecule: of ``md17`` and ``rmd17``.
        file: of ``file``.
        file_unit: of the energies of ``file``; forces are that per Angstrom. The others are in kcal/mol.
        unit: of batches.
        root: folder of the sets; default ``$ZOO_DATA/molecules``.
        train: frames.
        val: frames.
        test: frames; null is all that are left.
        split: ``random`` frames, as MD17's protocol; whole ``block`` s of frames, which frames of another
            part are not near to; ``official``: rmd17's ``splits/index_train_01.csv``, whose frames are
            divided into train and val, and ``index_test_01.csv``.
        split_seed: of the draw.
        split_number: of ``official``, 1 to 5.
        block: frames of a block.
        rotate_train: turn each training frame at random, another way in each epoch.
        rotate_test: turn each test frame at random, always the same way.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("unit", "set", "molecule")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "train",
        "val",
        "split",
        "split_seed",
        "split_number",
        "block",
    )
    of_variants: ClassVar[dict[str, Uses]] = {
        "set": {
            "molecule": ("md17", "rmd17"),
            "file": ("file",),
            "file_unit": ("file",),
            "root": ("md17", "rmd17"),
        },
        "split": {
            "split_number": ("official",),
            "block": ("block",),
        },
    }

    def __init__(
        self,
        set: Set = "ethanol_gfn2",
        molecule: str = "ethanol",
        file: str | None = None,
        file_unit: Unit = "kcal/mol",
        unit: Unit = "kcal/mol",
        root: str | None = None,
        train: Many = 950,
        val: ManyOrZero = 50,
        test: Many | None = None,
        split: Split = "random",
        split_seed: Seed = 0,
        split_number: Many = 1,
        block: Many = 100,
        rotate_train: bool = False,
        rotate_test: bool = False,
        batch_size: Many = 10,
        eval_batch_size: Many = 100,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(MDTrajectory, locals())
        super().__init__(rotate_train, rotate_test, batch_size, eval_batch_size, num_workers)
        for key, value, choices in (
            ("set", set, Set),
            ("unit", unit, Unit),
            ("file_unit", file_unit, Unit),
            ("split", split, Split),
        ):
            check_choice(key, value, choices)
        check_variants(MDTrajectory, locals())
        if (set == "file") != (file is not None):
            raise ValueError("data.init_args.set: file and data.init_args.file: PATH belong together")
        if split == "official" and set != "rmd17":
            raise ValueError("data.init_args.split: official are the lists of rmd17; choose random or block")
        if not molecule.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"data.init_args.molecule is {molecule!r}, which is no name of a molecule")
        self.set, self.molecule, self.file, self.file_unit, self.unit = set, molecule, file, file_unit, unit
        self.root = data_folder(root, "molecules")
        self.train, self.val, self.test = train, val, test
        self.split, self.split_seed, self.split_number, self.block = split, split_seed, split_number, block

    @property
    def path(self) -> Path:
        """Of the frames."""
        places = {
            "ethanol_gfn2": _BUNDLED,
            "md17": self.root / "md17" / f"md17_{self.molecule}.npz",
            "rmd17": self.root / "rmd17" / "npz_data" / f"rmd17_{self.molecule}.npz",
        }
        return Path(str(self.file)) if self.set == "file" else places[self.set]

    def setup(self, stage: str) -> None:
        store = self._read()
        self.facts = {"trajectory": self.path.name}
        self._state(store, *self._parts(len(store)))

    def _read(self) -> Atoms:
        path = self.path
        if not path.is_file():
            source = {"md17": "sgdml.org", "rmd17": "Christensen & von Lilienfeld's archive on figshare"}
            raise FileNotFoundError(
                f"no file {path}; {self.set} is taken from {source.get(self.set, 'the user')}, put it there"
            )
        content = read_npz(path)
        keys = next((k for k in _KEYS if {*k} <= {*content}), None)
        if keys is None:
            raise ValueError(
                f"{path} holds {', '.join(sorted(content)) or 'nothing'}; needed are the arrays "
                f"{', '.join(_KEYS[0])}, or {', '.join(_KEYS[1])}"
            )
        pos, energy, forces, z = (content[k] for k in keys)
        frames, atoms = pos.shape[0] if pos.ndim else 0, z.size
        wanted = {keys[0]: (frames, atoms, 3), keys[2]: (frames, atoms, 3), keys[3]: (atoms,)}
        for key, shape in wanted.items():
            if content[key].shape != shape or content[key].dtype.kind not in "iuf":
                raise ValueError(
                    f"{path}: {key} is {content[key].dtype} {content[key].shape}, expected {shape}"
                )
        if energy.size != frames or energy.dtype.kind not in "iuf":
            raise ValueError(f"{path}: {keys[1]} is {energy.dtype} {energy.shape}, expected ({frames}, 1)")
        if not frames:
            raise ValueError(f"{path} holds no frames")
        unit = self.file_unit if self.set == "file" else "kcal/mol"
        y = energy.reshape(-1).astype(np.float64)
        if not np.isfinite(y).all():
            raise ValueError(
                f"{path}: the energy of frame {np.flatnonzero(~np.isfinite(y))[0] + 1} is not finite"
            )
        scaled = converted(
            np.concatenate([y, forces.reshape(-1).astype(np.float64)]), unit, self.unit, str(path)
        )
        return Atoms(
            np.tile(z.astype(np.int64), frames),
            pos.reshape(-1, 3).astype(np.float32),
            np.arange(frames + 1) * atoms,
            scaled[:frames],
            scaled[frames:].reshape(-1, 3).astype(np.float32),
        ).check(path, "frame")

    def _parts(self, frames: int) -> tuple[Array, ...]:
        draw = np.random.default_rng((_SPLIT, self.split_seed))
        if self.split == "official":
            train, test = (self._listed(part, frames) for part in ("train", "test"))
            train = draw.permutation(train)
            if self.train + self.val > len(train):
                raise ValueError(
                    f"{self._list('train')} has {len(train):,} frames; data.init_args.train and val ask for "
                    f"{self.train:,} + {self.val:,}"
                )
            return train[: self.train], train[self.train : self.train + self.val], test[: self.test]
        if self.split == "random":
            return parts_of(frames, self.train, self.val, self.test, self.path, draw.permutation(frames))
        return self._blocks(frames, draw)

    def _blocks(self, frames: int, draw: Any) -> tuple[Array, ...]:
        """Each part begins with a block of its own; what is left of the last one belongs to nobody."""
        order = [np.arange(s, min(s + self.block, frames)) for s in range(0, frames, self.block)]
        blocks = [order[i] for i in draw.permutation(len(order))]
        found = []
        for wanted in (self.train, self.val, self.test):
            taken: list[Array] = []
            while blocks and (wanted is None or sum(map(len, taken)) < wanted):
                taken.append(blocks.pop(0))
            rows = np.concatenate(taken) if taken else np.empty(0, np.int64)
            if len(rows) < (1 if wanted is None else wanted):
                raise ValueError(
                    f"{self.path} holds {frames:,} frames in {len(order)} blocks of {self.block}; "
                    "data.init_args.train, val and test ask for more whole blocks than there are"
                )
            found.append(rows[:wanted])
        return tuple(found)

    def _list(self, part: str) -> Path:
        return self.root / "rmd17" / "splits" / f"index_{part}_{self.split_number:02d}.csv"

    def _listed(self, part: str, frames: int) -> Array:
        path = self._list(part)
        rows = numbers(path, read_rows(path), whole=True, width=1)[:, 0]
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= frames or len({*rows.tolist()}) < len(rows):
            raise ValueError(f"{path} must list different frames from 0 to {frames - 1}")
        return rows
