from pathlib import Path

import pytest

import datamodules.molecules.chemistry
import zoo.molecules.chemistry
from datamodules.molecules.chemistry import chem
from datamodules.molecules.smiles import Unreadable, canonical, molecule_of, read_smiles, without_maps


def test_both_sides_of_the_door_have_one_guard() -> None:
    ours, theirs = (
        Path(m.__file__).read_text() for m in (zoo.molecules.chemistry, datamodules.molecules.chemistry)
    )
    assert ours == theirs


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    message = r"^rdkit is not installed; install the extra: pip install 'lightning-zoo\[chem\]'$"
    with pytest.raises(ImportError, match=message):
        chem()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OCC", "CCO"),
        ("[CH3:7][CH2:1][OH:2]", "CCO"),  # atom maps leak the answer of a reaction and split scaffolds
        ("[13CH4]", "[13CH4]"),
        ("C[N+](C)(C)C", "C[N+](C)(C)C"),
        ("[Na+].[Cl-]", "[Cl-].[Na+]"),
        ("C[Hg]C", "[CH3][Hg][CH3]"),
        ("N[C@@H](C)C(=O)O", "C[C@H](N)C(=O)O"),
    ],
)
def test_names_of_molecules(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["", "   ", "c1cccc1", "C1CCC", "hello", "C*", "C" * 5000])
def test_what_is_no_molecule(text: str) -> None:
    with pytest.raises(Unreadable):
        canonical(text)


def test_a_salt_is_kept_reduced_or_left_out() -> None:
    salt = "CC(=O)[O-].[Na+]"
    assert canonical(salt) == salt
    assert canonical(salt, "largest") == "CC(=O)[O-]"
    assert canonical("[2H]C([2H])([2H])[2H].CCO", "largest") == "CCO"  # heavy atoms count first
    with pytest.raises(Unreadable, match="several fragments"):
        canonical(salt, "skip")


def test_an_atom_without_its_map_has_hydrogens_of_its_own() -> None:
    found = without_maps(molecule_of("[CH3:7][CH2:1][OH:2]"))
    assert [(a.GetAtomMapNum(), a.GetNoImplicit()) for a in found.GetAtoms()] == [(0, False)] * 3


def test_rows_left_out_are_told_with_count_and_first_line(capfd: pytest.CaptureFixture[str]) -> None:
    rows = read_smiles([(2, "CCO"), (3, ""), (4, "c1cccc1"), (5, "C1CCC"), (6, "[Na+].[Cl-]")])
    assert (rows.rows, rows.smiles) == ([2, 6], ["CCO", "[Cl-].[Na+]"])
    rows.tell("own.csv")
    out, error = capfd.readouterr()
    assert error == ""  # rdkit's own log is silent
    assert out.splitlines() == [
        "zoo: own.csv: 1 row skipped, empty SMILES: first line 3, ''",
        "zoo: own.csv: 2 rows skipped, no SMILES that rdkit can read: first line 4, 'c1cccc1'",
        "zoo: own.csv: 1 molecule of several fragments (salts, mixtures) kept whole",
    ]
