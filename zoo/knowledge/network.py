"""Embeddings of entities and relations, and the score of all answers to a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.knowledge.scores import complex_query, transe


class Embeddings(nn.Module):
    """Scores of a head and a relation with every tail.

    Args:
        entities: N.
        relations: R; each has an inverse, which has an embedding of its own (Lacroix et al. 2018).
        model: ``transe`` or ``complex``.
        dim: D, components of an embedding, complex ones for ``complex``.
        norm: of ``transe``.
        unit_entities: entities of ``transe`` are scaled to length 1, as its authors did before each step.
        init: deviation of the components; null is D^-1/2.
    """

    def __init__(
        self,
        entities: int,
        relations: int,
        model: str,
        dim: int,
        norm: int = 1,
        unit_entities: bool = False,
        init: float | None = None,
    ) -> None:
        super().__init__()
        width = 2 * dim if model == "complex" else dim
        self.model, self.norm, self.unit_entities = model, norm, unit_entities
        self.entity = nn.Embedding(entities, width)
        self.relation = nn.Embedding(2 * relations, width)
        for table in (self.entity, self.relation):
            nn.init.normal_(table.weight, std=dim**-0.5 if init is None else init)

    def entity_vectors(self) -> Tensor:
        """(N, D) of ``transe``, (N, 2 D) of ``complex``, real parts first."""
        table = self.entity.weight
        return functional.normalize(table, dim=1) if self.unit_entities else table

    def forward(self, head: Tensor, relation: Tensor, tails: Tensor | None = None) -> Tensor:
        """Scores (B, N) of all entities, or (B, K) of ``tails`` (B, K).

        Args:
            head: (B,).
            relation: (B,) in 0 .. 2R - 1.
            tails: entities, or None.
        """
        table = self.entity_vectors()
        h, r = table[head], self.relation(relation)
        t = table if tails is None else table[tails]
        if self.model == "transe":
            return transe(h + r, t, self.norm)
        query = complex_query(h, r)
        return query @ t.T if tails is None else torch.einsum("bd,bkd->bk", query, t)

    def factors(self, head: Tensor, relation: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of each triple, (B, D) each."""
        table = self.entity_vectors()
        return table[head], self.relation(relation), table[tail]


class RelationFrequency(nn.Module):
    """How often an entity is the tail of a relation in training: a ranking that learns nothing of heads.

    Args:
        entities: N.
        relations: R.
    """

    counts: Tensor

    def __init__(self, entities: int, relations: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(2 * relations, entities))
        self.steps = nn.Parameter(torch.zeros(()))  # an optimiser that holds it counts the steps

    def count(self, relation: Tensor, tail: Tensor) -> None:
        """Add training triples: ``relation`` and ``tail`` (B,)."""
        ones = torch.ones(len(tail), device=tail.device)
        self.counts.index_put_((relation, tail), ones, accumulate=True)

    def forward(self, head: Tensor, relation: Tensor, tails: Tensor | None = None) -> Tensor:
        """As :meth:`Embeddings.forward`; ``head`` is not looked at."""
        found = self.counts[relation]
        return found if tails is None else found.gather(1, tails)
