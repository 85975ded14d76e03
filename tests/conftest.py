"""What every test starts from: one thread, known seeds, no seed left over from another test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _known_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    yield
    torch.set_default_dtype(torch.float32)
