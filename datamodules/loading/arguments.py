"""Constructor arguments that many data modules have: where files lie, choices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args


def data_folder(root: str | None, default: str) -> Path:
    """``root``; where it is null ``$ZOO_DATA/<default>``, or ``data/<default>`` without the variable."""
    return Path(root or Path(os.environ.get("ZOO_DATA", "data")) / default)


def check_choice(key: str, value: object, choices: Any) -> None:
    """Refuse a ``value`` that is not of the ``Literal`` type ``choices``.

    The command line refuses it by the type already; this is for Python.

    Raises:
        ValueError: naming the choices.
    """
    if value not in get_args(choices):
        names = ", ".join(map(str, get_args(choices)))
        raise ValueError(f"data.init_args.{key} must be one of {names}, got {value!r}")
