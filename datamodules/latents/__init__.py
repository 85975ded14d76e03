"""ImageNet as VAE latents: a reader of each layout, the converter between them, the data module."""

from __future__ import annotations

from datamodules.latents.conversion import convert_latents
from datamodules.latents.layouts import LAYOUTS, LatentLayout, detect_layout
from datamodules.latents.lightningdit import LightningDiTLatents
from datamodules.latents.module import ImageNetLatents, open_latents
from datamodules.latents.packed import PackedLatents, write_packed
from datamodules.latents.per_image import FastDiTLatents, RepaLatents

__all__ = [
    "LAYOUTS",
    "FastDiTLatents",
    "ImageNetLatents",
    "LatentLayout",
    "LightningDiTLatents",
    "PackedLatents",
    "RepaLatents",
    "convert_latents",
    "detect_layout",
    "open_latents",
    "write_packed",
]
