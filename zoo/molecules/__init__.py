"""Molecules by representation, after the review of Atz, Grisoni & Schneider (2021): a folder per task."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Molecules", page="molecules")

_ESOL = {"class_path": "datamodules.MoleculeNet", "init_args": {"batch_size": 16}}
_SOLUBILITY = ["measured log solubility in mols per litre"]
_ETHANOL = {
    "class_path": "datamodules.MDTrajectory",
    "init_args": {"train": 40, "val": 10, "test": 10, "batch_size": 4},
}
_IN_SPACE: dict[str, Any] = {
    "page": "molecules_3d",
    "title": "Molecules in space",
    "about": "Energies, forces and properties by SchNet, DimeNet++, ViSNet, EGNN and PaiNN, kernel ridge "
    "regression beside them, after the review of Atz, Grisoni & Schneider (2021)",
}
_SMALL_3D: dict[str, Any] = {"hidden": 8, "layers": 1, "forces": True}

METHODS: tuple[Method, ...] = (
    Method(
        "MoleculeGraph2D",
        "graph.module",
        page="molecules_2d",
        title="2-D graphs and descriptors",
        about="Geometric deep learning on molecules (Atz et al., 2021): GIN, D-MPNN (Yang et al., 2019), "
        "AttentiveFP, ECFP and rdkit descriptors beside them, ensembles, conformal intervals",
        small=tuple(
            {"targets": _SOLUBILITY, "hidden": 8, "ffn_hidden": 8, "depth": 2, **extra}
            for extra in (
                {"backbone": "dmpnn", "dmpnn_2019": True},
                {"backbone": "gin", "head": "mve", "members": 2},
                {"backbone": "attentivefp", "descriptors": "ecfp"},
            )
        ),
        data=_ESOL,
        weights="graph.weights",
        converts="D-MPNN state dicts of chemprop 2 convert both ways",
        convert="dmpnn",
    ),
    Method(
        "DescriptorBaseline",
        "graph.baseline",
        page="molecules_2d",
        title="2-D graphs and descriptors",
        about="scikit-learn on ECFP and rdkit descriptors: forest, ridge, kernel ridge, MLP",
        small=tuple(
            {"targets": _SOLUBILITY, "descriptors": "ecfp", "method": m, **extra}
            for m, extra in (("random_forest", {"trees": 3}), ("kernel_ridge", {}))
        ),
        data=_ESOL,
    ),
    Method(
        "MoleculeRegressor3D",
        "space.module",
        **_IN_SPACE,
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
        data=_ETHANOL,
        **_IN_SPACE,
    ),
)

__getattr__ = lazy(__name__, METHODS)
