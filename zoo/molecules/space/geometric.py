"""SchNet, DimeNet++ and ViSNet of torch-geometric, with neighbours of our own and one output for each atom.

torch-geometric finds neighbours by a package that cannot be installed, keeps 32 of them at most, and adds up
the atoms by itself; only its layers are used here. Forward passes take atomic numbers (N,) and edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.models import dimenet, dimenet_utils, schnet, visnet
from torch_geometric.nn.models.dimenet import DimeNetPlusPlus, Envelope
from torch_geometric.nn.models.schnet import SchNet
from torch_geometric.nn.models.visnet import EquivariantScalar, GatedEquivariantBlock, ViSNetBlock

from zoo.molecules.space.neighbours import Edges, triplets


@contextmanager
def _in_place_of(module: Any, name: str, ours: Any) -> Iterator[None]:
    """A constructor of torch-geometric takes a layer of ours for its own."""
    theirs = getattr(module, name)
    setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, theirs)


class Gaussians(nn.Module):
    """exp(-(r - mu_k)^2 / (2 delta^2)), mu uniform on [start, stop] and delta their spacing: (E, count).

    torch-geometric's reads its spacing off a tensor, which one without values cannot tell.
    """

    def __init__(self, start: float, stop: float, count: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(start, stop, count))
        self.coeff = -0.5 * ((count - 1) / (stop - start)) ** 2

    offset: Tensor

    def forward(self, length: Tensor) -> Tensor:
        """(E, count) of lengths (E,)."""
        return torch.exp(self.coeff * (length[:, None] - self.offset).square())


class ShiftedSoftplus(nn.Module):
    """softplus(x) - ln 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return nn.functional.softplus(x) - math.log(2)


class SchNetAtoms(SchNet):
    """SchNet (Schuett et al. 2018): x_i = W ssp(sum_j W0 h_j * filter(r_ij)), h += x; 455,809 parameters.

    Args:
        hidden: features, and filters.
        layers: interaction blocks.
        radial: Gaussians on [0, cutoff].
        cutoff: Angstrom.
    """

    def __init__(self, hidden: int = 128, layers: int = 6, radial: int = 50, cutoff: float = 10.0) -> None:
        with (
            _in_place_of(schnet, "GaussianSmearing", Gaussians),
            _in_place_of(schnet, "ShiftedSoftplus", ShiftedSoftplus),
        ):
            super().__init__(hidden, hidden, layers, radial, cutoff, interaction_graph=_no_graph)
        for block in self.interactions:
            del block.mlp  # the convolution has the same filter network under another name
        del self.initial_atomref

    def forward(self, z: Tensor, edges: Edges, extra: Tensor | None = None) -> Tensor:
        """One number for each atom (N, 1).

        Args:
            z: int64 (N,).
            edges: within the cutoff.
            extra: added to the embeddings (N, hidden).
        """
        h = self.embedding(z)
        if extra is not None:
            h = h + extra
        basis = self.distance_expansion(edges.length)
        for interaction in self.interactions:
            h = h + interaction(h, edges.index, edges.length, basis)
        return self.lin2(self.act(self.lin1(h)))


class DimeNetAtoms(DimeNetPlusPlus):
    """DimeNet++ (Gasteiger et al. 2020): messages j -> i from k -> j by distance and angle; 1,885,830
    parameters. It is exactly 0 before training: the last layer of each output block starts at 0.

    Args:
        hidden: of the messages; triplets have half of it, the output blocks twice.
        layers: interaction blocks.
        radial: basis functions of distances.
        cutoff: Angstrom.
    """

    def __init__(
        self,
        hidden: int = 128,
        layers: int = 4,
        radial: int = 6,
        cutoff: float = 5.0,
    ) -> None:
        with _in_place_of(dimenet, "SphericalBasisLayer", SphericalBasis):
            super().__init__(
                hidden_channels=hidden,
                out_channels=1,
                num_blocks=layers,
                int_emb_size=max(1, hidden // 2),
                basis_emb_size=8,
                out_emb_channels=2 * hidden,
                num_spherical=7,
                num_radial=radial,
                cutoff=cutoff,
            )

    def forward(self, z: Tensor, edges: Edges) -> Tensor:
        """One number for each atom (N, 1)."""
        nodes = len(z)
        i, j, _, _, _, kj, ji = triplets(edges.index, nodes)
        onward, inward = -edges.vector[ji], -edges.vector[kj]  # r_i - r_j and r_j - r_k
        cross = torch.linalg.cross(onward, inward)
        # atan2 and the norm have no gradient where three atoms lie on a line; a molecule may, as C2H2 does
        sine = (cross.square().sum(dim=1) + 1e-20).sqrt()
        angle = torch.atan2(sine, (onward * inward).sum(dim=1))
        rbf = self.rbf(edges.length)
        sbf = self.sbf(edges.length, angle, kj)
        x = self.emb(z, rbf, i, j)
        found = self.output_blocks[0](x, rbf, i, num_nodes=nodes)
        for interaction, output in zip(self.interaction_blocks, self.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, kj, ji)
            found = found + output(x, rbf, i, num_nodes=nodes)
        return found


class SphericalBasis(nn.Module):
    """u(x) sqrt(2) / |j_(l+1)(z_ln)| j_l(z_ln x) Y_l0(angle), x = r_kj / c: DimeNet's basis of triplets.

    torch-geometric writes each function out by sympy, which takes seconds, and loses digits where atoms are
    near; here j_l and P_l follow from their recursions, in double precision.

    Args:
        spherical: l = 0 .. spherical - 1.
        radial: n = 1 .. radial.
        cutoff: c.
        envelope_exponent: p - 1 of u.
    """

    def __init__(self, spherical: int, radial: int, cutoff: float = 5.0, envelope_exponent: int = 5) -> None:
        super().__init__()
        from scipy.special import spherical_jn

        roots = torch.from_numpy(dimenet_utils.Jn_zeros(spherical, radial)).double()
        scale = [
            [math.sqrt(2) / abs(spherical_jn(d + 1, z)) for z in row] for d, row in enumerate(roots.tolist())
        ]
        self.spherical, self.cutoff = spherical, cutoff
        self.envelope = Envelope(envelope_exponent)
        self.roots, self.scale = roots, torch.tensor(scale, dtype=torch.float64)

    def forward(self, length: Tensor, angle: Tensor, idx_kj: Tensor) -> Tensor:
        """(T, spherical radial), of edges (E,) and triplets (T,)."""
        x = length / self.cutoff
        z = self.roots.to(x.device) * x.double()[:, None, None]  # (E, l, n)
        before, now = torch.sin(z) / z, torch.sin(z) / z.square() - torch.cos(z) / z
        bessel = [before[:, 0]]
        for degree in range(1, self.spherical):
            bessel.append(now[:, degree])
            before, now = now, (2 * degree + 1) / z * now - before
        radial = torch.stack(bessel, dim=1) * self.scale.to(x.device)
        radial = self.envelope(x)[:, None, None] * radial.to(x.dtype)
        c = torch.cos(angle)
        legendre = [torch.ones_like(c), c]
        for degree in range(1, self.spherical - 1):
            legendre.append(((2 * degree + 1) * c * legendre[-1] - degree * legendre[-2]) / (degree + 1))
        harmonic = torch.stack(
            [math.sqrt((2 * d + 1) / (4 * math.pi)) * p for d, p in enumerate(legendre)], dim=1
        )
        return (radial[idx_kj] * harmonic[:, :, None]).flatten(1)


class _GivenEdges(nn.Module):
    """In the place of ViSNet's search for neighbours: edges that were found before, and self-loops.

    torch-geometric's own writes distances into a tensor of single precision, whatever the coordinates have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.edges: Edges | None = None

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Edges, lengths and vectors."""
        assert self.edges is not None
        loops = torch.arange(len(pos), device=pos.device).expand(2, -1)
        vector = torch.cat([self.edges.vector, pos.new_zeros(len(pos), 3)])
        length = torch.cat([self.edges.length, pos.new_zeros(len(pos))])
        return torch.cat([self.edges.index, loops], dim=1), length, vector


class _Gated(GatedEquivariantBlock):
    """ViSNet's gate, whose lengths have second derivatives where a vector is 0.

    It is for a single atom and between atoms that lie symmetrically, such as those of CO2; torch-geometric's
    norm makes all gradients of a loss of forces NaN there.
    """

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (N, H) and vectors (N, D, H)."""
        square = self.vec1_proj(v).square().sum(dim=-2)
        none = square == 0
        length = torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())
        x, gate = self.update_net(torch.cat([x, length], dim=-1)).split(self.out_channels, dim=-1)
        return (x if self.act is None else self.act(x)), gate.unsqueeze(1) * self.vec2_proj(v)


class ViSNetAtoms(nn.Module):
    """ViSNet (Wang et al. 2024) of torch-geometric: scalars and vectors, or spherical harmonics to l = 2.

    Args:
        hidden: features, a multiple of 8 heads.
        layers: of message passing.
        radial: basis functions of distances.
        cutoff: Angstrom.
        lmax: 1 or 2.
        vertex: with the geometric features of vertices.
    """

    def __init__(
        self,
        hidden: int = 128,
        layers: int = 6,
        radial: int = 32,
        cutoff: float = 5.0,
        lmax: int = 1,
        vertex: bool = False,
    ) -> None:
        super().__init__()
        self.representation_model = ViSNetBlock(
            lmax=lmax, num_layers=layers, hidden_channels=hidden, num_rbf=radial, cutoff=cutoff, vertex=vertex
        )
        self.representation_model.distance = _GivenEdges()
        with _in_place_of(visnet, "GatedEquivariantBlock", _Gated):
            self.output_model = EquivariantScalar(hidden_channels=hidden)

    def forward(self, z: Tensor, edges: Edges) -> Tensor:
        """One number for each atom (N, 1)."""
        found = self.representation_model.distance
        found.edges = edges
        try:
            like = edges.vector.new_zeros(len(z), 3)  # the coordinates themselves are in the edges
            scalars, vectors = self.representation_model(z, like, torch.zeros_like(z))
        finally:
            found.edges = None
        return self.output_model.pre_reduce(scalars, vectors)


def _no_graph(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("edges are given")
