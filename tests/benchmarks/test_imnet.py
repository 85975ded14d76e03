"""IM-NET: meshes at 256^3 coarse to fine against every point, on a trained decoder, in one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from interleaved import interleaved, median, ratio

import zoo
from datamodules import Shapes
from zoo.imnet.decoding import field_of
from zoo.imnet.extraction import Mesh, coarse_to_fine, dense_grid, marching_cubes


def test_coarse_to_fine_has_the_same_mesh_in_a_fifth_of_the_time(
    request: pytest.FixtureRequest, record: Callable[[str, float], None]
) -> None:
    """The mesh, marching cubes included, of test shapes of the bundled imae_solids."""
    quick = request.config.getoption("--quick")
    resolution, shapes = (64, 1) if quick else (256, 2)
    coarse = resolution // 4
    module = zoo.load("imae_solids")
    data = Shapes(train_shapes=64, test_shapes=shapes, input_size=32)
    data.setup("test")
    batch = data.test_set.__getitems__(list(range(shapes)))
    with torch.inference_mode():
        codes = module.network.encode(batch["voxels"])  # type: ignore[union-attr, operator]
        for number, z in enumerate(codes):
            field = field_of(module.network.generator, z, "v2")  # type: ignore[union-attr, arg-type]
            counted = [0]

            def counting(points: torch.Tensor) -> torch.Tensor:
                counted[0] += len(points)  # noqa: B023
                return field(points)  # noqa: B023

            meshes: dict[str, Mesh] = {}

            def sparse() -> None:
                counted[0] = 0  # noqa: B023
                meshes["sparse"] = marching_cubes(coarse_to_fine(counting, resolution, coarse))  # noqa: B023

            def dense() -> None:
                meshes["dense"] = marching_cubes(dense_grid(field, resolution))  # noqa: B023

            times = interleaved({"sparse": sparse, "dense": dense}, 1, warmup=0)
            assert np.array_equal(meshes["sparse"].faces, meshes["dense"].faces)
            assert np.abs(meshes["sparse"].vertices - meshes["dense"].vertices).max() < 1e-6
            record(f"extraction/shape_{number}/times_faster", ratio(times, "dense", "sparse"))
            record(f"extraction/shape_{number}/seconds", median(times, "sparse"))
            record(f"extraction/shape_{number}/every_point_seconds", median(times, "dense"))
            record(f"extraction/shape_{number}/share_of_points", counted[0] / resolution**3)
