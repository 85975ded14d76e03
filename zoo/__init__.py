"""A PyTorch Lightning model zoo that researchers can trust.

Public names are imported on first use: ``import zoo`` costs nothing, and an optional dependency is needed
only by the method that uses it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_METHODS: dict[str, str] = {
    "DTR": "zoo.dtr.module",
    "DigitClassifier": "zoo.metrics.digits",
    "LDS": "zoo.lds.module",
    "FeatureBaseline": "zoo.lds.baselines",
    "GAugM": "zoo.gaug.module_m",
    "GAugO": "zoo.gaug.module_o",
    "NodeClassifier": "zoo.graphs.node",
    "LinkPredictor": "zoo.graphs.link",
    "GraphGenerator": "zoo.graphs.generate",
    "SpatioTemporalForecaster": "zoo.graphs.forecast",
    "GraphClassifier": "zoo.graphs.graph",
    "RAS": "zoo.ras.module",
    "IMAE": "zoo.imnet.imae",
    "CNNAE": "zoo.imnet.cnnae",
    "IMGAN": "zoo.imnet.imgan",
    "IMSVR": "zoo.imnet.imsvr",
    "MBT": "zoo.mbt.module",
}
"""Public LightningModules and where they live. A checkpoint may name no other class."""

_NAMES: dict[str, str] = {
    **_METHODS,
    "ADMEvaluation": "zoo.metrics.adm",
    "load": "zoo.hub",
    "save": "zoo.hub",
    "LatentExtractor": "zoo.latents.module",
    "WarmupCosine": "zoo.optim",
    "WarmupStableDecay": "zoo.optim",
}

__all__ = [
    "CNNAE",
    "DTR",
    "IMAE",
    "IMGAN",
    "IMSVR",
    "LDS",
    "MBT",
    "RAS",
    "ADMEvaluation",
    "DigitClassifier",
    "FeatureBaseline",
    "GAugM",
    "GAugO",
    "GraphClassifier",
    "GraphGenerator",
    "LatentExtractor",
    "LinkPredictor",
    "NodeClassifier",
    "SpatioTemporalForecaster",
    "WarmupCosine",
    "WarmupStableDecay",
    "load",
    "save",
]

if TYPE_CHECKING:
    from zoo.dtr.module import DTR
    from zoo.gaug.module_m import GAugM
    from zoo.gaug.module_o import GAugO
    from zoo.graphs.forecast import SpatioTemporalForecaster
    from zoo.graphs.generate import GraphGenerator
    from zoo.graphs.graph import GraphClassifier
    from zoo.graphs.link import LinkPredictor
    from zoo.graphs.node import NodeClassifier
    from zoo.hub import load, save
    from zoo.imnet.cnnae import CNNAE
    from zoo.imnet.imae import IMAE
    from zoo.imnet.imgan import IMGAN
    from zoo.imnet.imsvr import IMSVR
    from zoo.latents.module import LatentExtractor
    from zoo.lds.baselines import FeatureBaseline
    from zoo.lds.module import LDS
    from zoo.mbt.module import MBT
    from zoo.metrics.adm import ADMEvaluation
    from zoo.metrics.digits import DigitClassifier
    from zoo.optim import WarmupCosine, WarmupStableDecay
    from zoo.ras.module import RAS


def __getattr__(name: str) -> Any:
    # Sub-packages too: zoo.dtr.routing.task_masks works after a bare `import zoo`.
    if not name.startswith("_") and name not in _NAMES and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join('zoo.' + n for n in near)}?" if near else ""
        raise AttributeError(f"module 'zoo' has no {name!r}{hint}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
