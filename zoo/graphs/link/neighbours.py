"""Link scores without learning: what two nodes have in common."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Heuristic = Literal["common_neighbours", "jaccard", "adamic_adar", "features", "chance"]
HEURISTICS: tuple[Heuristic, ...] = get_args(Heuristic)
_STEPS = 1 << 22  # neighbours looked at in one block


def neighbour_scores(edge_index: Tensor, pairs: Tensor, nodes: int, kind: Heuristic) -> Tensor:
    """Common neighbours of each pair (P,): their number, Jaccard's index, or Adamic and Adar's sum.

    ``adamic_adar`` is sum_w 1 / log(degree w) over the common neighbours w (Adamic & Adar 2003), ``jaccard``
    |N(u) & N(v)| / |N(u) | N(v)|, 0 for two nodes without neighbours. The neighbours of the end with fewer of
    them are looked up at the other end, in blocks: memory is linear in edges and pairs.

    Args:
        edge_index: (2, E) in both directions, each edge once, no self-loops.
        pairs: (2, P).
        nodes: N.
        kind: which score.
    """
    codes = (edge_index[0] * nodes + edge_index[1]).sort().values
    ends = codes % nodes
    degree = torch.bincount(edge_index[0], minlength=nodes)
    starts = degree.cumsum(0) - degree
    weight = torch.ones(nodes, dtype=torch.double, device=codes.device)
    if kind == "adamic_adar":
        weight = 1 / degree.clamp(min=2).double().log()  # a common neighbour has two neighbours at least
    fewer = degree[pairs[0]] <= degree[pairs[1]]
    near, far = torch.where(fewer, pairs[0], pairs[1]), torch.where(fewer, pairs[1], pairs[0])
    scores = torch.zeros(pairs.shape[1], dtype=torch.double, device=codes.device)
    # blocks of about equal work, at least one pair each
    work = degree[near].cumsum(0) // _STEPS
    begin = 0
    for size in torch.unique_consecutive(work, return_counts=True)[1].tolist():
        part = slice(begin, begin + size)
        count = degree[near[part]]
        index = torch.repeat_interleave(torch.arange(size, device=codes.device), count)
        offset = torch.arange(len(index), device=codes.device) - (count.cumsum(0) - count)[index]
        middle = ends[starts[near[part]][index] + offset]
        wanted = far[part][index] * nodes + middle
        place = torch.searchsorted(codes, wanted).clamp(max=max(len(codes) - 1, 0))
        found = codes[place] == wanted
        scores[part] = scores[part].index_add(0, index[found], weight[middle[found]])
        begin += size
    if kind == "jaccard":
        scores = scores / (degree[pairs[0]] + degree[pairs[1]] - scores).clamp(min=1)
    return scores


class CalibratedHeuristic(nn.Module):
    """logit = e^a s / mean(s of training edges) + b: ranks as the score s does, whatever the two numbers.

    They make a probability of it; nothing else is learned.
    """

    def __init__(self, kind: Heuristic) -> None:
        super().__init__()
        self.kind = kind
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def scores(self, x: Tensor, edge_index: Tensor, pairs: Tensor) -> Tensor:
        """Raw scores (P,) in float64; ``features`` is x_u . x_v, ``chance`` 0."""
        if self.kind == "chance":
            return torch.zeros(pairs.shape[1], dtype=torch.double, device=pairs.device)
        if self.kind == "features":
            parts = (x[a] * x[b] for a, b in zip(*(p.split(65536) for p in pairs), strict=True))
            return torch.cat([part.double().sum(dim=1) for part in parts])
        return neighbour_scores(edge_index, pairs, len(x), self.kind)

    def forward(self, x: Tensor, edge_index: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
        """Logits (P,) of ``pairs``; ``edges`` (2, K) are the training edges."""
        typical = self.scores(x, edge_index, edges).mean()
        return self.log_scale.exp() * self.scores(x, edge_index, pairs) / typical.clamp(min=1e-12) + self.bias
