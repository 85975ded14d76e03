"""DEMI: decomposed mutual information estimation (Sordoni et al., ICML 2021)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_PAGE: dict[str, Any] = {
    "page": "demi",
    "title": "DEMI",
    "about": "Decomposed mutual information estimation (Sordoni et al., ICML 2021): subviews whose terms are "
    "each small enough for a contrastive bound",
}
_SMALL: dict[str, Any] = {"dim": 3, "y_dim": 3, "hidden": 8}

_IMAGES: dict[str, Any] = {
    "image_size": 8,
    "channels": 1,
    "encoder": "cnn",
    "augmentation": "digits",
    "hidden": 8,
    "embedding": 4,
}

_DIALOGUES: dict[str, Any] = {
    "sizes": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 96},
    "vocab_size": 107,
    "eos_id": 2,
    "max_length": 10,
}
_INFORMED: dict[str, Any] = {**_DIALOGUES, "hidden": 8, "embedding": 4}

METHODS = (
    Method(
        "DEMI",
        small=(
            _IMAGES,
            {**_IMAGES, "objective": "is", "negatives": "queue", "queue_size": 32, "subview": "mask"},
            {**_IMAGES, "objective": "multi", "subview": "lowres"},
        ),
        data={"class_path": "datamodules.LabelledImages", "init_args": {"batch_size": 16}},
        weights="weights",
        converts="encoders of InfoMin, MoCo and torchvision",
        **_PAGE,
    ),
    Method(
        "DialogueDEMI",
        "dialogue",
        small=(
            {**_INFORMED, "samples": 2, "negative_length": 6},
            {**_INFORMED, "objective": "is", "decoding": "beam", "beams": 2},
            {**_INFORMED, "objective": "multi"},
            {**_DIALOGUES, "objective": "mmi", "decoding": "sample", "candidates": 2},
            {**_DIALOGUES, "objective": "next_utterance"},
        ),
        data={
            "class_path": "datamodules.DialogueHistories",
            "init_args": {
                "model": "words",
                "dialogues": 500,
                "held_dialogues": 40,
                "longest": 20,
                "history_tokens": 48,
                "batch_size": 4,
                "distractors": True,
            },
        },
        **_PAGE,
    ),
    Method(
        "GaussianMI",
        "gaussian_mi",
        small=(
            {**_SMALL, "embedding": 4},
            {**_SMALL, "curves": ["is", "exact", "var", "infonce"], "critic": "joint"},
        ),
        data={
            "class_path": "datamodules.KnownInformation",
            "init_args": {"dim": 3, "total_mi": 1.0, "batch_size": 16, "items_per_epoch": 64},
        },
        **_PAGE,
    ),
)

__getattr__ = lazy(__name__, METHODS)
