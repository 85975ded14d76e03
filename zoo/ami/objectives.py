"""What a step of each network minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.ami.information import (
    advantage,
    backward_loss,
    cut_at_eos,
    forward_loss,
    lengths_of,
    mean_embedding,
    noise_loss,
    noise_strength,
    pair_weights,
    sequence_nll,
    token_nll,
)
from zoo.ami.network import AMINetwork
from zoo.ami.noise import straight_through
from zoo.ami.recovery import no_reply, recovery_logits, recovery_nll
from zoo.ami.synthetic import SyntheticTargets
from zoo.nn.processes import evaluated, place, total

Batch = Mapping[str, Any]
Loss = tuple[Tensor, dict[str, Tensor]]
"""What is minimised: the mean of it over processes is the loss of the global batch. And what is logged."""


class Objectives:
    """Losses with the settings of a module.

    Args:
        network: the pair.
        settings: hyperparameters of the module.
        source: models S alone, or none.
    """

    def __init__(self, network: AMINetwork, settings: Mapping[str, Any], source: Any = None) -> None:
        self.network, self.settings, self.source = network, settings, source
        self.synthetic = SyntheticTargets(network, settings)

    def forward_mle(self, batch: Batch, before: bool) -> Loss:
        """Mean over the tokens of the global batch of -log p(T_t | T_<t, S).

        Args:
            batch: of the data.
            before: of pretraining, whose labels are smoothed.
        """
        labels, h = batch["target"][:, 1:], self.settings
        logits = self.network(batch["source"], batch["target"][:, :-1])
        smoothing = h["label_smoothing"] if before else 0.0
        nll = token_nll(logits, labels, h["pad_id"], smoothing).sum()
        loss = nll * place()[1] / total((labels != h["pad_id"]).sum())
        return loss, {"forward_nll": loss}

    def backward_mle(self, batch: Batch, before: bool) -> Loss:
        """(1/B) sum_b sum_t -log q(S_t | S_<t, T); what is logged is a mean over tokens."""
        h = self.settings
        gold = cut_at_eos(batch["target"][:, 1:], h["eos_id"], h["pad_id"])[1]
        smoothing = h["label_smoothing"] if before else 0.0
        loss, mean = self._recovered(self.network.backward_network, batch, gold, smoothing)
        return loss, {"backward_nll": mean}

    def source_mle(self, batch: Batch) -> Loss:
        """(1/B) sum_b sum_t -log p(S_t | S_<t), in dialogue given the history; without smoothing, for it is
        the entropy of S that is asked for."""
        loss, mean = self._recovered(self.source, batch, no_reply(batch), 0.0)
        return loss, {"source_nll": mean}

    def _recovered(
        self, network: Any, batch: Batch, reply: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of MLE of a network that recovers S from ``reply``, and its mean over tokens."""
        labels, h = batch["recover"][:, 1:], self.settings
        logits = recovery_logits(network, batch, reply, h["pad_id"])
        nll = token_nll(logits, labels, h["pad_id"], smoothing).sum()
        rows, tokens = total(nll.new_tensor(len(labels))), total((labels != h["pad_id"]).sum())
        loss = nll * place()[1] / rows
        return loss, loss / (tokens / rows)

    def forward_adversarial(self, batch: Batch, random: torch.Generator) -> Loss:
        """L_theta (section 2.4): REINFORCE with the length-normalised log q(S|T') as reward."""
        h, pad = self.settings, self.settings["pad_id"]
        labels, sources, noise = self.synthetic.draw(batch, random)
        with torch.no_grad(), evaluated(self.network):
            nll = recovery_nll(self.network.backward_network, batch, sources, pad, h["samples"], mean=True)
            reward = -nll.view(h["samples"], -1)
            if h["reward_clip"] is not None:
                reward = reward.clamp(min=-h["reward_clip"])
        encoded = self.network.forward_network.encode(batch["source"])
        noisy = encoded.perturbed(h["noise_scale"] * noise)
        scores = self.network.forward_network.decode(self.synthetic.prefix(batch, labels), noisy)
        nll = sequence_nll(scores, labels, pad).view(h["samples"], -1)
        mean = total(reward.sum()) / total(reward.new_tensor(reward.numel()))
        loss = forward_loss(nll, advantage(reward, h["baseline"], mean))
        length = lengths_of(sources, pad).float().mean()
        logged = {"forward_adversarial": loss, "reward": reward.mean(), "rollout_length": length}
        loss = _share_of_rows(loss, batch)
        if h["mle_mix"]:
            loss = loss + h["mle_mix"] * self.forward_mle(batch, before=False)[0]
        return loss, logged

    def backward_adversarial(self, batch: Batch, random: torch.Generator) -> Loss:
        """L_phi of synthetic pairs (section 2.5), on the original pair as the MLE step before it."""
        h, pad = self.settings, self.settings["pad_id"]
        _, sources, _ = self.synthetic.draw(batch, random)
        nll = recovery_nll(self.network.backward_network, batch, sources, pad, h["samples"])
        weight = self.weights(batch, sources) if h["pair_weights"] else torch.ones_like(nll)
        loss = h["phi_adv_weight"] * backward_loss(nll, weight)
        return _share_of_rows(loss, batch), {"backward_adversarial": loss, "pair_weight": weight.mean()}

    @torch.no_grad()
    def weights(self, batch: Batch, sources: Tensor) -> Tensor:
        """w(T, T') (K B,) from the forward encoder's word embeddings, BOS and EOS stripped."""
        h, table = self.settings, self.network.forward_network.word_table()
        gold = cut_at_eos(batch["target"][:, 1:], h["eos_id"], h["pad_id"])[1]
        real = mean_embedding(table, gold, h["pad_id"]).repeat(h["samples"], 1)
        return pair_weights(real, mean_embedding(table, sources, h["pad_id"]))

    def noise(self, batch: Batch, random: torch.Generator) -> Loss:
        """L_psi (section 2.6) on T' = argmax after the gold words with memory h + n, whatever ``rollout``."""
        h, pad = self.settings, self.settings["pad_id"]
        with evaluated(self.network):
            with torch.no_grad():
                encoded = self.network.forward_network.encode(batch["source"])
            noise = self.network.noise_of(encoded, self.synthetic.normal(encoded, random))
            differentiable = h["noise_grad"] == "straight_through"
            with torch.set_grad_enabled(differentiable):
                logits = self.synthetic.logits_after_gold(batch, encoded.perturbed(noise))
                _, sources = cut_at_eos(self.synthetic.words(logits), h["eos_id"], pad)
                backward = self.network.backward_network
                extra = straight_through(logits, backward.word_table()) if differentiable else None
                nll = recovery_nll(backward, batch, sources, pad, h["samples"], mean=True, extra=extra)
                nll = nll.view(h["samples"], -1)
        strength = _strength_of_the_whole(noise, encoded.mask)
        loss = noise_loss(nll, strength, h["rho"], h["noise_limit"])
        return _share_of_rows(loss, batch), {"noise_loss": loss, "noise_strength": strength.mean()}


def _strength_of_the_whole(noise: Tensor, mask: Tensor) -> Tensor:
    """Strength (K,) over the positions of the global batch, with this process's gradient."""
    if place()[1] == 1:
        return noise_strength(noise, mask)
    sums = (noise.norm(dim=-1) * mask).sum(dim=(1, 2))
    positions, rows = total(mask.sum()), total(mask.new_tensor(len(mask), dtype=torch.float))
    share = sums * rows / (positions * len(mask))  # its mean over rows is the whole strength
    return share + (total(sums.detach()) / positions - share.detach())


def _share_of_rows(loss: Tensor, batch: Batch) -> Tensor:
    """A mean over this process's rows as its part of the mean over the global batch's."""
    rows = len(batch["target"])
    return loss * (rows * place()[1] / total(loss.new_tensor(float(rows))))
