"""Tiny twins of the latent layouts: random numbers in the right files, never called data.

python tests/fake_latents.py FOLDER packed --count 512 --size 32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from datamodules.latents import write_packed

SCALE = 0.18215


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
        return root
    for folder in ("imagenet256_features", "imagenet256_labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        np.save(root / "imagenet256_features" / f"{i}.npy", mean[i, :1] * SCALE)
        np.save(root / "imagenet256_labels" / f"{i}.npy", labels[i : i + 1].astype(np.int64))
    return root


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("root", type=Path)
    parser.add_argument("layout", choices=("packed", "fast-dit"))
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    print(fake_latents(options.root, options.layout, options.count, options.size))
