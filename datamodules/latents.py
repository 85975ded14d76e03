"""ImageNet as VAE latents in the layouts that DiT trainers use."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import TensorItems, evaluation_loader, global_seed, item_generator, train_loader

LatentLayout = Literal["packed", "fast-dit"]
_VAE = "Stable Diffusion's KL-f8 VAE (stabilityai/sd-vae-ft-ema)"
_LAYOUTS = {
    "packed": "latents.npy float16 (N, V, 4 or 8, S, S), labels.npy int64 (N,) and meta.json "
    '{"scale": 0.18215, "moments": true, ...}',
    "fast-dit": "imagenet256_features/{i}.npy float32 (1, 4, S, S), scaled, and imagenet256_labels/{i}.npy int64 (1,), "
    "as written by extract_features.py of the fast-DiT project",
}
IMAGENET_TRAIN_ITEMS = 1_281_167


def _missing(path: Path, layout: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"no latents at {path}: layout {layout!r} needs {_LAYOUTS[layout]}; encode ImageNet (image-net.org, ILSVRC2012) "
        f"with {_VAE}, then set data.init_args.root (or the environment variable ZOO_DATA) to the folder"
    )


def _load(path: Path, layout: str, mmap: bool = False) -> np.ndarray[Any, Any]:
    if not path.is_file():
        raise _missing(path, layout)
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .npy file ({error}); write it again or download it anew"
        ) from error


class PackedLatents(Dataset[dict[str, Tensor]]):
    """One memory-mapped array of latents or of their moments.

    ``latents.npy`` is float16 (N, V, 4, S, S), or (N, V, 8, S, S) when ``meta.json`` says ``moments``: posterior mean,
    then standard deviation. V = 2 holds the plain and the flipped image, each used with probability 1/2.
    z = (mean + std eps) scale; view and eps are functions of (seed, epoch, index).

    Raises:
        FileNotFoundError, ValueError: for missing, unreadable or inconsistent files.
    """

    def __init__(self, root: Path) -> None:
        meta_path = root / "meta.json"
        if not meta_path.is_file():
            raise _missing(meta_path, "packed")
        try:
            self.meta: dict[str, Any] = json.loads(meta_path.read_text())
            self.scale, self.moments = float(self.meta["scale"]), bool(self.meta["moments"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{meta_path} must be JSON with 'scale' and 'moments' ({error})") from error
        self.latents = _load(root / "latents.npy", "packed", mmap=True)
        self.labels = torch.from_numpy(_load(root / "labels.npy", "packed").astype(np.int64))
        shape = self.latents.shape
        if len(shape) != 5 or (self.moments and shape[2] % 2) or shape[3] != shape[4]:
            raise ValueError(f"{root / 'latents.npy'} has shape {shape}, expected (N, V, 4 or 8, S, S)")
        if len(self.labels) != shape[0]:
            raise ValueError(f"{root}: {shape[0]} latents but {len(self.labels)} labels")
        self.shape = (shape[2] // 2 if self.moments else shape[2], shape[3], shape[4])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        pairs = [k if isinstance(k, tuple) else (0, k) for k in keys]
        index = np.array([i for _, i in pairs])
        draws = [item_generator(global_seed(), epoch, i) for epoch, i in pairs]
        views = np.array([g.integers(self.latents.shape[1]) for g in draws])
        values = self.latents[index, views].astype(np.float32)  # (B, 4 or 8, S, S)
        if self.moments:
            mean, std = np.split(values, 2, axis=1)
            values = mean + std * np.stack([g.standard_normal(self.shape, dtype=np.float32) for g in draws])
        labels = self.labels[torch.from_numpy(index)]
        return {
            "latent": torch.from_numpy(values) * self.scale,
            "label": labels,
            "index": torch.from_numpy(index),
        }


class FastDiTLatents(Dataset[dict[str, Tensor]]):
    """One .npy file per image, as fast-DiT's extractor writes them: one posterior draw, already scaled.

    Files are paired by name, in numerical order. Warns when the number of files is not that of ImageNet's training
    set: the extractor run on several processes overwrites files, since their numbers do not contain the rank.
    """

    def __init__(self, root: Path) -> None:
        features, labels = root / "imagenet256_features", root / "imagenet256_labels"
        for folder in (features, labels):
            if not folder.is_dir():
                raise _missing(folder, "fast-dit")
        names = _npy_names(features)
        unpaired = sorted(set(names) ^ set(_npy_names(labels)))
        if unpaired:
            raise ValueError(f"{root}: {len(unpaired)} files without partner, for example {unpaired[0]!r}")
        if not names:
            raise _missing(features / "0.npy", "fast-dit")
        if len(names) != IMAGENET_TRAIN_ITEMS:
            warnings.warn(
                f"{root} holds {len(names):,} latents, ImageNet's training set {IMAGENET_TRAIN_ITEMS:,}: fast-DiT's "
                "extractor overwrites files when it runs on several processes",
                stacklevel=2,
            )
        self.features, self.names = features, names
        self.labels = torch.tensor([int(_load(labels / n, "fast-dit").reshape(-1)[0]) for n in names])
        first = _load(features / names[0], "fast-dit")
        if first.ndim != 4 or first.shape[0] != 1:
            raise ValueError(f"{features / names[0]} has shape {first.shape}, expected (1, 4, S, S)")
        self.shape = tuple(first.shape[1:])

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        index = torch.tensor([k[1] if isinstance(k, tuple) else k for k in keys])
        arrays = [_load(self.features / self.names[i], "fast-dit")[0] for i in index.tolist()]
        latents = torch.from_numpy(np.stack(arrays).astype(np.float32))
        return {"latent": latents, "label": self.labels[index], "index": index}


def _npy_names(folder: Path) -> list[str]:
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy")]
    return sorted(names, key=lambda n: (len(n), n))


class ImageNetLatents(LightningDataModule):
    """ImageNet encoded by a VAE.

    Batch: ``latent`` float32 (B, 4, S, S) in training scale, ``label`` int64 (B,), ``index`` int64 (B,).
    Prediction batches have ``label`` and ``index`` alone: classes uniform at random, as ADM's protocol samples.

    Args:
        root: folder of the latents; defaults to ``$ZOO_DATA/imagenet256`` or ``data/imagenet256``.
        layout: ``packed`` (one memory-mapped array) or ``fast-dit`` (one file per image).
        batch_size: global training batch, over all devices.
        val_root: folder of held-out latents in the same layout, for the validation loss; null skips it.
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
        data = PackedLatents(root) if self.layout == "packed" else FastDiTLatents(root)
        low, high = int(data.labels.min()), int(data.labels.max())
        if not 0 <= low <= high < self.num_classes:
            raise ValueError(
                f"{root}: labels run from {low} to {high}, but data.init_args.num_classes is {self.num_classes}"
            )
        return data

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_set = self._open(self.root)
            self.shape = self.train_set.shape
        if stage == "test" or (stage in ("fit", "validate") and self.val_root):
            self.val_set = self._open(self.val_root or self.root)
            self.shape = self.val_set.shape
        elif stage == "validate":
            raise ValueError("validation needs held-out latents: set data.init_args.val_root")
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
