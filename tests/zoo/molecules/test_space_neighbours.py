"""Who is near whom: every pair within the cutoff and no other, whichever way they are found."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from zoo.molecules.space import neighbours
from zoo.molecules.space.neighbours import cell_list, radius_graph, triplets

torch.set_num_threads(1)


def pairs(index: Tensor) -> set[tuple[int, int]]:
    return {(int(j), int(i)) for j, i in index.T}


def scattered(atoms: int, side: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return side * torch.rand(atoms, 3, generator=g, dtype=torch.float64)


def test_edges_are_all_pairs_within_the_cutoff_of_one_molecule() -> None:
    pos, batch = scattered(40, 4.0), torch.tensor([0] * 17 + [1] * 20 + [2] * 3)
    edges = radius_graph(pos, batch, 4, 2.0)  # the fourth molecule has no atoms
    wanted = {
        (j, i)
        for j, i in itertools.permutations(range(40), 2)
        if batch[j] == batch[i] and (pos[j] - pos[i]).norm() <= 2.0
    }
    assert pairs(edges.index) == wanted
    assert edges.index.shape[1] == len(wanted)
    assert torch.equal(edges.vector, pos[edges.index[0]] - pos[edges.index[1]])
    assert bool((edges.index[1].diff() >= 0).all())


def test_no_neighbour_is_left_out_beyond_32() -> None:
    edges = radius_graph(scattered(60, 1.0), torch.zeros(60, dtype=torch.long), 1, 5.0)
    assert edges.index.shape[1] == 60 * 59
    assert len(pairs(edges.index)) == 60 * 59


def test_large_molecules_are_searched_in_cells_with_the_same_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    pos, batch = scattered(560, 14.0), torch.tensor([0] * 540 + [1] * 20)
    sizes = []
    monkeypatch.setattr(neighbours, "cell_list", lambda own, *a: sizes.append(len(own)) or cell_list(own, *a))
    searched = radius_graph(pos.requires_grad_(), batch, 2, 3.0)
    assert sizes == [540]  # from 500 atoms on
    monkeypatch.setattr(neighbours, "SMALL", 10**6)
    written = radius_graph(pos, batch, 2, 3.0)
    assert torch.equal(searched.index, written.index)
    assert torch.equal(searched.length, written.length)
    (gradient,) = torch.autograd.grad(searched.length.sum(), pos)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0.1


def test_a_periodic_cell_has_the_images_of_its_atoms() -> None:
    cell = torch.tensor([[3.0, 0.0, 0.0], [0.5, 3.2, 0.0], [0.0, 0.3, 2.9]], dtype=torch.float64)
    pos = scattered(3, 2.5)
    edges = radius_graph(pos, torch.zeros(3, dtype=torch.long), 1, 4.0, cell[None])
    wanted = []
    for j, i in itertools.product(range(3), repeat=2):
        for n in itertools.product(range(-3, 4), repeat=3):
            vector = pos[j] + torch.tensor(n, dtype=torch.float64) @ cell - pos[i]
            if 1e-9 < float(vector.norm()) <= 4.0:
                wanted.append((j, i, *(round(float(x), 6) for x in vector)))
    rows = torch.cat([edges.index.T.double(), edges.vector], dim=1)
    found = [(int(j), int(i), *(round(x, 6) for x in v)) for j, i, *v in rows.tolist()]
    assert sorted(found) == sorted(wanted)
    assert len(found) > 60


def test_a_cell_may_have_negative_vectors_and_needs_a_cutoff() -> None:
    pos, where = scattered(3, 1.5), torch.zeros(3, dtype=torch.long)
    cell = torch.tensor([[-3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, -3.0]], dtype=torch.float64)
    assert radius_graph(pos, where, 1, 2.9, cell[None]).index.shape[1] > 6
    cell[2, 2] = 0.0  # the sum is 0
    cell[2, 0], cell[2, 1] = 3.0, -3.0
    cell[1, 2] = 3.0
    cell[0, 1] = -3.0
    assert float(cell.sum()) == 0
    assert radius_graph(pos, where, 1, 4.0, cell[None]).index.shape[1] > 6
    with pytest.raises(ValueError, match="all pairs of a periodic cell have no end"):
        radius_graph(pos, where, 1, None, cell[None])


def test_atoms_that_almost_coincide_have_a_distance() -> None:
    pos = torch.tensor([[0.0, 0, 0], [1e-3, 0, 0]], dtype=torch.float64)
    assert radius_graph(pos, torch.tensor([0, 0]), 1, 5.0).length.tolist() == pytest.approx([1e-3, 1e-3])


def test_two_atoms_in_one_place_are_refused_with_their_molecule() -> None:
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 1], [5, 5, 5], [0, 0, 0], [5, 5, 5]])
    with pytest.raises(ValueError, match="atoms 1 and 3 of molecule 2 of the batch lie in one place"):
        radius_graph(pos, torch.tensor([0, 0, 1, 1, 1]), 2, 2.0)


def test_a_lone_atom_has_no_edges_and_mixed_molecules_are_refused() -> None:
    edges = radius_graph(torch.zeros(2, 3), torch.tensor([0, 1]), 2, 5.0)
    assert edges.index.shape == (2, 0)
    with pytest.raises(ValueError, match="molecule by molecule"):
        radius_graph(torch.rand(3, 3), torch.tensor([0, 1, 0]), 2, 5.0)


def test_triplets_are_all_paths_of_two_edges_that_do_not_turn_back() -> None:
    edges = radius_graph(scattered(12, 3.0), torch.zeros(12, dtype=torch.long), 1, 1.6).index
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(0))]
    i, j, idx_i, idx_j, idx_k, kj, ji = triplets(shuffled, 12)
    assert torch.equal(torch.stack([j, i]), shuffled)
    wanted = {
        (a, b)
        for a, (k, j1) in enumerate(shuffled.T.tolist())
        for b, (j2, i1) in enumerate(shuffled.T.tolist())
        if j1 == j2 and k != i1
    }
    assert set(zip(kj.tolist(), ji.tolist(), strict=True)) == wanted
    assert len(kj) == len(wanted) > 50
    assert torch.equal(torch.stack([idx_k, idx_j]), shuffled[:, kj])
    assert torch.equal(torch.stack([idx_j, idx_i]), shuffled[:, ji])


def test_cells_give_targets_in_order() -> None:
    index, shift = cell_list(scattered(50, 5.0), 2.0)
    assert bool((index[1].diff() >= 0).all())
    assert float(shift.abs().sum()) == 0
