"""Molecules as atoms in space: energies, forces and other properties from elements and coordinates."""
