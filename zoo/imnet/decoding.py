"""From codes to grids, meshes and scores: what all of IM-NET's modules do after their training."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from zoo.imnet.extraction import (
    Field,
    Mesh,
    chunked,
    coarse_to_fine,
    gradient_normals,
    marching_cubes,
    refined,
)
from zoo.imnet.field import Version, coordinates, grid_points
from zoo.imnet.network import CNNDecoder, ImplicitDecoder
from zoo.imnet.quality import (
    chamfer_and_normals,
    components,
    iou,
    mean_dihedral_angle,
    sample_surface,
    silhouette_distance,
)

SURFACE_POINTS = 4096  # as the release
SCORES = (
    "mse",
    "iou",
    "iou_input",
    "chamfer_x1000",
    "normal_consistency",
    "silhouette_distance",
    "components",
    "dihedral_angle",
    "empty",
    "largest_value",
    "interpolation_iou",
)


def field_of(generator: nn.Module, z: Tensor, version: Version) -> Field:
    """The field of one code (Z,), as a function of points (P, D) of the unit cube."""
    with torch.inference_mode(False):
        code = z.detach().clone()[None]  # a tensor of inference mode cannot be differentiated through

    def field(points: Tensor) -> Tensor:
        values: Tensor = generator(coordinates(points.to(code.device), version)[None], code)[0]
        return values

    return field


def decoded_grids(
    generator: nn.Module, z: Tensor, version: Version, resolution: int, dims: int, points_per_chunk: int
) -> Tensor:
    """Values at all cell centres, float32 (B, R, ..., R); a CNN's grid is resampled linearly."""
    if isinstance(generator, CNNDecoder):
        grid: Tensor = generator(z).float()
        if resolution == generator.output_size:
            return grid
        mode = "trilinear" if dims == 3 else "bilinear"
        return functional.interpolate(grid[:, None], [resolution] * dims, mode=mode)[:, 0]
    points = grid_points(resolution, dims, z.device)
    rows = [chunked(field_of(generator, code, version), points, points_per_chunk) for code in z]
    return torch.stack(rows).float().view(len(z), *[resolution] * dims)


def optimised_codes(
    generator: nn.Module,
    z: Tensor,
    points: Tensor,
    values: Tensor,
    version: Version,
    steps: int,
    lr: float,
    bounded: bool = True,
) -> Tensor:
    """Codes fitted to the points of their shapes, the decoder held fixed: the auto-decoder's way.

    Adam on the mean squared error of each shape alone, from the given code on; the best code that was met is
    returned, so that no shape gets worse at its points.

    Args:
        generator: the decoder.
        z: codes (B, Z) to start from.
        points: (B, P, D) of the unit cube.
        values: (B, P).
        version: of the coordinates.
        steps: of Adam; none gives ``z``.
        lr: of Adam.
        bounded: codes stay in (0, 1): Adam moves their logits.

    Returns:
        Codes (B, Z).
    """
    if not steps:
        return z
    found = []
    with torch.inference_mode(False), torch.enable_grad():  # tensors of inference mode have no gradient
        for code, at, value in zip(z, points, values, strict=True):
            where, target = coordinates(at.clone(), version)[None], value.clone().float()
            best, least = code.detach().clone().float(), float("inf")
            free = (torch.logit(best, eps=1e-6) if bounded else best.clone()).requires_grad_()
            optimizer = torch.optim.Adam([free], lr=lr)
            for step in range(steps + 1):
                now = torch.sigmoid(free) if bounded else free
                loss = (generator(where, now[None])[0].float() - target).square().mean()
                if loss.item() < least:
                    best, least = now.detach().clone(), loss.item()
                if step < steps:
                    (free.grad,) = torch.autograd.grad(loss, free)
                    optimizer.step()
            found.append(best)
    return torch.stack(found)


def extract_mesh(
    generator: nn.Module,
    z: Tensor,
    version: Version,
    resolution: int,
    threshold: float,
    points_per_chunk: int,
    refine: bool = False,
    normals: bool = False,
) -> Mesh:
    """The mesh of one code (Z,)."""
    if not isinstance(generator, ImplicitDecoder):
        values = decoded_grids(generator, z[None], version, resolution, 3, points_per_chunk)[0]
        mesh = marching_cubes(values, threshold)
        mesh.largest_value = float(values.max())
        return mesh
    field = field_of(generator, z, version)
    grid = coarse_to_fine(field, resolution, min(64, resolution), threshold, z.device, points_per_chunk)
    mesh = marching_cubes(grid, threshold)
    mesh.largest_value = float(grid.max())
    if mesh.empty:
        return mesh
    if refine:
        mesh = refined(field, mesh, threshold, resolution, points_per_chunk)
    if normals:
        mesh.normals = gradient_normals(field, mesh.vertices, points_per_chunk)
    return mesh


def check_not_empty(meshes: list[Mesh], threshold: float) -> None:
    """One line when a model draws nothing at all, as an untrained first stage does.

    Raises:
        ValueError: if all meshes are empty.
    """
    if meshes and all(m.empty for m in meshes):
        largest = max(m.largest_value for m in meshes)
        raise ValueError(
            f"all {len(meshes)} meshes are empty: the largest value of their grids is {largest:.4f}, the "
            f"threshold {threshold}; the first stage is not trained, or the weights are of the other "
            "version's coordinates"
        )


class ShapeScores(nn.ModuleDict):
    """Means over test shapes, right over any number of processes."""

    def __init__(self) -> None:
        super().__init__({name: MeanMetric(nan_strategy="ignore") for name in SCORES})

    def add(self, values: dict[str, float]) -> None:
        """Scores of one shape."""
        for name, value in values.items():
            metric: Any = self[name]
            metric.update(value)

    def collect(self) -> dict[str, float]:
        """Means of those that were given, as keys of a log; starts anew."""
        found = {}
        for name in SCORES:
            metric: Any = self[name]
            with warnings.catch_warnings():  # of those that 2-D shapes, or 3-D ones, do not have
                warnings.simplefilter("ignore")
                value = float(metric.compute())
            metric.reset()
            if np.isfinite(value):
                found[f"test/{name}"] = value
        return found


def surface_scores(mesh: Mesh, surface: Tensor, number: int) -> dict[str, float]:
    """Scores of a mesh against true surface points with normals (N, 6); an empty mesh has but ``empty``."""
    if mesh.empty:
        return {"empty": 1.0, "largest_value": mesh.largest_value}
    truth = surface.cpu().numpy()
    points = sample_surface(mesh, SURFACE_POINTS, np.random.default_rng(number))
    distance, consistency = chamfer_and_normals(points, truth)
    return {
        "chamfer_x1000": 1000 * distance,
        "normal_consistency": consistency,
        "silhouette_distance": silhouette_distance(points, truth),
        "components": float(components(mesh)),
        "dihedral_angle": mean_dihedral_angle(mesh),
        "empty": 0.0,
        "largest_value": mesh.largest_value,
    }


def grid_scores(grid: Tensor, truth: Tensor, threshold: float) -> dict[str, float]:
    """MSE and IoU of one grid."""
    target = truth.float()
    return {
        "mse": float((grid - target).square().mean()),
        "iou": float(iou(grid[None], target[None], threshold)),
    }


def interpolation_score(grids: Tensor, templates: Tensor, threshold: float) -> float:
    """Mean over pictures (B, S, S) of the best IoU with any template (M, S, S)."""
    a = (grids > threshold).flatten(1).float()
    b = templates.to(a.device).flatten(1).float()
    both = a @ b.T
    union = a.sum(dim=1, keepdim=True) + b.sum(dim=1) - both
    return float((both / union).max(dim=1).values.mean())


def between(start: Tensor, end: Tensor, count: int) -> Tensor:
    """``count`` codes strictly between two codes (Z,), (count, Z)."""
    share = torch.arange(1, count + 1, device=start.device)[:, None] / (count + 1)
    return torch.lerp(start[None].float(), end[None].float(), share)
