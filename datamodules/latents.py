"""ImageNet as VAE latents in the layouts that DiT trainers use."""

from __future__ import annotations

import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import TensorItems, evaluation_loader, global_seed, train_loader

LatentLayout = Literal["packed", "fast-dit"]
Array = np.ndarray[Any, Any]

IMAGENET_TRAIN_ITEMS = 1_281_167
SCALE = 0.18215  # of Stable Diffusion's VAE

_LAYOUTS = {
    "packed": "latents.npy float16 (N, V, 4 or 8, S, S), labels.npy int64 (N,) and meta.json "
    '{"scale": 0.18215, "moments": true or false}',
    "fast-dit": "imagenet256_features/{i}.npy float32 (1, 4, S, S), already scaled, and "
    "imagenet256_labels/{i}.npy int64 (1,), as extract_features.py of fast-DiT "
    "(github.com/chuanyangjin/fast-DiT) writes them",
}
_SOURCE = (
    "encode ImageNet (image-net.org, ILSVRC2012) with Stable Diffusion's KL-f8 VAE "
    "(stabilityai/sd-vae-ft-ema on huggingface.co)"
)


def _missing(path: Path, layout: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no latents at {path}: layout {layout!r} needs {_LAYOUTS[layout]}; {_SOURCE}, then set "
        "data.init_args.root (or the environment variable ZOO_DATA) to where they are"
    )


def _damaged(path: Path, layout: str, what: object) -> ValueError:
    text = " ".join(str(what).split())
    return ValueError(
        f"{path} is damaged ({text}): layout {layout!r} needs {_LAYOUTS[layout]}; {_SOURCE} anew"
    )


def _load(path: Path, layout: str, mmap: bool = False) -> Array:
    """A .npy file, never unpickled."""
    if not path.is_file():
        raise _missing(path, layout)
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, layout, error) from None
    if not isinstance(array, np.ndarray):
        raise _damaged(path, layout, f"it holds a {type(array).__name__}")
    return array


def _integer_labels(labels: Array, path: Path, layout: str) -> Array:
    if not np.issubdtype(labels.dtype, np.integer):
        raise _damaged(path, layout, f"labels of type {labels.dtype}")
    return labels.astype(np.int64)


def item_seeds(seed: int, epochs: Array, index: Array) -> Array:
    """A well-mixed 64-bit number per item, a function of (seed, epoch, index); uint64 (B,).

    SplitMix64 (Steele et al. 2014), chained over the key, since a NumPy SeedSequence per item is slow.
    """
    state = np.zeros(len(index), dtype=np.uint64)
    for part in (np.full(len(index), seed), epochs, index):
        z = (state ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = z ^ (z >> np.uint64(31))
    return state


def _keys(keys: Sequence[int | tuple[int, int]]) -> tuple[Array, Array]:
    """(epochs, indices) of a batch; evaluation asks by index alone, which is epoch 0."""
    pairs = np.array([k if isinstance(k, tuple) else (0, k) for k in keys], dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]


class PackedLatents(Dataset[dict[str, Tensor]]):
    """One memory-mapped array of latents or of their moments; :func:`write_packed` writes it.

    ``latents.npy`` is float16 (N, V, 4, S, S), or (N, V, 8, S, S) when ``meta.json`` says ``moments``:
    posterior mean, then standard deviation, unscaled. V = 2 holds the encodings of the image and of its
    mirror image, each used with probability 1/2. Latents are never flipped, which is only about the same.

        z = (mean + std eps) scale

    View and eps are functions of (seed, epoch, index), whatever the batch, the worker and the process.

    Raises:
        FileNotFoundError, ValueError: for missing, unreadable or inconsistent files.
    """

    def __init__(self, root: Path) -> None:
        meta_path, self._path = root / "meta.json", root / "latents.npy"
        if not meta_path.is_file():
            raise _missing(meta_path, "packed")
        try:
            self.meta: dict[str, Any] = json.loads(meta_path.read_text())
            self.scale, self.moments = float(self.meta["scale"]), self.meta["moments"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(meta_path, "packed", f"{type(error).__name__}: {error}") from None
        if not (math.isfinite(self.scale) and self.scale > 0 and isinstance(self.moments, bool)):
            raise _damaged(meta_path, "packed", f"scale {self.scale}, moments {self.moments!r}")
        self._latents: Array | None = None
        shape = self.latents.shape
        if len(shape) != 5 or not all(shape) or (self.moments and shape[2] % 2) or shape[3] != shape[4]:
            raise _damaged(self._path, "packed", f"shape {shape}, moments {str(self.moments).lower()}")
        if self.latents.dtype not in (np.float16, np.float32):
            raise _damaged(self._path, "packed", f"type {self.latents.dtype}")
        labels = _load(root / "labels.npy", "packed")
        if labels.shape != shape[:1]:
            raise _damaged(root / "labels.npy", "packed", f"shape {labels.shape} for {shape[0]} latents")
        self.labels = torch.from_numpy(_integer_labels(labels, root / "labels.npy", "packed"))
        self.views = int(shape[1])
        self.shape: tuple[int, ...] = (shape[2] // 2 if self.moments else shape[2], shape[3], shape[4])

    @property
    def latents(self) -> Array:
        """The memory map, opened once per process."""
        if self._latents is None:
            # A plain view: indexing the memmap class itself costs more per batch.
            self._latents = np.asarray(_load(self._path, "packed", mmap=True))
        return self._latents

    def __getstate__(self) -> dict[str, Any]:
        # Pickled for a worker, a memory map would be the whole array.
        return self.__dict__ | {"_latents": None}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = _keys(keys)
        seeds = item_seeds(global_seed(), epochs, index)
        views = (seeds >> np.uint64(32)) % np.uint64(self.views)
        values = torch.from_numpy(self.latents[index, views.astype(np.int64)]).float()  # (B, 4 or 8, S, S)
        if self.moments:
            mean, std = values.chunk(2, dim=1)
            values = torch.addcmul(mean, std, _noise(seeds, self.shape))
        rows = torch.from_numpy(index)
        return {"latent": values * self.scale, "label": self.labels[rows], "index": rows}

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        return {k: v[0] for k, v in self.__getitems__([key]).items()}


def _noise(seeds: Array, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 (B, *shape); row i depends on the low 32 bits of seed i, as torch does."""
    noise, generator = torch.empty(len(seeds), *shape), torch.Generator()
    for row, seed in zip(noise, (seeds & np.uint64(0xFFFFFFFF)).tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise


def write_packed(
    root: Path,
    batches: Iterable[tuple[Array, Array]],
    count: int,
    *,
    moments: bool,
    scale: float = SCALE,
    **meta: Any,
) -> None:
    """Write the packed layout batch by batch, so that any number of items needs little memory.

    ``meta.json`` comes last: a folder that was cut short is not taken for a whole one.

    Args:
        root: folder, made if needed.
        batches: (latents (B, V, C, S, S), labels (B,)) in order; with ``moments`` C is 8.
        count: number of items in all.
        moments: whether latents are posterior mean and standard deviation.
        scale: factor from what is stored to what the model sees.
        **meta: further entries of meta.json, ``vae="sd-vae-ft-ema"`` for instance.

    Raises:
        ValueError: for batches that do not add up to ``count`` or do not fit into float16.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "meta.json").unlink(missing_ok=True)
    temporary = root / ".latents.npy.tmp"
    stored: np.memmap[Any, Any] | None = None
    labels, done = np.empty(count, dtype=np.int64), 0
    for latents, batch_labels in batches:
        if stored is None:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.float16, shape=(count, *latents.shape[1:])
            )
        if len(latents) != len(batch_labels) or done + len(latents) > count:
            raise ValueError(
                f"{len(latents)} latents, {len(batch_labels)} labels after {done} of {count} items"
            )
        with np.errstate(over="ignore"):  # answered below
            half = np.asarray(latents).astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError(f"items {done} to {done + len(half) - 1} hold values that float16 cannot")
        stored[done : done + len(half)], labels[done : done + len(half)] = half, batch_labels
        done += len(half)
    if stored is None or done != count:
        raise ValueError(f"{done} items came, {count} were announced")
    stored.flush()
    temporary.replace(root / "latents.npy")
    np.save(root / "labels.npy", labels)
    content = {"scale": scale, "moments": moments, **meta}
    (root / "meta.json").write_text(json.dumps(content, indent=2) + "\n")


class _EqualFiles:
    """.npy files of one type and shape, whose equal headers are parsed once.

    NumPy's own reader takes several times longer than the read itself.

    Attributes:
        example: content of the first file.
    """

    def __init__(self, folder: Path, first: str) -> None:
        self.folder, self.example = folder, _load(folder / first, "fast-dit")
        content = (folder / first).read_bytes()
        self.header, self.size = content[: len(content) - self.example.nbytes], len(content)

    def read(self, name: str) -> Array:
        path = f"{self.folder}/{name}"
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            raise _missing(Path(path), "fast-dit") from None
        if len(content) == self.size and content.startswith(self.header):
            values = np.frombuffer(content, self.example.dtype, offset=len(self.header))
            return values.reshape(self.example.shape, order="C" if self.example.flags.c_contiguous else "F")
        array = _load(Path(path), "fast-dit")
        if array.shape != self.example.shape or array.dtype != self.example.dtype:
            what = f"{array.dtype} {array.shape}, others are {self.example.dtype} {self.example.shape}"
            raise _damaged(Path(path), "fast-dit", what)
        return array


class FastDiTLatents(Dataset[dict[str, Tensor]]):
    """One .npy file per image, as fast-DiT's extractor writes them: one posterior draw, already scaled.

    Files are paired by name, in numerical order. Warns when the number of files is not that of ImageNet's
    training set: the extractor run on several processes overwrites files, since their numbers lack the rank.
    Labels are read with their latents: reading a million files first would take minutes.

    Raises:
        FileNotFoundError, ValueError: for missing, unpaired or unreadable files.
    """

    def __init__(self, root: Path, num_classes: int = 1000) -> None:
        self.features, self.label_files = root / "imagenet256_features", root / "imagenet256_labels"
        for folder in (self.features, self.label_files):
            if not folder.is_dir():
                raise _missing(folder, "fast-dit")
        names, labels = _npy_names(self.features), _npy_names(self.label_files)
        unpaired = sorted(set(names) ^ set(labels))
        if unpaired:
            raise ValueError(
                f"{root}: {len(unpaired)} files without partner, for example {unpaired[0]!r}; "
                f"layout 'fast-dit' needs {_LAYOUTS['fast-dit']}"
            )
        if not names:
            raise _missing(self.features / "0.npy", "fast-dit")
        if len(names) != IMAGENET_TRAIN_ITEMS:
            warnings.warn(
                f"{root} holds {len(names):,} latents, ImageNet's training set {IMAGENET_TRAIN_ITEMS:,}: "
                "fast-DiT's extractor overwrites files when it runs on several processes",
                stacklevel=2,
            )
        # An array, since a million Python strings are copied into every worker that touches them.
        self.names, self.num_classes = np.array(names), num_classes
        self._files = [_EqualFiles(folder, names[0]) for folder in (self.features, self.label_files)]
        latent, label = (files.example for files in self._files)
        if latent.ndim != 4 or latent.shape[0] != 1 or not np.issubdtype(latent.dtype, np.floating):
            raise _damaged(self.features / names[0], "fast-dit", f"{latent.dtype} of shape {latent.shape}")
        if label.size != 1 or not np.issubdtype(label.dtype, np.integer):
            raise _damaged(self.label_files / names[0], "fast-dit", f"{label.dtype} of shape {label.shape}")
        self.shape: tuple[int, ...] = latent.shape[1:]

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        _, index = _keys(keys)
        names = self.names[index]
        latents, labels = (np.stack([files.read(name) for name in names]) for files in self._files)
        labels = labels.reshape(-1).astype(np.int64)
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            raise ValueError(
                f"{self.label_files / names[wrong][0]}: label {labels[wrong][0]}, but "
                f"data.init_args.num_classes is {self.num_classes}"
            )
        return {
            "latent": torch.from_numpy(latents[:, 0].astype(np.float32)),
            "label": torch.from_numpy(labels),
            "index": torch.from_numpy(index),
        }

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        return {k: v[0] for k, v in self.__getitems__([key]).items()}


def _npy_names(folder: Path) -> list[str]:
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy")]
    return sorted(names, key=lambda n: (len(n), n))


class ImageNetLatents(LightningDataModule):
    """ImageNet encoded by a VAE.

    Batch: ``latent`` float32 (B, 4, S, S) in training scale, ``label`` int64 (B,), ``index`` int64 (B,).
    Prediction batches have ``label`` and ``index`` alone: classes uniform at random, as in ADM's protocol.

    Args:
        root: folder of the latents; defaults to ``$ZOO_DATA/imagenet256`` or ``data/imagenet256``.
        layout: ``packed`` (one memory-mapped array) or ``fast-dit`` (one file per image).
        batch_size: global training batch, over all devices.
        val_root: folder of held-out latents in the same layout, for validation and test; null has none.
        predict_samples: number of labels that ``zoo predict`` samples (50,000 for FID-50K).
        eval_batch_size: global batch of validation, test and prediction.
        num_classes: number of classes of the labels.
        num_workers: loader processes.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: LatentLayout = "packed",
        batch_size: int = 256,
        val_root: str | None = None,
        predict_samples: int = 50_000,
        eval_batch_size: int = 64,
        num_classes: int = 1000,
        num_workers: int = 4,
    ) -> None:
        super().__init__()
        if layout not in _LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}, got {layout!r}")
        self.root = Path(root or Path(os.environ.get("ZOO_DATA", "data")) / "imagenet256")
        self.layout, self.batch_size, self.eval_batch_size = layout, batch_size, eval_batch_size
        self.val_root = Path(val_root) if val_root else None
        self.predict_samples, self.num_classes, self.num_workers = predict_samples, num_classes, num_workers
        self.shape: tuple[int, ...] | None = None

    def _open(self, root: Path) -> PackedLatents | FastDiTLatents:
        if self.layout == "fast-dit":
            return FastDiTLatents(root, self.num_classes)
        data = PackedLatents(root)
        low, high = int(data.labels.min()), int(data.labels.max())
        if not 0 <= low <= high < self.num_classes:
            raise ValueError(
                f"{root}: labels run from {low} to {high}, but data.init_args.num_classes is "
                f"{self.num_classes}"
            )
        return data

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_set = self._open(self.root)
            self.shape = self.train_set.shape
        if stage in ("fit", "validate", "test") and self.val_root:
            self.val_set = self._open(self.val_root)
            self.shape = self.val_set.shape
        elif stage in ("validate", "test"):
            raise ValueError(
                f"zoo {stage} needs held-out latents: set data.init_args.val_root to their folder"
            )
        generator = torch.Generator().manual_seed(0)
        self.predict_set = TensorItems(
            label=torch.randint(self.num_classes, (self.predict_samples,), generator=generator)
        )

    def train_dataloader(self) -> Any:
        return train_loader(self, self.train_set, self.batch_size, self.num_workers)

    def val_dataloader(self) -> Any:
        if self.val_root is None:
            return []
        return evaluation_loader(self, self.val_set, self.eval_batch_size, self.num_workers)

    def test_dataloader(self) -> Any:
        return evaluation_loader(self, self.val_set, self.eval_batch_size, self.num_workers)

    def predict_dataloader(self) -> Any:
        return evaluation_loader(self, self.predict_set, self.eval_batch_size, self.num_workers)
