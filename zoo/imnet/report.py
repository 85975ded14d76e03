"""What a person looks at: meshes, picture sheets, codes, an interpolation that moves."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.imnet.extraction import Mesh, marching_cubes
from zoo.imnet.render import render
from zoo.reports import PARTS, GeneratedImages, image_grid, replace_file, save_png

Array = np.ndarray[Any, Any]
MeshFormat = Literal["obj", "ply", "glb"]
_SIZE = 224


@dataclass
class ShapeMeshes:
    """Meshes of a batch.

    Attributes:
        meshes: of the batch, in order.
        index: (B,) position of each in the whole set.
        number: of the batch over all processes.
        mesh_format: ``obj``, ``ply`` or ``glb``.
        inputs: voxels (B, R, R, R) or views (B, H, W) in [0, 1] that they were made from; None has none.
        codes: (B, Z), written as ``zs``; None has none.
        frames: meshes of an interpolation through the batch.
        names: of the shapes, where the data know them; they become part of the files' names.
    """

    meshes: list[Mesh]
    index: Tensor
    number: int
    mesh_format: MeshFormat = "obj"
    inputs: Tensor | None = None
    codes: Tensor | None = None
    frames: list[Mesh] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        """``shape_NNNN.obj`` or ``shape_NNNN_NAME.obj`` each, a sheet, codes, an interpolation.

        ``shapes_NNN.png``, ``interpolation_NNN.gif``. Codes are a part of the file that :meth:`merge` makes.
        """
        if not self.meshes:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        names = self.names or [""] * len(self.meshes)
        for mesh, index, name in zip(self.meshes, self.index.tolist(), names, strict=True):
            if not mesh.empty:
                stem = f"shape_{index:04d}{'_' * bool(name)}{_part_of_path(name)}"
                written.append(write_mesh(mesh, folder / f"{stem}.{self.mesh_format}"))
        sheet = folder / f"shapes_{self.number:03d}.png"
        save_png(sheet, self.sheet())
        written.append(sheet)
        if self.codes is not None:
            part = folder / PARTS / f"codes_{int(self.index[0]):09d}_{os.getpid()}.npz"
            np.savez(part, zs=self.codes.float().cpu().numpy(), index=self.index.numpy())
        if self.frames:
            written.append(self._write_frames(folder / f"interpolation_{self.number:03d}.gif"))
            save_png(written[-1].with_suffix(".png"), image_grid(self._rendered(self.frames), columns=6))
        return written

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``codes.hdf5``: rows of ``zs`` in the place of their index, as the official files of codes.

        HDF5 crashes the process when the disk is full, so it writes to memory, and Python to the disk.
        """
        parts = sorted((folder / PARTS).glob("codes_*.npz"))
        if not parts:
            return []
        import h5py

        held = []
        for part in parts:
            with np.load(part) as data:
                held.append((data["index"], data["zs"]))
        codes = np.zeros((1 + max(int(index.max()) for index, _ in held), held[0][1].shape[1]), np.float32)
        for index, values in held:
            codes[index] = values
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["zs"] = codes
        path = folder / "codes.hdf5"
        replace_file(path, content.getvalue())
        return [path]

    def sheet(self) -> Array:
        """Rows of input, mesh from the front and from behind, two shapes a row; uint8 (H, W, 3)."""
        front, back = self._rendered(self.meshes), self._rendered(self.meshes, 215.0)
        panels = [front, back]
        if self.inputs is not None:
            panels.insert(0, np.stack([_picture(x) for x in self.inputs.cpu().float()]))
        columns = len(panels) * (1 if len(self.meshes) < 2 else 2)
        return image_grid(np.stack(panels, axis=1).reshape(-1, _SIZE, _SIZE, 3), columns=columns)

    @staticmethod
    def _rendered(meshes: list[Mesh], azimuth: float = 35.0) -> Array:
        return np.stack([render(m, _SIZE, azimuth) for m in meshes])

    def _write_frames(self, path: Path) -> Path:
        from PIL import Image

        pictures = [Image.fromarray(x) for x in self._rendered(self.frames)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=120, loop=0)
        return path


def _part_of_path(name: str) -> str:
    """A shape's name, out of somebody's file, as a harmless part of the name of another."""
    return re.sub(r"[^\w-]+", "_", name.rsplit(".", 1)[0], flags=re.ASCII)[-60:]


def _picture(shape: Tensor) -> Array:
    """Voxels rendered as cubes' surface, or a grey picture, uint8 (224, 224, 3)."""
    if shape.ndim == 3:
        return render(marching_cubes(shape), _SIZE)
    return enlarged(shape)


def enlarged(picture: Tensor) -> Array:
    """(H, W) in [0, 1] -> uint8 (224, 224, 3)."""
    grey = torch.nn.functional.interpolate(picture[None, None].float(), (_SIZE, _SIZE), mode="nearest")[0, 0]
    found: Array = (grey.clamp(0, 1) * 255).to(torch.uint8)[:, :, None].expand(-1, -1, 3).numpy()
    return found


def write_mesh(mesh: Mesh, path: Path) -> Path:
    """A mesh as OBJ, PLY or GLB, by the suffix, through trimesh."""
    import trimesh

    content: Any = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False, validate=False
    )
    content.export(path)
    return path


@dataclass
class ShapePictures:
    """Pictures of 2-D shapes.

    Attributes:
        inputs: (B, S, S) in [0, 1], or None.
        outputs: (B, S, S), clamped when written.
        index: (B,).
        number: of the batch over all processes.
        strips: (B, T, S, S) interpolations, or None.
    """

    inputs: Tensor | None
    outputs: Tensor
    index: Tensor
    number: int
    strips: Tensor | None = None

    def write(self, folder: Path) -> list[Path]:
        """``pictures_NNN.png``: input and output side by side; ``interpolations_NNN.png``: a row per pair."""
        if not len(self.outputs):
            return []
        folder.mkdir(parents=True, exist_ok=True)
        shown = [self.outputs] if self.inputs is None else [self.inputs, self.outputs]
        pairs = torch.stack(shown, dim=1)[:50]
        paths = [folder / f"pictures_{self.number:03d}.png"]
        save_png(paths[0], image_grid(_grey(pairs.flatten(0, 1)), columns=10))
        if self.strips is not None:
            paths.append(folder / f"interpolations_{self.number:03d}.png")
            rows = self.strips[:12]
            save_png(paths[1], image_grid(_grey(rows.flatten(0, 1)), columns=rows.shape[1]))
        return paths


def _grey(pictures: Tensor) -> Array:
    """(N, S, S) in [0, 1], ink dark -> uint8 (N, S, S, 3)."""
    grey = ((1 - pictures.float().cpu().clamp(0, 1)) * 255).to(torch.uint8)
    found: Array = grey[..., None].expand(-1, -1, -1, 3).numpy()
    return found


def preview_of(pictures: list[Array]) -> dict[str, GeneratedImages]:
    """Rendered pictures for the previews of a validation."""
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    count = torch.arange(len(pictures))
    return {"shapes": GeneratedImages(images, count, count)}


def reconstructions(inputs: Tensor, grids: Tensor, threshold: float) -> list[Array]:
    """Each input beside its reconstruction, uint8 (224, 224, 3) each."""
    out = []
    for shape, grid in zip(inputs.cpu().float(), grids.cpu().float(), strict=True):
        if shape.ndim == 2:
            out += [enlarged(1 - shape), enlarged(1 - grid)]
        else:
            out += [_picture(shape), render(marching_cubes(grid, threshold), _SIZE)]
    return out
