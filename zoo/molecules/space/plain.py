"""What symmetry is measured against: networks on coordinates and on distances, and signed volumes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from zoo.molecules.space.neighbours import Edges
from zoo.molecules.space.painn import added, cosine_cutoff, sine_basis


class Perceptron(nn.Module):
    """A network of SiLU layers that reads one molecule, whose atoms always come in one order.

    Args:
        atoms: n.
        hidden: units.
        layers: hidden layers.
        distances: reads the inverse distances of all pairs (rotations do not change them), else centred
            coordinates.
    """

    def __init__(self, atoms: int, hidden: int = 256, layers: int = 3, distances: bool = False) -> None:
        super().__init__()
        self.atoms, self.distances = atoms, distances
        inputs = atoms * (atoms - 1) // 2 if distances else 3 * atoms
        widths = [inputs, *[hidden] * layers]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [nn.Linear(before, after), nn.SiLU()]
        self.network = nn.Sequential(*parts, nn.Linear(widths[-1], 1))
        self.register_buffer("pairs", torch.triu_indices(atoms, atoms, 1), persistent=False)

    pairs: Tensor

    def forward(self, pos: Tensor) -> Tensor:
        """A number for each molecule (B,) of coordinates (B, n, 3)."""
        if self.distances:
            between = pos[:, self.pairs[0]] - pos[:, self.pairs[1]]
            x = 1 / torch.linalg.vector_norm(between, dim=2)
        else:
            x = (pos - pos.mean(dim=1, keepdim=True)).flatten(1)
        return self.network(x)[:, 0]


class SignedVolumes(nn.Module):
    """How left- or right-handed an atom's neighbourhood is: invariant to rotations, odd under reflection.

    A signed volume (r_a - r_i) . ((r_b - r_i) x (r_d - r_i)) changes its sign with the order of a, b, d, so
    the three are weighted by functions of element and distance, f_1(a) f_2(b) f_3(d), and all are added up:
    u_1 . (u_2 x u_3) with u_k = sum_j f_k(z_j, r_ij) (r_j - r_i).

    Args:
        hidden: width of the embeddings that the feature joins.
        cutoff: Angstrom.
        channels: signed volumes of an atom.
        radial: basis functions of distances.
    """

    def __init__(self, hidden: int, cutoff: float, channels: int = 8, radial: int = 8) -> None:
        super().__init__()
        self.cutoff, self.channels, self.radial = cutoff, channels, radial
        self.of_element = nn.Embedding(100, 3 * channels)
        self.of_distance = nn.Linear(radial, 3 * channels, bias=False)
        self.out = nn.Linear(channels, hidden, bias=False)

    def volumes(self, z: Tensor, edges: Edges) -> Tensor:
        """(N, channels)."""
        basis = sine_basis(edges.length, self.cutoff, self.radial)
        fade = cosine_cutoff(edges.length, self.cutoff)[:, None]
        weight = self.of_element(z)[edges.index[0]] * self.of_distance(basis) * fade
        u = added(edges.vector[:, :, None] * weight[:, None], edges.index[1], len(z))
        u1, u2, u3 = u.chunk(3, dim=2)  # (N, 3, channels)
        return (u1 * torch.linalg.cross(u2, u3, dim=1)).sum(dim=1)

    def forward(self, z: Tensor, edges: Edges) -> Tensor:
        """Joins the embeddings: (N, hidden)."""
        return self.out(self.volumes(z, edges))
