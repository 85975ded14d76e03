"""Shapes as voxels, points and views: procedural solids, meshes, the official HDF5 files, letters."""

from datamodules.shapes.module import Shapes
from datamodules.shapes.pictures import Shapes2D

__all__ = ["Shapes", "Shapes2D"]
