"""Shapes as voxels, points and views: procedural solids, meshes, the official HDF5 files, letters."""

CLASSES = {
    "Shapes": "module",
    "Shapes2D": "pictures",
}
"""Public data modules -> the module of this package that defines them."""
