"""Molecules: tables of SMILES with properties."""

CLASSES: dict[str, str] = {
    "MDTrajectory": "trajectory",
    "MoleculeNet": "table",
    "MoleculeTable": "table",
    "QM9": "qm9",
    "XYZFrames": "xyz",
}
"""Public data modules -> the module of this package that defines them."""
