"""Shapes: solids, the released sampling and layouts, meshes of a folder, letters."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import trimesh
from fakes.shapes import fake_shapes, sample_v1
from PIL import Image

from datamodules import Shapes, Shapes2D
from datamodules.loading import hdf5
from datamodules.loading.hdf5 import bytes_per_row, open_hdf5
from datamodules.loading.meshes import read_mesh
from datamodules.loading.sampling import item_generator
from datamodules.shapes.building import mesh_voxels
from datamodules.shapes.items import stage_of
from datamodules.shapes.pictures import letter, placed
from datamodules.shapes.solids import _centres, continuous_points, solid
from datamodules.shapes.stores import HDF5Store, read_codes, write_hdf5
from datamodules.shapes.surfaces import solid_voxels, surface_cells
from datamodules.shapes.voxels import (
    _visits,
    fill_hidden,
    mixed,
    pooled,
    render_views,
    sample_v2,
    surface_points,
)
from zoo.imnet.field import coordinates

ONE_STAGE = [{"resolution": 16, "epochs": 1}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    fake_shapes(root / "all_vox256_img_train.hdf5", "v2", 4)
    fake_shapes(root / "all_vox256_img_test.hdf5", "v2", 2)
    fake_shapes(root / "03001627_vox.hdf5", "v1", 5, views=20)
    return root


@pytest.mark.parametrize("index", range(4))
def test_a_pyramid_is_exact_at_every_level(index: int) -> None:
    shape = solid(index)
    for resolution in (32, 64):
        plain = (shape.distance(_centres(resolution)) < 0).reshape([resolution] * 3)
        assert np.array_equal(shape.occupancy(resolution), plain)


def test_solids_fit_a_box_of_diagonal_one_and_differ() -> None:
    for index in range(8):
        corners = np.concatenate([p.corners() for p in solid(index).parts])
        size = corners.max(axis=0) - corners.min(axis=0)
        assert np.linalg.norm(size) == pytest.approx(1)
        assert np.allclose(corners.max(axis=0) + corners.min(axis=0), 0, atol=1e-9)
    assert solid(0).category == solid(4).category == "chair"
    assert not np.array_equal(solid(0).occupancy(32), solid(4).occupancy(32))
    assert np.array_equal(solid(3).occupancy(32), solid(3).occupancy(32))


def test_continuous_points_are_half_near_the_surface() -> None:
    shape = solid(0)
    points, values = continuous_points(shape, 2000, item_generator(0))
    distance = shape.distance(points - np.float32(0.5))
    assert 0.5 <= (np.abs(distance) < 0.04).mean() < 0.75
    assert np.array_equal(values, (distance < 0).astype(np.uint8))


def test_max_pooling_dilates_a_thin_plate() -> None:
    voxels = np.zeros((256, 256, 256), dtype=bool)
    voxels[:, 130, :] = True
    cells = pooled(voxels, 64)
    assert cells[:, 32].all()
    assert cells.sum() == 64 * 64  # one cell, four voxels thick


def test_hidden_inside_is_filled_and_what_sides_see_is_not() -> None:
    shell = np.zeros((16, 16, 16), dtype=bool)
    shell[2:10, 2:10, 2:10] = True
    shell[4:8, 4:8, 4:8] = False  # a cavity
    shell[12:14, 10, 2:12] = True  # a table top: below it the sides see through
    filled = fill_hidden(shell)
    assert filled[2:10, 2:10, 2:10].all()
    assert filled.sum() == 8**3 + 2 * 10


def test_v2_points_near_the_surface_come_first_in_interleaved_order() -> None:
    voxels = solid(0).occupancy(256)
    points, values = sample_v2(voxels, 64, item_generator(0))
    cells = pooled(voxels, 64)
    assert (points.dtype, points.shape) == (np.uint8, (16384, 3))
    at = points.astype(int) // 4
    assert np.array_equal(values[:, 0], cells[tuple(at.T)])
    near = mixed(cells)
    wanted = _visits(64)
    wanted = wanted[near[tuple(wanted.T)]][:16384]
    assert np.array_equal(at[: len(wanted)], wanted)
    assert _visits(64)[:2].tolist() == [[1, 1, 1], [1, 1, 5]]
    assert len(np.unique(at, axis=0)) == 16384  # the fill takes other cells
    inside = voxels[tuple(points.astype(int).T)]
    assert inside[values[:, 0] == 1].all()  # an occupied cell gives an occupied voxel
    assert not inside[values[:, 0] == 0].any()


def test_v2_at_16_has_a_point_in_every_cell() -> None:
    voxels = solid(1).occupancy(256)
    points, values = sample_v2(voxels, 16, item_generator(0))
    assert np.array_equal(points // 16, np.argwhere(np.ones((16, 16, 16))))
    assert values[:, 0].sum() == pooled(voxels, 16).sum()


@pytest.mark.parametrize(("resolution", "budget"), [(16, 4096), (32, 8192), (64, 32768)])
def test_v1_points_are_indices_of_their_own_grid(resolution: int, budget: int) -> None:
    voxels = solid(2).occupancy(256)
    points, values = sample_v1(voxels, resolution, item_generator(0))
    assert points.shape == (budget, 3)
    assert resolution - 2 <= points.max() <= resolution - 1
    assert len(np.unique(points, axis=0)) == budget
    assert np.array_equal(values[:, 0], pooled(voxels, resolution)[tuple(points.T)])


def test_surface_points_of_a_ball() -> None:
    axis = (np.arange(32) + 0.5) / 32 - 0.5
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    surface = surface_points(0.3 - np.sqrt(x**2 + y**2 + z**2), 500, np.random.default_rng(0), level=0.0)
    radius = np.linalg.norm(surface[:, :3], axis=1)
    assert np.abs(radius - 0.3).max() < 0.005
    assert (surface[:, :3] * surface[:, 3:]).sum(axis=1).min() > 0.28


def test_views_show_the_shape_dark_on_white() -> None:
    points = surface_points(solid(0).occupancy(64), 8000, np.random.default_rng(0))
    views = render_views(points, 3, item_generator(0))
    assert views.shape == (3, 137, 137)
    assert (views[:, 0] == 255).all()
    ink = (views < 255).mean(axis=(1, 2))
    assert ((ink > 0.05) & (ink < 0.4)).all()


def test_stages_follow_the_epochs() -> None:
    stages = [
        {"resolution": 16, "epochs": 2},
        {"resolution": 32, "epochs": 1},
        {"resolution": 64, "epochs": 1},
    ]
    assert [stage_of(e, stages) for e in range(6)] == [16, 16, 32, 64, 64, 64]


def test_batch_of_solids() -> None:
    data = Shapes(train_shapes=2, test_shapes=1, input_size=32, stages=ONE_STAGE, views=2, batch_size=2)
    data.setup("fit")
    batch = data.train_set.__getitems__([(0, 0), (0, 1)])
    assert (batch["voxels"].shape, batch["points"].shape) == ((2, 1, 32, 32, 32), (2, 4096, 3))
    assert 0 < float(batch["points"].min()) < float(batch["points"].max()) < 1
    assert (set(batch["values"].unique().tolist()), batch["view"].shape) == ({0.0, 1.0}, (2, 1, 128, 128))
    assert batch["resolution"].tolist() == [16, 16]
    # a point's value is its cell's label
    cells = data.train_set.voxels([0])[0, 0]
    at = (batch["points"][0] * 32).long()
    inside = batch["values"][0] == 0
    assert float(cells[tuple(at[inside].T)].max()) == 0
    test = data.test_set.__getitems__([0])
    assert (test["fine"].shape, test["surface"].shape) == ((1, 64, 64, 64), (1, 4096, 6))


def test_continuous_voxels_are_centres() -> None:
    data = Shapes(categories=["chair"], train_shapes=1, test_shapes=1, input_size=32, continuous=100)
    data.setup("test")
    batch = data.test_set.__getitems__([0])
    exact = solid(1, ("chair",)).occupancy(64)
    assert np.array_equal(batch["fine"][0].numpy(), exact)
    assert np.array_equal(batch["voxels"][0, 0].numpy(), solid(1, ("chair",)).occupancy(32))
    assert batch["points"].shape == (1, 100, 3)


@pytest.mark.parametrize(("name", "version", "grid"), [
    ("all_vox256_img_train.hdf5", "v2", 256),
    ("03001627_vox.hdf5", "v1", 16),
])  # fmt: skip
def test_the_release_is_detected(files: Path, name: str, version: str, grid: int) -> None:
    store = HDF5Store(files / name)
    assert (store.version, store.grids[16]) == (version, grid)


def test_release_is_also_seen_by_the_largest_index(files: Path, tmp_path: Path) -> None:
    with h5py.File(files / "03001627_vox.hdf5") as file:
        arrays = {k: file[k][()] for k in file}
    arrays["points_64"], arrays["values_64"] = arrays["points_64"][:, :16384], arrays["values_64"][:, :16384]
    assert HDF5Store(write_hdf5(tmp_path / "x.hdf5", arrays)).version == "v1"


@pytest.mark.parametrize("release", ["v1", "v2"])
def test_points_of_both_releases_lie_where_their_labels_say(files: Path, release: str) -> None:
    name = {"v1": "03001627_vox.hdf5", "v2": "all_vox256_img_train.hdf5"}[release]
    data = Shapes(source="hdf5", root=str(files), train_file=name, test_file=None, train_shapes=None)
    data.setup("fit")
    batch = data.train_set.__getitems__([(500, 0)])
    assert batch["resolution"].tolist() == [64]
    cells = torch.from_numpy(pooled(solid(0).occupancy(256), 64))
    at = (batch["points"][0] * 64).long()
    assert torch.equal(cells[tuple(at.T)].float(), batch["values"][0])


def test_the_last_index_does_not_wrap(files: Path) -> None:
    for name, last in (("all_vox256_img_train.hdf5", 255), ("03001627_vox.hdf5", 15)):
        with h5py.File(files / name) as file:
            arrays = {k: file[k][()] for k in file}
        arrays["points_16"][0, :2] = [[0, 1, 2], [last, 1, 0]]
        write_hdf5(files / "ends" / name, arrays)
        data = Shapes(
            source="hdf5", root=str(files / "ends"), train_file=name, test_file=None, stages=ONE_STAGE
        )
        data.setup("fit")
        points = data.train_set.__getitems__([(0, 0)])["points"][0, :2, 0]
        release = "v2" if last == 255 else "v1"
        end = 0.498046875 if last == 255 else 0.9375
        assert coordinates(points, release).tolist() == [-end, end]


def test_split_of_one_file_is_eighty_to_twenty(files: Path) -> None:
    data = Shapes(source="hdf5", root=str(files), train_file="03001627_vox.hdf5", test_file=None)
    data.setup("fit")
    assert (data.train_set.index, data.test_set.index) == ([0, 1, 2, 3], [4])


def test_test_view_is_23_and_cropped_at_4(files: Path) -> None:
    data = Shapes(source="hdf5", root=str(files), views=24, stages=ONE_STAGE)
    data.setup("test")
    view = data.test_set.__getitems__([0])["view"][0, 0]
    with h5py.File(files / "all_vox256_img_test.hdf5") as file:
        expected = file["pixels"][0, 23, 4:132, 4:132]
    assert np.array_equal((view * 255).round().numpy(), expected)


def test_training_views_differ_within_a_batch_and_follow_the_epoch(files: Path) -> None:
    data = Shapes(source="hdf5", root=str(files), views=24, stages=ONE_STAGE)
    data.setup("fit")
    a, b, again = (data.train_set.__getitems__([(e, 0), (e, 0)])["view"] for e in (0, 1, 0))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    seen = []
    data.train_set.store.row_parts = lambda key, rows, parts: (
        seen.append(parts) or np.zeros((len(rows), 137, 137), dtype=np.uint8)
    )
    for epoch in range(20):
        data.train_set.__getitems__([(epoch, 0), (epoch, 1), (epoch, 2)])
    assert sum(len(set(parts)) > 1 for parts in seen) > 15  # one number for a whole batch is the release's
    assert {p for parts in seen for p in parts} <= set(range(24))


def test_codes_come_with_the_training_shapes(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.hdf5"
    with h5py.File(path, "w") as file:
        file["zs"] = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = Shapes(source="hdf5", root=str(files), codes=str(path), train_shapes=None)
    data.setup("fit")
    assert data.train_set.__getitems__([(0, 2)])["code"].tolist() == [[6.0, 7.0, 8.0]]
    with h5py.File(path, "w") as file:
        file["other"] = np.zeros(3)
    with pytest.raises(ValueError, match="holds no codes zs"):
        data.setup("fit")
    with h5py.File(path, "w") as file:  # of the two test shapes, say
        file["zs"] = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"the training data have 4 shapes; make it with .*evaluate_on: train"
    ):
        data.setup("fit")


def test_training_shapes_can_be_tested(files: Path) -> None:
    for options in ({"source": "hdf5", "root": str(files)}, {"source": "solids", "input_size": 16}):
        data = Shapes(evaluate_on="train", train_shapes=3, test_shapes=1, fine=16, **options)  # type: ignore
        data.setup("predict")
        assert len(data.test_set) == 3
        batch = data.test_set.__getitems__([0, 2])
        assert batch["surface"].shape == (2, 4096, 6)
        data.setup("fit")
        trained = data.train_set.__getitems__([(0, 0), (0, 2)])
        assert torch.equal(batch["voxels"], trained["voxels"])
    with pytest.raises(ValueError, match="evaluate_on must be one of test, train"):
        Shapes(evaluate_on="val")  # type: ignore[arg-type]


def test_name_lists_give_categories_and_the_first_shapes_of_each(tmp_path: Path) -> None:
    fake_shapes(tmp_path / "all_vox256_img_train.hdf5", "v2", 1)
    fake_shapes(tmp_path / "all_vox256_img_test.hdf5", "v2", 5)
    names = tmp_path / "all_vox256_img_test.txt"
    names.write_text("04379243/a\n04379243/b\n04379243/c\n03001627/d\n03001627/e\n")
    data = Shapes(source="hdf5", root=str(tmp_path), test_shapes=2)
    data.setup("test")
    assert (data.category_names, data.test_set.index) == (["03001627", "04379243"], [0, 1, 3, 4])
    assert data.test_set.__getitems__([0, 2, 3])["category"].tolist() == [1, 0, 0]
    names.write_text("04379243/a\n")
    with pytest.raises(ValueError, match=r"test\.txt names 1 shapes, all_vox256_img_test\.hdf5 has 5"):
        Shapes(source="hdf5", root=str(tmp_path)).setup("test")


def _truncated(path: Path, source: Path) -> None:
    path.write_bytes(source.read_bytes()[:2000])


def _text(path: Path, source: Path) -> None:
    path.write_text("<html>quota exceeded</html>")


def _other_keys(path: Path, source: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)


def _uneven(path: Path, source: Path) -> None:
    with h5py.File(source) as file:
        arrays = {k: file[k][()] for k in file}
    arrays["points_16"] = arrays["points_16"][:1]
    write_hdf5(path, arrays)


@pytest.mark.parametrize(("make", "text"), [
    (_truncated, "cannot be read as HDF5"),
    (_text, "cannot be read as HDF5"),
    (_other_keys, "has no voxels but data: expected all_vox256"),
    (_uneven, "different numbers of shapes"),
])  # fmt: skip
def test_a_broken_file_is_one_line(make: object, text: str, files: Path, tmp_path: Path) -> None:
    make(tmp_path / "all_vox256_img_train.hdf5", files / "all_vox256_img_test.hdf5")  # type: ignore[operator]
    with pytest.raises(ValueError, match=text) as caught:
        Shapes(source="hdf5", root=str(tmp_path)).setup("fit")
    assert "\n" not in str(caught.value)
    assert "all_vox256_img_train.hdf5" in str(caught.value)


def test_a_broken_chunk_is_one_line(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "all_vox256_img_train.hdf5"
    content = bytearray((files / path.name).read_bytes())
    with h5py.File(files / path.name) as file:
        chunk = file["points_16"].id.get_chunk_info(0)
    content[chunk.byte_offset : chunk.byte_offset + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"points_16 of shape .* cannot be read"):
        HDF5Store(path).rows("points_16", [0])


def test_missing_files_name_the_layout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*points_R and values_R"):
        Shapes(source="hdf5", root=str(tmp_path)).setup("fit")
    with pytest.raises(FileNotFoundError, match="no meshes in"):
        Shapes(source="meshes", root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize(("arguments", "text"), [
    ({"stages": [{"resolution": 24, "epochs": 1}]}, "a stage reads"),
    ({"stages": [{"resolution": 16, "epochs": 0}]}, r"stages\[0\].epochs is 0, but must be"),
    ({"input_size": 48}, "input_size must be one of"),
    ({"source": "hdf5", "continuous": 5}, "continuous is 5, which source: hdf5 does not use"),
])  # fmt: skip
def test_impossible_settings_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Shapes(**arguments)  # type: ignore[arg-type]


def _box(low: float = 0.0, high: float = 1.0, lid: bool = True) -> trimesh.Trimesh:
    box = trimesh.creation.box(bounds=[[low] * 3, [high] * 3])
    return box if lid else trimesh.Trimesh(box.vertices, box.faces[box.face_normals[:, 1] < 0.5])


def test_a_mesh_is_voxelised_solid_and_centred_with_a_diagonal_of_one(tmp_path: Path) -> None:
    box = trimesh.creation.box((2.0, 1.0, 4.0))
    box.apply_translation((5, 5, 5))
    box.export(tmp_path / "box.obj")
    voxels = mesh_voxels(tmp_path / "box.obj")
    for axis, side in enumerate((2, 1, 4)):
        assert np.array_equal(voxels, np.flip(voxels, axis))  # not half a cell off
        assert np.ptp(np.argwhere(voxels)[:, axis]) + 1 == 2 * np.ceil(side / np.sqrt(21) * 128)
    assert voxels.sum() == np.prod([2 * np.ceil(side / np.sqrt(21) * 128) for side in (2, 1, 4)])


def test_cells_are_those_that_trimesh_finds_by_cutting_edges() -> None:
    mesh = trimesh.creation.cone(0.3, 0.5, sections=7)
    mesh.apply_scale(0.6)
    (cells,) = surface_cells(mesh.triangles, np.zeros(len(mesh.faces), int))
    cut, _ = trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, max_edge=1 / 512)
    assert np.array_equal(cells, np.unique(np.floor((cut + 0.5) * 256).astype(int), axis=0))


def test_each_part_of_a_mesh_is_filled_or_left_open_on_its_own() -> None:
    closed, bucket, cup = _box(0, 1), _box(3, 4, lid=False), _box(3, 4, lid=False)
    cup.vertices = cup.vertices * [1, -1, 1] + [0, 7, 0]  # its opening below, where nothing looks in
    cells = [int(np.floor((at - 2) / np.linalg.norm([4, 4, 4]) * 256 + 128)) for at in (0.5, 3.5)]
    for open_part, filled in ((bucket, False), (cup, True)):
        both = trimesh.util.concatenate([closed, open_part])
        found = solid_voxels(np.array(both.vertices), np.array(both.faces))
        assert (found.parts, found.open_parts) == (2, 1)
        inside = [bool(found.voxels[(cell,) * 3]) for cell in cells]
        assert inside == [True, filled]  # what is closed beside it changes nothing
    # faces of a box that share no vertex enclose it all the same
    soup = _box().triangles + np.arange(12)[:, None, None] * 1e-5
    found = solid_voxels(soup.reshape(-1, 3), np.arange(36).reshape(-1, 3))
    assert (found.parts, found.open_parts) == (1, 0)
    assert found.voxels[128, 128, 128]


def test_negative_indices_of_an_obj_count_back_from_where_they_stand(tmp_path: Path) -> None:
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    quads = ["-8 -7 -5 -6", "-4 -2 -1 -3", "-8 -4 -3 -7", "-6 -5 -1 -2", "-8 -6 -2 -4", "-7 -3 -1 -5"]
    parts = (
        "".join(
            [f"o {n}\n", *(f"v {x + 4 * n} {y} {z}\n" for x, y, z in corners), *(f"f {q}\n" for q in quads)]
        )
        for n in range(2)
    )
    (tmp_path / "two.obj").write_text("".join(parts))
    vertices, faces = read_mesh(tmp_path / "two.obj")
    assert (len(vertices), len(faces), faces.min(), faces.max()) == (16, 24, 0, 15)
    found = solid_voxels(vertices, faces)
    assert (found.parts, found.open_parts) == (2, 0)
    assert found.voxels[[20, 235], 128, 128].all()
    assert not found.voxels[128, 128, 128]


@pytest.mark.parametrize("suffix", ["obj", "off", "ply", "stl", "glb"])
def test_every_format_gives_the_same_shape(suffix: str, tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(1)
    mesh.apply_scale((1, 2, 3))
    mesh.export(tmp_path / f"x.{suffix}")
    vertices, faces = read_mesh(tmp_path / f"x.{suffix}")
    assert len(faces) == len(mesh.faces)
    assert np.allclose(
        np.sort(vertices[faces].mean(axis=1), axis=0), np.sort(mesh.triangles_center, axis=0), atol=1e-6
    )


def test_a_scale_changes_nothing_and_no_extent_is_refused() -> None:
    ball = trimesh.creation.icosphere(1)
    vertices, faces = np.array(ball.vertices), np.array(ball.faces)
    expected = solid_voxels(vertices, faces).voxels
    assert np.array_equal(solid_voxels(vertices * 2.0**40, faces).voxels, expected)
    for wrong, text in (
        (np.ones_like(vertices), "span 0 at a distance up to 1: no shape"),
        (vertices * 1e-12 + 5, "no shape"),
        (vertices * 1.7e308, "no shape|scale it"),
        (vertices * [1, 0, 0], "no area"),
    ):
        with pytest.raises(ValueError, match=text):
            solid_voxels(wrong, faces)


_GLTF = (
    '{"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "accessors": [{"componentType": 5126, '
    '"type": "VEC3", "count": %s, "bufferView": 0}], "bufferViews": [{"buffer": 0}], '
    '"buffers": [{"uri": "%s"}]}'
)


@pytest.mark.parametrize(("name", "content", "text"), [
    ("x.obj", "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "NaN or infinite"),
    ("x.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "a face names vertex 3 of 3"),
    ("x.off", "OFF\n1000000000 1 0\n0 0 0\n", "claims 1000000000 vertices and 1 faces, but has 1 lines"),
    ("x.stl", "\0" * 80 + "\x10\x10\x10\x10", "claims 269,488,144 triangles, but has 84 bytes"),
    ("x.ply", "ply\nformat ascii 1.0\nelement vertex 9999999\nend_header\n0\n", "claims 9,999,999 elements"),
    ("x.gltf", _GLTF % (10**9, "data:;base64,AAAA"), "claims 1,000,000,000 rows, but its buffer has 3"),
    ("x.gltf", _GLTF % (3, "secret.bin"), "lie in another file, which is not read"),
])  # fmt: skip
def test_a_mesh_that_lies_is_refused_in_a_line(name: str, content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=text) as caught:
        read_mesh(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_meshes_is_built_once_and_says_what_is_wrong_with_it(tmp_path: Path, capsys: Any) -> None:
    trimesh.creation.icosphere(1).export(tmp_path / "ball.ply")
    (tmp_path / "deep").mkdir()
    _box(lid=False).export(tmp_path / "deep" / "a\nbucket.stl")
    (tmp_path / "broken.obj").write_text("v 1 2\nf 9 9 9\n")
    (tmp_path / "readme.txt").write_text("no mesh")
    options: Any = {"source": "meshes", "root": str(tmp_path), "input_size": 32, "batch_size": 1, "views": 24}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Shapes(**options).prepare_data()
    said = [str(w.message) for w in caught]
    assert any("1 of 3 meshes cannot be read and are skipped" in text for text in said)
    assert any(text.startswith("1 of 3 meshes have parts that are not closed") for text in said)
    assert any("bucket.stl: 1 of 1; of these" in text for text in said)
    data = Shapes(**options)
    data.prepare_data()
    data.setup("predict")
    assert len(data.test_set) == 1
    assert data.shape_names == ["deep/a bucket.stl"]
    assert "zoo: shapes 2 to 2 (1) of the 2 in" in capsys.readouterr().out
    batch = data.test_set.__getitems__([0])
    assert batch["view"].shape == (1, 1, 128, 128)
    assert 0.03 < batch["voxels"].mean() < 0.1  # walls alone
    (tmp_path / "broken.obj").unlink()
    Shapes(**options).prepare_data()  # other meshes than before
    assert "was made of other meshes or by an earlier version: it is made anew" in capsys.readouterr().out


def test_too_large_a_batch_is_refused_before_meshes_are_voxelised(tmp_path: Path) -> None:
    trimesh.creation.icosphere(1).export(tmp_path / "ball.ply")
    data = Shapes(source="meshes", root=str(tmp_path), batch_size=16)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"batch_size is 16, but of the 1 meshes in .* 1 are trained on"):
        data.prepare_data()
    assert not (tmp_path / "zoo_shapes.hdf5").exists()


def test_pictures_are_views_on_white(tmp_path: Path) -> None:
    grey = np.full((60, 120, 4), 0, dtype=np.uint8)
    grey[20:40, 40:80] = (51, 51, 51, 255)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    data = Shapes(predict_files=str(tmp_path), views=1)
    data.prepare_data()
    data.setup("predict")
    assert data.shape_names == ["a.png", "b.png"]
    batch = data.predict_set.__getitems__([0, 1])
    assert (batch["view"].shape, batch["index"].tolist()) == ((1, 1, 128, 128), [0])
    assert float(batch["view"][0, 0, 64, 64]) == pytest.approx(0.2)
    assert float(batch["view"][0, 0, 10, 64]) == 1.0
    assert "b.png" in batch["skipped"][0]


def test_letters_are_at_all_places() -> None:
    assert len(placed(letter(29, 27), 64)) == 36 * 38
    data = Shapes2D(canvas=32, pairs=8)
    data.setup("fit")
    assert len(data.train_set) == 20 * 21
    assert data.templates is not None
    assert len(data.templates.flatten(1).unique(dim=0)) == 420
    batch = data.test_set.__getitems__([0, 1])
    shift = [p.nonzero()[0].float() for p in (batch["voxels"][0, 0], batch["partner"][0, 0])]
    assert 6 <= float((shift[0] - shift[1]).norm()) <= 10
    # values are the picture at the points
    at = (batch["points"][0] * 32).long()
    assert torch.equal(batch["voxels"][0, 0][at[:, 0], at[:, 1]], batch["values"][0])


def test_gap_takes_the_middle_rows() -> None:
    assert letter(29, 27, gap=True).sum(axis=1).tolist().count(0) == 4
    assert letter(29, 27, gap=True)[12:16].sum() == 0


@pytest.mark.slow
def test_digits_are_real_and_grey() -> None:
    data = Shapes2D(source="digits")
    data.setup("test")
    batch = data.test_set.__getitems__([0])
    assert batch["voxels"].shape == (1, 1, 28, 28)
    assert len(batch["values"].unique()) > 20


def _in_released_chunks(path: Path, shapes: int) -> Path:
    """A file whose chunks hold all shapes, as h5py's automatic chunks of the release do."""
    with h5py.File(path, "w") as file:
        for key, row in (("voxels", (64, 64, 64, 1)), *((f"points_{r}", (4096, 3)) for r in (16, 32, 64))):
            values = np.zeros((shapes, *row), dtype=np.uint8)
            values[:, 0, 0] = np.arange(shapes).reshape(-1, *[1] * (values.ndim - 3)) % 2
            chunk = (shapes, *(-(-n // 4) for n in row))
            file.create_dataset(key, data=values, chunks=chunk, compression="gzip", compression_opts=9)
            if key != "voxels":
                file[key.replace("points", "values")] = np.zeros((shapes, 4096, 1), dtype=np.uint8)
    return path


def _trained(data: Shapes, *keys: str) -> Shapes:
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=SimpleNamespace(trained_on=set(keys)), state=SimpleNamespace(fn="fit")
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_rows_of_released_chunks_are_copied_once_and_checked(tmp_path: Path) -> None:
    path = _in_released_chunks(tmp_path / "all_vox256_img_train.hdf5", 64)
    with open_hdf5(path) as file:
        assert bytes_per_row(file["voxels"]) == 64 * 64**3  # a row decompresses all
    options = {"source": "hdf5", "root": str(tmp_path), "test_file": None, "stages": ONE_STAGE}
    data = _trained(Shapes(**options), "voxels")  # type: ignore[arg-type]
    copies = tmp_path / "all_vox256_img_train.rows"
    assert sorted(p.name for p in copies.iterdir()) == ["voxels.hdf5"]  # points cost less than a copy
    with open_hdf5(copies / "voxels.hdf5") as file:
        assert bytes_per_row(file["voxels"]) == 64**3
        at = file["voxels"].id.get_chunk_info_by_coord((3, 0, 0, 0, 0)).byte_offset
    batch = data.train_set.__getitems__([(0, 2), (0, 3)])
    assert set(batch) == {"voxels", "index", "epoch", "resolution"}  # nothing that the model does not use
    assert batch["voxels"].sum(dim=(1, 2, 3, 4)).tolist() == [0, 64]
    first = (copies / "voxels.hdf5").stat().st_mtime_ns
    _trained(Shapes(**options), "voxels")  # type: ignore[arg-type]
    assert (copies / "voxels.hdf5").stat().st_mtime_ns == first
    content = bytearray((copies / "voxels.hdf5").read_bytes())
    content[at + 5] ^= 1
    (copies / "voxels.hdf5").unlink()  # HDF5 holds the open one in memory
    (copies / "voxels.hdf5").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows/voxels\.hdf5: voxels of shape 3 cannot be read"):
        HDF5Store(path).rows("voxels", [3])
    path.touch()  # another file: its copy is made anew
    assert HDF5Store(path).rows("voxels", [3]).sum() == 64


def test_all_inputs_are_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_released_chunks(tmp_path / "all_vox256_img_train.hdf5", 10)
    data = Shapes(source="hdf5", root=str(tmp_path), test_file=None, stages=ONE_STAGE, input_size=16)
    data.setup("fit")
    expected = data.train_set.voxels(range(8))
    monkeypatch.setattr(hdf5, "SLAB_LIMIT", 3 * 64**3)
    monkeypatch.setattr(HDF5Store, "rows", None)
    assert torch.equal(torch.cat(list(data.train_set.voxels_in_order(2))), expected)


@pytest.mark.parametrize(("key", "shape", "text"), [
    ("voxels", (2, 10**6, 64, 64, 1), r"voxels is \(2, 1000000, .*, expected \(any, 64, 64, 64, 1\)"),
    ("points_16", (2, 10**9, 3), r"points_16 is .*, expected \(any, 1 to 2097152, 3\)"),
    ("voxels", (10**6, 64, 64, 64, 1), r"claims 262,144,000,000 bytes of voxels"),
])  # fmt: skip
def test_what_an_hdf5_file_declares_is_judged_before_it_is_read(
    key: str, shape: tuple[int, ...], text: str, tmp_path: Path
) -> None:
    path = _in_released_chunks(tmp_path / "all_vox256_img_train.hdf5", 2)
    with h5py.File(path, "a") as file:
        del file[key]
        file.create_dataset(key, shape, np.uint8, chunks=tuple(min(n, 64) for n in shape), compression="gzip")
    with pytest.raises(ValueError, match=text) as caught:
        HDF5Store(path)
    assert str(path) in str(caught.value)


def test_codes_that_claim_what_they_do_not_hold_and_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "z.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("zs", (10**8, 256), np.float32, chunks=(1000, 256), compression="gzip")
    with pytest.raises(ValueError, match=r"z\.hdf5 claims 102,400,000,000 bytes of zs"):
        read_codes(path, (10**8,))
    with h5py.File(path, "w") as file:
        file["zs"] = h5py.ExternalLink("other.hdf5", "zs")
    with pytest.raises(ValueError, match="zs is a link to elsewhere"):
        read_codes(path, (4,))


def test_labels_that_are_no_labels_are_not_trained_on(tmp_path: Path) -> None:
    path = _in_released_chunks(tmp_path / "all_vox256_img_train.hdf5", 2)
    with h5py.File(path, "a") as file:
        file["values_32"][1, 7] = 128
    with pytest.raises(ValueError, match="values_32 holds 0 to 128, expected 0 to 1"):
        HDF5Store(path).rows("values_32", [1])


def test_a_full_disk_is_a_line_with_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.seek, self.tell, self.read = file.seek, file.tell, file.read
            self.readinto, self.flush, self.truncate = file.readinto, file.flush, file.truncate

        def write(self, content: Any) -> int:
            raise OSError(28, "No space left on device")

    made = hdf5._Sink.__init__
    monkeypatch.setattr(hdf5._Sink, "__init__", lambda self, file: made(self, Full(file)))
    with pytest.raises(OSError, match=r"No space left on device while .*x\.hdf5 was written"):
        write_hdf5(tmp_path / "x.hdf5", {"voxels": np.zeros((2, 3), np.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_more_surface_than_a_shape_has_is_refused() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=float)
    faces = np.tile(np.arange(3), (1000, 1))
    with pytest.raises(ValueError, match=r"would be cut into .* pieces, the limit is 5e\+07"):
        solid_voxels(corners, faces)
