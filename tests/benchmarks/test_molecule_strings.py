"""Training on SMILES: batches of like lengths against the straightforward padded loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.interleaved import interleaved, median, ratio
from datamodules import SmilesData
from zoo import SmilesLM
from zoo.molecules.likelihood import token_mean


def test_tokens_per_second(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    """20 optimiser steps of 64 molecules, LSTM 1 x 152: the loop pads random molecules to the longest of
    all."""
    quick = request.config.getoption("--quick")
    data = SmilesData(batch_size=64, longest=48)
    data.setup("fit")
    steps = 2 if quick else 20
    alike = [batch for _, batch in zip(range(steps), data.train_dataloader(), strict=False)]
    longest = int(data.train_set.lengths.max())
    order = torch.randperm(len(data.train_set), generator=torch.Generator().manual_seed(0)).tolist()
    plain = []
    for i in range(steps):
        ids = data.train_set.__getitems__(order[64 * i : 64 * (i + 1)])["ids"]
        plain.append({"ids": torch.nn.functional.pad(ids, (0, longest - ids.shape[1]))})
    torch.manual_seed(0)
    model = SmilesLM(vocab_size=data.vocab_size, width=152, layers=1, embedding=32, dropout=0.0)
    optimizer: Any = torch.optim.Adam(model.network.parameters(), lr=1e-3)

    def trained(batches: list[Any]) -> None:
        for batch in batches:
            optimizer.zero_grad()
            token_mean(model.network(batch["ids"][:, :-1]), batch["ids"][:, 1:]).backward()
            optimizer.step()

    times = interleaved(
        {"like lengths": lambda: trained(alike), "padded": lambda: trained(plain)}, 1 if quick else 5
    )
    tokens = {
        n: sum(int((b["ids"][:, 1:] != 0).sum()) for b in bs)
        for n, bs in (("like lengths", alike), ("padded", plain))
    }
    record("smiles_lm/tokens_per_second/like_lengths", tokens["like lengths"] / median(times, "like lengths"))
    record("smiles_lm/tokens_per_second/padded", tokens["padded"] / median(times, "padded"))
    record("smiles_lm/padded_over_like_lengths", ratio(times, "padded", "like lengths"))
