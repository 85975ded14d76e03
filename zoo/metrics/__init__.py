"""Metrics that no library has, as ``torchmetrics.Metric`` objects, and the feature extractors they need."""

from __future__ import annotations

from zoo.declaration import Method, lazy

METHODS = (Method("DigitClassifier", "digits", small=({"width": 4},)),)

__getattr__ = lazy(__name__, METHODS)
