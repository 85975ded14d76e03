"""DTR: Denoising Task Routing for diffusion models (Park et al., ICLR 2024) on DiT (Peebles & Xie, 2023)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_IMAGES: dict[str, Any] = {
    "input_size": 8,
    "in_channels": 1,
    "num_classes": 10,
}
_SMALL = {**_IMAGES, "width": 24, "depth": 2, "heads": 2}

METHODS = (
    Method(
        "DTR",
        page="dtr",
        title="DTR on DiT",
        about="Denoising Task Routing (Park et al., ICLR 2024) on DiT (Peebles & Xie, ICCV 2023)",
        small=(
            _SMALL,
            {**_SMALL, "loss_weight": "uw"},
            {**_SMALL, "routing": "random", "schedule": "cosine"},
            {
                **_IMAGES,
                "backbone": "unet",
                "unet_channels": 32,
                "unet_multipliers": [1, 2],
                "unet_attention": [],
            },
        ),
        weights="weights",
        converts="official DiT, DTR and diffusers files convert both ways",
    ),
)

__getattr__ = lazy(__name__, METHODS)
