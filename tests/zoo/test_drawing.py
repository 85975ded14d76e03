"""Names of any kind and values that are all but equal in pictures."""

from __future__ import annotations

import numpy as np

from zoo.drawing import plain, span


def test_values_that_are_all_but_equal_have_bins() -> None:
    for low, high in ((0.1, 0.1 + 1e-17), (0.0, 0.0), (1e6, 1e6 + 1e-10), (-3.0, 5.0)):
        edges = np.histogram_bin_edges([low, high], 50, range=span(low, high))
        assert (np.diff(edges) > 0).all()
    assert span(-3.0, 5.0) == (-3.0, 5.0)


def test_dollars_are_no_formula() -> None:
    assert plain("a $b$ c", 5) == r"a \$b\$"
