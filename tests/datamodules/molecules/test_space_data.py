"""Molecules in space as they are released and as a user has them: units, splits, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.molecules_space import (
    fake_md17,
    fake_qm9,
    fake_qm9pack,
    fake_rmd17,
    fake_subset,
    fake_xyz,
    frames,
    molecules,
)

import datamodules
from datamodules.molecules.qm9 import TARGETS, UNITS, _uncharacterized, references_of


def set_up(data: Any, stage: str = "fit") -> Any:
    data.prepare_data()
    data.setup(stage)
    return data


def rows_of(data: Any) -> list[list[int]]:
    return [np.asarray(s.rows).tolist() for s in (data.train_set, data.val_set, data.test_set)]


def test_the_bundled_frames_are_the_computed_ones() -> None:
    data = set_up(datamodules.MDTrajectory())
    batch = data.train_set.__getitems__([(0, 0), (0, 5)])
    assert batch["z"].tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1] * 2
    assert batch["batch"].tolist() == [0] * 9 + [1] * 9
    assert batch["y"].dtype == torch.float64
    assert data.train_set.store.y.std() == pytest.approx(5.47, abs=0.01)
    assert np.sqrt(np.square(data.train_set.store.forces).mean()) == pytest.approx(28.1, abs=0.1)
    assert (data.atoms, data.unit, data.target) == (9, "kcal/mol", "energy")
    train, val, test = rows_of(data)
    assert sorted(train + val + test) == list(range(2000))
    assert (len(train), len(val)) == (950, 50)


def test_blocks_share_no_neighbouring_frames() -> None:
    data = set_up(datamodules.MDTrajectory(split="block", block=100, train=450, val=50, test=300))
    parts = [{r // 100 for r in rows} for rows in rows_of(data)]
    assert parts[0].isdisjoint(parts[1])
    assert parts[0].isdisjoint(parts[2])
    assert parts[1].isdisjoint(parts[2])
    assert [len(r) for r in rows_of(data)] == [450, 50, 300]
    with pytest.raises(ValueError, match="2,000 frames in 20 blocks"):
        set_up(datamodules.MDTrajectory(split="block", train=1950, val=50))


def test_rotations_turn_coordinates_and_forces_alike_and_go_by_epoch_in_training_alone() -> None:
    plain = set_up(datamodules.MDTrajectory())
    turned = set_up(datamodules.MDTrajectory(rotate_train=True, rotate_test=True))
    keys = [(0, 3), (1, 3), (0, 4)]
    before, after = plain.train_set.__getitems__(keys), turned.train_set.__getitems__(keys)
    assert not torch.allclose(after["pos"][:9], after["pos"][9:18], atol=0.1)  # of two epochs
    for m in range(3):
        own = slice(9 * m, 9 * m + 9)
        r, s = (b["pos"][own].double() - b["pos"][own].double().mean(dim=0) for b in (before, after))
        u, _, v = torch.linalg.svd(s.T @ r)
        rotation = u @ v
        assert float(torch.linalg.det(rotation)) == pytest.approx(1)
        assert torch.allclose(r @ rotation.T, s, atol=1e-5)
        assert torch.allclose(
            before["forces"][own].double() @ rotation.T, after["forces"][own].double(), atol=1e-3
        )
    once, again = turned.test_set.__getitems__([7]), turned.test_set.__getitems__([7, 1])
    assert torch.equal(once["pos"], again["pos"][:9])
    assert not torch.allclose(once["pos"], plain.test_set.__getitems__([7])["pos"], atol=0.1)


def test_md17_and_rmd17_are_read_as_released(tmp_path: Path) -> None:
    fake_md17(tmp_path)
    fake_rmd17(tmp_path)
    r, e, f, z = frames(60, 9)
    given: dict[str, Any] = {"root": str(tmp_path), "train": 20, "val": 10}
    for name in ("md17", "rmd17"):
        data = set_up(datamodules.MDTrajectory(set=name, split_seed=3, **given))
        batch = data.test_set[2]
        row = int(batch["index"])
        assert torch.equal(batch["z"], torch.from_numpy(z))
        assert float(batch["y"]) == e[row, 0]  # -97,000 has .008 resolution in single precision
        assert np.allclose(batch["pos"], r[row], atol=1e-6)
        assert np.allclose(batch["forces"], f[row], atol=1e-5)
    data = set_up(datamodules.MDTrajectory(set="rmd17", split="official", split_number=2, **given))
    listed = [
        np.loadtxt(tmp_path / "rmd17" / "splits" / f"index_{p}_02.csv", dtype=int) for p in ("train", "test")
    ]
    train, val, test = rows_of(data)
    assert {*train, *val} == {*listed[0].tolist()}
    assert test == listed[1].tolist()


def test_units_are_converted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_md17(tmp_path)
    path = str(tmp_path / "md17" / "md17_ethanol.npz")
    given: dict[str, Any] = {"set": "file", "file": path, "train": 20, "val": 10}
    theirs = set_up(datamodules.MDTrajectory(**given)).test_set[0]
    ours = set_up(datamodules.MDTrajectory(unit="eV", **given)).test_set[0]
    assert "kcal/mol to eV (times 0.043364104)" in capsys.readouterr().out
    assert float(ours["y"]) == pytest.approx(float(theirs["y"]) * 0.0433641039, rel=1e-9)
    assert torch.allclose(ours["forces"], theirs["forces"] * 0.0433641039, rtol=1e-6)


def test_qm9_has_the_order_and_units_of_torch_geometric(tmp_path: Path) -> None:
    assert TARGETS[:12] == ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
    assert TARGETS[12:] == ("U0_atom", "U_atom", "H_atom", "G_atom", "A", "B", "C")
    fake_qm9(tmp_path)
    table = np.genfromtxt(tmp_path / "gdb9.sdf.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    given: dict[str, Any] = {"root": str(tmp_path), "cache": str(tmp_path / "c"), "train": 20, "val": 8}
    for target, column, factor in (
        ("mu", "mu", 1), ("homo", "homo", 27.211386246), ("U", "u298", 27.211386246), ("Cv", "cv", 1),
        ("U0_atom", "u0_atom", 0.04336414), ("G_atom", "g298_atom", 0.04336414), ("A", "A", 1),
    ):  # fmt: skip
        data = set_up(datamodules.QM9(target=target, layout="sdf", **given))
        kept = np.delete(table[column], [2, 6])  # 3 and 7 are uncharacterized
        assert np.allclose(data.train_set.store.y, kept * factor, rtol=1e-12)
        assert data.unit == UNITS[target]
    store = data.train_set.store
    z, pos = molecules(40)[10]
    atoms = slice(store.ptr[8], store.ptr[9])
    assert store.names[8] == "gdb_11"
    assert store.z[atoms].tolist() == z.tolist()
    assert np.allclose(store.pos[atoms], pos, atol=1e-4)


def test_atom_references_make_methanes_atomisation_energy() -> None:
    free = references_of("U0")
    assert free is not None
    energy = -40.47893 * 27.211386246 - free[6] - 4 * free[1]
    assert energy == pytest.approx(-17.172, abs=1e-3)
    assert references_of("homo") is None
    assert references_of("Cv") == dict.fromkeys((1, 6, 7, 8, 9), 2.981)


def test_frames_of_different_molecules_are_read_with_their_keys(tmp_path: Path) -> None:
    fake_xyz(tmp_path / "a.xyz")
    data = set_up(datamodules.XYZFrames(str(tmp_path / "a.xyz"), held_out=0.2))
    assert [len(r) for r in rows_of(data)] == [18, 6, 6]
    assert len({int(r) for part in rows_of(data) for r in part}) == 30
    assert data.atoms == 0
    row = int(data.test_set.rows[0])
    z, pos = molecules(30)[row]
    batch = data.test_set[0]
    assert batch["z"].tolist() == z.tolist()
    assert np.allclose(batch["pos"], pos, atol=1e-5)
    assert float(batch["y"]) == pytest.approx(-30 * len(z), abs=5)
    fake_xyz(tmp_path / "b.xyz", 4, labelled=False)
    data = datamodules.XYZFrames(predict_file=str(tmp_path / "b.xyz"))
    data.setup("predict")
    assert len(data.predict_set) == 4
    (tmp_path / "bom.xyz").write_text((tmp_path / "b.xyz").read_text(), encoding="utf-8-sig")
    again = datamodules.XYZFrames(predict_file=str(tmp_path / "bom.xyz"))
    again.setup("predict")
    assert torch.equal(again.predict_set[3]["pos"], data.predict_set[3]["pos"])
    assert bool(data.predict_set[0]["y"].isnan())


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


PROPERTIES = "Properties=species:S:1:pos:R:3:REF_forces:R:3"
ROW = "0 0 0 1 1 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"1\nenergy=-3 {PROPERTIES}\nH {ROW}", "frame 1, line 1: no REF_energy; it has energy, REF_forces"),
        (f"2\nREF_energy=-3 {PROPERTIES}\nH {ROW}H {ROW}", "atoms 1 and 2 of frame 1 lie in one place"),
        (f"1\nREF_energy=-3 {PROPERTIES}\nXx {ROW}", "frame 1, line 1: 'Xx' is no element from H to Es"),
        (f"1\nREF_energy=nan {PROPERTIES}\nH {ROW}", "REF_energy is 'nan', no finite number"),
        (f"1\nREF_energy=-3 {PROPERTIES}\nH 0 0 a 1 1 1\n", "pos is 'a', no number"),
        (f"2\nREF_energy=-3 {PROPERTIES}\nH {ROW}", "frame 1 says 2 atoms and ends before"),
        (f"1\nREF_energy=-3 {PROPERTIES}\nH 0 0 0\n", "a row of 4 columns, Properties say 7"),
        (f"one\nREF_energy=-3 {PROPERTIES}\nH {ROW}", "begins with 'one', which is no number of atoms"),
        (
            f'1\nREF_energy=-3 pbc="T F F" Lattice="1 0 0 0 1 0 0 0 1" {PROPERTIES}\nH {ROW}',
            "periodic in some",
        ),
        ("", "holds no frames"),
    ],
)
def test_a_file_of_frames_that_cannot_be_trained_on_is_one_line(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path / "x.xyz", text)
    with pytest.raises(ValueError, match=words) as error:
        datamodules.XYZFrames(path, val_file=path, test_file=path).setup("fit")
    assert "\n" not in str(error.value)
    assert "x.xyz" in str(error.value)


def test_a_trajectory_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    r, e, f, z = frames(6, 3)
    whole = {"R": r, "E": e, "F": f, "z": z}
    coinciding = r.copy()
    coinciding[4, 2] = coinciding[4, 0]
    endless = e.copy()
    endless[2] = np.inf
    for change, words in (
        ({"F": f[:5]}, "F is float64"),
        ({"R": coinciding}, "atoms 1 and 3 of frame 5 lie in one place"),
        ({"E": endless}, "energy of frame 3 is not finite"),
        ({"z": np.array([6, 120, 1])}, "frame 1 has an atom of number 120"),
        ({"E": e[:4]}, r"E is float64 \(4, 1\)"),
    ):
        np.savez(tmp_path / "t.npz", **{**whole, **change})
        with pytest.raises(ValueError, match=words) as error:
            datamodules.MDTrajectory(set="file", file=str(tmp_path / "t.npz"), train=2, val=1).setup("fit")
        assert "t.npz" in str(error.value)
    np.savez(tmp_path / "t.npz", R=r, E=e)
    with pytest.raises(ValueError, match="holds E, R; needed are the arrays R, E, F, z, or coords"):
        datamodules.MDTrajectory(set="file", file=str(tmp_path / "t.npz")).setup("fit")
    np.savez(tmp_path / "t.npz", **whole)
    with pytest.raises(ValueError, match="holds 6 molecules or frames"):
        datamodules.MDTrajectory(set="file", file=str(tmp_path / "t.npz")).setup("fit")


def test_the_subset_has_atomisation_energies_of_its_atoms(tmp_path: Path) -> None:
    fake_subset(tmp_path)
    given: dict[str, Any] = {"root": str(tmp_path), "train": 20, "val": 8}
    total, atomic = (set_up(datamodules.QM9(target=t, **given)).train_set for t in ("H", "H_atom"))
    free = np.zeros(100)
    references = references_of("H") or {}
    free[list(references)] = list(references.values())
    assert np.allclose(total.targets() - total.compositions() @ free, atomic.targets(), atol=1e-9)


def test_texts_of_characters_that_there_are_not_are_one_line(tmp_path: Path) -> None:
    fake_subset(tmp_path)
    with np.load(tmp_path / "qm9_subset.npz") as file:
        content = dict(file)
    codes = content["smiles"].view("<u4").copy()
    codes[3] = 0x110000
    content["smiles"] = codes.view(content["smiles"].dtype)
    np.savez(tmp_path / "qm9_subset.npz", **content)
    with pytest.raises(
        ValueError, match=r"qm9_subset.npz is damaged .*text of characters that there are not"
    ):
        datamodules.QM9(root=str(tmp_path), train=20, val=8).setup("fit")


def test_qm9pack_has_the_subsets_numbers_in_the_subsets_units(tmp_path: Path) -> None:
    fake_qm9pack(tmp_path)
    fake_subset(tmp_path)
    given: dict[str, Any] = {"root": str(tmp_path), "train": 20, "val": 8}
    for target in ("U0", "U0_atom", "mu", "A"):
        theirs = set_up(datamodules.QM9(target=target, **given)).train_set
        data = set_up(datamodules.QM9(target=target, layout="qm9pack", cache=str(tmp_path / "c"), **given))
        ours = data.train_set
        assert np.array_equal(ours.store.y, theirs.store.y)
        assert np.array_equal(ours.rows, theirs.rows)
        assert np.array_equal(ours.store.z, theirs.store.z)
        assert np.allclose(ours.store.pos, theirs.store.pos, atol=1e-6)
    assert ours.store.names[:3] == ["C", "CC", "CCC"]
    for old, new, words in (
        (",5,", ",6,", r"N_atoms is '6', Elements are 5, XYZ_Ang 5"),
        ("'H'", "'Xx'", r"column 'Elements': .* is no list of elements"),
        ("[[", "[", r"column 'XYZ_Ang': .* is no list of coordinates"),
        ("HOMO_au", "HUMO_au", r"has no column 'HOMO_au'"),
        ("\n", "\n\n", r"line 2: 0 cells|line 2: no row"),
    ):
        fake_qm9pack(tmp_path)
        part = tmp_path / "qm9_part2.csv"
        part.write_text(part.read_text().replace(old, new, 1))
        with pytest.raises(ValueError, match=words) as error:
            datamodules.QM9(layout="qm9pack", cache=str(tmp_path / "d"), **given).setup("fit")
        assert "qm9_part2.csv" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no file .*qm9_part1.csv; install qm9pack, or take"):
        datamodules.QM9(layout="qm9pack", root=str(tmp_path / "no"), cache=str(tmp_path)).setup("fit")


def test_numbers_of_qm9pack_end_in_points_or_have_fortrans_exponents(tmp_path: Path) -> None:
    fake_qm9pack(tmp_path)
    part = tmp_path / "qm9_part1.csv"
    lines = part.read_text().split("\n")
    cells = lines[1].split(",")
    cells[-15] = "0."  # RotA_GHz of the first molecule
    cells[-1] = "1.5*^-2"
    part.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    given: dict[str, Any] = {"root": str(tmp_path), "cache": str(tmp_path / "c"), "train": 20, "val": 8}
    for target, value in (("A", 0.0), ("Cv", 0.015)):
        assert set_up(datamodules.QM9(target=target, layout="qm9pack", **given)).train_set.store.y[0] == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"has the numbers of 0 molecules: it is damaged or cut off"),
        ("no list at all\n", r"has the numbers of 0 molecules"),
        ("Index\n 3 a\nx7 b\n 9 c\n", r"line 3: it begins with no number, and numbers follow"),
        ("Index\n 3 a\n 41 b\n", r"line 3: there is no molecule 41 of 40"),
        ("Index\n 3 a\n 0 b\n", r"line 3: there is no molecule 0 of 40"),
        ("Index\n 3 a\n 3 b\n", r"line 3: molecule 3 stands in it twice"),
        ("Index\n 3 a\n 7 \x00\x01\n", r"line 3: .* is no text"),
    ],
)
def test_a_damaged_list_of_what_is_uncharacterized_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    fake_qm9(tmp_path)
    (tmp_path / "uncharacterized.txt").write_text(text)
    data = datamodules.QM9(layout="sdf", root=str(tmp_path), cache=str(tmp_path / "c"), train=20, val=8)
    with pytest.raises(ValueError, match=words) as error:
        data.setup("fit")
    assert "uncharacterized.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_whole_of_qm9_leaves_out_3054(tmp_path: Path) -> None:
    path = tmp_path / "uncharacterized.txt"
    head = "Indices of what failed the check\n=====\n  Index  InChI\n"
    path.write_text(head + "".join(f"  {3 * i + 1}  InChI=1S/a\n" for i in range(3054)) + "-----\n\n")
    assert _uncharacterized(path, 133_885)[:3] == [0, 3, 6]
    path.write_text("\n".join(path.read_text().split("\n")[:3000]))
    with pytest.raises(ValueError, match=r"has the numbers of 2,997 molecules, and QM9 has 3,054"):
        _uncharacterized(path, 133_885)
