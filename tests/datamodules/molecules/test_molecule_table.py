"""What is read of a table of molecules, what is left out, and how it is split."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datamodules
from datamodules.molecules.splits import balanced_split, read_splits, scaffold, scaffold_split
from datamodules.molecules.table import MoleculeItems
from datamodules.molecules.tables import read_smiles_file

ROWS = """smiles,y,comment
CCO,1.0,"a, quoted"
OCC,3.0,the same molecule
CCN,,nothing measured
,2,empty
c1cccc1,2,no molecule
[CH3:1][OH:2],5,atom map
c1ccccc1,-1,
CCCC,NA,missing
CCC,0.5,
CCCCl,0.25,
"""


def table(folder: Path, text: str = ROWS, **given: Any) -> datamodules.MoleculeTable:
    (folder / "own.csv").write_text(text)
    arguments = {"targets": ["y"], "fractions": (0.4, 0.3, 0.3), "batch_size": 2, **given}
    return datamodules.MoleculeTable(str(folder / "own.csv"), **arguments)


def molecules(data: datamodules.MoleculeTable) -> dict[str, float]:
    sets = (data.train_set, data.val_set, data.test_set)
    return {s: float(y[0]) for part in sets for s, y in zip(part.smiles, part.target, strict=True)}


def test_rows_are_read_left_out_and_merged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = table(tmp_path)
    data.setup("fit")
    assert molecules(data) == {"CCO": 2.0, "CO": 5.0, "c1ccccc1": -1.0, "CCC": 0.5, "CCCCl": 0.25}
    assert capfd.readouterr().out.splitlines() == [
        "zoo: own.csv: 1 row skipped, empty SMILES: first line 5, ''",
        "zoo: own.csv: 1 row skipped, no SMILES that rdkit can read: first line 6, 'c1cccc1'",
        "zoo: own.csv: 2 rows skipped, nothing measured: first line 4, 'CCN'",
        "zoo: own.csv: 1 rows repeat a molecule, targets averaged: 5 molecules",
        "zoo: own.csv: 5 molecules, split random: 2 train, 1 val, 2 test",
    ]


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("smiles,y\nCCO,high\n", {}, r"own.csv, line 2, column 'y': 'high' is not a number"),
        ("smiles,y\nCCO,1e30\n", {}, r"line 2, column 'y': '1e30' is not a number up to 1e\+15;"),
        ("", {}, r"own.csv is empty; its first line must name columns, 'smiles' among them"),
        ("smiles;y\nCCO;1\n", {}, r"it has 'smiles;y'; columns must be separated by commas"),
        ("smiles,y\nCCO,inf\n", {}, r"line 2, column 'y': 'inf' is not a number"),
        ("smiles,y\nCCO,2\n", {"task": "classification"}, r"line 2, column 'y': '2' is not 0 or 1"),
        ("smiles,y\nCCO\n", {}, r"own.csv, line 2: 1 cells, its first line has 2"),
        ("smi,y\nCCO,1\n", {}, r"has no column 'smiles' \(data.init_args.smiles\); it has 'smi, y'"),
        ("smiles,y,z\nC,1,2\n", {"targets": None}, r"say with data.init_args.targets"),
        ("smiles,y\nC,\n", {}, r"none of its 1 rows holds a molecule with a target"),
        ("smiles,y\nC,1\nC,0\n", {"task": "classification"}, r"no molecule has labels that agree"),
        ("smiles,y\nC,1\nCC,0\n", {"split": "scaffold"}, r"split scaffold leaves no molecule of 2 for"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, text: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        table(tmp_path, text, **given).setup("fit")
    assert "\n" not in str(error.value)


def test_targets_near_to_each_other_keep_their_digits() -> None:
    values = [-97195.001, -97195.002, 1000000001.5]
    items = MoleculeItems(["C", "CC", "CCC"], np.array(values)[:, None], [0, 1, 2])
    assert items.__getitems__([0, 1, 2])["target"][:, 0].tolist() == values


def test_a_target_is_called_as_the_user_calls_it(tmp_path: Path) -> None:
    data = table(tmp_path, "SMILES,Activity\nC,1\nCC,2\nCCC,3\nCCCC,4\nN,2\n", targets=["activity"])
    data.setup("fit")
    assert data.facts["targets"] == ["activity"]


def test_molecules_in_no_set_of_a_file_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.json").write_text('[{"train": [0], "val": [1], "test": [2]}]')
    text = "smiles,y\nC,1\nCC,2\nCCC,3\nCCCC,4\nN,2\n"
    given = {"split": "file", "fractions": (0.8, 0.1, 0.1), "split_file": str(tmp_path / "s.json")}
    table(tmp_path, text, **given).setup("fit")
    assert f"own.csv: 2 of 5 molecules are in no set of {tmp_path / 's.json'}" in capfd.readouterr().out


def test_a_split_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    text = "smiles,y\nC,1\nCC,2\nCCC,3\nCCCC,4\nN,2\n"
    with pytest.raises(ValueError, match=r"save_splits: /proc/nope.json cannot be written"):
        table(tmp_path, text, save_splits="/proc/nope.json").setup("fit")


def test_gzipped_smiles_are_predicted(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "new.smi.gz", "wt") as file:
        file.write("CCO ethanol\nOCC\n")
    assert read_smiles_file(tmp_path / "new.smi.gz", "smiles") == ([1, 2], ["CCO", "CCO"])


def test_labels_that_disagree_leave_a_molecule_out(tmp_path: Path) -> None:
    text = "smiles,a,b\nCO,1,\nOC,,1\nCCO,1,0\nOCC,1,1\nCC,0,0\nCN,true,False\nCCC,1,1\nCCCC,0,0\n"
    data = table(tmp_path, text, targets=["a", "b"], task="classification")
    data.setup("fit")
    sets = (data.train_set, data.val_set, data.test_set)
    found = {s: y.tolist() for part in sets for s, y in zip(part.smiles, part.target, strict=True)}
    assert "CCO" not in found  # b is 0 and 1
    assert found["CO"] == [1.0, 1.0]  # each label stands in another row
    assert found["CN"] == [1.0, 0.0]


def test_no_other_column_is_read_of_esol(tmp_path: Path) -> None:
    """The column of predicted solubilities would be a leak."""
    data = datamodules.MoleculeNet("esol", batch_size=50)
    data.setup("fit")
    text = data.table.read_text().splitlines()
    place = text[0].split(",").index("ESOL predicted log solubility in mols per litre")
    changed = [text[0]]
    for line in text[1:]:
        cells = line.rsplit(",", 9 - place)  # names hold commas; the columns behind do not
        changed.append(",".join([cells[0], "9", *cells[2:]]))
    (tmp_path / data.table.name).write_text("\n".join(changed))
    other = datamodules.MoleculeNet("esol", str(tmp_path), batch_size=50)
    other.setup("fit")
    assert other.train_smiles == data.train_smiles
    assert (other.train_target == data.train_target).all()
    assert len(data.train_smiles) == 893
    assert set(data.train_set[0]) == {"smiles", "target", "index"}


def test_scaffolds() -> None:
    assert scaffold("CC(C)C") == ""
    assert scaffold("C[C@H](c1ccccc1)N") == "c1ccccc1"
    assert scaffold("O=C(Nc1ccccc1)C1CCCC1") == "O=C(Nc1ccccc1)C1CCCC1"


def test_deepchems_rule_puts_the_largest_groups_into_train() -> None:
    groups = [[0], [1, 2, 3], [4, 5], [6, 7], [8], [9]]
    parts = scaffold_split(groups, (0.8, 0.1, 0.1))
    # sizes 3, 2 (first molecule 6), 2 (4) fill 7; then the single ones, last first
    assert parts == {"train": [1, 2, 3, 6, 7, 4, 5, 9], "val": [8], "test": [0]}


def test_balanced_scaffolds_keep_groups_whole_and_follow_the_seed() -> None:
    groups = [list(range(i, i + 1 + i % 3)) for i in range(0, 300, 3)]
    count = sum(map(len, groups))
    found = [balanced_split(groups, (0.8, 0.1, 0.1), seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for parts in found:
        assert sorted(i for part in parts.values() for i in part) == sorted(i for g in groups for i in g)
        assert len(parts["train"]) <= 0.8 * count
        assert len(parts["val"]) <= 0.1 * count
        for group in groups:
            assert sum(set(group) <= set(part) for part in parts.values()) == 1
    large = balanced_split([[0], [1], list(range(2, 10))], (0.8, 0.1, 0.1), 0)
    assert large["train"] == list(range(2, 10))  # large groups come first, whatever the seed


def test_the_split_of_a_file_is_chemprops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = table(tmp_path, save_splits=str(tmp_path / "saved.json"), split_seed=3)
    data.setup("fit")
    again = table(tmp_path, split="file", split_file=str(tmp_path / "saved.json"), fractions=(0.8, 0.1, 0.1))
    again.setup("fit")
    for name in ("train_set", "val_set", "test_set"):
        assert sorted(getattr(again, name).smiles) == sorted(getattr(data, name).smiles)
    # rows 0 and 1 are one molecule: it goes to the last set that has it
    split = [{"train": "0,5-6", "val": [8], "test": [1, 9]}]
    (tmp_path / "splits.json").write_text(json.dumps(split))
    other = table(tmp_path, split="file", split_file=str(tmp_path / "splits.json"), fractions=(0.8, 0.1, 0.1))
    other.setup("fit")
    assert sorted(other.train_smiles) == ["CO", "c1ccccc1"]
    assert sorted(other.test_set.smiles) == ["CCCCl", "CCO"]
    assert "1 molecules stand in several sets" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "it is no list of splits"),
        ('[{"train": [0], "val": [1]}]', "a split must have train, val, test"),
        ('[{"train": [0], "val": [1], "test": [10]}]', "whole numbers from 0 to 9"),
        ('[{"train": [0], "val": [0], "test": [2]}]', "a row stands in it twice"),
        ('[{"train": "0-99999999999", "val": [0], "test": [2]}]', "are no rows of the table"),
        ("[", "holds no split"),
    ],
)
def test_a_damaged_split_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_splits(tmp_path / "s.json", 0, 10)


def test_a_column_splits(tmp_path: Path) -> None:
    text = "smiles,y,set\nC,1,Train\nCC,2,Valid\nCCC,3,Test\nCCCC,4,train\n"
    data = table(tmp_path, text, split="column", split_column="set", fractions=(0.8, 0.1, 0.1))
    data.setup("fit")
    assert [data.train_smiles, data.val_set.smiles, data.test_set.smiles] == [["C", "CCCC"], ["CC"], ["CCC"]]
    wrong = table(
        tmp_path,
        text.replace("Test", "hold"),
        split="column",
        split_column="set",
        fractions=(0.8, 0.1, 0.1),
    )
    with pytest.raises(
        ValueError, match=r"'set', line 4: 'hold' is no set; a cell must be train, val or test"
    ):
        wrong.setup("fit")


def test_calibration_molecules_are_taken_from_the_training() -> None:
    data = datamodules.MoleculeNet("esol", calibration=0.1)
    data.setup("fit")
    assert data.calibration_set is not None
    assert (len(data.train_set), len(data.calibration_set)) == (804, 89)
    whole = datamodules.MoleculeNet("esol")
    whole.setup("fit")
    assert set(data.train_smiles) | set(data.calibration_set.smiles) == set(whole.train_smiles)
    assert data.test_set.smiles == whole.test_set.smiles
    assert len(data.val_dataloader()) == 2


@pytest.mark.parametrize("name", ["own.csv", "own.smi"])
def test_a_file_to_predict_names_its_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(
        {"own.csv": "id,smiles\n1,CCO\n2,bad\n3,CN\n", "own.smi": "CCO one\n\nCN\n"}[name]
    )
    data = datamodules.MoleculeNet("esol", predict_file=str(tmp_path / name))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["smiles"] == ["CCO", "CN"]
    assert batch["index"].tolist() == ([2, 4] if name == "own.csv" else [1, 3])
    assert np.isnan(batch["target"]).all()


@pytest.mark.slow
@pytest.mark.skipif("ZOO_DATA" not in os.environ, reason="needs the sets of MoleculeNet in ZOO_DATA")
@pytest.mark.parametrize(
    ("name", "unique", "parts"),
    [("freesolv", 642, (513, 64, 65)), ("bbbp", 1965, (1572, 196, 197)), ("bace", 1513, (1210, 151, 152))],
)
def test_sizes_of_the_released_sets(name: Any, unique: int, parts: tuple[int, ...]) -> None:
    """513/64/65 by DeepChem's rule; BBBP has 1,975 molecules, of which 10 have both labels."""
    data = datamodules.MoleculeNet(name, split="scaffold")
    data.setup("fit")
    sizes = tuple(len(s) for s in (data.train_set, data.val_set, data.test_set))
    assert sizes == parts
    assert sum(sizes) == unique
