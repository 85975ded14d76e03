"""PaiNN: scalars and vectors that talk to each other (Schuett, Unke & Gastegger, ICML 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.molecules.space.neighbours import Edges

_NORM = 1e-8  # the gradient of |V v| is NaN at 0, where all vectors start


def cosine_cutoff(length: Tensor, cutoff: float) -> Tensor:
    """0.5 (cos(pi r / c) + 1), 0 from c on."""
    return 0.5 * (torch.cos(math.pi * length / cutoff) + 1) * (length < cutoff)


def sine_basis(length: Tensor, cutoff: float, count: int) -> Tensor:
    """sin(n pi r / c) / r for n = 1 .. count: (E, count)."""
    n = torch.arange(1, count + 1, device=length.device, dtype=length.dtype)
    return torch.sin(length[:, None] * (n * math.pi / cutoff)) / length[:, None]


def added(values: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Sum of the rows (E, ...) by their target: (N, ...)."""
    return values.new_zeros(nodes, *values.shape[1:]).index_add(0, target, values)


class Message(nn.Module):
    """ds_i = sum_j a, dv_i = sum_j v_j b + u_ij d, where a, d, b are the thirds of phi(s_j) * W(r_ij)."""

    def __init__(self, hidden: int, radial: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))
        self.filter = nn.Linear(radial, 3 * hidden)

    def forward(
        self, s: Tensor, v: Tensor | None, index: Tensor, unit: Tensor, basis: Tensor, fade: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Changes of s (N, F) and v (N, 3, F); v None is 0 everywhere."""
        source, target = index
        a, d, b = (self.phi(s)[source] * (self.filter(basis) * fade[:, None])).chunk(3, dim=1)
        vectors = unit[:, :, None] * d[:, None]
        if v is not None:
            vectors = vectors + v[source] * b[:, None]
        return added(a, target, len(s)), added(vectors, target, len(s))


class Update(nn.Module):
    """ds = a_ss + a_sv <Uv, Vv>, dv = a_vv Uv, with a = MLP([s, |Vv|])."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Linear(hidden, 2 * hidden, bias=False)  # V above U, as schnetpack's mu_channel_mix
        self.mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 * hidden))

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of s (N, F) and v (N, 3, F)."""
        vv, uv = self.mix(v).chunk(2, dim=2)
        norm = (vv.square().sum(dim=1) + _NORM).sqrt()
        a_ss, a_vv, a_sv = self.mlp(torch.cat([s, norm], dim=1)).chunk(3, dim=1)
        return a_ss + a_sv * (uv * vv).sum(dim=1), a_vv[:, None] * uv


class GatedEquivariant(nn.Module):
    """[n, w] = W v; [s', g] = MLP([s, |n|]); v' = g w: a layer of a head with vectors.

    Args:
        inputs: F of scalars and vectors.
        outputs: of both.
        last: no SiLU on the scalars.
    """

    def __init__(self, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(inputs, 2 * outputs, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(inputs + outputs, inputs), nn.SiLU(), nn.Linear(inputs, 2 * outputs)
        )
        self.last = last

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s' (N, G) and v' (N, 3, G)."""
        n, w = self.mix(v).chunk(2, dim=2)
        norm = (n.square().sum(dim=1) + _NORM).sqrt()
        scalars, gate = self.mlp(torch.cat([s, norm], dim=1)).chunk(2, dim=1)
        return (scalars if self.last else nn.functional.silu(scalars)), gate[:, None] * w


class PaiNN(nn.Module):
    """The network with its head: a number for each atom, with ``vectors`` a vector too; 589,057 parameters.

    Args:
        hidden: F.
        layers: blocks of message and update.
        radial: basis functions of distances.
        cutoff: Angstrom.
        vectors: head of two gated equivariant layers in the place of the scalar one.
    """

    def __init__(
        self, hidden: int = 128, layers: int = 3, radial: int = 20, cutoff: float = 5.0, vectors: bool = False
    ) -> None:
        super().__init__()
        self.radial, self.cutoff = radial, cutoff
        self.embedding = nn.Embedding(100, hidden, padding_idx=0)
        self.messages = nn.ModuleList(Message(hidden, radial) for _ in range(layers))
        self.updates = nn.ModuleList(Update(hidden) for _ in range(layers))
        half = max(1, hidden // 2)
        self.head = None if vectors else nn.Sequential(nn.Linear(hidden, half), nn.SiLU(), nn.Linear(half, 1))
        self.gated = (
            nn.ModuleList([GatedEquivariant(hidden, half, False), GatedEquivariant(half, 1, True)])
            if vectors
            else None
        )
        for name, parameter in self.named_parameters():  # schnetpack's
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "embedding" not in name:
                nn.init.xavier_uniform_(parameter)

    def states(self, z: Tensor, edges: Edges, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scalars (N, F) and vectors (N, 3, F) after all blocks."""
        s = self.embedding(z)
        if extra is not None:
            s = s + extra
        v: Tensor | None = None
        unit = edges.vector / edges.length[:, None]
        basis = sine_basis(edges.length, self.cutoff, self.radial)
        fade = cosine_cutoff(edges.length, self.cutoff)
        for message, update in zip(self.messages, self.updates, strict=True):
            ds, dv = message(s, v, edges.index, unit, basis, fade)
            s, v = s + ds, dv if v is None else v + dv
            ds, dv = update(s, v)
            s, v = s + ds, v + dv
        assert v is not None
        return s, v

    def forward(self, z: Tensor, edges: Edges, extra: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """A number (N, 1) and, with ``vectors``, a vector (N, 3) for each atom."""
        s, v = self.states(z, edges, extra)
        if self.head is not None:
            return self.head(s), None
        assert self.gated is not None
        for layer in self.gated:
            s, v = layer(s, v)
        return s, v[:, :, 0]
