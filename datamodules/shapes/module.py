"""Shapes for implicit fields: points with labels, voxels, views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.hdf5 import open_hdf5, read_errors
from datamodules.loading.loaders import SplitModule
from datamodules.loading.ranges import Count, DepthOrZero, Many, ManyOrZero, Size, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.shapes.building import (
    MESHES,
    build_meshes,
    mesh_paths,
    mesh_stamp,
    solids_arrays,
)
from datamodules.shapes.items import ShapeItems
from datamodules.shapes.solids import CATEGORIES
from datamodules.shapes.stores import (
    RESOLUTIONS,
    HDF5Store,
    MemoryStore,
    Store,
    read_codes,
)
from datamodules.shapes.views import ViewItems, listed_pictures

Source = Literal["solids", "hdf5", "meshes"]
Part = Literal["test", "train"]
_LIST_LIMIT = 2**26  # bytes of a list of names


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
        cache: folder of the copies by shape that are made once of official files, whose chunks hold a
            thousand shapes; null makes them beside the files. Only what the model uses is copied.
        predict_files: a picture, or a folder of them, of which ``zoo predict`` of a :class:`zoo.IMSVR` makes
            shapes: the object on white or transparent ground, filling the picture.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "source",
        "categories",
        "train_file",
        "test_file",
        "train_shapes",
        "test_shapes",
    )

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
        cache: str | None = None,
        predict_files: str | None = None,
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
        self.cache = None if cache is None else Path(cache)
        self.dims = 3
        self.predict_files = None if predict_files is None else Path(predict_files)
        self._stores: dict[str, Store] = {}
        self.category_names: list[str] = []
        self.shape_names: list[str] = []
        """Of the shapes that are tested and predicted, in order; empty where they have none."""
        self._names: list[str] = []
        self._categories: list[str] = []

    def prepare_data(self) -> None:
        """Voxelise the meshes, and copy arrays of official files whose single rows are slow to read, once."""
        if self.predict_files is not None and self._stage() == "predict":
            return
        if self.source == "meshes":
            self._build_meshes()
        if self.source != "solids" and self.trainer is not None:
            self._open_files(self._stage())

    def _stage(self) -> str:
        """The verb that is run, nothing where none is."""
        return "" if self.trainer is None else str(getattr(self.trainer.state.fn, "value", "fit"))

    @property
    def _cache(self) -> Path:
        return self.root / "zoo_shapes.hdf5"

    def _build_meshes(self) -> None:
        """The file of the folder's meshes, once; anew where they are others, or rules have changed."""
        if self._cache.is_file() and not (self.root.is_dir() and _any_mesh(self.root)):
            return  # the file alone was handed on
        paths = mesh_paths(self.root)
        stamp = mesh_stamp(paths, self.root)
        if self._cache.is_file():
            with open_hdf5(self._cache) as file, read_errors(self._cache):
                if file.attrs.get("meshes") == stamp:
                    return
            say(f"{self._cache} was made of other meshes or by an earlier version: it is made anew")
        self._check_batch_size(len(paths))
        names = self._cache.with_suffix(".txt")
        build_meshes(paths, self._cache, names, stamp, views=max(self.views, 24))

    def _check_batch_size(self, meshes: int) -> None:
        """Before the long work: a training needs a whole batch."""
        trained = min(_first_part(meshes), self.train_shapes or meshes)
        if self._stage() == "fit" and self.batch_size > trained:
            raise ValueError(
                f"data.init_args.batch_size is {self.batch_size}, but of the {meshes} meshes in {self.root} "
                f"{trained} are trained on (the first four fifths): lower it"
            )

    @property
    def _trained_on(self) -> Collection[str] | None:
        """Keys of a batch that a training step of the model takes, where its class says so."""
        found: Collection[str] | None = getattr(
            getattr(self.trainer, "lightning_module", None), "trained_on", None
        )
        return found

    def _arrange(self, stage: str) -> None:
        """Make the rows that this stage asks for fast to read, those that the model does not use left out."""
        wanted, views = self._trained_on, ["pixels"] if self.views else []
        arrays = {"voxels": ["voxels"], "view": views}
        if stage == "fit":
            sides = sorted({s["resolution"] for s in self.stages})
            arrays["points"] = [f"{k}_{r}" for r in sides for k in ("points", "values")]
            self._stores["train"].arrange(
                name for key, names in arrays.items() if wanted is None or key in wanted for name in names
            )
        last = self.stages[-1]["resolution"]
        part = self.evaluate_on if stage in ("test", "predict") else "test"
        self._stores[part].arrange(["voxels", *views, f"points_{last}", f"values_{last}"])

    def _set_up_pictures(self, path: Path) -> None:
        if self._trained_on is not None and "view" not in self._trained_on:
            raise ValueError(
                "data.init_args.predict_files are pictures, of which zoo.IMSVR alone makes shapes; set "
                "model.class_path: zoo.IMSVR, or leave it out"
            )
        pictures = listed_pictures(path)
        self.predict_set = ViewItems(pictures)
        self.shape_names = [str(p.relative_to(path)) if path.is_dir() else p.name for p in pictures]

    def setup(self, stage: str) -> None:
        if stage == "predict" and self.predict_files is not None:
            self._set_up_pictures(self.predict_files)
            return
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
            rows = self._open_files(stage)
        if stage == "fit":
            size = self._stores["train"].size
            self.train_set = self._items("train", rows["train"], codes=self._codes(len(rows["train"]), size))
        self.val_set = self._items("test", rows["test"])
        part = self.evaluate_on
        self.test_set = self._items(part, rows[part], fine=self.fine)
        self.shape_names = [self._names[row] for row in rows[part]] if self._names else []
        if self._categories:
            self.test_set.category = np.searchsorted(self.category_names, self._categories)
        if self.source != "solids" and stage in ("test", "predict"):
            self._say_part(rows[part])

    def _say_part(self, rows: Sequence[int]) -> None:
        """Which shapes of which file are looked at, and how to have the others."""
        store: Any = self._stores[self.evaluate_on]
        other = "train" if self.evaluate_on == "test" else "test"
        which = f"shapes {rows[0] + 1:,} to {rows[-1] + 1:,}" if len(rows) else "no shape"
        say(
            f"{which} ({len(rows):,}) of the {store.size:,} in {store.path}, those for "
            f"{'training' if other == 'test' else 'test'}; data.init_args.evaluate_on: {other} has the others"
        )

    def _open_files(self, stage: str) -> dict[str, Sequence[int]]:
        """Stores of the files, and the rows of each part."""
        name = self.train_file if self.source == "hdf5" else self._cache.name
        train: Store = HDF5Store(self.root / name, self.cache)
        size = train.size
        if self.source == "hdf5" and self.test_file is not None:
            test: Store = HDF5Store(self.root / self.test_file, self.cache)
            rows: dict[str, Sequence[int]] = {"train": range(size), "test": range(test.size)}
        else:
            test, first = train, _first_part(size)
            # of a single shape both parts are that shape
            rows = {"train": range(first), "test": range(first, size) if first < size else range(size)}
        self._stores = {"train": train, "test": test}
        source: Any = self._stores[self.evaluate_on]
        self._names = _names(source.path, source.size)
        named = bool(self._names) and all("/" in name for name in self._names)
        self._categories = [name.split("/")[0] for name in self._names] if named else []
        self.category_names = sorted(set(self._categories))
        if self.views:
            for store in self._stores.values():
                if not store.shape("pixels"):
                    raise ValueError(f"{self.root / name} has no pixels, which data.init_args.views asks for")
        self._arrange(stage)
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
        store, wanted = self._stores[name], self._trained_on
        return ShapeItems(store, rows, self.stages, self.input_size, views, codes, fine, wanted=wanted)


def _first_part(size: int) -> int:
    """Of one file's shapes, how many are trained on: four fifths."""
    return max(1, size * 4 // 5)


def _any_mesh(folder: Path) -> bool:
    return any(p.suffix.lower() in MESHES for p in folder.rglob("*"))


def _names(path: Path, size: int) -> list[str]:
    """Of the rows of an HDF5 file, by the list beside it, ``category/name`` or a name a line; none without.

    Raises:
        ValueError: for a list that cannot be read, or of another length.
    """
    names = path.with_suffix(".txt")
    if not names.is_file():
        return []
    if names.stat().st_size > _LIST_LIMIT:
        raise ValueError(f"{names} has {names.stat().st_size:,} bytes, which is no list of names")
    try:
        lines = names.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{names} is no list of names in UTF-8; write it anew or take it away") from None
    if lines and len(lines) != size:
        raise ValueError(
            f"{names} names {len(lines)} shapes, {path.name} has {size}; take both of one release"
        )
    return lines


def _check_stages(stages: Sequence[dict[str, int]]) -> None:
    if not stages:
        raise ValueError("stages must name at least one resolution")
    for stage in stages:
        if set(stage) != {"resolution", "epochs"} or stage["resolution"] not in RESOLUTIONS:
            raise ValueError(f"a stage reads {{resolution: 16 (or 32, 64), epochs: 200}}, got {dict(stage)}")
        if stage["epochs"] < 1:
            raise ValueError(f"a stage has at least 1 epoch, got {stage['epochs']}")
