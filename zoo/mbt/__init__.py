"""MBT: the Multimodal Bottleneck Transformer of audio and video (Nagrani et al., NeurIPS 2021)."""

from __future__ import annotations

from zoo.declaration import Method, lazy

_SMALL = {
    "num_classes": 3,
    "task": "single_label",
    "width": 8,
    "depth": 2,
    "heads": 2,
    "mlp": 8,
    "image_size": 28,
    "patch_size": 14,
    "frames": 1,
    "spectrogram_frames": 64,
    "mel_bins": 32,
    "spectrogram_patch": 16,
    "fusion_layer": 1,
}

METHODS = (
    Method(
        "MBT",
        page="mbt",
        title="MBT",
        about="Multimodal Bottleneck Transformer (Nagrani et al., NeurIPS 2021): audio and video meet in a "
        "few tokens",
        small=(
            _SMALL,
            {**_SMALL, "fusion": "cross_attention"},
            {**_SMALL, "share_encoder": True, "classifier": "gap"},
            {**_SMALL, "modalities": ["spectrogram"]},
        ),
        data={
            "class_path": "datamodules.AudioVisual",
            "init_args": {
                "digit_task": "sum",
                "source": "procedural",
                "batch_size": 16,
                "pairs": 40,
                "test_pairs": 10,
            },
        },
        weights="weights",
    ),
)

__getattr__ = lazy(__name__, METHODS)
