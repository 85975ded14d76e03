"""Terms of the chain rule on a batch: losses of the critics, and what they say about held-out pairs.

A batch of B rows is dealt to the n terms, B / n rows each, so that a decomposition costs the samples of one
InfoNCE with B. The i-th term knows x_1 .. x_i and conditions on x_1 .. x_{i-1}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.demi import bounds
from zoo.demi.gaussian import divergence, oracle_scores
from zoo.demi.network import UNDIVIDED, Curve, Estimators

Batch = Mapping[str, Tensor]
_MOST_NEGATIVES = 2**26
"""Numbers of the exact negatives of one term; more would be a mistake of the batch size."""


def known(batch: Batch, count: int) -> Tensor:
    """[x_1 .. x_count], (B, count d)."""
    return batch["subviews"][:, :count].flatten(1)


def dealt(batch: Batch, terms: int) -> list[dict[str, Tensor]]:
    """The rows of each term, B // n of them.

    Raises:
        ValueError: for less than two rows a term, of which none could be a negative.
    """
    rows = len(batch["y"]) // terms
    if rows < 2:
        raise ValueError(
            f"a batch of {len(batch['y'])} rows leaves {rows} for each of {terms} terms, and a bound needs "
            "2: raise data.init_args.batch_size and eval_batch_size"
        )
    return [{k: v[i * rows : (i + 1) * rows] for k, v in batch.items()} for i in range(terms)]


@dataclass
class Scorer:
    """Scores of critics by what they know: trained ones, or the closed form of Gaussian data.

    Attributes:
        network: critics; None takes the optimal ones.
        subviews: n.
        clip: tau of SMILE.
    """

    network: Estimators | None
    subviews: int
    clip: float = 5.0

    def joint(self, curve: Curve, batch: Batch) -> Tensor:
        """The critic of an undivided estimate on all subviews, (B, B)."""
        if self.network is None:
            optimal = self._oracle(batch, batch["y"], self.subviews, 0)
            return optimal + 1 if curve == "nwj" else optimal
        return self.network.undivided[curve](known(batch, self.subviews), batch["y"])

    def undivided(self, curve: Curve, batch: Batch) -> Tensor:
        """What each pair contributes to an undivided estimate, (B,), whose mean is the estimate."""
        scores = self.joint(curve, batch)
        if curve == "infonce":
            return bounds.pointwise(scores, "diagonal")
        if curve == "nwj":
            return bounds.pointwise_nwj(scores, "diagonal")
        return bounds.pointwise_ratio(scores, "diagonal", self.clip if curve == "smile" else None)

    def term(self, curve: Curve, batch: Batch, i: int, y: Tensor) -> Tensor:
        """The i-th term's critic, i from 1, on candidates y (K, d) or (B, K, d); psi is the first."""
        if self.network is None:
            return self._oracle(batch, y, i, i - 1)
        critic = self.network.first if i == 1 else self.network.terms[curve][i - 2]  # type: ignore[index]
        assert critic is not None
        return critic(known(batch, i), y)

    def earlier(self, curve: Curve, batch: Batch, i: int) -> Tensor:
        """log p(y | x_1 .. x_{i-1}) / p(y) as the terms before the i-th have it, without gradient, (B, B)."""
        with torch.no_grad():
            found = [self.term(curve, batch, j, batch["y"]) for j in range(1, i)]
            return torch.stack(found).sum(dim=0)

    def _oracle(self, batch: Batch, y: Tensor, stage: int, since: int) -> Tensor:
        return oracle_scores(y, batch["mean"], batch["variance"], stage, since)


def with_negatives(y: Tensor, mean: Tensor, deviation: Tensor, g: torch.Generator) -> Tensor:
    """y of each row, then B - 1 draws of its own normal distribution: (B, B, d), the partner first.

    Raises:
        ValueError: where they would be more than fits.
    """
    rows, dim = y.shape
    if rows * rows * dim > _MOST_NEGATIVES:
        raise ValueError(
            f"{rows} rows a term with {rows - 1} exact negatives each of {dim} numbers are more than "
            f"{_MOST_NEGATIVES:,}: lower data.init_args.batch_size and eval_batch_size"
        )
    noise = torch.randn(rows, rows - 1, dim, generator=g, device=y.device)
    return torch.cat([y[:, None], mean[:, None] + deviation[:, None] * noise], dim=1)


def exact_candidates(batch: Batch, i: int, g: torch.Generator) -> Tensor:
    """Candidates of the i-th term, negatives from p(y | x_1 .. x_{i-1}) itself."""
    deviation = batch["variance"][:, i - 2, None].sqrt()
    return with_negatives(batch["y"], batch["mean"][:, i - 2], deviation, g)


def term_loss(scorer: Scorer, curve: Curve, batch: Batch, i: int, g: torch.Generator) -> Tensor:
    """The bound that trains the i-th conditional critic (i from 2), to be maximised."""
    if curve in ("exact", "var"):
        if curve == "exact":
            candidates = exact_candidates(batch, i, g)
        else:
            assert scorer.network is not None
            with torch.no_grad():
                mean, log_variance = scorer.network.proposals[i - 2](known(batch, i - 1))
                candidates = with_negatives(batch["y"], mean, (log_variance / 2).exp(), g)
        return bounds.conditional_nce(scorer.term(curve, batch, i, candidates))
    phi, psi = scorer.term(curve, batch, i, batch["y"]), scorer.earlier(curve, batch, i)
    bound = bounds.boosted_nce if curve == "bo" else bounds.importance_nce
    return bound(phi, psi, "diagonal")


def likelihood(network: Estimators, batch: Batch, i: int) -> Tensor:
    """Mean log-likelihood of the proposal of the i-th term, which training maximises."""
    mean, log_variance = network.proposals[i - 2](known(batch, i - 1))
    squares = (batch["y"] - mean) ** 2 * (-log_variance).exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(dim=1).mean()


def training_bounds(
    scorer: Scorer, curves: Sequence[Curve], batch: Batch, g: torch.Generator
) -> dict[str, Tensor]:
    """What each network maximises: ``infonce``, ``first``, ``bo_2`` and so on, ``tau_2``.

    SMILE's critic is trained by the bound of Jensen and Shannon, as its authors' is.
    """
    found: dict[str, Tensor] = {}
    for whole in [c for c in UNDIVIDED if c in curves]:
        if whole == "smile":
            found[whole] = bounds.jensen_shannon(scorer.joint(whole, batch), "diagonal")
        else:
            found[whole] = scorer.undivided(whole, batch).mean()
    conditional: list[Curve] = [c for c in curves if c not in UNDIVIDED]
    if not conditional:
        return found
    parts = dealt(batch, scorer.subviews)
    found["first"] = bounds.info_nce(scorer.term(conditional[0], parts[0], 1, parts[0]["y"]), "diagonal")
    for curve in conditional:
        for i in range(2, scorer.subviews + 1):
            found[f"{curve}_{i}"] = term_loss(scorer, curve, parts[i - 1], i, g)
            if curve == "var":
                assert scorer.network is not None
                found[f"tau_{i}"] = likelihood(scorer.network, batch, i)
    return found


def estimates(scorer: Scorer, curves: Sequence[Curve], batch: Batch, g: torch.Generator) -> dict[str, float]:
    """Bounds on a held-out batch, in nats.

    ``infonce``, ``dv``, ``nwj``, ``smile``; ``first``, I_NCE(x_1; y); and of each decomposition, by how its
    conditional critics were trained: ``bo_conditional_exact`` and ``bo_exact`` (negatives from p(y | x''),
    where the data are Gaussian; the latter with the first term), ``bo_conditional_is`` and ``bo_is``,
    ``bo_value`` (what I_BO itself says, no part of any sum), ``var_bound`` with the proposal's divergence
    subtracted; ``ess``.
    """
    found: dict[str, float] = {}
    for whole in [c for c in UNDIVIDED if c in curves]:
        found[whole] = float(scorer.undivided(whole, batch).mean())
    conditional: list[Curve] = [c for c in curves if c not in UNDIVIDED]
    if not conditional:
        return found
    parts, n = dealt(batch, scorer.subviews), scorer.subviews
    first = float(bounds.info_nce(scorer.term(conditional[0], parts[0], 1, parts[0]["y"]), "diagonal"))
    found["first"] = first
    for curve in conditional:
        sums: dict[str, list[float]] = {}
        for i in range(2, n + 1):
            for name, value in _of_term(scorer, curve, parts[i - 1], i, g).items():
                sums.setdefault(name, []).append(float(value))
        ess = sums.pop("ess")
        for name, values in sums.items():
            found[f"{curve}_{name}"] = sum(values)
        for name in ("exact", "is"):
            if f"{curve}_conditional_{name}" in found:
                found[f"{curve}_{name}"] = first + found[f"{curve}_conditional_{name}"]
        if "var_conditional_bound" in found:
            found["var_bound"] = first + found["var_conditional_bound"]
        found[f"{curve}_ess"] = sum(ess) / len(ess)
    return found


def _of_term(scorer: Scorer, curve: Curve, batch: Batch, i: int, g: torch.Generator) -> dict[str, Tensor]:
    phi, psi = scorer.term(curve, batch, i, batch["y"]), scorer.earlier(curve, batch, i)
    found = {"conditional_is": bounds.importance_nce(phi, psi, "diagonal")}
    found["ess"] = bounds.effective_sample_size(psi, "diagonal")
    if curve == "bo":
        found["value"] = bounds.boosted_nce(phi, psi, "diagonal")
    if "mean" not in batch:
        return found
    exact = exact_candidates(batch, i, g)
    found["conditional_exact"] = bounds.conditional_nce(scorer.term(curve, batch, i, exact))
    if curve == "var" and scorer.network is not None:
        tau = scorer.network.proposals[i - 2](known(batch, i - 1))
        candidates = with_negatives(batch["y"], tau[0], (tau[1] / 2).exp(), g)
        kl = divergence(batch["mean"][:, i - 2], batch["variance"][:, i - 2], *tau)
        found["conditional_bound"] = bounds.variational_nce(scorer.term(curve, batch, i, candidates), kl)
    return found


def pointwise(scorer: Scorer, curve: Curve, batch: Batch) -> Tensor:
    """What each pair (x, y) contributes to the estimate, (B,), all rows being each other's negatives."""
    if curve in UNDIVIDED:
        return scorer.undivided(curve, batch)
    parts = [bounds.pointwise(scorer.term(curve, batch, 1, batch["y"]), "diagonal")]
    for i in range(2, scorer.subviews + 1):
        phi, psi = scorer.term(curve, batch, i, batch["y"]), scorer.earlier(curve, batch, i)
        parts.append(bounds.pointwise_importance(phi, psi, "diagonal"))
    return torch.stack(parts).sum(dim=0)


def optimal_curves(
    dim: int, subviews: int, rows: int, totals: Sequence[float], batches: int, g: torch.Generator
) -> dict[str, list[float]]:
    """What optimal critics say about Gaussian data of equal split, ``infonce`` and ``exact`` by total.

    Args:
        dim: d.
        subviews: n.
        rows: of a batch, dealt to the terms.
        totals: nats.
        batches: whose mean is taken.
        g: of the draws.
    """
    scorer = Scorer(None, subviews)
    found: dict[str, list[float]] = {"infonce": [], "exact": []}
    for total in totals:
        left = torch.exp(-2 * total / (subviews * dim) * torch.arange(subviews + 1.0))
        loading = (left[:-1] - left[1:]).sqrt()
        sums = dict.fromkeys(found, 0.0)
        for _ in range(batches):
            u = torch.randn(rows, subviews, dim, generator=g)
            mean = (loading[:, None] * u).cumsum(dim=1)
            y = mean[:, -1] + left[-1].sqrt() * torch.randn(rows, dim, generator=g)
            batch = {"subviews": u, "y": y, "mean": mean, "variance": left[1:].expand(rows, -1)}
            value = estimates(scorer, ("infonce", "bo"), batch, g)
            sums["infonce"] += value["infonce"] / batches
            sums["exact"] += value["bo_exact"] / batches
        for name, value_ in sums.items():
            found[name].append(value_)
    return found
