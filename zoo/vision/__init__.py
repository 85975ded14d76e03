"""Vision, and vision with language: CLIP and SigLIP, ViT classifiers, masked autoencoders."""

from __future__ import annotations

from zoo.declaration import Method, lazy

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
                "image_size": 16, "channels": 1, "vocab_size": 1797, "context": 8, "shape": "free",
                "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "text_width": 16, "text_layers": 1,
                "text_heads": 2, "projection": 8,
            },
            {
                "image_size": 16, "channels": 1, "vocab_size": 1797, "context": 8, "shape": "free",
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
)  # fmt: skip

__getattr__ = lazy(__name__, METHODS)
