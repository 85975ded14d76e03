"""Tiny twins of molecules in space: QM9's release and its subset, MD17, rMD17, a user's extended xyz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.molecules.qm9 import _COLUMNS, written_sdf

_ELEMENTS = np.array([1, 6, 7, 8, 9])
_SYMBOL = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
_HEADER = """This file contains a list of molecules which failed the geometry consistency check.
"Indices" are counted from 1.
========================================
  Index  InChI
========================================
"""


def molecules(count: int, seed: int = 0, least: int = 3, most: int = 7) -> list[tuple[Any, Any]]:
    """Atoms of H, C, N, O, F about 1.5 Angstrom apart."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = int(draw.integers(least, most + 1))
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)[:atoms]
        found.append((draw.choice(_ELEMENTS, atoms), 1.5 * grid + draw.normal(0, 0.1, (atoms, 3))))
    return found


def fake_qm9(root: Path, count: int = 40, left_out: tuple[int, ...] = (3, 7)) -> None:
    """``gdb9.sdf``, ``gdb9.sdf.csv`` and ``uncharacterized.txt``, whose numbers count from 1."""
    root.mkdir(parents=True, exist_ok=True)
    found, draw = molecules(count), np.random.default_rng(1)
    sdf = "".join(written_sdf(z, pos, f"gdb_{i + 1}") for i, (z, pos) in enumerate(found))
    (root / "gdb9.sdf").write_text(sdf)
    order = ["mol_id", "A", "B", "C", *_COLUMNS[:-3]]
    rows = [[f"gdb_{i + 1}", *(f"{x:.6f}" for x in draw.normal(size=19))] for i in range(count)]
    (root / "gdb9.sdf.csv").write_text("\n".join(",".join(r) for r in [order, *rows]) + "\n")
    lines = [f"   {i}  InChI=1S/fake" for i in left_out]
    (root / "uncharacterized.txt").write_text(_HEADER + "\n".join(lines) + "\n\n")


def fake_qm9pack(root: Path, count: int = 40) -> None:
    """``qm9_part1.csv`` to ``qm9_part3.csv``, lists as Python writes them."""
    from datamodules.molecules.qm9 import _SUBSET

    root.mkdir(parents=True, exist_ok=True)
    found, y = molecules(count), np.random.default_rng(1).normal(size=(count, 15))
    head = ["XYZ_file", "Index", "SMILES", "InChi", "N_atoms", "Stoichiometry", "Elements", "XYZ_Ang"]
    head += ["Mulliken_pop", "Harmonic_Freq_cmi", *_SUBSET.values()]
    rows = []
    for i, (z, pos) in enumerate(found):
        elements = "[" + ",".join(f"'{_SYMBOL[int(a)]}'" for a in z) + "]"
        places = "[" + ",".join("[" + ",".join(f"{x:.10f}" for x in r) + "]" for r in pos) + "]"
        cells = [f'"dsgdb9nsd_{i + 1:06d}.xyz"', str(i + 1), f'"{"C" * (i % 5 + 1)}"', '"InChI=1S/CH4/h1H4"']
        cells += [
            str(len(z)),
            '"[4,1,0,0,0]"',
            f'"{elements}"',
            f'"{places}"',
            '"[0.1,-0.1]"',
            '"[1341.307]"',
        ]
        rows.append(",".join([*cells, *(repr(float(x)) for x in y[i])]))
    third = -(-count // 3)
    for part in range(3):
        lines = [",".join(head), *rows[part * third : (part + 1) * third]]
        (root / f"qm9_part{part + 1}.csv").write_text("\n".join(lines) + "\n")


def fake_subset(root: Path, count: int = 40) -> None:
    """``qm9_subset.npz``."""
    from datamodules.molecules.qm9 import _SUBSET

    root.mkdir(parents=True, exist_ok=True)
    found = molecules(count)
    np.savez(
        root / "qm9_subset.npz",
        z=np.concatenate([z for z, _ in found]).astype(np.uint8),
        pos=np.concatenate([pos for _, pos in found]).astype(np.float32),
        n_atoms=np.array([len(z) for z, _ in found], np.uint8),
        y=np.random.default_rng(1).normal(size=(count, 15)),
        y_names=np.array(list(_SUBSET.values())),
        smiles=np.array(["C"] * count),
        index=np.arange(count),
    )


def frames(count: int, atoms: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Coordinates, energies, forces and numbers of one molecule."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:atoms]
    pos = 1.4 * grid + draw.normal(0, 0.1, (count, atoms, 3))
    forces = draw.normal(0, 20, (count, atoms, 3))
    return pos, draw.normal(-97_000, 5, (count, 1)), forces, draw.choice(_ELEMENTS[:4], atoms)


def fake_md17(root: Path, molecule: str = "ethanol", count: int = 60, atoms: int = 9) -> None:
    """``md17/md17_<molecule>.npz``."""
    folder = root / "md17"
    folder.mkdir(parents=True, exist_ok=True)
    r, e, f, z = frames(count, atoms)
    np.savez(folder / f"md17_{molecule}.npz", R=r, E=e, F=f, z=z.astype(np.uint8))


def fake_rmd17(root: Path, molecule: str = "ethanol", count: int = 60, atoms: int = 9) -> None:
    """``rmd17/npz_data/rmd17_<molecule>.npz`` and five splits of 30 and 20 frames."""
    folder = root / "rmd17"
    (folder / "npz_data").mkdir(parents=True, exist_ok=True)
    (folder / "splits").mkdir(exist_ok=True)
    r, e, f, z = frames(count, atoms)
    np.savez(
        folder / "npz_data" / f"rmd17_{molecule}.npz",
        coords=r, energies=e[:, 0], forces=f, nuclear_charges=z.astype(np.uint8),
        old_indices=np.arange(count), old_energies=e[:, 0], old_forces=f,
    )  # fmt: skip
    for number in range(1, 6):
        order = np.random.default_rng(number).permutation(count)
        for part, rows in (("train", order[:30]), ("test", order[30:50])):
            text = "\n".join(map(str, rows.tolist())) + "\n"
            (folder / "splits" / f"index_{part}_{number:02d}.csv").write_text(text)


def fake_xyz(path: Path, count: int = 30, labelled: bool = True, seed: int = 0) -> None:
    """Frames of different molecules with ``REF_energy`` and ``REF_forces``."""
    from datamodules.molecules.atoms import SYMBOLS

    path.parent.mkdir(parents=True, exist_ok=True)
    draw, text = np.random.default_rng(seed + 5), ""
    for z, pos in molecules(count, seed):
        forces = draw.normal(0, 1, pos.shape)
        columns = ":REF_forces:R:3" if labelled else ""
        energy = f"REF_energy={-30 * len(z) + draw.normal():.6f} " if labelled else ""
        text += f'{len(z)}\nProperties=species:S:1:pos:R:3{columns} {energy}pbc="F F F"\n'
        for a, r, f in zip(z, pos, forces, strict=True):
            numbers = [*r, *f] if labelled else [*r]
            text += f"{SYMBOLS[int(a)]} " + " ".join(f"{x:.6f}" for x in numbers) + "\n"
    path.write_text(text)


def _qm9(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    sizes = {"data.init_args.train": 20, "data.init_args.val": 8, "data.init_args.batch_size": 4}
    small = {} if config["model"]["class_path"] == "zoo.CoulombRidge" else {"model.init_args.hidden": 16}
    if small:
        small["model.init_args.layers"] = 2
    makers = {"sdf": fake_qm9, "qm9pack": fake_qm9pack}
    makers.get(config["data"]["init_args"].get("layout"), fake_subset)(root)
    return {**sizes, **small, "data.init_args.cache": root / "cache"}


def _trajectory(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    given = config["data"]["init_args"]
    (fake_md17 if given["set"] == "md17" else fake_rmd17)(root, given["molecule"])
    return {
        "data.init_args.train": 20,
        "data.init_args.val": 8,
        "data.init_args.batch_size": 4,
        "model.init_args.hidden": 16,
        "model.init_args.layers": 2,
    }


TWINS = {"datamodules.QM9": _qm9, "datamodules.MDTrajectory": _trajectory}
WITHOUT_FILES = {"datamodules.MDTrajectory": lambda given: given.get("set", "ethanol_gfn2") == "ethanol_gfn2"}
