"""Tiny twins of the latent layouts: random numbers in the right files, never called data.

python tests/fakes/latents.py FOLDER packed --count 512 --size 32
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.latents import LAYOUTS, write_packed

SCALE = 0.18215
Array = np.ndarray[Any, Any]


def fake_latents(
    root: Path,
    layout: str = "packed",
    count: int = 64,
    size: int = 8,
    classes: int = 1000,
    views: int = 2,
    moments: bool = True,
) -> Path:
    """Write ``count`` random latents and labels under ``root``; returns it."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 1 / SCALE, (count, views, 4, size, size)).astype(np.float32)
    std = rng.uniform(0.01, 0.5, mean.shape).astype(np.float32)
    labels = rng.permutation(np.arange(count) % classes)
    if layout == "packed":
        latents = np.concatenate([mean, std], axis=2) if moments else mean
        batches = ((latents[i : i + 100], labels[i : i + 100]) for i in range(0, count, 100))
        write_packed(root, batches, count, moments=moments, scale=SCALE, vae="none: random numbers")
    elif layout == "fast-dit":
        _fast_dit(root, mean[:, :1] * SCALE, labels)
    elif layout == "repa":
        _repa(root, np.concatenate([mean, std], axis=2)[:, 0], labels)
    else:
        _lightningdit(root, mean, labels)
    return root


def _fast_dit(root: Path, latents: Array, labels: Array) -> None:
    for folder in ("imagenet256_features", "imagenet256_labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(len(labels)):
        np.save(root / "imagenet256_features" / f"{i}.npy", latents[i])
        np.save(root / "imagenet256_labels" / f"{i}.npy", labels[i : i + 1].astype(np.int64))


def _repa(root: Path, moments: Array, labels: Array) -> None:
    """As ``dataset_tools.py encode`` names and numbers them; ``images/`` stays empty."""
    names = [f"{i // 1000:05d}/img-mean-std-{i:08d}.npy" for i in range(len(labels))]
    for name, values in zip(names, moments, strict=True):
        (root / "vae-sd" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / "vae-sd" / name, values)
    (root / "images").mkdir()
    # Not in the order of the names, which is the order that counts.
    entries = [[n, int(label)] for n, label in zip(names, labels, strict=True)][::-1]
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": entries}))


def _lightningdit(root: Path, draws: Array, labels: Array) -> None:
    """Two ranks with shards of unequal length, as ``extract_features.py`` leaves them."""
    from safetensors.torch import save_file

    root.mkdir(parents=True, exist_ok=True)
    cuts = [0, len(labels) // 2, len(labels) // 2 + len(labels) // 3, len(labels)]
    shards = ("rank00_shard000", "rank00_shard001", "rank01_shard000")
    for name, start, stop in zip(shards, cuts, cuts[1:], strict=False):
        tensors = {
            "latents": torch.from_numpy(draws[start:stop, 0]).contiguous(),
            "latents_flip": torch.from_numpy(draws[start:stop, 1]).contiguous(),
            "labels": torch.from_numpy(labels[start:stop].astype(np.int64)),
        }
        metadata = {"total_size": str(stop - start), "dtype": "torch.float32", "device": "cpu"}
        save_file(tensors, root / f"latents_{name}.safetensors", metadata=metadata)
    plain = torch.from_numpy(draws[:, 0])
    axes = [0, 2, 3]
    statistics = {"mean": plain.mean(dim=axes, keepdim=True), "std": plain.std(dim=axes, keepdim=True)}
    torch.save(statistics, root / "latents_stats.pt")


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_latents(root, "packed", 32)
    small = {"depth": 1, "width": 64, "heads": 4, "input_size": 8, "compile": False}
    flags = {f"model.init_args.{k}": v for k, v in small.items()}
    return {**flags, "data.init_args.batch_size": 8, "data.init_args.num_workers": 0}


TWINS = {"datamodules.ImageNetLatents": _twin}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("root", type=Path)
    parser.add_argument("layout", choices=tuple(LAYOUTS))
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    print(fake_latents(options.root, options.layout, options.count, options.size))
