"""RAS: reverse attention for salient object detection (Chen et al., ECCV 2018; TIP 2020)."""

from __future__ import annotations

from zoo.declaration import Method, lazy

METHODS = (
    Method(
        "RAS",
        page="ras",
        title="RAS",
        about="Reverse attention for salient object detection (Chen et al., ECCV 2018), its ResNet-50 "
        "follow-ups (TIP 2020), the saliency metrics",
        small=tuple(
            {"variant": "tiny", **extra}
            for extra in (
                {},
                {"pool": "caffe", "attention": "forward", "scales": [32]},
                {"refinement": False},
            )
        ),
        data={
            "class_path": "datamodules.SaliencyComposites",
            "init_args": {"batch_size": 2, "side": 32, "train_items": 4, "val_items": 1},
        },
        weights="weights",
        converts="the ports' files convert both ways, the caffemodel into ours",
    ),
)

__getattr__ = lazy(__name__, METHODS)
