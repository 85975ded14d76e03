"""Shapes: solids, the released sampling and layouts, meshes of a folder, letters."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from fakes.shapes import fake_shapes

from datamodules import Shapes, Shapes2D
from datamodules.loading.sampling import item_generator
from datamodules.shapes.building import mesh_voxels
from datamodules.shapes.module import stage_of
from datamodules.shapes.pictures import letter, placed
from datamodules.shapes.solids import _centres, continuous_points, solid
from datamodules.shapes.stores import HDF5Store, write_hdf5
from datamodules.shapes.voxels import (
    _visits,
    fill_hidden,
    mixed,
    pooled,
    render_views,
    sample_v1,
    sample_v2,
    surface_points,
    unblock,
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


def test_unblock_puts_blocks_in_place_and_turns_the_frame() -> None:
    blocks = np.zeros((2, 16, 16, 16), dtype=np.uint8)
    blocks[1, 3, 2, 1] = 1
    index = np.ones((16, 16, 16), dtype=np.uint16)
    index[5, 6, 7] = 2
    grid = unblock(blocks, index)
    # at (5 16 + 3, 6 16 + 2, 7 16 + 1) before axes (2, 1, 0) and the flip of the last
    assert np.argwhere(grid).tolist() == [[7 * 16 + 1, 6 * 16 + 2, 255 - (5 * 16 + 3)]]


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
    ({"source": "hdf5", "continuous": 5}, "need exact shapes"),
])  # fmt: skip
def test_impossible_settings_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Shapes(**arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_mesh_is_voxelised_solid_with_a_diagonal_of_one(tmp_path: Path) -> None:
    box = trimesh.creation.box((2.0, 1.0, 4.0))
    box.apply_translation((5, 5, 5))
    box.export(tmp_path / "box.obj")
    voxels = mesh_voxels(tmp_path / "box.obj")
    size = np.array([2, 1, 4]) / np.sqrt(21) * 256
    found = np.argwhere(voxels)
    assert np.abs(np.ptp(found, axis=0) - size).max() <= 2
    assert voxels.sum() == pytest.approx(size.prod(), rel=0.04)
    assert voxels[128, 128, 128]


def test_a_folder_of_meshes_skips_what_is_broken_with_a_count(tmp_path: Path) -> None:
    trimesh.creation.icosphere(2).export(tmp_path / "ball.ply")
    (tmp_path / "deep").mkdir()
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "deep" / "box.stl")
    (tmp_path / "broken.obj").write_text("v 1 2\nf 9 9 9\n")
    (tmp_path / "readme.txt").write_text("no mesh")
    data = Shapes(source="meshes", root=str(tmp_path), input_size=32, batch_size=1, views=24)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.prepare_data()
    assert any("1 of 3 meshes cannot be read and are skipped" in str(w.message) for w in caught)
    data.setup("fit")
    assert len(data.train_set) + len(data.test_set) == 2
    batch = data.train_set.__getitems__([(0, 0)])
    assert batch["view"].shape == (1, 1, 128, 128)
    assert batch["voxels"].mean() > 0.02


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
