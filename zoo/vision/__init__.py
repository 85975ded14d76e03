"""Vision, and vision with language: CLIP and SigLIP, ViT classifiers, masked autoencoders."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_ENCODER: dict[str, Any] = {
    "image_size": 8, "channels": 1, "shape": "free", "patch_size": 2, "width": 16, "depth": 2, "heads": 2,
}  # fmt: skip
_DIGITS = {"class_path": "datamodules.LabelledImages", "init_args": {"batch_size": 32}}
_PAGE: dict[str, Any] = {"page": "vit_mae", "title": "ViT and MAE", "data": _DIGITS}

METHODS = (
    Method(
        "ContrastiveVL",
        "contrastive",
        page="vision_language",
        title="Pictures and texts",
        about="CLIP (Radford et al., ICML 2021) and SigLIP (Zhai et al., ICCV 2023): pictures and texts in "
        "one space; the multi-modal topic of A Roadmap for Big Model (2022)",
        small=(
            {
                "image_size": 16, "channels": 1, "vocab_size": 2000, "context": 8, "shape": "free",
                "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "text_width": 16, "text_layers": 1,
                "text_heads": 2, "projection": 8,
            },
            {
                "image_size": 16, "channels": 1, "vocab_size": 2000, "context": 8, "shape": "free",
                "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "text_width": 16, "text_layers": 1,
                "text_heads": 2, "projection": 8, "loss": "siglip", "positives": "same", "crop": 0.5,
            },
        ),
        data={
            "class_path": "datamodules.ImageCaptions",
            "init_args": {"size": 16, "context": 8, "batch_size": 16},
        },
        weights="contrastive_weights",
        converts="folders of transformers' CLIPModel",
        convert="clip",
    ),
    Method(
        "ViTClassifier",
        "classifier",
        about="Vision transformers for classification (Dosovitskiy et al., ICLR 2021): the vision topic of A "
        "Roadmap for Big Model (2022)",
        small=(
            {**_ENCODER, "num_classes": 10},
            {**_ENCODER, "num_classes": 10, "pool": "mean", "drop_path": 0.1, "crop": 0.5, "flip": True},
            {**_ENCODER, "num_classes": 10, "linear_probe": True},
        ),
        weights="classifier_weights",
        converts="folders of transformers' ViTForImageClassification",
        convert="vit",
        **_PAGE,
    ),
    Method(
        "MAE",
        "mae",
        about="Masked Autoencoders Are Scalable Vision Learners (He et al., CVPR 2022)",
        small=(
            {**_ENCODER, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2},
            {
                **_ENCODER, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, "normalise": False,
                "mask_ratio": 0.5, "crop": 0.5,
            },
        ),
        weights="mae_weights",
        converts="MAE's own files, folders of transformers' ViTMAE",
        convert="mae",
        **_PAGE,
    ),
)  # fmt: skip

__getattr__ = lazy(__name__, METHODS)
