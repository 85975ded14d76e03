"""IM-NET: shapes as implicit fields (Chen & Zhang, CVPR 2019)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_PAGE: dict[str, Any] = {
    "page": "imnet",
    "title": "IM-NET",
    "about": "Implicit fields for shapes, IM-NET (Chen & Zhang, CVPR 2019), both published versions, 2-D too",
    "converts": "official IM-AE and IM-SVR files convert both ways",
    "data": {
        "class_path": "datamodules.Shapes",
        "init_args": {
            "train_shapes": 4,
            "test_shapes": 1,
            "input_size": 16,
            "views": 1,
            "batch_size": 2,
            "stages": [{"resolution": 16, "epochs": 1}],
            "codes": "codes.hdf5",
        },
    },
}
_SMALL = {"input_size": 16, "z_dim": 8, "encoder_width": 4}

METHODS = (
    Method(
        "IMAE",
        "imae",
        small=tuple({**_SMALL, "width": 2, **e} for e in ({}, {"version": "v1"}, {"variational": True})),
        weights="imae_weights",
        convert="imae",
        **_PAGE,
    ),
    Method(
        "IMGAN",
        "imgan",
        small=tuple({**_SMALL, "width": 2, "space": "grid", "decoder": d} for d in ("implicit", "cnn")),
        **_PAGE,
    ),
    Method(
        "IMSVR",
        "imsvr",
        small=({"z_dim": 8, "width": 2, "image_width": 4, "autoencoder": None},),
        weights="imsvr_weights",
        convert="imsvr",
        **_PAGE,
    ),
    Method("CNNAE", "cnnae", small=(_SMALL,), **_PAGE),
)

__getattr__ = lazy(__name__, METHODS)
