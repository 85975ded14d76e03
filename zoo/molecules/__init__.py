"""Molecules by representation, after the review of Atz, Grisoni & Schneider (2021): a folder per task."""

from __future__ import annotations

from zoo.declaration import Family, Method, lazy

FAMILY = Family("Molecules", page="molecules")

_ESOL = {"class_path": "datamodules.MoleculeNet", "init_args": {"batch_size": 16}}
_SOLUBILITY = ["measured log solubility in mols per litre"]

METHODS = (
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
)

__getattr__ = lazy(__name__, METHODS)
