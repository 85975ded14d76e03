"""Proteins and peptides as sequences of residues."""

CLASSES: dict[str, str] = {"Proteins": "module"}
"""Public data modules -> the module of this package that defines them."""
