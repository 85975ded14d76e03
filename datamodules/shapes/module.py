"""Shapes for implicit fields: points with labels, voxels, views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Count, DepthOrZero, Many, ManyOrZero, Size, Workers, check_ranges
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds
from datamodules.shapes.building import SURFACE, mesh_arrays, mesh_paths, solids_arrays
from datamodules.shapes.solids import CATEGORIES
from datamodules.shapes.stores import (
    RESOLUTIONS,
    HDF5Store,
    MemoryStore,
    Store,
    read_codes,
    write_hdf5,
)
from datamodules.shapes.voxels import pooled, surface_points

Source = Literal["solids", "hdf5", "meshes"]
Part = Literal["test", "train"]
TEST_VIEW = 23
_CROP = 128


def stage_of(epoch: int, stages: Sequence[dict[str, int]]) -> int:
    """Resolution of an epoch; the last stage goes on for ever."""
    for stage in stages:
        if epoch < stage["epochs"]:
            break
        epoch -= stage["epochs"]
    return stage["resolution"]


class ShapeItems(BatchItems):
    """Shapes of a store; in training the point set follows the epoch, and the view is a draw of the item.

    Args:
        store: where they lie.
        index: rows of the store.
        stages: see :class:`Shapes`.
        input_size: side of ``voxels``.
        views: also give a view.
        codes: also give these codes.
        fine: also give ``fine`` of this side and ``surface``, for tests.
        category: also give these numbers of all rows of the store.
    """

    def __init__(
        self,
        store: Store,
        index: Sequence[int],
        stages: Sequence[dict[str, int]],
        input_size: int,
        views: bool = False,
        codes: np.ndarray[Any, Any] | None = None,
        fine: int = 0,
        category: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.category = category
        self.store, self.index, self.stages = store, list(index), list(stages)
        self.input_size, self.views, self.codes, self.fine = input_size, views, codes, fine

    def __len__(self) -> int:
        return len(self.index)

    def voxels(self, rows: Sequence[int]) -> Tensor:
        """The encoder's input, float32 (B, 1, S, S, S)."""
        found = self.store.rows("voxels", rows)[..., 0]
        if self.input_size != found.shape[1]:
            found = np.stack([pooled(v, self.input_size) for v in found])
        return torch.from_numpy(found).float()[:, None]

    def _points(self, rows: Sequence[int], resolution: int) -> tuple[Tensor, Tensor]:
        """Points (B, P, 3) of the unit cube and values (B, P)."""
        if self.store.shape("points"):
            points, values = self.store.rows("points", rows), self.store.rows("values", rows)
            return torch.from_numpy(points), torch.from_numpy(values).float()
        points = self.store.rows(f"points_{resolution}", rows)
        values = self.store.rows(f"values_{resolution}", rows)[..., 0]
        # uint8: 255 + 1 would wrap
        unit = (points.astype(np.float32) + 0.5) / self.store.grids[resolution]
        return torch.from_numpy(unit), torch.from_numpy(values).float()

    def view(self, epochs: Any, index: Any, rows: Sequence[int], training: bool) -> Tensor:
        """One view of each shape, float32 (B, 1, 128, 128) in [0, 1], cropped at offset 4."""
        count = self.store.shape("pixels")[1]
        if training:
            chosen = (item_seeds(global_seed(), epochs, index) % np.uint64(count)).astype(np.int64)
        else:
            chosen = np.full(len(rows), min(TEST_VIEW, count - 1))
        pixels = self.store.row_parts("pixels", rows, chosen.tolist())
        start = (pixels.shape[-1] - _CROP) // 2
        crop = pixels[:, start : start + _CROP, start : start + _CROP]
        return torch.from_numpy(crop.astype(np.float32) / 255)[:, None]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        training = any(isinstance(k, tuple) for k in keys)
        rows = [self.index[i] for i in index]
        resolution = stage_of(int(epochs[0]) if training else 10**9, self.stages)
        points, values = self._points(rows, resolution)
        batch = {
            "voxels": self.voxels(rows),
            "points": points,
            "values": values,
            "index": torch.from_numpy(index),
            "epoch": torch.from_numpy(epochs),
            "resolution": torch.full((len(rows),), resolution),
        }
        if self.views:
            batch["view"] = self.view(epochs, index, rows, training)
        if self.codes is not None and training:
            batch["code"] = torch.from_numpy(self.codes[rows])
        if self.category is not None:
            batch["category"] = torch.from_numpy(self.category[rows])
        if self.fine:
            batch["fine"], batch["surface"] = self._truth(rows)
        return batch

    def _truth(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        if self.store.shape("surface"):
            fine, surface = self.store.rows("fine", rows), self.store.rows("surface", rows)
        else:
            fine = self.store.rows("voxels", rows)[..., 0]
            surface = np.stack(
                [
                    surface_points(v, SURFACE, np.random.default_rng(i))
                    for v, i in zip(fine, rows, strict=True)
                ]
            )
        if fine.shape[1] != self.fine:
            fine = np.stack([pooled(v, self.fine) for v in fine])
        return torch.from_numpy(fine.astype(np.uint8)), torch.from_numpy(surface)


class Shapes(SplitModule):
    """3-D shapes for implicit fields, the point sets growing with the stages of the training.

    Batch: ``voxels`` float32 (B, 1, S, S, S) of 0 and 1, ``points`` float32 (B, P, 3) in the unit cube,
    ``values`` float32 (B, P) of 0 and 1, ``resolution`` int64 (B,) of the point set, ``epoch`` and ``index``
    int64 (B,); with ``views`` ``view`` float32 (B, 1, 128, 128) in [0, 1]; with ``codes`` ``code`` float32
    (B, Z) in training; where names are known ``category`` int64 (B,), a place in
    ``category_names``; for test and prediction ``fine`` uint8 (B, R, R, R) and ``surface`` float32
    (B, 4096, 6), points in [-0.5, 0.5] with outward normals.

    Args:
        source: ``solids`` (procedural, no files), ``hdf5`` (the official files) or ``meshes`` (any folder of
            watertight meshes; voxelised once into ``zoo_shapes.hdf5`` in it).
        root: folder of the files; defaults to ``$ZOO_DATA/shapenet`` or ``data/shapenet``.
        train_file: of ``hdf5``.
        test_file: of ``hdf5``; null takes the first 80 % of ``train_file`` for training (the first release
            splits its categories so).
        categories: of ``solids``: chair, table, plane, lamp.
        train_shapes: number of solids to train on; of files at most so many, null takes all.
        test_shapes: number of solids, or at most so many of a file, for validation, test and prediction; of
            each category where the file's name list is there (its name with .txt, a ``category/id`` a line).
        stages: mappings of ``resolution`` (16, 32 or 64) and ``epochs``, in order; the last goes on.
        input_size: side S of ``voxels``, which are max-pooled from 64.
        fine: side R of ``fine``.
        continuous: give each solid so many points anywhere, half of them near the surface, with exact labels,
            and voxels that are not pooled but say what lies at their centres; 0 is the released sampling.
        evaluate_on: ``test``, or ``train``: test and predict the training shapes, as ``codes`` needs them.
        views: views to render of each solid or mesh; for files any number above 0 reads their ``pixels``.
        codes: HDF5 file with ``zs`` (N, Z) of the training shapes.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    def __init__(
        self,
        source: Source = "solids",
        root: str | None = None,
        train_file: str = "all_vox256_img_train.hdf5",
        test_file: str | None = "all_vox256_img_test.hdf5",
        categories: Sequence[str] = CATEGORIES,
        train_shapes: Many | None = 128,
        test_shapes: Many | None = 16,
        stages: Sequence[dict[str, Count]] = (
            {"resolution": 16, "epochs": 200},
            {"resolution": 32, "epochs": 200},
            {"resolution": 64, "epochs": 400},
        ),
        input_size: Size = 64,
        fine: Size = 64,
        continuous: ManyOrZero = 0,
        evaluate_on: Part = "test",
        views: DepthOrZero = 0,
        codes: str | None = None,
        batch_size: Many = 32,
        eval_batch_size: Many = 8,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Shapes, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("source", source, Source)
        check_choice("evaluate_on", evaluate_on, Part)
        _check_stages(stages)
        if source == "solids" and (train_shapes is None or test_shapes is None):
            raise ValueError("solids have no end: give train_shapes and test_shapes")
        if continuous and source != "solids":
            raise ValueError("continuous points need exact shapes: source: solids")
        for name, value, choices in (
            ("input_size", input_size, (8, 16, 32, 64)),
            ("fine", fine, (16, 32, 64, 128)),
        ):
            if value not in choices or (value == 128 and source != "solids"):
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value}")
        self.evaluate_on = evaluate_on
        self.source, self.categories, self.stages = source, tuple(categories), list(stages)
        self.root = data_folder(root, "shapenet")
        self.train_file, self.test_file, self.codes_path = train_file, test_file, codes
        self.train_shapes, self.test_shapes = train_shapes, test_shapes
        self.input_size, self.fine, self.continuous, self.views = input_size, fine, continuous, views
        self.dims = 3
        self._stores: dict[str, Store] = {}
        self.category_names: list[str] = []
        self._categories: list[str] = []

    def prepare_data(self) -> None:
        if self.source == "meshes" and not self._cache.is_file():
            arrays, kept = mesh_arrays(mesh_paths(self.root), views=max(self.views, 24))
            write_hdf5(self._cache, arrays)
            self._cache.with_suffix(".txt").write_text("".join(f"{p.relative_to(self.root)}\n" for p in kept))

    @property
    def _cache(self) -> Path:
        return self.root / "zoo_shapes.hdf5"

    def setup(self, stage: str) -> None:
        if self.source == "solids":
            assert self.train_shapes is not None
            assert self.test_shapes is not None
            trained = stage == "fit" or self.evaluate_on == "train"
            parts = {
                "train": range(self.train_shapes if trained else 0),
                "test": range(self.train_shapes, self.train_shapes + self.test_shapes),
            }
            resolutions = {s["resolution"] for s in self.stages}
            for name, index in parts.items():
                if name not in self._stores and len(index):
                    arrays = solids_arrays(
                        index,
                        self.categories,
                        resolutions,
                        self.views,
                        self.continuous,
                        surfaces=name == self.evaluate_on or name == "test",
                        fine=self.fine,
                        input_size=self.input_size,
                    )
                    self._stores[name] = MemoryStore(arrays)
            rows: dict[str, Sequence[int]] = {k: range(s.size) for k, s in self._stores.items()}
        else:
            rows = self._open_files()
        if stage == "fit":
            size = self._stores["train"].size
            self.train_set = self._items("train", rows["train"], codes=self._codes(len(rows["train"]), size))
        self.val_set = self._items("test", rows["test"])
        part = self.evaluate_on
        self.test_set = self._items(part, rows[part], fine=self.fine)
        if self._categories:
            self.test_set.category = np.searchsorted(self.category_names, self._categories)

    def _open_files(self) -> dict[str, Sequence[int]]:
        """Stores of the files, and the rows of each part."""
        name = self.train_file if self.source == "hdf5" else self._cache.name
        train: Store = HDF5Store(self.root / name)
        size = train.size
        if self.source == "hdf5" and self.test_file is not None:
            test: Store = HDF5Store(self.root / self.test_file)
            rows: dict[str, Sequence[int]] = {"train": range(size), "test": range(test.size)}
        else:
            test, first = train, max(1, size * 4 // 5)
            # of a single shape both parts are that shape
            rows = {"train": range(first), "test": range(first, size) if first < size else range(size)}
        self._stores = {"train": train, "test": test}
        source: Any = self._stores[self.evaluate_on]
        self._categories = _categories(source.path, source.size)
        self.category_names = sorted(set(self._categories))
        if self.views:
            for store in self._stores.values():
                if not store.shape("pixels"):
                    raise ValueError(f"{self.root / name} has no pixels, which data.init_args.views asks for")
        found = {"train": rows["train"][: self.train_shapes], "test": rows["test"][: self.test_shapes]}
        if self._categories and self.evaluate_on == "test" and self.test_shapes is not None:
            seen: Counter[str] = Counter()
            chosen = []
            for row in rows["test"]:
                seen[self._categories[row]] += 1
                if seen[self._categories[row]] <= self.test_shapes:
                    chosen.append(row)
            found["test"] = chosen
        return found

    def _codes(self, *sizes: int) -> Any:
        return None if self.codes_path is None else read_codes(Path(self.codes_path), sizes)

    def _items(self, name: str, rows: Sequence[int], codes: Any = None, fine: int = 0) -> ShapeItems:
        views = self.views > 0
        return ShapeItems(self._stores[name], rows, self.stages, self.input_size, views, codes, fine)


def _categories(path: Path, size: int) -> list[str]:
    """Of the rows of an HDF5 file, by the name list beside it; none without a list or without categories.

    Raises:
        ValueError: for a list of another length.
    """
    names = path.with_suffix(".txt")
    lines = names.read_text().splitlines() if names.is_file() else []
    if not lines or not all("/" in line for line in lines):
        return []
    if len(lines) != size:
        raise ValueError(
            f"{names} names {len(lines)} shapes, {path.name} has {size}; take both of one release"
        )
    return [line.split("/")[0] for line in lines]


def _check_stages(stages: Sequence[dict[str, int]]) -> None:
    if not stages:
        raise ValueError("stages must name at least one resolution")
    for stage in stages:
        if set(stage) != {"resolution", "epochs"} or stage["resolution"] not in RESOLUTIONS:
            raise ValueError(f"a stage reads {{resolution: 16 (or 32, 64), epochs: 200}}, got {dict(stage)}")
        if stage["epochs"] < 1:
            raise ValueError(f"a stage has at least 1 epoch, got {stage['epochs']}")
