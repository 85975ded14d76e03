"""Covering sets: of a family of cases, those that find what all of them find run by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def covering(cases: Iterable[Any], chosen: Sequence[Any]) -> list[Any]:
    """``cases`` for ``parametrize``, slow but for the ``chosen``: values, tuples of values or given ids."""
    params, left = [], list(chosen)
    for case in cases:
        known = hasattr(case, "marks")
        name = case.id if known else case
        param = case if known else pytest.param(*(case if isinstance(case, tuple) else (case,)))
        if name in chosen:
            left.remove(name)
        else:
            param = pytest.param(*param.values, id=param.id, marks=[*param.marks, pytest.mark.slow])
        params.append(param)
    if left:
        raise ValueError(f"no such cases: {left}")
    return params
