"""LightningDataModules, a folder per kind of data. Names are imported on first use."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any


def _declared() -> Iterator[tuple[str, str]]:
    """(name, module) of what the ``CLASSES`` of each folder declare."""
    for entry in pkgutil.iter_modules(__path__):
        home = importlib.import_module(f"{__name__}.{entry.name}") if entry.ispkg else None
        for name, module in getattr(home, "CLASSES", {}).items():
            yield name, f"{__name__}.{entry.name}.{module}"


_NAMES: dict[str, str] = dict(_declared())

__all__ = sorted(_NAMES)

if TYPE_CHECKING:
    from datamodules.audio_visual.module import AudioVisual as AudioVisual
    from datamodules.graphs.digits_graph import DigitsGraph as DigitsGraph
    from datamodules.graphs.embedded import BlockModel as BlockModel
    from datamodules.graphs.embedded import KarateClub as KarateClub
    from datamodules.graphs.gaug import GAugGraph as GAugGraph
    from datamodules.graphs.graph_sets import GraphSet as GraphSet
    from datamodules.graphs.graph_sets import TUGraphSet as TUGraphSet
    from datamodules.graphs.graphsage import PPI as PPI
    from datamodules.graphs.graphsage import Reddit as Reddit
    from datamodules.graphs.knn_graph import KNNGraph as KNNGraph
    from datamodules.graphs.links import LinkSplit as LinkSplit
    from datamodules.graphs.neighbors import NeighborSampling as NeighborSampling
    from datamodules.graphs.planetoid import Planetoid as Planetoid
    from datamodules.graphs.synthetic_graphs import SyntheticGraphs as SyntheticGraphs
    from datamodules.graphs.tu_graphs import TUGraphs as TUGraphs
    from datamodules.images.active_generation import ActiveGeneration as ActiveGeneration
    from datamodules.images.captions import ImageCaptions as ImageCaptions
    from datamodules.images.composites import SaliencyComposites as SaliencyComposites
    from datamodules.images.digits import MNIST as MNIST
    from datamodules.images.digits import Digits as Digits
    from datamodules.images.image_folder import ImageFolder as ImageFolder
    from datamodules.images.labelled import LabelledImages as LabelledImages
    from datamodules.images.saliency import Saliency as Saliency
    from datamodules.images.samples import SampleFiles as SampleFiles
    from datamodules.knowledge.graph import KnowledgeGraph as KnowledgeGraph
    from datamodules.latents.module import ImageNetLatents as ImageNetLatents
    from datamodules.molecules.qm9 import QM9 as QM9
    from datamodules.molecules.reactions import ReactionData as ReactionData
    from datamodules.molecules.strings import SmilesData as SmilesData
    from datamodules.molecules.table import MoleculeNet as MoleculeNet
    from datamodules.molecules.table import MoleculeTable as MoleculeTable
    from datamodules.molecules.trajectory import MDTrajectory as MDTrajectory
    from datamodules.molecules.xyz import XYZFrames as XYZFrames
    from datamodules.proteins.module import Proteins as Proteins
    from datamodules.shapes.module import Shapes as Shapes
    from datamodules.shapes.pictures import Shapes2D as Shapes2D
    from datamodules.tabular.columns import TableColumns as TableColumns
    from datamodules.tabular.known_information import KnownInformation as KnownInformation
    from datamodules.text.chats import Chats as Chats
    from datamodules.text.choices import MultipleChoice as MultipleChoice
    from datamodules.text.dialogues import Dialogues as Dialogues
    from datamodules.text.dull import DullReplies as DullReplies
    from datamodules.text.histories import DialogueHistories as DialogueHistories
    from datamodules.text.ner import NER as NER
    from datamodules.text.parallel import ParallelText as ParallelText
    from datamodules.text.stream import TextStream as TextStream
    from datamodules.text.summaries import Summaries as Summaries
    from datamodules.traffic.chickenpox import Chickenpox as Chickenpox
    from datamodules.traffic.sensor_diffusion import SensorDiffusion as SensorDiffusion
    from datamodules.traffic.traffic import Traffic as Traffic


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name not in _NAMES and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join('datamodules.' + n for n in near)}?" if near else ""
        raise AttributeError(f"module 'datamodules' has no {name!r}{hint}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
