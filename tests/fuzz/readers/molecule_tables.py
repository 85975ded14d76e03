"""Tables of molecules, files to predict and splits through the data module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fakes.molecule_tables import MOLECULES, fake_molecule_table
from fuzz.forked import Reader

from datamodules import MoleculeTable
from datamodules.molecules.splits import read_splits
from datamodules.molecules.tables import read_smiles_file


def read_table(path: Path) -> Any:
    data = MoleculeTable(str(path), ["a", "b"], split="column", split_column="set", batch_size=2)
    data.setup("fit")
    return [s.target for s in (data.train_set, data.val_set, data.test_set)]


def write_smi(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new.smi").write_text("\n".join(f"{s} name" for s in MOLECULES) + "\n")
    return folder / "new.smi"


def write_split(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits.json").write_text(
        json.dumps([{"train": list(range(40)), "val": "40-44", "test": [45, 46]}])
    )
    return folder / "splits.json"


READERS = [
    Reader("a table of molecules", fake_molecule_table, read_table),
    Reader("SMILES to predict", write_smi, lambda path: read_smiles_file(path, "smiles")[0]),
    Reader("chemprop's splits.json", write_split, lambda path: read_splits(path, 0, 50)),
]
