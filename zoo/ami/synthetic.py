"""Synthetic targets T' of the forward network, and the latent noise they are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.ami.information import cut_at_eos
from zoo.ami.network import AMINetwork, shifted
from zoo.ami.processes import global_rows, own_rows
from zoo.nn.decoding import forbid, generate
from zoo.nn.encoder_decoder import Encoded
from zoo.nn.processes import evaluated

Batch = Mapping[str, Any]


class SyntheticTargets:
    """Draws with the settings of a module. All are made for the global batch, of which a process takes its
    rows.

    Args:
        network: the pair.
        settings: hyperparameters of the module.
    """

    def __init__(self, network: AMINetwork, settings: Mapping[str, Any]) -> None:
        self.network, self.settings = network, settings

    def normal(self, encoded: Encoded, random: torch.Generator) -> Tensor:
        """eps (K, B, S, d) ~ N(0, I)."""
        rows, longest = global_rows(encoded.states)
        shape = (self.settings["samples"], rows, longest, encoded.states.shape[2])
        draws = torch.randn(shape, generator=random, device=random.device)
        return own_rows(draws)[:, :, : encoded.states.shape[1]].to(encoded.states)

    def noise(self, encoded: Encoded, random: torch.Generator) -> Tensor:
        """n (K, B, S, d) of the memory, without the noise network's gradient."""
        h = self.settings
        if h["noise"] == "none":
            return encoded.states.new_zeros(h["samples"], *encoded.states.shape)
        normal = self.normal(encoded, random)
        if h["noise"] == "gaussian":
            return h["noise_std"] * normal
        with torch.no_grad():
            return self.network.noise_of(encoded, normal)

    @torch.no_grad()
    def draw(self, batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """T' of the current forward network, in evaluation mode: labels (K B, T), sources of the backward
        network (K B, T), and the noise n (K, B, S, d) that they were made with."""
        h, network = self.settings, self.network.forward_network
        with evaluated(self.network):
            encoded = network.encode(batch["source"])
            noise = self.noise(encoded, random)
            noisy = encoded.perturbed(h["noise_scale"] * noise)
            if h["rollout"] == "sample":
                rows, _ = global_rows(encoded.states)
                shape = (h["max_length"], h["samples"], rows)
                uniform = own_rows(torch.rand(shape, generator=random, device=random.device), dim=2)
                ends = (h["bos_id"], h["eos_id"], h["pad_id"])
                drawn = generate(network, noisy, h["max_length"], *ends, uniform.flatten(1), h["temperature"])
            else:
                drawn = self.words(self.logits_after_gold(batch, noisy))
        return (*cut_at_eos(drawn, h["eos_id"], h["pad_id"]), noise)

    def logits_after_gold(self, batch: Batch, noisy: Encoded) -> Tensor:
        """Logits after each prefix of the gold target, (K B, T - 1, V); PAD and BOS are never said."""
        prefix = self._gold_prefix(batch)
        logits = self.network.forward_network.decode(prefix, noisy)
        return forbid(logits, self.settings["pad_id"], self.settings["bos_id"])

    @staticmethod
    def words(logits: Tensor) -> Tensor:
        """The likeliest words."""
        return logits.argmax(dim=-1)

    def prefix(self, batch: Batch, labels: Tensor) -> Tensor:
        """What the forward network reads while T' is scored: T' itself, or gold words where those led to
        it."""
        if self.settings["rollout"] == "sample":
            return shifted(labels, self.settings["bos_id"])
        return self._gold_prefix(batch)

    def _gold_prefix(self, batch: Batch) -> Tensor:
        prefix: Tensor = batch["target"][:, :-1].repeat(self.settings["samples"], 1)
        return prefix
