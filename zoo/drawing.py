"""Pictures without a display. Alone, so that evidence draws without importing torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
