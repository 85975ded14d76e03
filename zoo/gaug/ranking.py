r"""GAug-M's one-time change of a graph by rank, the baselines beside it, and how homophilous a graph is.

Graphs are pairs i < j (2, m), one column per undirected edge. Paper: Zhao et al., AAAI 2021, section 3.2;
AdaEdge: Chen et al., AAAI 2020, algorithm 1; DropEdge: Rong et al., ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BlockScores = Callable[[int, int], Tensor]
"""(first row, last row + 1) -> scores (rows, N) of these nodes with all nodes."""


def undirected_pairs(edge_index: Tensor) -> Tensor:
    """Directed or mirrored entries (2, E) -> each pair i < j once, sorted, without self-loops; (2, m)."""
    low, high = edge_index.min(dim=0).values, edge_index.max(dim=0).values
    return torch.stack([low, high])[:, low != high].unique(dim=1)


def both_directions(pairs: Tensor) -> Tensor:
    """Pairs i < j (2, m) -> entries (2, 2 m) of the symmetric matrix with an empty diagonal."""
    return torch.cat([pairs, pairs.flip(0)], dim=1)


@dataclass(frozen=True)
class Modification:
    """A changed graph.

    Attributes:
        pairs: int64 (2, m'), the edges i < j afterwards.
        removed: int64 (2, R) of the given edges.
        added: int64 (2, A) of the pairs that were no edges.
    """

    pairs: Tensor
    removed: Tensor
    added: Tensor


def modify_pairs(
    pairs: Tensor,
    scores: Tensor,
    block_scores: BlockScores,
    nodes: int,
    remove: float,
    add: float,
    block: int,
) -> Modification:
    """GAug-M: drop the int(m rm / 100) edges with the lowest probability, add the int(m add / 100) non-edges
    with the highest. Both counts use the original m, and a removed edge is no candidate for addition.

    Needs O(N block) memory: the non-edges are gone through in blocks of rows with a running top list.

    Args:
        pairs: given edges (2, m).
        scores: their probabilities (m,).
        block_scores: probabilities of any rows.
        nodes: N.
        remove: rm in percent of m.
        add: add in percent of m.
        block: rows at once.
    """
    m = pairs.shape[1]
    lowest = scores.topk(min(m, int(m * remove / 100)), largest=False).indices
    kept = torch.ones(m, dtype=torch.bool, device=pairs.device)
    kept[lowest] = False
    added = highest_new_pairs(block_scores, pairs, nodes, int(m * add / 100), block)
    return Modification(torch.cat([pairs[:, kept], added], dim=1), pairs[:, ~kept], added)


def highest_new_pairs(
    block_scores: BlockScores, pairs: Tensor, nodes: int, count: int, block: int = 1024
) -> Tensor:
    """The ``count`` pairs i < j outside ``pairs`` with the highest scores, best first; (2, count)."""
    count = min(count, nodes * (nodes - 1) // 2 - pairs.shape[1])
    best = torch.empty(0, device=pairs.device)
    codes = torch.empty(0, dtype=torch.long, device=pairs.device)
    if count <= 0:
        return codes.expand(2, -1)
    columns = torch.arange(nodes, device=pairs.device)
    for start in range(0, nodes, block):
        stop = min(start + block, nodes)
        scores = block_scores(start, stop).float().clone()
        scores[columns[None, :] <= columns[start:stop, None]] = -torch.inf
        inside = (pairs[0] >= start) & (pairs[0] < stop)
        scores[pairs[0, inside] - start, pairs[1, inside]] = -torch.inf
        found = scores.flatten().topk(min(count, scores.numel()))
        best = torch.cat([best, found.values])
        codes = torch.cat([codes, found.indices + start * nodes])
        best, order = best.topk(min(count, len(best)))
        codes = codes[order]
    codes = codes[best > -torch.inf]
    return torch.stack([codes // nodes, codes % nodes])


def modify_by_list(
    pairs: Tensor, listed: Tensor, probability: Tensor, nodes: int, remove: float, add: float
) -> Modification:
    """GAug-M from a list of likely pairs i < j (2, K), each once, instead of all N^2 probabilities.

    Edges that are not listed have probability 0; only listed pairs can be added.
    """
    codes, edge_codes = listed[0] * nodes + listed[1], pairs[0] * nodes + pairs[1]
    order = codes.argsort()
    place = torch.searchsorted(codes[order], edge_codes).clamp(max=max(len(codes) - 1, 0))
    found = codes[order][place] == edge_codes
    scores = torch.where(found, probability[order][place], torch.zeros_like(probability[:1]))
    new = ~torch.isin(codes, edge_codes)
    count = min(int(pairs.shape[1] * add / 100), int(new.sum()))
    added = listed[:, new][:, probability[new].topk(count).indices]
    kept = torch.ones(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    kept[scores.topk(int(pairs.shape[1] * remove / 100), largest=False).indices] = False
    return Modification(torch.cat([pairs[:, kept], added], dim=1), pairs[:, ~kept], added)


def modify_adjacency(adjacency: Tensor, probabilities: Tensor, remove: float, add: float) -> Tensor:
    """GAug-M on matrices (N, N): symmetric 0/1 with an empty diagonal.

    ``remove = add = 0`` returns the input unchanged, with its diagonal if it has one, as the release does.
    """
    if remove == 0 and add == 0:
        return adjacency
    nodes = len(adjacency)
    pairs = adjacency.triu(1).nonzero().T
    scores = probabilities[pairs[0], pairs[1]]
    done = modify_pairs(pairs, scores, lambda a, b: probabilities[a:b], nodes, remove, add, nodes)
    changed = torch.zeros_like(adjacency)
    changed[done.pairs[0], done.pairs[1]] = 1
    return changed + changed.T


def random_modification(
    pairs: Tensor, nodes: int, remove: float, add: float, g: torch.Generator
) -> Modification:
    """The random-edge control: as many edges removed and added as GAug-M would, all chosen by chance."""
    m = pairs.shape[1]
    order = torch.randperm(m, generator=g, device=g.device).to(pairs.device)
    remove_count = min(m, int(m * remove / 100))
    added = random_new_pairs(pairs, nodes, int(m * add / 100), g)
    kept = pairs[:, order[remove_count:].sort().values]
    return Modification(torch.cat([kept, added], dim=1), pairs[:, order[:remove_count]], added)


def random_new_pairs(pairs: Tensor, nodes: int, count: int, g: torch.Generator) -> Tensor:
    """``count`` different pairs i < j outside ``pairs``, uniformly; (2, count)."""
    count = min(count, nodes * (nodes - 1) // 2 - pairs.shape[1])
    taken = pairs[0] * nodes + pairs[1]
    new = torch.empty(0, dtype=torch.long, device=pairs.device)
    while len(new) < count:
        draw = torch.randint(nodes, (2, 2 * count + 16), generator=g, device=g.device).to(pairs.device)
        low, high = draw.min(dim=0).values, draw.max(dim=0).values
        codes = (low * nodes + high)[low < high]
        codes = torch.cat([new, codes[~torch.isin(codes, taken)]])
        # the first of each value in the order drawn: sorting would favour small codes at the cut
        values, inverse = codes.unique(return_inverse=True)
        first = torch.full_like(values, len(codes)).scatter_reduce(
            0, inverse, torch.arange(len(codes), device=codes.device), "amin"
        )
        new = codes[first.sort().values]
    new = new[:count]
    return torch.stack([new // nodes, new % nodes])


def drop_edges(pairs: Tensor, rate: float, g: torch.Generator) -> Tensor:
    """DropEdge: keep int((1 - p) m) random undirected edges; (2, m')."""
    m = pairs.shape[1]
    order = torch.randperm(m, generator=g, device=g.device).to(pairs.device)
    return pairs[:, order[: int((1 - rate) * m)].sort().values]


def adaedge(
    pairs: Tensor,
    class_probabilities: Tensor,
    nodes: int,
    remove: float,
    add: float,
    remove_confidence: float,
    add_confidence: float,
    block: int = 1024,
) -> Modification:
    """One adjustment of AdaEdge: by the classifier's own predictions instead of an edge predictor.

    Removes edges between different predicted classes and adds pairs of the same class, the most confident
    first (confidence of a pair: the smaller of its nodes' largest class probabilities), as far as both nodes
    reach the threshold and at most so many percent of m.

    Args:
        pairs: edges (2, m) at present.
        class_probabilities: (N, C).
        nodes: N.
        remove: most edges to remove, percent of m.
        add: most pairs to add, percent of m.
        remove_confidence: threshold of both ends of a removed edge.
        add_confidence: threshold of both ends of an added edge.
        block: rows at once.
    """
    m = pairs.shape[1]
    confidence, label = class_probabilities.max(dim=1)
    pair_confidence = torch.minimum(confidence[pairs[0]], confidence[pairs[1]])
    wrong = (label[pairs[0]] != label[pairs[1]]) & (pair_confidence >= remove_confidence)
    order = (
        torch.where(wrong, pair_confidence, -1.0).topk(min(int(m * remove / 100), int(wrong.sum()))).indices
    )
    kept = torch.ones(m, dtype=torch.bool, device=pairs.device)
    kept[order] = False

    def scores(start: int, stop: int) -> Tensor:
        both = torch.minimum(confidence[start:stop, None], confidence[None, :])
        same = label[start:stop, None] == label[None, :]
        return torch.where(same & (both >= add_confidence), both, -torch.inf)

    added = highest_new_pairs(scores, pairs, nodes, int(m * add / 100), block)
    return Modification(torch.cat([pairs[:, kept], added], dim=1), pairs[:, ~kept], added)


def class_edge_counts(pairs: Tensor, labels: Tensor) -> tuple[int, int]:
    """(intra-class, inter-class) edges; of multi-hot ``labels`` (N, C) one shared label is enough."""
    a, b = labels[pairs[0]], labels[pairs[1]]
    same = a == b if labels.ndim == 1 else ((a > 0) & (b > 0)).any(dim=1)
    intra = int(same.sum())
    return intra, pairs.shape[1] - intra


def edge_homophily(pairs: Tensor, labels: Tensor) -> float:
    """Share of intra-class edges; 0 for a graph without edges."""
    intra, inter = class_edge_counts(pairs, labels)
    return intra / max(intra + inter, 1)
