"""Meshes: position, closedness, orientation, axis order, and coarse-to-fine against every point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.imnet.extraction import Mesh, coarse_to_fine, dense_grid, gradient_normals, marching_cubes, refined
from zoo.imnet.quality import (
    chamfer_and_normals,
    components,
    coverage_and_mmd,
    iou,
    mean_dihedral_angle,
    sample_surface,
    silhouette_distance,
    silhouettes,
)
from zoo.imnet.render import render


def sphere(resolution: int, radius: float = 0.35) -> Tensor:
    """clip(.5 + d R / 2, 0, 1), d the distance inwards."""
    axis = (torch.arange(resolution) + 0.5) / resolution - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    d = radius - (x**2 + y**2 + z**2).sqrt()
    return (0.5 + d * resolution / 2).clamp(0, 1)


@pytest.mark.parametrize(("resolution", "volume"), [(16, 0.1762), (32, 0.17875), (64, 0.17938)])
def test_sphere_has_its_volume_outward_and_is_centred(resolution: int, volume: float) -> None:
    mesh = marching_cubes(sphere(resolution))
    assert mesh.volume() == pytest.approx(volume, abs=4e-5)  # negative with scikit-image's default
    assert np.abs(mesh.vertices.mean(axis=0)).max() < 1e-6


def box_grid() -> Tensor:
    grid = torch.zeros(32, 32, 32)
    grid[0:8, 0:32, 4:20] = 1
    return grid


def test_a_solid_at_the_border_is_closed_and_its_axes_are_xyz() -> None:
    mesh = marching_cubes(box_grid())
    assert mesh.vertices.min(axis=0).tolist() == [-0.5, -0.5, -0.375]
    assert mesh.vertices.max(axis=0).tolist() == [-0.25, 0.5, 0.125]
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def field_of(radius: float = 0.3, centre: float = 0.0) -> tuple[object, list[int]]:
    counted = [0]

    def field(points: Tensor) -> Tensor:
        counted[0] += len(points)
        return 0.5 + 4 * (radius - (points - 0.5 - centre).norm(dim=1))

    return field, counted


def test_coarse_to_fine_has_the_mesh_of_every_point_at_a_fraction_of_them() -> None:
    field, counted = field_of()
    sparse = coarse_to_fine(field, 64, 16)  # type: ignore[arg-type]
    few = counted[0]
    dense = dense_grid(field, 64)  # type: ignore[arg-type]
    assert few < (counted[0] - few) / 3
    assert torch.equal(sparse > 0.5, dense > 0.5)
    a, b = marching_cubes(sparse), marching_cubes(dense)
    assert np.array_equal(a.faces, b.faces)
    assert np.array_equal(a.vertices, b.vertices)
    assert set(sparse[0, 0].tolist()) == {0.0}


def test_inside_cells_at_the_border_are_evaluated() -> None:
    field, _ = field_of(radius=0.9)
    sparse, dense = coarse_to_fine(field, 32, 16), dense_grid(field, 32)  # type: ignore[arg-type]
    assert torch.equal(sparse[0], dense[0])
    assert float(sparse[0].max()) > 1  # evaluated, not filled with 1: where the mesh is closed depends on it
    assert float(sparse[16, 16, 16]) == 1


def slab(sign: float) -> object:
    """A thin spur (or, with sign -1, a thin crack) that grows out of a block between coarse centres."""

    def field(points: Tensor) -> Tensor:
        p = points - 0.5
        block = p[:, 0] < -0.2
        spur = ((p[:, 1] + 1 / 64).abs() < 0.014) & ((p[:, 2] + 1 / 64).abs() < 0.014) & (p[:, 0] < 0.3)
        inside = block | spur if sign > 0 else ~(block | spur)
        return inside.float()

    return field


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_refinement_floods_along_parts_that_no_coarse_centre_sees(sign: float) -> None:
    field = slab(sign)
    dense = dense_grid(field, 64)  # type: ignore[arg-type]
    coarse = dense_grid(field, 16)  # type: ignore[arg-type]
    assert bool((coarse[8:] > 0.5).any()) == (sign < 0)
    assert torch.equal(coarse_to_fine(field, 64, 16) > 0.5, dense > 0.5)  # type: ignore[arg-type]


def test_coarse_must_divide_fine() -> None:
    with pytest.raises(ValueError, match="got 24 and 64"):
        coarse_to_fine(lambda p: p[:, 0], 64, 24)


def test_refined_vertices_are_nearer_to_the_surface() -> None:
    field, _ = field_of()
    mesh = marching_cubes((dense_grid(field, 16) > 0.5).float())  # type: ignore[arg-type]
    better = refined(field, mesh, resolution=16)  # type: ignore[arg-type]

    def error(m: Mesh) -> Tensor:
        values: Tensor = field(torch.from_numpy(m.vertices) + 0.5)  # type: ignore[operator]
        return (values - 0.5).abs()

    assert (error(better) <= error(mesh)).all()
    assert float(error(better).mean()) < 0.4 * float(error(mesh).mean())
    assert np.abs(better.vertices - mesh.vertices).max() <= (1 + 1 / 2 + 1 / 4) / (6 * 16) + 1e-6


def test_gradient_normals_point_outwards() -> None:
    field, _ = field_of()
    points = np.array([[0.3, 0, 0], [0, -0.3, 0]], np.float32)
    with torch.inference_mode():
        normals = gradient_normals(field, points)  # type: ignore[arg-type]
    assert np.allclose(normals, [[1, 0, 0], [0, -1, 0]], atol=1e-4)


def test_an_empty_grid_is_an_empty_mesh_that_knows_its_largest_value() -> None:
    mesh = marching_cubes(torch.full((8, 8, 8), 0.2))
    assert mesh.empty
    assert mesh.largest_value == pytest.approx(0.2)
    assert (render(mesh, 32) == 255).all()


def test_iou_by_hand() -> None:
    a, b = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0]])
    assert iou(a, b).tolist() == [pytest.approx(1 / 3), 1.0]


def test_chamfer_is_a_sum_of_mean_squares_both_ways() -> None:
    a = np.array([[0, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 1]], np.float32)
    b = np.array([[0, 0, 1, 0, 0, -1]], np.float32)
    distance, consistency = chamfer_and_normals(a, b)
    assert distance == pytest.approx((1 + 5) / 2 + 1)
    assert consistency == pytest.approx(1.0)  # the sign of normals does not count


def test_surface_samples_lie_on_the_sphere_with_its_normals() -> None:
    points = sample_surface(marching_cubes(sphere(32)), 500, np.random.default_rng(0))
    radius = np.linalg.norm(points[:, :3], axis=1)
    assert np.abs(radius - 0.35).max() < 0.01
    assert ((points[:, 3:] * points[:, :3]).sum(axis=1) / radius).min() > 0.9


def test_coverage_and_mmd_by_hand() -> None:
    distances = np.array([[1.0, 5, 9], [2, 4, 9], [3, 6, 7]])  # two generated shapes share a nearest one
    assert coverage_and_mmd(distances) == (pytest.approx(1 / 3), pytest.approx((1 + 4 + 7) / 3))


def test_components_and_dihedral_angle() -> None:
    two = torch.zeros(16, 16, 16)
    two[2:5, 2:5, 2:5] = two[9:12, 9:12, 9:12] = 1
    assert components(marching_cubes(two)) == 2
    assert mean_dihedral_angle(marching_cubes(sphere(32))) < mean_dihedral_angle(
        marching_cubes((sphere(32) > 0.5).float())
    )


def test_silhouettes_see_from_ten_directions() -> None:
    ball = sample_surface(marching_cubes(sphere(32)), 4000, np.random.default_rng(0))
    shadows = silhouettes(ball)
    assert shadows.shape == (10, 64, 64)
    assert np.ptp(shadows.mean(axis=(1, 2))) < 0.01
    assert silhouette_distance(ball, ball) == 0
    small = sample_surface(marching_cubes(sphere(32, 0.2)), 4000, np.random.default_rng(0))
    assert 0.5 < silhouette_distance(ball, small) < 0.75  # 1 - (.2 / .35)^2 = .67


def test_a_picture_shows_the_near_side() -> None:
    both = torch.zeros(32, 32, 32)
    both[12:20, 12:20, 2:6] = both[14:18, 14:18, 26:30] = 1
    front = render(marching_cubes(both), 64, azimuth=0, elevation=0)
    ink = (front < 250).any(axis=2)
    rows, columns = np.nonzero(ink)
    # the larger square hides behind the smaller one or frames it: extent of 8 cells of 32
    assert (np.ptp(rows), np.ptp(columns)) == (pytest.approx(16, abs=2), pytest.approx(16, abs=2))
