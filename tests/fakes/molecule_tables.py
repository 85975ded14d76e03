"""Tiny files in the layouts of MoleculeNet's releases, and a table as a user would bring one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from datamodules.molecules.table import SETS

RINGS = ("c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccoc1", "c1ccsc1", "C1CCNCC1", "c1ccc2ccccc2c1")
TAILS = ("", "C", "N", "C(=O)O")
CHAINS = ("CCO", "CCN", "[Na+].[Cl-]", "C", "CCCl")
MOLECULES = [f"{tail}{ring}" for ring in RINGS for tail in TAILS] + [*CHAINS]
MOLECULES += [f"{a}{b}" for a, b in itertools.combinations(RINGS, 2)]  # a scaffold each
_HEADS = {
    "esol": "Compound ID,ESOL predicted log solubility in mols per litre,smiles,{targets}",
    "freesolv": "iupac,smiles,{targets},calc",
    "lipophilicity": "CMPD_CHEMBLID,{targets},smiles",
    "bbbp": "num,name,{targets},smiles",
    "bace": "mol,CID,{targets},Model,pIC50",
    "bace_pic50": "mol,CID,Class,Model,{targets}",
    "tox21": "{targets},mol_id,smiles",
}


def fake_molecule_net(root: Path, name: str = "freesolv") -> None:
    """The file of a set with 54 molecules, a row that is none, and one missing label where labels are."""
    root.mkdir(parents=True, exist_ok=True)
    chosen = SETS[name]
    head = _HEADS[name].format(targets=",".join(chosen.targets)).split(",")
    lines = [",".join(head)]
    classes = chosen.task == "classification"
    for i, smiles in enumerate([*MOLECULES, "c1cccc1"]):
        cells = []
        for column in head:
            if column == chosen.smiles:
                cells.append(smiles)
            elif column in chosen.targets:
                place = chosen.targets.index(column)
                number = str((i + i // 2 + place) % 2) if classes else f"{len(smiles) / 3 - i % 4:.2f}"
                cells.append("" if classes and i == 5 and place else number)
            else:
                cells.append(("Train", "Train", "Valid", "Test")[i % 4] if column == "Model" else '"a, b"')
        lines.append(",".join(cells))
    (root / chosen.file).write_text("\n".join(lines) + "\n")


def fake_molecule_table(root: Path) -> Path:
    """``own.csv``: smiles, two numbers, a label and a set."""
    root.mkdir(parents=True, exist_ok=True)
    lines = ["smiles,a,b,label,set"]
    for i, smiles in enumerate([*MOLECULES, "CCO", "OCC", "CC(=O)[O-].[Na+]"]):
        part = ("train", "train", "val", "test")[i % 4]
        lines.append(f"{smiles},{len(smiles) / 3:.2f},{i % 5},{int('N' in smiles)},{part}")
    (root / "own.csv").write_text("\n".join(lines) + "\n")
    (root / "other.csv").write_text("\n".join([lines[0], *lines[5:]]) + "\n")
    (root / "new.csv").write_text("smiles\nCCCO\nCCCN\n")
    splits = [
        {"train": list(range(30)), "val": [31, 33, 34], "test": [35, 36, 37]},
        {"train": "0-20", "val": "21", "test": "22"},
    ]
    (root / "splits.json").write_text(json.dumps(splits))
    return root / "own.csv"


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_molecule_net(root, config["data"]["init_args"].get("name", "esol"))
    return {"data.init_args.batch_size": 8, "data.init_args.eval_batch_size": 16}


TWINS = {"datamodules.MoleculeNet": _twin}
WITHOUT_FILES = {
    "datamodules.MoleculeNet": lambda a: a.get("name", "esol") == "esol" and a.get("root") is None
}
