"""The edge predictors: graph auto-encoders (Kipf & Welling 2016) and their losses.

GAug-O's has linear, then ReLU layers, so that every logit Z Z^T is >= 0 and can be scaled to a probability.
GAug-M's has ELU and a linear code. All layers are bias-free and use the symmetric A^ whatever the classifier.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.gaug.adjacency import Adjacency, feature_product

PredictorKind = Literal["gae", "vgae"]


def glorot(inputs: int, outputs: int) -> nn.Parameter:
    """Glorot-uniform weight (inputs, outputs)."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))


class EdgePredictor(nn.Module):
    r"""Z from features and the normalised given graph A^.

    Form ``o`` (inside GAug-O): H = A^ X W0 without activation, Z = relu(A^ H W1).
    Form ``m`` (GAug-M): H = elu(A^ X W0), mu = A^ H W1 and log sigma = A^ H W2, both linear.
    ``vgae`` draws Z = mu + eps exp(log sigma); in form ``o`` mu and log sigma both pass a ReLU.

    Shapes:
        features (N, F), Z (N, embedding).
    """

    def __init__(
        self, features: int, hidden: int, embedding: int, kind: PredictorKind, form: Literal["o", "m"]
    ) -> None:
        super().__init__()
        self.kind, self.form = kind, form
        self.w0, self.w1 = glorot(features, hidden), glorot(hidden, embedding)
        self.w2 = glorot(hidden, embedding) if kind == "vgae" else None

    def forward(self, x: Tensor, adjacency: Adjacency) -> tuple[Tensor, Tensor | None]:
        """(mu, log sigma), each (N, embedding); log sigma is None for a GAE."""
        hidden = adjacency @ feature_product(x, self.w0)
        if self.form == "m":
            hidden = functional.elu(hidden)
        mean = adjacency @ (hidden @ self.w1)
        log_std = None if self.w2 is None else adjacency @ (hidden @ self.w2)
        if self.form == "o":
            return mean.relu(), None if log_std is None else log_std.relu()
        return mean, log_std

    def embed(self, x: Tensor, adjacency: Adjacency, noise: Tensor | None = None) -> Tensor:
        """Z (N, embedding): mu, or for a VGAE with ``noise`` eps (N, embedding) a draw."""
        mean, log_std = self(x, adjacency)
        return draw(mean, log_std, noise)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the weights."""
        return copy.deepcopy({k: v.detach() for k, v in self.state_dict().items()})


def draw(mean: Tensor, log_std: Tensor | None, noise: Tensor | None) -> Tensor:
    """Z = mu + eps exp(log sigma); mu where there is no sigma or no noise."""
    return mean if log_std is None or noise is None else mean + noise * log_std.exp()


def kl_term(mean: Tensor, log_std: Tensor) -> Tensor:
    """0.5 / N mean_i sum_j (1 + 2 log sigma - mu^2 - sigma^2), which is never positive; the loss is
    reconstruction *minus* this term."""
    inside = 1 + 2 * log_std - mean.square() - (2 * log_std).exp()
    return 0.5 / len(mean) * inside.sum(dim=1).mean()


def balance(nodes: int, entries: float) -> tuple[float, float]:
    """(pos_weight, norm_w): (N^2 - s) / s and N^2 / (2 (N^2 - s)), s = sum of the matrix.

    For GAug-O s counts the N self-loops of A~; for GAug-M's VGAE s is the sum of A without them.

    Raises:
        ValueError: for a graph without or with all edges, which has nothing to predict.
    """
    total = nodes * nodes
    if not 0 < entries < total:
        raise ValueError(
            f"an edge predictor needs edges and non-edges, but {entries:g} of {total} pairs are edges"
        )
    return (total - entries) / entries, total / (2 * (total - entries))


def reconstruction_loss(logits: Tensor, target: Tensor, pos_weight: float, norm: float) -> Tensor:
    """norm_w * BCE-with-logits over all N^2 entries."""
    weight = torch.tensor(pos_weight, device=logits.device)
    return norm * functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)


def sampled_reconstruction_loss(
    positives: Tensor, negatives: Tensor, zeros: int, nodes: int, pos_weight: float, norm: float
) -> Tensor:
    """Unbiased estimate of :func:`reconstruction_loss` from all positives and some of the zeros.

    Args:
        positives: logits of all entries that are 1.
        negatives: logits of entries that are 0, drawn uniformly; all of them make the estimate exact.
        zeros: number of entries that are 0.
        nodes: N.
        pos_weight: see :func:`balance`.
        norm: see :func:`balance`.
    """
    positive = pos_weight * functional.softplus(-positives).sum()
    negative = functional.softplus(negatives).mean() * zeros if len(negatives) else positives.new_zeros(())
    return norm * (positive + negative) / nodes**2


def pair_logits(z: Tensor, pairs: Tensor) -> Tensor:
    """Entries (K,) of Z Z^T at ``pairs`` (2, K)."""
    return (z[pairs[0]] * z[pairs[1]]).sum(dim=1)


def ranking_quality(positives: Tensor, negatives: Tensor) -> tuple[float, float]:
    """(ROC AUC, average precision) of scores of edges and of non-edges; ties count half in the AUC."""
    scores = torch.cat([positives, negatives]).detach().double()
    truth = torch.cat([torch.ones(len(positives)), torch.zeros(len(negatives))]).to(scores)
    if not len(positives) or not len(negatives):
        return 0.5, 1.0 if len(positives) else 0.0
    values, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    p, n = len(positives), len(negatives)
    auc = (float((ranks * truth).sum()) - p * (p + 1) / 2) / (p * n)
    # ties are one threshold: precision after all of them
    hits = torch.zeros(len(values), dtype=torch.double, device=scores.device).index_add(0, inverse, truth)
    hits, total = hits.flip(0), counts.flip(0)
    precision = hits.cumsum(0) / total.cumsum(0)
    return auc, float((precision * hits).sum() / p)
