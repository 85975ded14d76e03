"""Tables of molecules with properties: MoleculeNet's, and any other with a column of SMILES."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import BatchItems
from datamodules.loading.ranges import CountOrZero, Many, Part, Rate, Seed, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.molecules.smiles import Salts
from datamodules.molecules.splits import (
    PARTS,
    Parts,
    balanced_split,
    calibration_split,
    column_split,
    random_split,
    read_splits,
    scaffold_groups,
    scaffold_split,
    write_splits,
)
from datamodules.molecules.tables import MoleculeRows, Task, read_molecules, read_smiles_file
from datamodules.text.same_texts import SameTexts

Array = np.ndarray[Any, Any]
Split = Literal["random", "scaffold", "balanced", "column", "file"]
FILES = Path(__file__).parent / "files"
_DRAWN = ("random", "scaffold", "balanced")


class MoleculeItems(BatchItems):
    """Molecules by their SMILES, with targets.

    Args:
        smiles: canonical ones.
        target: float64 (N, T), NaN where nothing is known.
        index: what each is called in the batch, (N,).
    """

    def __init__(self, smiles: Sequence[str], target: Array, index: Sequence[int]) -> None:
        self.smiles, self.target, self.index = list(smiles), target, np.array(index, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.smiles)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        _, index = batch_keys(keys)
        return {
            "smiles": [self.smiles[i] for i in index.tolist()],
            "target": torch.from_numpy(self.target[index]),
            "index": torch.from_numpy(self.index[index]),
        }


def merged(rows: MoleculeRows, task: Task, where: str) -> tuple[list[str], Array, list[list[int]]]:
    """Each molecule once: its SMILES, its target and where it stands among ``rows``.

    Numbers are averaged; a molecule whose class labels disagree is left out, and told.

    Raises:
        ValueError: if nothing is left.
    """
    places: dict[str, list[int]] = {}
    for i, text in enumerate(rows.smiles):
        places.setdefault(text, []).append(i)
    smiles: list[str] = []
    targets: list[Array] = []
    kept: list[list[int]] = []
    conflicts: list[int] = []
    for text, group in places.items():
        values = rows.target[group]
        known = ~np.isnan(values)
        total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        if task == "classification" and ((mean > 0) & (mean < 1)).any():
            conflicts += group
            continue
        smiles.append(text)
        targets.append(mean)
        kept.append(group)
    repeated = sum(len(group) - 1 for group in kept)
    if repeated:
        how = "labels agree" if task == "classification" else "targets averaged"
        say(f"{where}: {repeated:,} rows repeat a molecule, {how}: {len(kept):,} molecules")
    if conflicts:
        first = rows.lines[conflicts[0]]
        say(f"{where}: {len(conflicts):,} rows skipped, one molecule with labels 0 and 1: first line {first}")
    if not kept:
        raise ValueError(f"{where}: no molecule has labels that agree")
    return smiles, np.stack(targets), kept


class MoleculeTable(SameTexts):
    """Any table with a column of SMILES and columns of targets.

    Batch: ``smiles``, a list of B canonical SMILES; ``target`` float64 (B, T), NaN where nothing was
    measured; ``index`` int64 (B,), the number of the molecule, in prediction of a file its line. No other
    column of the table is read.

    Rows whose SMILES is empty or cannot be read, with a dummy atom or without any target are skipped, and
    their number and first line are told. Atom maps are taken off; isotopes, charges and metals stay. A
    molecule that stands more than once is one, with the mean of its numbers, before anything is split; one
    whose class labels disagree is left out. A cell that is no number stops with its line and column.

    The split, in three parts of ``fractions``, is ``random``, ``scaffold`` (DeepChem's rule, which draws
    nothing), ``balanced`` (chemprop's balanced scaffolds), by a ``column`` of the words train, val and test,
    or by a ``file``, chemprop's ``splits.json``. A molecule whose rows lie in several parts of a column or
    file goes to the last of train, val, test.

    Attributes:
        targets: names of the target columns.
        task: regression or classification.
        train_smiles: molecules of the training, for standardisation and nearest neighbours.
        train_target: float64 (N, T), their targets.
        all_smiles: molecules of all parts in the order of the table, for caches of what does not learn.
        calibration_set: items that no gradient and no choice of a checkpoint sees, or None.

    Args:
        table: the csv file, whose first line names its columns.
        targets: columns to predict; null is the only one beside ``smiles``.
        smiles: the column of SMILES.
        task: ``regression``, or ``classification`` with the labels 0 and 1.
        salts: of a SMILES with several fragments ``keep`` all, read the ``largest``, or ``skip`` the row.
        split: see above.
        split_seed: of the random and the balanced split, and of the calibration share.
        fractions: of train, val and test.
        split_column: of the words train, val and test.
        split_file: chemprop's ``splits.json``, whose rows are counted from 0 without the header.
        split_number: which split of the file.
        calibration: share of the training molecules that is held out to calibrate intervals.
        save_splits: file to write the split to, in chemprop's layout.
        predict_file: what to predict: a csv with the column of SMILES, or a ``.smi`` file; null is the test
            set.
        batch_size: global training batch, over all devices; the last partial batch of an epoch is dropped.
        eval_batch_size: of validation, test and prediction.
        num_workers: loader processes; the data are in memory, so 0 is fastest.

    Raises:
        FileNotFoundError, ValueError: for impossible settings or files, one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("targets", "task", "salts")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "split",
        "split_seed",
        "fractions",
        "split_column",
        "split_file",
        "split_number",
        "calibration",
    )
    items_are: ClassVar[str] = "molecules"
    of_variants: ClassVar[dict[str, Uses]] = {
        "split": {
            "split_seed": {"split": ("random", "balanced"), "calibration": "above 0"},
            "fractions": _DRAWN,
            "split_column": ("column",),
            "split_file": ("file",),
            "split_number": ("file",),
        }
    }

    def __init__(
        self,
        table: str = "molecules.csv",
        targets: list[str] | None = None,
        smiles: str = "smiles",
        task: Task = "regression",
        salts: Salts = "keep",
        split: Split = "random",
        split_seed: Seed = 0,
        fractions: tuple[Part, Part, Part] = (0.8, 0.1, 0.1),
        split_column: str | None = None,
        split_file: str | None = None,
        split_number: CountOrZero = 0,
        calibration: Rate = 0.0,
        save_splits: str | None = None,
        predict_file: str | None = None,
        batch_size: Many = 50,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(MoleculeTable, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        for key, value, choices in (("task", task, Task), ("salts", salts, Salts), ("split", split, Split)):
            check_choice(key, value, choices)
        check_variants(MoleculeTable, locals())
        if len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"data.init_args.fractions must be three numbers that sum to 1, got {list(fractions)}"
            )
        if split == "column" and split_column is None and type(self) is MoleculeTable:
            raise ValueError("data.init_args.split is column: name it with data.init_args.split_column")
        if split == "file" and split_file is None:
            raise ValueError("data.init_args.split is file: name it with data.init_args.split_file")
        self.table, self.smiles_column, self.salts, self.task = Path(table), smiles, salts, task
        self.targets = None if targets is None else list(targets)
        self.split, self.split_seed, self.fractions = split, split_seed, tuple(fractions)
        self.split_column, self.split_file, self.split_number = split_column, split_file, split_number
        self.calibration, self.save_splits, self.predict_file = calibration, save_splits, predict_file
        self.calibration_set: MoleculeItems | None = None
        self.facts: dict[str, Any] = {}

    def learned(self) -> Iterable[Sequence[str]]:
        """Molecules and targets to train on."""
        rows = zip(self.train_smiles, self.train_target.tolist(), strict=True)
        return ((smiles, *map(repr, target)) for smiles, target in rows)

    def setup(self, stage: str) -> None:
        column = self.split_column if self.split == "column" else None
        rows, names = read_molecules(
            self.table, self.smiles_column, self.targets, self.task, self.salts, column
        )
        smiles, target, places = merged(rows, self.task, self.table.name)
        self.targets, self.facts = names, {"targets": names, "task": self.task}
        parts = self._parts(rows, smiles, places)
        for name in PARTS:
            if not parts[name]:
                drawn = "other data.init_args.fractions or " * (self.split in _DRAWN)
                raise ValueError(
                    f"{self.table}: split {self.split} leaves no molecule of {len(smiles)} for {name}; "
                    f"choose {drawn}another data.init_args.split"
                )
        say(
            f"{self.table.name}: {len(smiles):,} molecules, split {self.split}: "
            + ", ".join(f"{len(parts[name]):,} {name}" for name in PARTS)
        )
        if self.save_splits is not None:
            written = {name: [rows.rows[i] for p in parts[name] for i in places[p]] for name in PARTS}
            try:
                write_splits(Path(self.save_splits), written)
            except OSError as error:
                raise ValueError(
                    f"data.init_args.save_splits: {self.save_splits} cannot be written ({error.strerror})"
                ) from None
        train, held = parts["train"], list[int]()
        if self.calibration:
            train, held = calibration_split(train, self.calibration, self.split_seed)
            if not held or not train:
                raise ValueError(
                    f"data.init_args.calibration is {self.calibration} of {len(parts['train'])} molecules, "
                    "which leaves none to calibrate or none to train on"
                )

        def items(part: Sequence[int]) -> MoleculeItems:
            return MoleculeItems([smiles[i] for i in part], target[list(part)], list(part))

        self.train_set, self.val_set, self.test_set = items(train), items(parts["val"]), items(parts["test"])
        self.train_smiles, self.train_target = self.train_set.smiles, self.train_set.target
        self.all_smiles = smiles
        if held:
            self.calibration_set = items(held)
            self.val_set = [self.val_set, self.calibration_set]
        if stage == "predict" and self.predict_file is not None:
            lines, texts = read_smiles_file(Path(self.predict_file), self.smiles_column, self.salts)
            unknown = np.full((len(texts), len(names)), np.nan)
            self.predict_set = MoleculeItems(texts, unknown, lines)

    def _parts(self, rows: MoleculeRows, smiles: Sequence[str], places: Sequence[Sequence[int]]) -> Parts:
        if self.split == "random":
            return random_split(len(smiles), self.fractions, self.split_seed)
        if self.split == "scaffold":
            return scaffold_split(scaffold_groups(smiles), self.fractions)
        if self.split == "balanced":
            return balanced_split(scaffold_groups(smiles), self.fractions, self.split_seed)
        if self.split == "column":
            by_row = column_split(rows.cells, rows.lines, f"{self.table}, column {self.split_column!r}")
            of_row = {i: name for name in PARTS for i in by_row[name]}
        else:
            assert self.split_file is not None
            read = read_splits(Path(self.split_file), self.split_number, rows.count)
            of_file = {row: name for name in PARTS for row in read[name]}
            of_row = {i: of_file[row] for i, row in enumerate(rows.rows) if row in of_file}
        parts: Parts = {name: [] for name in PARTS}
        several = 0
        for molecule, group in enumerate(places):
            found = {of_row[i] for i in group if i in of_row}
            several += len(found) > 1
            if found:
                parts[max(found, key=PARTS.index)].append(molecule)
        if several:
            say(f"{self.table.name}: {several:,} molecules stand in several sets and go to the last of them")
        if out := len(smiles) - sum(map(len, parts.values())):
            say(f"{self.table.name}: {out:,} of {len(smiles):,} molecules are in no set of {self.split_file}")
        return parts


class Preset(NamedTuple):
    """A set of MoleculeNet: its file, columns and task."""

    file: str
    smiles: str
    targets: tuple[str, ...]
    task: Task
    split_column: str | None = None


_TOX21 = (
    *("NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma"),
    *("SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"),
)
SETS: dict[str, Preset] = {
    "esol": Preset(
        "delaney-processed.csv",
        "smiles",
        ("measured log solubility in mols per litre",),
        "regression",
    ),
    "freesolv": Preset("SAMPL.csv", "smiles", ("expt",), "regression"),
    "lipophilicity": Preset("Lipophilicity.csv", "smiles", ("exp",), "regression"),
    "bbbp": Preset("BBBP.csv", "smiles", ("p_np",), "classification"),
    "bace": Preset("bace.csv", "mol", ("Class",), "classification", "Model"),
    "bace_pic50": Preset("bace.csv", "mol", ("pIC50",), "regression", "Model"),
    "tox21": Preset("tox21.csv", "smiles", _TOX21, "classification"),
}
SetName = Literal["esol", "freesolv", "lipophilicity", "bbbp", "bace", "bace_pic50", "tox21"]


class MoleculeNet(MoleculeTable):
    """A set of MoleculeNet (Wu et al. 2018) in the files of its release; ESOL is bundled.

    Batch, rules and the other arguments are those of :class:`MoleculeTable`. Of the files only the SMILES and
    the targets are read: ESOL's column of predicted solubilities and BACE's descriptors are no features.

    Args:
        name: ``esol``, ``freesolv``, ``lipophilicity``, ``bbbp``, ``bace`` (its classes; ``bace_pic50`` its
            numbers) or ``tox21``.
        root: folder of the files; null is ``$ZOO_DATA/molecules`` or ``data/molecules``, and ESOL's is in the
            package.
        split: ``column`` is the official split, which BACE has.

    Raises:
        FileNotFoundError, ValueError: likewise.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("name", "salts")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "split",
        "split_seed",
        "fractions",
        "split_file",
        "split_number",
        "calibration",
    )
    of_variants: ClassVar[dict[str, Uses]] = {
        "split": {k: v for k, v in MoleculeTable.of_variants["split"].items() if k != "split_column"}
    }

    def __init__(
        self,
        name: SetName = "esol",
        root: str | None = None,
        salts: Salts = "keep",
        split: Split = "random",
        split_seed: Seed = 0,
        fractions: tuple[Part, Part, Part] = (0.8, 0.1, 0.1),
        split_file: str | None = None,
        split_number: CountOrZero = 0,
        calibration: Rate = 0.0,
        save_splits: str | None = None,
        predict_file: str | None = None,
        batch_size: Many = 50,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(MoleculeNet, locals())
        check_choice("name", name, SetName)
        given = {k: v for k, v in locals().items() if k not in ("self", "name", "root", "__class__")}
        chosen = SETS[name]
        bundled = root is None and (FILES / chosen.file).is_file()
        path = (FILES if bundled else data_folder(root, "molecules")) / chosen.file
        super().__init__(
            str(path), list(chosen.targets), chosen.smiles, chosen.task, split_column=None, **given
        )
        self.set_name = name
        if split == "column":
            if chosen.split_column is None:
                raise ValueError(
                    f"data.init_args.split is column, but {name} has no official split (bace has); choose "
                    "random, scaffold, balanced or file"
                )
            self.split_column = chosen.split_column

    def setup(self, stage: str) -> None:
        if not self.table.is_file():
            where = "$ZOO_DATA/molecules" if "ZOO_DATA" in os.environ else "data/molecules"
            raise FileNotFoundError(
                f"no file {self.table}: {self.table.name} is MoleculeNet's file of {self.set_name} "
                f"(DeepChem's and PyG's raw file); put it there, or set data.init_args.root (now {where})"
            )
        super().setup(stage)
