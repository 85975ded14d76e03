"""The idea of AMI: log-likelihoods as rewards, weights of synthetic pairs, a bound of the mutual information.

S is a source, T its gold target, T' a generated one; theta is the forward network p(T|S), phi the backward
network q(S|T). K targets are drawn for a source; (K, B) tensors hold one number for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Baseline = Literal["leave_one_out", "batch", "none"]
Stage = Literal["pretrain_forward", "pretrain_backward", "pretrain_noise", "pretrain_source"]
Turn = Literal[Stage, "forward", "backward", "noise"]


def token_nll(logits: Tensor, labels: Tensor, pad: int, smoothing: float = 0.0) -> Tensor:
    """-log p(label) of each token; 0 at pads.

    Args:
        logits: (B, T, V).
        labels: (B, T).
        pad: label of positions that do not count.
        smoothing: share of the label's mass that is spread over the vocabulary.

    Returns:
        (B, T).
    """
    # in float32 also under bf16: sums over a large vocabulary
    return functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=pad, reduction="none", label_smoothing=smoothing
    )


def sequence_nll(logits: Tensor, labels: Tensor, pad: int, mean: bool = True) -> Tensor:
    """Length-normalised negative log-likelihood (released code): the sum over tokens that are no pads,
    divided by their number. EOS counts as a token, BOS is no label. A sequence without tokens has 0.

    Args:
        logits: (B, T, V).
        labels: (B, T).
        pad: label of positions that do not count.
        mean: false gives the sum.

    Returns:
        (B,).
    """
    total = token_nll(logits, labels, pad).sum(dim=1)
    return total / (labels != pad).sum(dim=1).clamp(min=1) if mean else total


def mean_embedding(table: Tensor, ids: Tensor, pad: int) -> Tensor:
    """e(.): mean of the word embeddings (V, d) of all tokens that are no pads, (B, d). 0 without a token."""
    real = (ids != pad).unsqueeze(-1)
    return (table[ids] * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def pair_weights(gold: Tensor, generated: Tensor) -> Tensor:
    """w(T, T') = 1 - cos(e(T), e(T')), at least 0: a synthetic target near the gold one is not punished.

    Args:
        gold: e(T) (..., d).
        generated: e(T') (..., d); an empty one is the zero vector, and has w = 1.

    Returns:
        (...), in [0, 2].
    """
    return (1 - functional.cosine_similarity(gold, generated, dim=-1)).clamp(min=0)


def advantage(reward: Tensor, baseline: Baseline, batch_mean: Tensor | None = None) -> Tensor:
    """The reward r (K, B) less its baseline, a constant for theta.

    ``leave_one_out`` subtracts the mean over the other samples of the source (none where K = 1), ``batch``
    the mean over batch and samples, ``none`` nothing, as the released code.

    Args:
        reward: (K, B).
        baseline: which.
        batch_mean: of the global batch, where it is spread over processes.
    """
    samples = len(reward)
    if baseline == "batch":
        return reward - (reward.mean() if batch_mean is None else batch_mean)
    if baseline == "leave_one_out" and samples > 1:
        return reward - (reward.sum(dim=0) - reward) / (samples - 1)
    return reward


def forward_loss(nll: Tensor, reward: Tensor) -> Tensor:
    """L_theta = mean_b 1/K sum_k g_k r_k to minimise, REINFORCE: g = -log p(T'|S), so g r = -r log p.

    Args:
        nll: g (K, B), length-normalised.
        reward: r (K, B), log q(S|T') or an advantage; no gradient is taken of it.
    """
    return (nll * reward.detach()).mean()


def backward_loss(nll: Tensor, weight: Tensor) -> Tensor:
    """L_phi of synthetic pairs to minimise: -mean_{k,b} w nll(S|T'), so that log q goes down on them.

    The released code multiplies (B,) by (B, 1), which gives (sum of nll) (sum of w); here each pair has its
    own weight.

    Args:
        nll: (K, B) summed over tokens.
        weight: w (K, B).
    """
    return -(weight.detach() * nll).mean()


def noise_strength(noise: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions and batch of the L2 norm over features of (K, B, S, d), (K,).

    The released code takes the norm over the batch. Padded positions do not count.
    """
    real = mask.expand(noise.shape[:3])
    return (noise.norm(dim=-1) * real).sum(dim=(1, 2)) / real.sum(dim=(1, 2)).clamp(min=1)


def noise_loss(nll: Tensor, strength: Tensor, rho: float, limit: float) -> Tensor:
    """L_psi = mean_k [mean_b nll_q(S|T'_k) - rho s_k], the term of each k left out once s_k > limit.

    Args:
        nll: (K, B) length-normalised.
        strength: s (K,).
        rho: weight of the strength.
        limit: strength at which it stops to be rewarded.
    """
    reward = torch.where(strength > limit, 0.0, rho * strength)
    return (nll.mean(dim=1) - reward).mean()


def cut_at_eos(prediction: Tensor, eos: int, pad: int) -> tuple[Tensor, Tensor]:
    """A generated target as label and as source of the backward network: cut at the first EOS.

    The label keeps the EOS, the source has none. Without an EOS all positions count and none is added.
    ``[7, 9, 3, 8, 3, 4, 5]`` with EOS 3 and pad 1: label ``[7, 9, 3, 1, 1, 1, 1]``, source ``[7, 9]``.

    Args:
        prediction: (B, T).
        eos: id.
        pad: id.

    Returns:
        labels and sources, (B, T) each, filled up with pads.
    """
    ended = (prediction == eos).cumsum(dim=1)
    before = ended == 0
    first = (ended == 1) & (prediction == eos)
    return prediction.where(before | first, pad), prediction.where(before, pad)


def lengths_of(ids: Tensor, pad: int) -> Tensor:
    """Tokens up to the last that is no pad, (B,)."""
    place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return ((ids != pad) * place).amax(dim=1) if ids.shape[1] else place.new_zeros(len(ids))


def join_rows(context: Tensor, reply: Tensor, pad: int) -> Tensor:
    """The source of the backward network: the tokens of ``context`` (B, C), then those of ``reply`` (B, T).

    A row without any token is one pad, which networks take for a source of length 1.
    """
    before, after = lengths_of(context, pad), lengths_of(reply, pad)
    width = max(int((before + after).max()), 1)
    place = torch.arange(width, device=reply.device).expand(len(reply), -1)
    both = torch.cat([context, reply, reply.new_full((len(reply), 1), pad)], dim=1)
    of_reply = context.shape[1] + (place - before[:, None])
    column = torch.where(place < before[:, None], place, of_reply)
    column = column.where(place < (before + after)[:, None], both.shape[1] - 1)
    return both.gather(1, column)


def information_bound(source_entropy: float | Tensor, log_q: Tensor) -> Tensor:
    """I(S; T') >= H(S) + E log q(S|T'), in nats, for log q (B,) summed over the tokens of S."""
    return source_entropy + log_q.mean()


def plug_in_information(pairs: Tensor) -> Tensor:
    """Mutual information in nats of two discrete variables, from the counts of (N, 2) observed pairs."""
    joint, counts = pairs.unique(dim=0, return_counts=True)
    p = counts.double() / counts.sum()
    marginals = []
    for column in joint.T:
        _, group = column.unique(return_inverse=True)
        marginals.append(p.new_zeros(int(group.max()) + 1).index_add(0, group, p)[group])
    return (p * (p / (marginals[0] * marginals[1])).log()).sum()


@dataclass(frozen=True)
class Cycle:
    """Which batch trains what: stages of pretraining, then turns of the three networks in a cycle.

    Attributes:
        pretraining: batches of MLE of theta, of MLE of phi, of the noise alone, of MLE of the model of S.
        turns: batches of the forward, the backward and the noise turn of a cycle.
        every: an adversarial step follows the MLE step of every so-many-th batch of a turn.
    """

    pretraining: Sequence[int] = (0, 0, 0, 0)
    turns: Sequence[int] = (8, 8, 4)
    every: int = 2

    def at(self, batch: int) -> tuple[Turn, bool]:
        """Turn of a batch, from 0, and whether an adversarial step follows its MLE step."""
        stages: tuple[Turn, ...] = get_args(Stage)
        for stage, length in zip(stages, self.pretraining, strict=True):
            if batch < length:
                return stage, False
            batch -= length
        batch %= sum(self.turns)
        turns: tuple[Turn, ...] = ("forward", "backward", "noise")
        for turn, length in zip(turns, self.turns, strict=True):
            if batch < length:
                return turn, turn != "noise" and (batch + 1) % self.every == 0
            batch -= length
        raise AssertionError
