"""LDS: learning discrete structures for graph neural networks (Franceschi et al., ICML 2019)."""

from __future__ import annotations

from zoo.lds.baselines import FeatureBaseline
from zoo.lds.module import LDS

__all__ = ["LDS", "FeatureBaseline"]
