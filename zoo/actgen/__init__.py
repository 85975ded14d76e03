"""ActGen: images that a classifier needs, generated while it trains (Huang et al., ECCV 2024)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_PAGE: dict[str, Any] = {
    "page": "actgen",
    "title": "ActGen",
    "about": "Active Generation for Image Classification (Huang et al., ECCV 2024): variants of the images "
    "that a classifier gets wrong, by guided diffusion",
}

_SMALL: dict[str, Any] = {"image_size": 8, "channels": 1, "classifier": "cnn"}

METHODS = (
    Method(
        "ActGen",
        small=(
            {**_SMALL, "generation": "none"},
            {**_SMALL, "generation": "full", "steps": 4, "gradient_steps": 2, "images_per_round": 4},
            {
                **_SMALL,
                "classifier": "resnet18",
                "stem": "cifar",
                "generation": "none",
                "mixup": 0.2,
                "decay_all": False,
            },
        ),
        data={"class_path": "datamodules.ActiveGeneration", "init_args": {"batch_size": 16}},
        **_PAGE,
    ),
    Method(
        "DigitGenerator",
        "digit_generator",
        small=({"widths": [8, 16], "token_width": 8, "sampling_steps": 2},),
        data={
            "class_path": "datamodules.ActiveGeneration",
            "init_args": {"part": "generator", "batch_size": 16},
        },
        **_PAGE,
    ),
)

__getattr__ = lazy(__name__, METHODS)
