"""AMI: K replies folded into the batch against a loop over K, as the released code has it.

A rollout is a decoder call per word: K folded ones take as many calls as one. Both sides draw with the same
uniform numbers and must draw the same replies before the clock starts. The clock counts CPU seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.interleaved import interleaved, median, ratio
from zoo.ami.information import sequence_nll
from zoo.ami.network import encoder_decoder, shifted
from zoo.nn.decoding import generate

PAD, BOS, EOS, V, K = 1, 2, 3, 1000, 5


@pytest.mark.parametrize("variant", ["gru", "transformer_tiny", "rnn"])
def test_replies_folded_into_the_batch_against_a_loop(
    variant: str, record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    torch.manual_seed(0)
    batch, length = (8, 10) if quick else (32, 20)
    network: Any = encoder_decoder(variant, V, PAD, width=64 if variant == "rnn" else None).eval()
    source = torch.randint(4, V, (batch, length))
    noise = 0.1 * torch.randn(K, batch, length, 64)
    uniform = torch.rand(length, K, batch)

    def score(rows: Tensor, encoded: Any) -> Tensor:
        return sequence_nll(network.decode(shifted(rows, BOS), encoded), rows, PAD)

    def folded() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            encoded = network.encode(source).perturbed(noise)
            rows = generate(network, encoded, length, BOS, EOS, PAD, uniform.flatten(1))
        loss = score(rows, network.encode(source).perturbed(noise)).mean()
        loss.backward()
        return rows, loss.detach()

    def loop() -> tuple[Tensor, Tensor]:
        found, losses = [], []
        for k in range(K):
            with torch.no_grad():
                encoded = network.encode(source).perturbed(noise[k : k + 1])
                rows = generate(network, encoded, length, BOS, EOS, PAD, uniform[:, k])
            loss = score(rows, network.encode(source).perturbed(noise[k : k + 1])).mean() / K
            loss.backward()
            losses.append(loss.detach())
            found.append(torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=PAD))
        return torch.cat(found), torch.stack(losses).sum()

    rows, loss = folded()
    one_by_one, other = loop()
    assert torch.equal(torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=PAD), one_by_one)
    assert torch.allclose(loss, other, rtol=1e-4)
    network.zero_grad()
    times = interleaved({"folded": folded, "loop": loop}, rounds=1 if quick else 9, clock=time.process_time)
    record(f"{variant}/rollouts_per_cpu_second", K * batch / median(times, "folded"))
    record(f"{variant}/loop", ratio(times, "loop", "folded"))
    assert quick or ratio(times, "loop", "folded") > 1.2
