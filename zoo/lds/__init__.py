"""LDS: learning discrete structures for graph neural networks (Franceschi et al., ICML 2019)."""

from __future__ import annotations

from zoo.declaration import Method, lazy

_DATA = {"class_path": "datamodules.KarateClub", "init_args": {"early_stopping": True}}

METHODS = (
    Method(
        "LDS",
        page="lds",
        title="LDS",
        about="Learning Discrete Structures (Franceschi et al., ICML 2019): a graph and a GCN learned "
        "together",
        small=tuple(
            {"num_nodes": 34, "num_features": 34, "num_classes": 4, **extra}
            for extra in ({}, {"num_candidates": 300, "hidden": [8, 8]})
        ),
        data=_DATA,
    ),
    Method(
        "FeatureBaseline",
        "baselines",
        page="lds",
        title="LDS",
        about="scikit-learn's classifiers on the same nodes, features alone: rows of LDS's table",
        small=tuple({"num_features": 34, "num_classes": 4, "method": m} for m in ("logreg", "ffnn")),
        data=_DATA,
    ),
)

__getattr__ = lazy(__name__, METHODS)
