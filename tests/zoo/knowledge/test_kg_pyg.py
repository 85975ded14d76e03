"""Scores are those of torch-geometric's own embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch_geometric.nn.kge import ComplEx, TransE

from zoo.knowledge.network import Embeddings


def test_complex_is_pyg() -> None:
    theirs = ComplEx(num_nodes=9, num_relations=6, hidden_channels=5).double()
    ours = Embeddings(9, 3, "complex", 5).double()
    with torch.no_grad():
        ours.entity.weight.copy_(torch.cat([theirs.node_emb.weight, theirs.node_emb_im.weight], dim=1))
        ours.relation.weight.copy_(torch.cat([theirs.rel_emb.weight, theirs.rel_emb_im.weight], dim=1))
    head, relation, tail = (torch.tensor(x) for x in ([0, 8, 3], [5, 0, 2], [1, 1, 7]))
    found = ours(head, relation).gather(1, tail[:, None])[:, 0]
    torch.testing.assert_close(found, theirs(head, relation, tail), atol=1e-12, rtol=0)


def test_transe_is_pyg() -> None:
    """Which scales entities to length 1."""
    for norm in (1, 2):
        theirs = TransE(num_nodes=9, num_relations=6, hidden_channels=5, p_norm=float(norm)).double()
        ours = Embeddings(9, 3, "transe", 5, norm, unit_entities=True).double()
        with torch.no_grad():
            ours.entity.weight.copy_(theirs.node_emb.weight * 3)
            ours.relation.weight.copy_(theirs.rel_emb.weight)
        head, relation, tail = (torch.tensor(x) for x in ([0, 8, 3], [5, 0, 2], [1, 1, 7]))
        found = ours(head, relation).gather(1, tail[:, None])[:, 0]
        wanted = theirs(head, relation, tail)
        # theirs takes p for the length of an entity, too
        if norm == 2:
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
        else:
            e = functional.normalize(theirs.node_emb.weight, dim=1)
            other = -(e[head] + ours.relation.weight[relation] - e[tail]).abs().sum(dim=1)
            torch.testing.assert_close(found, other, atol=1e-9, rtol=0)
