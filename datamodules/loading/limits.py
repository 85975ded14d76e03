"""Bounds on what is read of a foreign file, high for honest data: ``ZOO_LIMITS=off`` lifts them.

One word for data and for weights, whose limits are the zoo's. An environment variable, for readers run in
loader processes and far below any data module.
"""

from __future__ import annotations

import os

LIFT = "ZOO_LIMITS"
_NO_LIMIT = 2**62  # of bytes, pixels or seconds


def lifted() -> bool:
    """Whether the user has lifted the limits."""
    return os.environ.get(LIFT) == "off"


def limit(bound: int) -> int:
    """``bound``, unless the user has lifted the limits."""
    return _NO_LIMIT if lifted() else bound
