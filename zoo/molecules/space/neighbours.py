"""Who is near whom: radius graphs without a cap on neighbours, and the triplets of DimeNet.

Molecules of a batch lie one behind the other. Up to :data:`SMALL` atoms a molecule's pairs are all written
down and those too far apart left out; from there on ``vesin`` finds them in cells. Distances are always taken
again in torch, so that they have a gradient and the choice of pairs has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.molecules.chemistry import chem

SMALL = 500
"""Atoms of a molecule from which ``vesin`` finds its neighbours."""
_COINCIDE = 1e-6  # Angstrom


@dataclass
class Edges:
    """Directed edges j -> i.

    Attributes:
        index: int64 (2, E), source j and target i; sorted by target.
        vector: r_j - r_i (E, 3), of the image of j that is meant in a periodic cell.
        length: (E,), in the unit of the coordinates.
    """

    index: Tensor
    vector: Tensor
    length: Tensor


def pairs_within(batch: Tensor, molecules: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs (source, target) of different atoms of one molecule, by target.

    Args:
        batch: int64 (N,), ascending: whose an atom is.
        molecules: B.
    """
    sizes = torch.bincount(batch, minlength=molecules)
    starts = sizes.cumsum(0) - sizes
    partners = sizes[batch]  # of each target, itself too
    target = torch.arange(len(batch), device=batch.device).repeat_interleave(partners)
    place = torch.arange(len(target), device=batch.device) - (partners.cumsum(0) - partners)[target]
    source = starts[batch[target]] + place
    different = source != target
    return source[different], target[different]


def radius_graph(
    pos: Tensor, batch: Tensor, molecules: int, cutoff: float | None, cell: Tensor | None = None
) -> Edges:
    """Edges between all atoms of a molecule that are at most ``cutoff`` apart; there is no other limit.

    Args:
        pos: (N, 3).
        batch: int64 (N,), ascending: whose an atom is.
        molecules: B.
        cutoff: in the unit of ``pos``; None takes every pair of a molecule.
        cell: rows are the vectors of each molecule's periodic cell (B, 3, 3), zeros without one.

    Raises:
        ValueError: where two atoms lie in one place: there the distance has no gradient.
    """
    if len(batch) > 1 and bool((batch[1:] < batch[:-1]).any()):
        raise ValueError("the atoms of a batch must lie molecule by molecule: batch is not ascending")
    periodic = None if cell is None else cell.flatten(1).abs().sum(dim=1) > 0
    if periodic is not None and cutoff is None and bool(periodic.any()):
        raise ValueError("all pairs of a periodic cell have no end: choose a backbone with a cutoff")
    sizes = torch.bincount(batch, minlength=molecules)
    searched = sizes >= SMALL if cutoff is not None else torch.zeros_like(sizes, dtype=torch.bool)
    if periodic is not None:
        searched = searched | periodic
    shift: Tensor | None = None
    if bool(searched.any()):
        assert cutoff is not None
        index, shift = _searched(pos, sizes, searched, cutoff, cell)
    else:
        source, target = pairs_within(batch, molecules)
        if cutoff is not None:
            with torch.no_grad():
                near = (pos[source] - pos[target]).square().sum(dim=1) <= cutoff * cutoff
            source, target = source[near], target[near]
        index = torch.stack([source, target])
    vector = pos[index[0]] - pos[index[1]]
    if shift is not None:
        vector = vector + shift
    close = vector.detach().square().sum(dim=1) < _COINCIDE**2
    if bool(close.any()):
        j, i = index[:, close][:, 0].tolist()
        first = int((batch == batch[i]).nonzero()[0])
        raise ValueError(
            f"atoms {min(i, j) - first + 1} and {max(i, j) - first + 1} of molecule {int(batch[i]) + 1} of "
            "the batch lie in one place"
        )
    return Edges(index, vector, torch.linalg.vector_norm(vector, dim=1))


def _searched(
    pos: Tensor, sizes: Tensor, searched: Tensor, cutoff: float, cell: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Edges (2, E) and what is added to r_j (E, 3), molecule by molecule."""
    found, shifts, start = [], [], 0
    for number, size in enumerate(sizes.tolist()):
        own = pos.detach()[start : start + size]
        box = None if cell is None or not bool(cell[number].any()) else cell[number]
        if bool(searched[number]):
            edges, shift = cell_list(own, cutoff, box)
        else:
            group = torch.zeros(size, dtype=torch.long, device=pos.device)
            edges = torch.stack(pairs_within(group, 1))
            edges = edges[:, (own[edges[0]] - own[edges[1]]).square().sum(dim=1) <= cutoff * cutoff]
            shift = own.new_zeros(edges.shape[1], 3)
        found.append(edges + start)
        shifts.append(shift)
        start += size
    return torch.cat(found, dim=1), torch.cat(shifts)


def cell_list(pos: Tensor, cutoff: float, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Edges of one molecule by ``vesin``, and the shifts of its periodic images.

    Args:
        pos: (N, 3), without gradient.
        cutoff: see :func:`radius_graph`.
        cell: rows are the vectors (3, 3); None is open.

    Returns:
        int64 (2, E), sorted by target and source, and (E, 3).

    Raises:
        ImportError: one line without the extra ``chem``.
    """
    searching = chem("vesin").NeighborList(cutoff=cutoff, full_list=True)
    points = pos.double().cpu().numpy()
    box = torch.zeros(3, 3).double() if cell is None else cell.detach().double().cpu()
    found = searching.compute(points=points, box=box.numpy(), periodic=cell is not None, quantities="ijS")
    target, source, images = (torch.from_numpy(x.astype("int64")) for x in found)  # vesin: r_j + S - r_i
    order = torch.argsort(target * len(pos) + source, stable=True)
    shift = (images.double() @ box)[order].to(pos)
    return torch.stack([source[order], target[order]]).to(pos.device), shift


def triplets(index: Tensor, nodes: int) -> tuple[Tensor, ...]:
    """Pairs of edges k -> j -> i with k other than i.

    Args:
        index: int64 (2, E), source j and target i, in any order.
        nodes: N.

    Returns:
        i, j of the edges (E,), then i, j, k of the triplets (T,) and which edges k -> j and j -> i they are.
    """
    j, i = index
    order = torch.argsort(i, stable=True)  # edges by their target: those that end in a node lie together
    incoming = torch.bincount(i, minlength=nodes)
    starts = incoming.cumsum(0) - incoming
    many = incoming[j]  # edges k -> j of each edge j -> i
    ji = torch.arange(len(i), device=i.device).repeat_interleave(many)
    place = torch.arange(len(ji), device=i.device) - (many.cumsum(0) - many)[ji]
    kj = order[starts[j[ji]] + place]
    other = j[kj] != i[ji]
    kj, ji = kj[other], ji[other]
    return i, j, i[ji], j[ji], j[kj], kj, ji
