"""Molecules by representation, after the review of Atz, Grisoni & Schneider (2021): a folder per task."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Molecules", page="molecules")

_ETHANOL = {
    "class_path": "datamodules.MDTrajectory",
    "init_args": {"train": 40, "val": 10, "test": 10, "batch_size": 4},
}
_SMALL_3D: dict[str, Any] = {"hidden": 8, "layers": 1, "forces": True}

METHODS: tuple[Method, ...] = (
    Method(
        "MoleculeRegressor3D",
        "space.module",
        page="molecules_3d",
        title="Molecules in space",
        about="Energies, forces and properties of molecules in space by SchNet, DimeNet++, ViSNet, EGNN and "
        "PaiNN, after the review of Atz, Grisoni & Schneider (2021)",
        small=(
            {**_SMALL_3D, "backbone": "painn"},
            {**_SMALL_3D, "backbone": "schnet", "chirality": True},
            {**_SMALL_3D, "backbone": "distances", "atoms": 9},
        ),
        data=_ETHANOL,
        weights="space.weights",
        converts="PaiNN of schnetpack, SchNet of torch-geometric (state dicts)",
        convert="molecules3d",
    ),
    Method(
        "CoulombRidge",
        "space.coulomb",
        page="molecules_3d",
        title="Molecules in space",
        about="Kernel ridge regression on Coulomb matrices (Rupp et al. 2012): the baseline in space without "
        "learned features",
        data=_ETHANOL,
    ),
)

__getattr__ = lazy(__name__, METHODS)
