"""LightningDataModules, one file per kind of data. Names are imported on first use."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

_NAMES: dict[str, str] = {
    "AudioVisual": "datamodules.audio_visual.module",
    "Digits": "datamodules.digits",
    "DigitsGraph": "datamodules.digits_graph",
    "GAugGraph": "datamodules.gaug",
    "MNIST": "datamodules.digits",
    "GraphSet": "datamodules.graph_sets",
    "ImageNetLatents": "datamodules.latents.module",
    "ImageFolder": "datamodules.image_folder",
    "Saliency": "datamodules.saliency",
    "SaliencyComposites": "datamodules.composites",
    "SampleFiles": "datamodules.samples",
    "Shapes": "datamodules.shapes.module",
    "Shapes2D": "datamodules.shapes.pictures",
    "BlockModel": "datamodules.block_model",
    "KNNGraph": "datamodules.knn_graph",
    "KarateClub": "datamodules.karate",
    "NeighborSampling": "datamodules.neighbors",
    "PPI": "datamodules.ppi",
    "LinkSplit": "datamodules.links",
    "Planetoid": "datamodules.planetoid",
    "Reddit": "datamodules.reddit",
    "TUGraphSet": "datamodules.graph_sets",
    "Chickenpox": "datamodules.chickenpox",
    "SensorDiffusion": "datamodules.sensor_diffusion",
    "Traffic": "datamodules.traffic",
    "SyntheticGraphs": "datamodules.synthetic_graphs",
    "TUGraphs": "datamodules.tu_graphs",
}

__all__ = [
    "MNIST",
    "PPI",
    "AudioVisual",
    "BlockModel",
    "Chickenpox",
    "Digits",
    "DigitsGraph",
    "GAugGraph",
    "GraphSet",
    "ImageFolder",
    "ImageNetLatents",
    "KNNGraph",
    "KarateClub",
    "LinkSplit",
    "NeighborSampling",
    "Planetoid",
    "Reddit",
    "Saliency",
    "SaliencyComposites",
    "SampleFiles",
    "SensorDiffusion",
    "Shapes",
    "Shapes2D",
    "SyntheticGraphs",
    "TUGraphSet",
    "TUGraphs",
    "Traffic",
]

if TYPE_CHECKING:
    from datamodules.audio_visual.module import AudioVisual
    from datamodules.block_model import BlockModel
    from datamodules.chickenpox import Chickenpox
    from datamodules.composites import SaliencyComposites
    from datamodules.digits import MNIST, Digits
    from datamodules.digits_graph import DigitsGraph
    from datamodules.gaug import GAugGraph
    from datamodules.graph_sets import GraphSet, TUGraphSet
    from datamodules.image_folder import ImageFolder
    from datamodules.karate import KarateClub
    from datamodules.knn_graph import KNNGraph
    from datamodules.latents.module import ImageNetLatents
    from datamodules.links import LinkSplit
    from datamodules.neighbors import NeighborSampling
    from datamodules.planetoid import Planetoid
    from datamodules.ppi import PPI
    from datamodules.reddit import Reddit
    from datamodules.saliency import Saliency
    from datamodules.samples import SampleFiles
    from datamodules.sensor_diffusion import SensorDiffusion
    from datamodules.shapes.module import Shapes
    from datamodules.shapes.pictures import Shapes2D
    from datamodules.synthetic_graphs import SyntheticGraphs
    from datamodules.traffic import Traffic
    from datamodules.tu_graphs import TUGraphs


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join('datamodules.' + n for n in near)}?" if near else ""
        raise AttributeError(f"module 'datamodules' has no {name!r}{hint}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
