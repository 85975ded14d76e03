"""Names of any kind and values that are all but equal in pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from zoo.drawing import plain, span
from zoo.graphs.graph.report import GraphPredictions
from zoo.ras.report import write_curves


def test_values_that_are_all_but_equal_have_bins() -> None:
    for low, high in ((0.1, 0.1 + 1e-17), (0.0, 0.0), (1e6, 1e6 + 1e-10), (-3.0, 5.0)):
        edges = np.histogram_bin_edges([low, high], 50, range=span(low, high))
        assert (np.diff(edges) > 0).all()
    assert span(-3.0, 5.0) == (-3.0, 5.0)


def test_dollars_are_no_formula() -> None:
    assert plain("a $b$ c", 5) == r"a \$b\$"


STRANGE = ("$x_$ of", r"$\frac{")


def test_pictures_of_graphs_take_names_of_any_kind(tmp_path: Path) -> None:
    found = GraphPredictions(
        scores=torch.eye(2),
        labels=torch.tensor([0, 0]),
        numbers=torch.arange(2),
        embedding=torch.randn(2, 4),
        edge_index=torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]),
        ptr=torch.tensor([0, 2, 4]),
        class_names=STRANGE,
        title=STRANGE[1],
    )
    assert found.write(tmp_path)[1].stat().st_size > 5000


def test_pictures_of_saliency_take_sets_of_any_name(tmp_path: Path) -> None:
    curve = dict.fromkeys(("precision", "recall"), np.linspace(0, 1, 256))
    assert write_curves(tmp_path, dict.fromkeys(STRANGE, curve))[1].stat().st_size > 5000
