"""Parts of a graph: the candidate pairs of GAug-O's sparse path and the blocks of its mini-batch variant."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import k_hop_subgraph

from zoo.gaug.adjacency import EdgeList, symmetrically_normalised, with_self_loops
from zoo.gaug.graph import Graph
from zoo.gaug.ranking import both_directions, random_new_pairs

_ROWS = 512


def likeliest_pairs(z: Tensor, count: int, rows: int = _ROWS) -> Tensor:
    """For each node the ``count`` others with the highest z_i . z_j, as pairs i < j, each once; (2, K).

    Rows at a time: O(N rows) memory.
    """
    nodes = len(z)
    count = min(count, nodes - 1)
    codes = []
    for start in range(0, nodes, rows):
        logits = z[start : start + rows] @ z.T
        row = torch.arange(start, start + len(logits), device=z.device)
        logits[row - start, row] = -torch.inf
        column = logits.topk(count, dim=1).indices
        row = row[:, None].expand_as(column)
        codes.append((torch.minimum(row, column) * nodes + torch.maximum(row, column)).flatten())
    code = torch.cat(codes).unique()
    return torch.stack([code // nodes, code % nodes])


@torch.no_grad()
def sparse_candidates(
    z: Tensor, pairs: Tensor, per_node: int | None, negatives: float, g: torch.Generator
) -> tuple[Tensor, int, Tensor]:
    """Pairs that the sparse path considers: the edges, the likeliest others of each node, random ones.

    Args:
        z: (N, D).
        pairs: edges i < j (2, m).
        per_node: likeliest non-edges of each node; None takes all pairs.
        negatives: random non-edges per edge.
        g: of the random ones.

    Returns:
        Candidates (2, K), the m edges first; m; and the non-edges (2, R) that the edge loss sees, a uniform
        draw, or all of them.
    """
    nodes, m = len(z), pairs.shape[1]
    edge_codes = pairs[0] * nodes + pairs[1]
    if per_node is None:
        every = torch.triu_indices(nodes, nodes, 1, device=pairs.device)
        others = every[:, ~torch.isin(every[0] * nodes + every[1], edge_codes)]
        return torch.cat([pairs, others], dim=1), m, others
    drawn = random_new_pairs(pairs, nodes, max(1, int(negatives * m)), g)
    # one more per edge of a node would be needed to be sure of `per_node` non-edges; edges are likely anyway
    found = torch.cat([likeliest_pairs(z, per_node), drawn], dim=1)
    codes = (found[0] * nodes + found[1]).unique()
    codes = codes[~torch.isin(codes, edge_codes)]
    return torch.cat([pairs, torch.stack([codes // nodes, codes % nodes])], dim=1), m, drawn


def block_around(graph: Graph, seeds: int, cap: int, g: torch.Generator, hops: int = 2) -> Graph:
    """The sub-graph of ``seeds`` random training nodes and their neighbourhood; the loss is on the seeds.

    Args:
        graph: the whole graph.
        seeds: training nodes of this step.
        cap: most nodes of the block; of the neighbours a random part stays.
        g: of the choices.
        hops: of the neighbourhood.
    """
    device = graph.pairs.device
    train = graph.masks["train"].nonzero()[:, 0]
    chosen = train[torch.randperm(len(train), generator=g, device=g.device).to(device)[:seeds]]
    nodes, _, _, _ = k_hop_subgraph(
        chosen, hops, both_directions(graph.pairs), num_nodes=graph.nodes, flow="source_to_target"
    )
    if len(nodes) > max(cap, len(chosen)):
        others = nodes[~torch.isin(nodes, chosen)]
        kept = torch.randperm(len(others), generator=g, device=g.device).to(device)[: cap - len(chosen)]
        nodes = torch.cat([chosen, others[kept]]).sort().values
    place = torch.full((graph.nodes,), -1, device=device)
    place[nodes] = torch.arange(len(nodes), device=device)
    pairs = place[graph.pairs]
    pairs = pairs[:, (pairs >= 0).all(dim=0)]
    looped = with_self_loops(both_directions(pairs), len(nodes))
    normalised = symmetrically_normalised(looped)
    assert isinstance(normalised, EdgeList)
    is_seed = torch.zeros(len(nodes), dtype=torch.bool, device=device)
    is_seed[place[chosen]] = True
    none = torch.zeros_like(is_seed)
    empty = pairs[:, :0]
    return Graph(
        x=graph.x.index_select(0, nodes),
        y=graph.y[nodes],
        pairs=pairs,
        looped=looped,
        normalised=normalised,
        monitored=(empty, empty),
        masks={"train": is_seed, "val": none, "test": none},
        degree=graph.degree[nodes],
    )
