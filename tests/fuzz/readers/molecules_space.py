"""Trajectories, QM9's release and its subset, extended xyz files through their data modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.molecules_space import fake_md17, fake_qm9, fake_qm9pack, fake_rmd17, fake_subset, fake_xyz
from fuzz.forked import Reader

from datamodules import QM9, MDTrajectory, XYZFrames


def items_of(data: Any) -> list[Any]:
    data.setup("fit")
    return [s.store.y for s in (data.train_set, data.test_set)]


def write_md17(folder: Path) -> Path:
    fake_md17(folder)
    return folder / "md17" / "md17_ethanol.npz"


def write_split(folder: Path) -> Path:
    fake_rmd17(folder)
    return folder / "rmd17" / "splits" / "index_train_01.csv"


def read_split(path: Path) -> Any:
    data = MDTrajectory(set="rmd17", root=str(path.parents[2]), split="official", train=20, val=5)
    return items_of(data)


def write_qm9(name: str) -> Any:
    def write(folder: Path) -> Path:
        fake_qm9(folder)
        return folder / name

    return write


def read_qm9(path: Path) -> Any:
    root = str(path.parent)
    return items_of(QM9(layout="sdf", root=root, cache=f"{root}/cache", train=20, val=5))


def write_qm9pack(folder: Path) -> Path:
    fake_qm9pack(folder)
    return folder / "qm9_part2.csv"


def read_qm9pack(path: Path) -> Any:
    root = str(path.parent)
    return items_of(QM9(layout="qm9pack", root=root, cache=f"{root}/cache", train=20, val=5))


def write_subset(folder: Path) -> Path:
    fake_subset(folder)
    return folder / "qm9_subset.npz"


def write_xyz(folder: Path) -> Path:
    fake_xyz(folder / "own.xyz")
    return folder / "own.xyz"


READERS = [
    Reader(
        "MD17's npz", write_md17, lambda p: items_of(MDTrajectory(set="file", file=str(p), train=20, val=5))
    ),
    Reader("rMD17's split", write_split, read_split),
    Reader("QM9's subset", write_subset, lambda p: items_of(QM9(root=str(p.parent), train=20, val=5))),
    *(
        Reader(f"QM9's {n}", write_qm9(n), read_qm9)
        for n in ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
    ),
    Reader("QM9's csv of qm9pack", write_qm9pack, read_qm9pack),
    Reader("extended xyz", write_xyz, lambda p: items_of(XYZFrames(str(p)))),
]
