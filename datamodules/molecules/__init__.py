"""Molecules: tables of SMILES with properties."""

CLASSES: dict[str, str] = {}
"""Public data modules -> the module of this package that defines them."""
