"""Molecules: tables of SMILES with properties."""

CLASSES: dict[str, str] = {
    "MoleculeNet": "table",
    "MoleculeTable": "table",
}
"""Public data modules -> the module of this package that defines them."""
