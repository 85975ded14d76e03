"""EGNN: E(n)-equivariant message passing over all pairs (Satorras, Hoogeboom & Welling, ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.molecules.space.neighbours import Edges
from zoo.molecules.space.painn import added

ELEMENTS = (1, 6, 7, 8, 9)
"""Of QM9: what the one-hot of the input tells apart."""


class Layer(nn.Module):
    """m = gate(phi_e([h_i, h_j, |x_ij|^2])); x_i += mean_j (x_i - x_j) phi_x(m); h_i += phi_h([h_i, sum m]).

    As in the authors' code phi_x is given the gated message; the paper writes the plain one.

    Args:
        hidden: F.
        moves: whether coordinates are updated.
    """

    def __init__(self, hidden: int, moves: bool) -> None:
        super().__init__()
        self.phi_e = nn.Sequential(
            nn.Linear(2 * hidden + 1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.gate = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())
        self.phi_h = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.phi_x: nn.Sequential | None = None
        if moves:
            last = nn.Linear(hidden, 1, bias=False)
            nn.init.xavier_uniform_(last.weight, gain=0.001)
            self.phi_x = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), last)

    def forward(self, h: Tensor, vector: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """New h (N, F), and by how much each atom moves (N, 3).

        Args:
            h: (N, F).
            vector: x_j - x_i (E, 3).
            index: (2, E), source j and target i.
        """
        source, target = index
        squared = vector.square().sum(dim=1, keepdim=True)
        message = self.phi_e(torch.cat([h[target], h[source], squared], dim=1))
        message = message * self.gate(message)
        moved = None
        if self.phi_x is not None:
            counts = torch.bincount(target, minlength=len(h)).clamp(min=1)
            moved = added(-vector * self.phi_x(message), target, len(h)) / counts[:, None]
        return h + self.phi_h(torch.cat([h, added(message, target, len(h))], dim=1)), moved


class EGNN(nn.Module):
    """The network of the paper's QM9 experiments: no cutoff, atoms are added up inside a head; 745,224
    parameters.

    Args:
        hidden: F.
        layers: of message passing.
        moves: whether coordinates are updated; not on QM9.
        elements: atomic numbers of the one-hot.
    """

    def __init__(
        self, hidden: int = 128, layers: int = 7, moves: bool = False, elements: Sequence[int] = ELEMENTS
    ) -> None:
        super().__init__()
        self.elements = tuple(elements)
        self.embedding = nn.Linear(3 * len(self.elements), hidden)
        # the last layer's coordinates reach no scalar
        self.layers = nn.ModuleList(Layer(hidden, moves and n < layers - 1) for n in range(layers))
        self.of_atoms = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.of_molecule = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def inputs(self, z: Tensor) -> Tensor:
        """One-hot of the element times (z / z_max)^{0, 1, 2}, (N, 3 elements), element by element."""
        known = torch.tensor(self.elements, device=z.device)
        one_hot = (z[:, None] == known).to(self.embedding.weight)
        charge = z.to(one_hot) / known.max()
        powers = torch.stack([torch.ones_like(charge), charge, charge**2], dim=1)
        return (one_hot[:, :, None] * powers[:, None]).flatten(1)

    def forward(self, z: Tensor, edges: Edges, extra: Tensor | None = None) -> Tensor:
        """What the atoms are added up from: (N, F)."""
        h = self.embedding(self.inputs(z))
        if extra is not None:
            h = h + extra
        vector, (source, target) = edges.vector, edges.index
        for layer in self.layers:
            h, moved = layer(h, vector, edges.index)
            if moved is not None:
                vector = vector + moved[source] - moved[target]
        return self.of_atoms(h)
