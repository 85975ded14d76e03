"""What IM-NET's modules check and load before they train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from tqdm import tqdm

import zoo
from zoo.imnet.field import Version

_Z: dict[tuple[Version, int], int] = {("v1", 3): 128, ("v2", 3): 256, ("v1", 2): 100, ("v2", 2): 100}
_ENCODED_AT_ONCE = 16
INTERPOLATED = 9  # pictures between two, in tests


def z_dim_of(z_dim: int | None, version: Version, dims: int, variational: bool = False) -> int:
    """Size of the code; null is the published one, 128 means and 128 log-variances of the 2-D VAE."""
    if z_dim is not None and z_dim < 1:
        raise ValueError(f"z_dim must be null or at least 1, got {z_dim}")
    return z_dim or (128 if variational and dims == 2 else _Z[version, dims])


def check_version(version: str, dims: int) -> None:
    """Raises ValueError for an unknown version or number of dimensions."""
    if version not in ("v1", "v2"):
        raise ValueError(f"version must be v1 (the paper) or v2 (the improved code), got {version!r}")
    if dims not in (2, 3):
        raise ValueError(f"dims must be 3 (shapes) or 2 (pictures), got {dims}")


def load_autoencoder(module: LightningModule, name: str) -> LightningModule:
    """A trained IMAE whose decoder fits ``module.decoder``.

    Raises:
        ValueError: for weights of another class or size, naming both.
    """
    found = zoo.load(name)
    if type(found).__name__ != "IMAE":
        raise ValueError(f"model.init_args.autoencoder: {name!r} holds a {type(found).__name__}, not an IMAE")
    for key, of_found in (
        ("version", found.version),
        ("z_dim", found.z_dim),
        ("width", found.generator_width),
        ("dims", found.dims),
    ):
        wanted = getattr(module, "generator_width" if key == "width" else key)
        if wanted != of_found:
            raise ValueError(
                f"model.init_args.{key} is {wanted}, but the autoencoder {name!r} has {of_found}; set "
                f"model.init_args.{key}: {of_found}"
            )
    if found.hparams["variational"] and type(module).__name__ == "IMGAN":
        raise ValueError(f"{name!r} is variational: its codes need no GAN, sample them from N(0, 1)")
    return found


@torch.no_grad()
def training_codes(autoencoder: Any, dataset: Any, device: torch.device) -> Tensor:
    """Codes of all training shapes in the order of the data set, (N, Z): extracted once, as the release.

    Files are read through once, in their own order: single rows of the release cost a second each.
    """
    encoder = autoencoder.network.to(device).eval()
    size, codes = autoencoder.hparams["input_size"], []
    with tqdm(total=len(dataset), desc="codes of the training shapes", unit=" shapes", leave=False) as bar:
        for voxels in _inputs(dataset):
            if voxels.shape[-1] != size:
                raise ValueError(
                    f"data.init_args.input_size is {voxels.shape[-1]}, but the autoencoder takes {size}; set "
                    f"data.init_args.input_size: {size}"
                )
            codes.append(encoder.encode(voxels.to(device)).cpu())
            bar.update(len(voxels))
    return torch.cat(codes)


def _inputs(dataset: Any) -> Iterator[Tensor]:
    """``voxels`` of all items in order; a data set may know how to read them at once."""
    if hasattr(dataset, "voxels_in_order"):
        yield from dataset.voxels_in_order(_ENCODED_AT_ONCE)
        return
    for start in range(0, len(dataset), _ENCODED_AT_ONCE):
        yield dataset.__getitems__(list(range(start, min(start + _ENCODED_AT_ONCE, len(dataset)))))["voxels"]
