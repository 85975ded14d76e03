"""Metrics that no library has, as ``torchmetrics.Metric`` objects, and the feature extractors they need."""
