"""Pictures without a display. Alone, so that evidence draws without importing torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def plain(name: str, longest: int = 48) -> str:
    """A name of the user's, cut, for a picture: dollars would begin a formula, which may be none."""
    return name[:longest].replace("$", r"\$")


def span(low: float, high: float) -> tuple[float, float]:
    """The range of a histogram: bins of values that are all but equal would have no width."""
    least = 1e-6 * max(abs(low), abs(high), 1e-6)
    return (low, high) if high - low > least else (low - 100 * least, high + 100 * least)


@contextmanager
def drawing(path: Path, *grid: int, dpi: int, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Figure and axes as of ``plt.subplots(*grid, **options)``, saved as ``path`` without a display.

    matplotlib is imported here: nothing else needs it. A grid of 0 has no axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(layout="constrained", figsize=options.pop("figsize"))
    axes = figure.subplots(*grid, **options) if all(grid) else None
    try:
        yield figure, axes
        figure.savefig(path, dpi=dpi)
    finally:
        plt.close(figure)
