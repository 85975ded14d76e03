"""The network of dialogues, and what of a batch is maximised: likelihood and terms of the chain rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.demi import bounds
from zoo.demi.encoders import Projection
from zoo.demi.language import CausalLM, at_end, joined
from zoo.demi.negatives import partner_first
from zoo.nn.gathered_rows import gathered

DialogueObjective = Literal["var", "is", "bo", "multi", "infonce", "none", "next_utterance", "mmi"]
DECOMPOSED = ("var", "is", "bo")
INFORMED = (*DECOMPOSED, "multi", "infonce")
Batch = Mapping[str, Any]


class DialogueNetwork(nn.Module):
    """A causal language model, and what its objective adds.

    psi(x'', y) = <h(z''), k> / t, phi(x'', x', y) = <m([z', z'']), k> / t; z is the state of the last token
    of a segment that is read alone, k a projection of that of y.

    Attributes:
        lm: that answers.
        helper: a second one: tau(y | x'') of ``var``, q(x' | y) of ``mmi``.
        choice: of ``next_utterance``, a score of a history with a response.

    Args:
        config: of transformers, of both language models.
        objective: decides what is built.
        hidden: units of the projections.
        outputs: of the projections.
    """

    def __init__(self, config: Any, objective: DialogueObjective, hidden: int, outputs: int) -> None:
        super().__init__()
        self.lm = CausalLM(config)
        width = self.lm.width
        informed, decomposed = objective in INFORMED, objective in DECOMPOSED
        self.critic = Projection(width, hidden, outputs) if informed else None
        self.key_head = Projection(width, hidden, outputs) if informed else None
        self.conditional = Projection(2 * width, hidden, outputs) if decomposed else None
        self.helper = CausalLM(config) if objective in ("var", "mmi") else None
        self.choice = nn.Linear(width, 1) if objective == "next_utterance" else None

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the token behind each of ids (B, T)."""
        return self.lm.logits(self.lm(ids))


class DialogueTerms:
    """Likelihoods and bounds of a batch of :class:`datamodules.DialogueHistories`.

    Args:
        network: of a module.
        objective: of it.
        temperature: t of the scores.
        eos: id.
    """

    def __init__(
        self, network: DialogueNetwork, objective: DialogueObjective, temperature: float, eos: int
    ) -> None:
        self.network, self.objective, self.temperature, self.eos = network, objective, temperature, eos

    def __call__(
        self, batch: Batch, rank: int = 0, world: int = 1, uniform: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What is maximised or reported.

        ``log_p`` (B,), log p(y | x') of each response, ``tokens`` (B,) of it; of the helper ``helper`` (B,)
        and ``helper_tokens``; ``first`` and ``second`` in nats; ``ess``; ``columns``; ``chosen``, the mean
        log-likelihood of the right response among two.

        Args:
            batch: of the data.
            rank: of this process, of
            world: that are each other's negatives.
            uniform: (B, samples, T) for the draws of ``var``; None evaluates: phi by I_IS.
        """
        history, length = batch["history"], batch["history_length"]
        response, tokens = batch["response"], batch["response_length"]
        whole, ends = joined(history, length, response, tokens)
        states = self.network.lm(whole)
        found = {"log_p": self.network.lm.log_likelihood(states, whole, length, ends).sum(dim=1)}
        found["tokens"] = tokens
        if self.network.helper is not None:
            found |= self._helper(batch)
        if self.network.choice is not None and "distractor" in batch:
            found["chosen"] = self._chosen(batch, at_end(states, ends))
        if self.objective in INFORMED:
            found |= self._information(batch, at_end(states, length), rank, world, uniform)
        return found

    def _helper(self, batch: Batch) -> dict[str, Tensor]:
        """log tau(y | x'') of responses, or log q(x' | y) of histories."""
        helper = self.network.helper
        assert helper is not None
        order = ("recent", "response") if self.objective == "var" else ("response", "history")
        begin, tokens = (batch[f"{name}_length"] for name in order)
        ids, ends = joined(batch[order[0]], begin, batch[order[1]], tokens)
        value = helper.log_likelihood(helper(ids), ids, begin, ends).sum(dim=1)
        return {"helper": value, "helper_tokens": tokens}

    def _chosen(self, batch: Batch, right: Tensor) -> Tensor:
        """Of the right response's end and another one's, as TransferTransfo (Wolf et al. 2019)."""
        choice = self.network.choice
        assert choice is not None
        other, ends = joined(
            batch["history"], batch["history_length"], batch["distractor"], batch["distractor_length"]
        )
        wrong = at_end(self.network.lm(other), ends)
        logits = torch.cat([choice(right), choice(wrong)], dim=1).float()
        return logits.log_softmax(dim=1)[:, 0].mean()

    def _information(
        self, batch: Batch, z: Tensor, rank: int, world: int, uniform: Tensor | None
    ) -> dict[str, Tensor]:
        network = self.network
        assert network.critic is not None
        keys = self._keys(batch["response"], batch["response_length"])
        every = gathered(keys, world)

        def scores(embedded: Tensor) -> Tensor:
            with torch.autocast(embedded.device.type, enabled=False):
                return partner_first(embedded.float() @ every.float().T / self.temperature, rank, world)

        columns = keys.new_tensor(float(len(every)))
        if self.objective == "infonce":
            joint = scores(network.critic(z))
            return {"first": bounds.info_nce(joint), "each": bounds.pointwise(joint)[:, None],
                    "columns": columns}  # fmt: skip
        recent = at_end(network.lm(batch["recent"]), batch["recent_length"])
        psi = scores(network.critic(recent))
        found = {"first": bounds.info_nce(psi), "columns": columns}
        if self.objective == "multi":
            joint = scores(network.critic(z))
            found["each"] = torch.stack([bounds.pointwise(psi), bounds.pointwise(joint)], dim=1)
            return found | {"second": bounds.info_nce(joint)}
        assert network.conditional is not None
        embedded = network.conditional(torch.cat([z, recent], dim=1))
        found["ess"] = bounds.effective_sample_size(psi)
        if uniform is not None and self.objective == "var":
            return found | {"second": self._variational(batch, embedded, keys, uniform)}
        phi = scores(embedded)
        if uniform is not None and self.objective == "bo":
            return found | {"second": bounds.boosted_nce(phi, psi)}
        conditional = bounds.pointwise_importance(phi, psi)
        found["each"] = torch.stack([bounds.pointwise(psi), conditional], dim=1)
        return found | {"second": conditional.mean()}

    def _keys(self, ids: Tensor, lengths: Tensor) -> Tensor:
        assert self.network.key_head is not None
        return self.network.key_head(at_end(self.network.lm(ids), lengths))

    def _variational(self, batch: Batch, embedded: Tensor, keys: Tensor, uniform: Tensor) -> Tensor:
        """I_VAR without its divergence: negatives are responses that tau gives to the last turn alone."""
        drawn, lengths = self.proposed(batch, uniform)
        negatives = self._keys(drawn, lengths).view(len(keys), -1, keys.shape[1])
        with torch.autocast(embedded.device.type, enabled=False):
            candidates = torch.cat([keys[:, None], negatives], dim=1).float()
            phi = torch.einsum("be,bke->bk", embedded.float(), candidates) / self.temperature
        return bounds.conditional_nce(phi)

    @torch.no_grad()
    def proposed(self, batch: Batch, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draws of tau(y | x''): ids (B samples, Y), those of a row side by side, and lengths.

        Args:
            batch: of the data.
            uniform: (B, samples, T) in [0, 1).
        """
        helper, samples = self.network.helper, uniform.shape[1]
        assert helper is not None
        recent, length = (batch[k].repeat_interleave(samples, dim=0) for k in ("recent", "recent_length"))
        was, uniform = helper.training, uniform.flatten(0, 1).T
        helper.eval()
        try:
            return helper.respond(recent, length, len(uniform), self.eos, uniform)
        finally:
            helper.train(was)


def recovery(helper: CausalLM, batch: Batch, response: Tensor, lengths: Tensor) -> Tensor:
    """log q(x' | y) of responses (B, Y), (B,): what re-ranks candidates by mutual information.

    Li et al. 2016 (section 4.2.2), with the whole history as DialoGPT has it.
    """
    ids, ends = joined(response, lengths, batch["history"], batch["history_length"])
    return helper.log_likelihood(helper(ids), ids, lengths, ends).sum(dim=1)


def mean_of(total: Tensor, count: Tensor, world: int) -> Tensor:
    """A sum over tokens as this process's share of the mean over those of all processes."""
    count = count.sum().float()
    if world > 1:
        torch.distributed.all_reduce(count)
    return total.sum() * world / count
