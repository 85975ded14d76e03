"""Replies of the forward network: greedy, by beam search, or drawn, with their likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.ami.information import cut_at_eos, sequence_nll
from zoo.ami.network import AMINetwork, shifted
from zoo.nn.decoding import beam_search, generate
from zoo.nn.encoder_decoder import Encoded
from zoo.randomness import generator, global_seed

Decoding = Literal["greedy", "beam", "sample"]
_STREAMS = {"val": 701, "test": 702, "predict": 703, "reply": 704}


class Replies:
    """Decoding with the settings of a module.

    Args:
        network: the pair.
        settings: its hyperparameters.
    """

    def __init__(self, network: AMINetwork, settings: Mapping[str, Any]) -> None:
        self.network, self.settings = network, settings

    def generator(self, index: Tensor, stage: str) -> list[torch.Generator]:
        """One for each item: its draws depend neither on its batch nor on the number of processes."""
        return [generator(_STREAMS[stage], global_seed(), i) for i in index.tolist()]

    @torch.no_grad()
    def ranked(
        self, source: Tensor, decoding: str, count: int, random: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """``count`` replies to each source, without EOS, (B, count, T), and their log p (B, count)."""
        h, network = self.settings, self.network.forward_network
        ends = (h["bos_id"], h["eos_id"], h["pad_id"])
        encoded = network.encode(source)
        if decoding == "beam":
            encoded = self._noisy(encoded, 1, random)
            found, _ = beam_search(network, encoded, h["beam"], h["max_length"], *ends, h["length_penalty"])
            rows = found[:, :count].flatten(0, 1)
            encoded = encoded.repeated(count)
        else:
            encoded = self._noisy(encoded, count, random)
            uniform = None
            if decoding == "sample":
                drawn = [torch.rand(h["max_length"], count, generator=g) for g in random]
                uniform = torch.stack(drawn, dim=1).flatten(1).to(source.device)  # (max_length, B count)
            temperature, top_k = h["sampling_temperature"], h["top_k"] or None
            rows = generate(network, encoded, h["max_length"], *ends, uniform, temperature, top_k)
        labels, replies = cut_at_eos(rows, h["eos_id"], h["pad_id"])
        logits = network.decode(shifted(labels, h["bos_id"]), encoded)
        log_p = -sequence_nll(logits, labels, h["pad_id"], mean=False)
        return replies.unflatten(0, (-1, count)), log_p.view(-1, count)

    def _noisy(self, encoded: Encoded, count: int, random: Sequence[torch.Generator]) -> Encoded:
        """Each source ``count`` times, with a draw of the latent noise where the test has one."""
        h, encoded = self.settings, encoded.repeated(count)
        if not h["test_noise"]:
            return encoded
        size = encoded.states.shape[1:]
        draws = [torch.randn(count, *size, generator=g) for g in random]
        normal = torch.cat(draws)[None].to(encoded.states)
        learned = h["noise"] == "learned"
        noise = self.network.noise_of(encoded, normal) if learned else h["noise_std"] * normal
        return encoded.perturbed(h["noise_scale"] * noise)

    def protocol(self, decoding: str) -> str:
        """How replies are made, for the files that hold them."""
        h = self.settings
        words = {
            "greedy": "greedy",
            "beam": f"beam {h['beam']}, length penalty {h['length_penalty']}",
            "sample": f"top-k {h['top_k'] or 'all'}, temperature {h['sampling_temperature']}",
        }
        noise = ", a draw of the latent noise each" if h["test_noise"] else ", no noise"
        return f"{words[decoding]}, at most {h['max_length']} tokens{noise}"
