"""IM-NET: a mesh at 256^3 coarse to fine against evaluating every point, in one process.

The field is a decoder of an eighth of the published width, fitted to a procedural chair: the wider the
decoder, the larger the ratio. Marching cubes, which both sides have to do, is in both times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.interleaved import interleaved, median, ratio
from datamodules.shapes.solids import solid
from zoo.imnet.extraction import Field, Mesh, coarse_to_fine, dense_grid, marching_cubes
from zoo.imnet.field import coordinates, field_loss
from zoo.imnet.network import ImplicitDecoder


def fitted_field(steps: int) -> Field:
    """A decoder that has learned where a chair is."""
    torch.manual_seed(0)
    chair = solid(0)
    decoder = ImplicitDecoder(1, 3, 16, "v2", init="he")
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        points = rng.random((4096, 3), dtype=np.float32)
        target = (0.5 - 24 * chair.distance(points - np.float32(0.5))).clip(0, 1)
        values = decoder(coordinates(torch.from_numpy(points), "v2")[None], torch.zeros(1, 1))
        loss = field_loss(values, torch.from_numpy(target)[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    code = torch.zeros(1, 1)
    return lambda points: decoder(coordinates(points, "v2")[None], code)[0]


def test_coarse_to_fine_has_the_mesh_of_every_point(
    request: pytest.FixtureRequest, record: Callable[[str, float], None]
) -> None:
    quick = request.config.getoption("--quick")
    resolution = 64 if quick else 256
    field, counted = fitted_field(60 if quick else 250), [0]
    meshes: dict[str, Mesh] = {}

    def counting(points: Tensor) -> Tensor:
        counted[0] += len(points)
        return field(points)

    def sparse() -> None:
        counted[0] = 0
        meshes["sparse"] = marching_cubes(coarse_to_fine(counting, resolution, resolution // 4))

    def dense() -> None:
        meshes["dense"] = marching_cubes(dense_grid(field, resolution))

    with torch.inference_mode():
        times = interleaved({"sparse": sparse, "dense": dense}, 1, warmup=0)
    assert len(meshes["dense"].faces) > 100
    assert np.array_equal(meshes["sparse"].faces, meshes["dense"].faces)
    assert np.abs(meshes["sparse"].vertices - meshes["dense"].vertices).max() < 1e-6
    record("extraction/times_faster", ratio(times, "dense", "sparse"))
    record("extraction/seconds", median(times, "sparse"))
    record("extraction/every_point_seconds", median(times, "dense"))
    record("extraction/share_of_points", counted[0] / resolution**3)
