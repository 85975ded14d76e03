"""GAug: data augmentation for graph neural networks by edge prediction (Zhao et al., AAAI 2021)."""

from __future__ import annotations

from typing import Any

from zoo.declaration import Method, lazy

_PAGE: dict[str, Any] = {
    "page": "gaug",
    "title": "GAug",
    "about": "Data augmentation for graph neural networks by edge prediction (Zhao et al., AAAI 2021)",
}

METHODS = (
    Method(
        "GAugM",
        "module_m",
        small=tuple({"features": 34, "num_classes": 4, "predictor": p} for p in ("vgae", "gae")),
        data={"class_path": "datamodules.KarateClub"},
        **_PAGE,
    ),
    Method(
        "GAugO",
        "module_o",
        small=tuple({"features": 34, "num_classes": 4, "backbone": b} for b in ("gcn", "gat", "jknet")),
        data={"class_path": "datamodules.KarateClub"},
        **_PAGE,
    ),
)

__getattr__ = lazy(__name__, METHODS)
