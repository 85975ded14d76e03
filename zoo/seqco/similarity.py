"""How alike two views of one meaning are: the losses of SeqCo (Xu et al., AAAI 2022) of tensors.

A view is a sequence of unit vectors, one a token. The *query* is always the target network's sequence,
key and value are the online network's: gradients reach the latter alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""``nn.MultiheadAttention`` with ``batch_first``, or what has its signature."""


def unit(features: Tensor) -> Tensor:
    """Each token's vector (B, T, d) divided by its length, over d and never over T."""
    return functional.normalize(features, dim=-1)


def token_similarities(
    online: Tensor, target: Tensor, attend: Attend, online_mask: Tensor | None = None
) -> Tensor:
    """cos(Z_j, f_xi(b)_j) of each token (B, |b|); see :func:`attention_loss`."""
    padding = None if online_mask is None else ~online_mask
    found, _ = attend(target, online, online, key_padding_mask=padding, need_weights=False)
    return functional.cosine_similarity(found, target, dim=-1)


def attention_loss(
    online: Tensor,
    target: Tensor,
    attend: Attend,
    online_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """l(a -> b) = 1 - mean_j cos(Z_j, f_xi(b)_j) in [0, 2], Z = MHA(query f_xi(b), key, value f_theta(a)).

    Args:
        online: f_theta(a), unit vectors (B, |a|, d).
        target: f_xi(b), unit vectors (B, |b|, d), without gradient.
        attend: omega.
        online_mask: bool (B, |a|), true on real tokens; None takes pads for keys, as the official code does.
        target_mask: bool (B, |b|); None averages over pads, too.
        rows: bool (B,), those that count; None takes all.

    Returns:
        The mean over the tokens of each sequence, then over the rows; 0, connected to ``online``, where no
        row counts.
    """
    cosine = token_similarities(online, target, attend, online_mask)  # (B, |b|)
    if target_mask is None:
        each = cosine.mean(dim=1)
    else:
        each = (cosine * target_mask).sum(dim=1) / target_mask.sum(dim=1).clamp(min=1)
    return mean_of_rows(1 - each, rows)


def first_token_loss(
    online: Tensor, target: Tensor, predict: Callable[[Tensor], Tensor], rows: Tensor | None = None
) -> Tensor:
    """l = 1 - cos(p(f_theta(a)_0), f_xi(b)_0): BYOL's loss on the first token, without cross attention.

    Args:
        online: f_theta(a) (B, |a|, d).
        target: f_xi(b) (B, |b|, d).
        predict: p, the predictor.
        rows: see :func:`attention_loss`.
    """
    cosine = functional.cosine_similarity(predict(online[:, 0]), target[:, 0], dim=-1)
    return mean_of_rows(1 - cosine, rows)


def in_batch_loss(online: Tensor, target: Tensor, temperature: float, rows: Tensor | None = None) -> Tensor:
    """InfoNCE over the batch (an ablation, not the paper's): the other documents' targets are the negatives.

    Args:
        online: one unit vector of each sequence (B, d).
        target: likewise.
        temperature: of the softmax.
        rows: as queries and as keys, the others are left out; see :func:`attention_loss`.
    """
    scores = online @ target.T / temperature
    if rows is not None:
        scores = scores.masked_fill(~rows[None], torch.finfo(scores.dtype).min)
    each = functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device), reduction="none")
    return mean_of_rows(each, rows)


def queue_loss(
    online: Tensor,
    target: Tensor,
    keys: Tensor,
    usable: Tensor,
    temperature: float,
    rows: Tensor | None = None,
) -> Tensor:
    """MoCo's loss (He et al., CVPR 2020, Eq. 1): a document's own key against keys of earlier updates.

    l(a -> b) = -log exp(q k / t) / (exp(q k / t) + sum_i exp(q k_i / t)), q = f_theta(a)_0, k = f_xi(b)_0.

    Args:
        online: f_theta(a) (B, |a|, d), of which the first token is taken.
        target: f_xi(b) (B, |b|, d), likewise.
        keys: k_i (K, d).
        usable: bool (B, K), which of them are negatives of which row.
        temperature: t.
        rows: see :func:`attention_loss`.
    """
    query = online[:, 0]
    positive = (query * target[:, 0]).sum(dim=-1, keepdim=True)
    scores = torch.cat([positive, query @ keys.T.to(query)], dim=1) / temperature
    there = torch.cat([torch.ones_like(usable[:, :1]), usable], dim=1)
    each = -scores.float().masked_fill(~there, -torch.inf).log_softmax(dim=1)[:, 0]
    return mean_of_rows(each, rows)


def policy_loss(
    logits: Tensor,
    ids: Tensor,
    mask: Tensor,
    rewards: Tensor,
    centred: bool,
    rows: Tensor | None = None,
) -> Tensor:
    """REINFORCE with a reward of each token: -mean_t r_t log p(yhat_t | yhat_<t, x), then over the rows.

    Args:
        logits: (B, T, V), of the tokens of ``ids``.
        ids: drawn summaries (B, T).
        mask: of their real tokens.
        rewards: (B, T), taken without gradient.
        centred: subtract the mean reward of the rows' tokens, which changes no expectation.
        rows: see :func:`attention_loss`.
    """
    rewards, real = rewards.detach().float(), mask if rows is None else mask & rows[:, None]
    if centred:
        rewards = rewards - (rewards * real).sum() / real.sum().clamp(min=1)
    log_p = logits.float().log_softmax(dim=-1).gather(2, ids.unsqueeze(2)).squeeze(2)
    each = (rewards * log_p * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return mean_of_rows(-each, rows)


def mean_of_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    """Mean of those (B,) that count; a 0 with a gradient of 0 where none does, for DDP waits for all."""
    if rows is None:
        return values.mean()
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)


def pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real tokens of (B, T, d), of length one again: (B, d)."""
    if mask is None:
        return unit(features.mean(dim=1))
    weights = mask.unsqueeze(-1).to(features.dtype)
    return unit((features * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))


def spread(vectors: Tensor) -> Tensor:
    """Collapse monitor: mean over the features of their unbiased standard deviation over a batch (B, d).

    Isotropic unit vectors have 1 / sqrt(d), equal ones 0. NaN for a single row, of which there is none.
    """
    return vectors.std(dim=0, unbiased=True).mean() if len(vectors) > 1 else vectors.new_tensor(math.nan)


def mean_token_loss(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Summed label-smoothed cross-entropy, and over how many tokens: -100 is no token.

    (1 - eps) nll + eps / V sum over the vocabulary of -log p, for each target token.

    Args:
        logits: (B, T, V).
        labels: int64 (B, T).
        smoothing: eps.
    """
    total = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=smoothing, reduction="sum"
    )
    return total, (labels != -100).sum()


class CrossAttention(nn.MultiheadAttention):
    """omega of Eq. sim: as many heads as the encoder, biases, no residual and no norm.

    Query, key and value are drawn Xavier uniform with gain 1 / sqrt(2), their biases as ``nn.Linear`` has
    them, the output Xavier uniform with a bias of 0, as in fairseq's attention.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout=dropout, batch_first=True)
        for part in self.in_proj_weight.data.chunk(3):
            nn.init.xavier_uniform_(part, gain=1 / math.sqrt(2))
        nn.init.uniform_(self.in_proj_bias, -1 / math.sqrt(width), 1 / math.sqrt(width))
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)
