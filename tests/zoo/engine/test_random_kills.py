"""A few of what ``python tests/random_kills.py --kills 60`` does."""

from __future__ import annotations

import pytest
from random_kills import random_kills


@pytest.mark.slow
def test_random_kills_of_random_configs_change_nothing() -> None:
    assert random_kills(kills=4, seed=0) == []
