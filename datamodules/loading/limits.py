"""Bounds on what is read of a foreign file: high for honest data, an environment variable lifts them."""

from __future__ import annotations

import os


def limit(name: str, default: int) -> int:
    """The bound ``name``: the environment variable of that name where it is set, else ``default``.

    An environment variable, for readers run in loader processes and far below any data module.

    Raises:
        ValueError: for a variable that is no positive whole number.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    if not given.isdecimal() or not int(given):
        raise ValueError(f"the environment variable {name} must be a positive whole number, got {given!r}")
    return int(given)
