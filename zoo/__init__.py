"""A PyTorch Lightning model zoo that researchers can trust.

Public names are imported on first use: ``import zoo`` costs nothing, and an optional dependency is needed
only by the method that uses it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from zoo.declaration import Method, declared

__version__ = "0.1.0"

_DECLARED: dict[str, tuple[str, Method]] = {m.name: (p, m) for p, m in declared(__name__, __path__)}
"""Package and declaration of each method, see :mod:`zoo.declaration`."""

_METHODS: dict[str, str] = {name: f"{p}.{m.module}" for name, (p, m) in _DECLARED.items()}
"""Public LightningModules and where they live. A checkpoint may name no other class."""

_NAMES: dict[str, str] = {
    **_METHODS,
    "ADMEvaluation": "zoo.metrics.adm",
    "LatentExtractor": "zoo.diffusion.latents.module",
    "RobustEvaluation": "zoo.caa.evaluation",
    "SummaryBaseline": "zoo.seqco.baselines",
    "EpochWarmupCosine": "zoo.nn.optim",
    "Halving": "zoo.nn.optim",
    "Noam": "zoo.nn.optim",
    "Triangular": "zoo.nn.optim",
    "WarmupCosine": "zoo.nn.optim",
    "WarmupExponential": "zoo.nn.optim",
    "WarmupLinear": "zoo.nn.optim",
    "WarmupStableDecay": "zoo.nn.optim",
    "load": "zoo.hub.weights",
    "save": "zoo.hub.weights",
}

__all__ = sorted(_NAMES)

if TYPE_CHECKING:
    from zoo.actgen.digit_generator import DigitGenerator as DigitGenerator
    from zoo.actgen.module import ActGen as ActGen
    from zoo.ami.module import AMI as AMI
    from zoo.caa.classifier import RobustClassifier as RobustClassifier
    from zoo.caa.evaluation import RobustEvaluation as RobustEvaluation
    from zoo.caa.module import CAA as CAA
    from zoo.demi.dialogue import DialogueDEMI as DialogueDEMI
    from zoo.demi.gaussian_mi import GaussianMI as GaussianMI
    from zoo.demi.module import DEMI as DEMI
    from zoo.diffusion.latents.module import LatentExtractor as LatentExtractor
    from zoo.dtr.module import DTR as DTR
    from zoo.gaug.module_m import GAugM as GAugM
    from zoo.gaug.module_o import GAugO as GAugO
    from zoo.graphs.generation.module import GraphGenerator as GraphGenerator
    from zoo.graphs.graph.module import GraphClassifier as GraphClassifier
    from zoo.graphs.link.module import LinkPredictor as LinkPredictor
    from zoo.graphs.node.module import NodeClassifier as NodeClassifier
    from zoo.graphs.traffic.module import SpatioTemporalForecaster as SpatioTemporalForecaster
    from zoo.hub.weights import load as load
    from zoo.hub.weights import save as save
    from zoo.imnet.cnnae import CNNAE as CNNAE
    from zoo.imnet.imae import IMAE as IMAE
    from zoo.imnet.imgan import IMGAN as IMGAN
    from zoo.imnet.imsvr import IMSVR as IMSVR
    from zoo.knowledge.module import KGEmbedding as KGEmbedding
    from zoo.language.causal.module import CausalLM as CausalLM
    from zoo.language.masked.baseline import CompositionBaseline as CompositionBaseline
    from zoo.language.masked.module import MaskedLM as MaskedLM
    from zoo.language.seq2seq.module import Seq2SeqLM as Seq2SeqLM
    from zoo.lds.baselines import FeatureBaseline as FeatureBaseline
    from zoo.lds.module import LDS as LDS
    from zoo.mbt.module import MBT as MBT
    from zoo.metrics.adm import ADMEvaluation as ADMEvaluation
    from zoo.metrics.digits import DigitClassifier as DigitClassifier
    from zoo.molecules.graph.baseline import DescriptorBaseline as DescriptorBaseline
    from zoo.molecules.graph.module import MoleculeGraph2D as MoleculeGraph2D
    from zoo.molecules.reactions.module import ReactionTransformer as ReactionTransformer
    from zoo.molecules.space.coulomb import CoulombRidge as CoulombRidge
    from zoo.molecules.space.module import MoleculeRegressor3D as MoleculeRegressor3D
    from zoo.molecules.strings.module import SmilesLM as SmilesLM
    from zoo.ner.module import ActiveNER as ActiveNER
    from zoo.nn.optim import EpochWarmupCosine as EpochWarmupCosine
    from zoo.nn.optim import Halving as Halving
    from zoo.nn.optim import Noam as Noam
    from zoo.nn.optim import Triangular as Triangular
    from zoo.nn.optim import WarmupCosine as WarmupCosine
    from zoo.nn.optim import WarmupExponential as WarmupExponential
    from zoo.nn.optim import WarmupLinear as WarmupLinear
    from zoo.nn.optim import WarmupStableDecay as WarmupStableDecay
    from zoo.ras.module import RAS as RAS
    from zoo.seqco.baselines import SummaryBaseline as SummaryBaseline
    from zoo.seqco.module import SeqCo as SeqCo
    from zoo.vision.classifier import ViTClassifier as ViTClassifier
    from zoo.vision.contrastive import ContrastiveVL as ContrastiveVL
    from zoo.vision.mae import MAE as MAE


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
