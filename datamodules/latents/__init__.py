"""ImageNet as VAE latents: a reader of each layout, the converter between them, the data module."""

from __future__ import annotations

import importlib
from typing import Any

CLASSES = {
    "ImageNetLatents": "module",
}
"""Public data modules -> the module of this package that defines them."""

_NAMES = {
    **CLASSES,
    "FastDiTLatents": "per_image",
    "LAYOUTS": "layouts",
    "LatentLayout": "layouts",
    "LightningDiTLatents": "lightningdit",
    "PackedLatents": "packed",
    "RepaLatents": "per_image",
    "convert_latents": "conversion",
    "detect_layout": "layouts",
    "open_latents": "module",
    "write_packed": "packed",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no {name!r}")
