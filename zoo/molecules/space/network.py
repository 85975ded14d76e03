"""A backbone, its head, and what brings its numbers into the unit of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.molecules.space.egnn import EGNN, ELEMENTS
from zoo.molecules.space.elements import MASSES, SYMBOLS
from zoo.molecules.space.neighbours import radius_graph
from zoo.molecules.space.painn import PaiNN
from zoo.molecules.space.plain import Perceptron, SignedVolumes

Backbone = Literal["schnet", "dimenet++", "visnet", "egnn", "painn", "mlp", "distances"]
Head = Literal["scalar", "dipole", "r2", "vector_dipole", "polarisability"]
Pool = Literal["sum", "mean"]
INVARIANT: tuple[Backbone, ...] = ("schnet", "dimenet++", "visnet", "egnn", "painn")
PLAIN: tuple[Backbone, ...] = ("mlp", "distances")
SIZES: Mapping[str, tuple[int, int, int]] = {
    "schnet": (128, 6, 50),
    "dimenet++": (128, 4, 6),
    "visnet": (128, 6, 32),
    "egnn": (128, 7, 0),
    "painn": (128, 3, 20),
    "mlp": (256, 3, 0),
    "distances": (256, 3, 0),
}
"""Features, layers and basis functions of each backbone, as its paper has them."""
HEADS: Mapping[Head, tuple[Backbone, ...]] = {
    "scalar": (*INVARIANT, *PLAIN),
    "dipole": ("schnet", "dimenet++", "visnet", "painn"),
    "r2": ("schnet", "dimenet++", "visnet", "painn"),
    "vector_dipole": ("painn",),
    "polarisability": ("painn",),
}
"""Which backbones have which heads."""


class Units(nn.Module):
    """What turns a network's numbers into the data's: y = scale * number + mean * atoms + sum of references.

    The last two are added in double precision, which this module keeps whatever the network is cast to: a
    total energy of -97,000 kcal/mol has a resolution of .008 in single precision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("references", torch.zeros(100, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("elements", torch.ones(100, dtype=torch.bool))

    references: Tensor
    mean: Tensor
    scale: Tensor
    elements: Tensor
    """Those that the training molecules have."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Units:
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers():
            if buffer.is_floating_point() and buffer.dtype != torch.float64:
                setattr(self, name, kept[name].to(buffer.device))
        return self

    def offset(self, z: Tensor, batch: Tensor, molecules: int, per_atom: bool) -> Tensor:
        """What a molecule has without the network's part, float64 (B,)."""
        total = self.references.new_zeros(molecules).index_add(0, batch, self.references[z])
        counts = torch.bincount(batch, minlength=molecules) if per_atom else 1
        return total + self.mean * counts

    def check(self, z: Tensor) -> None:
        """Refuse elements that no training molecule had.

        Raises:
            ValueError: naming the first one.
        """
        strange = z[~self.elements[z]]
        if len(strange):
            number = int(strange[0])
            known = ", ".join(SYMBOLS[e] for e in self.elements.nonzero()[:, 0].tolist())
            raise ValueError(
                f"element {SYMBOLS[number]} ({number}) is in none of the molecules that these weights were "
                f"trained on, which have {known}"
            )


@dataclass
class Answer:
    """What the network says of B molecules.

    Attributes:
        number: in units of ``Units.scale``, without offset (B,).
        tensor: the dipole (B, 3) or polarisability (B, 3, 3) that ``number`` comes from, where there is one.
    """

    number: Tensor
    tensor: Tensor | None = None


def pooled(values: Tensor, batch: Tensor, molecules: int, pool: Pool) -> Tensor:
    """Sum or mean of the rows (N, ...) of each molecule: (B, ...)."""
    total = values.new_zeros(molecules, *values.shape[1:]).index_add(0, batch, values)
    if pool == "sum":
        return total
    counts = torch.bincount(batch, minlength=molecules).clamp(min=1)
    return total / counts.view(-1, *[1] * (values.dim() - 1))


class MoleculeNetwork(nn.Module):
    """One number for each molecule of a batch.

    Args:
        backbone: see :data:`SIZES`.
        head: ``scalar``: the sum or mean of the atoms' numbers o_i; ``dipole``: |sum_i o_i (r_i - r_cm)|;
            ``r2``: sum_i o_i |r_i - r_cm|^2; ``vector_dipole``: |sum_i (mu_i + q_i r_i)| of a neutral
            molecule; ``polarisability``: a third of the trace of sum_i (a_i I + v_i r_i^T + r_i v_i^T).
        pool: of ``scalar``.
        hidden: features; None is the paper's.
        layers: None is the paper's.
        radial: basis functions of distances; None is the paper's.
        cutoff: Angstrom.
        lmax: of ``visnet``.
        vertex: of ``visnet``.
        update_coordinates: of ``egnn``.
        chirality: signed volumes join the embeddings, which ends the invariance to reflection.
        atoms: of each molecule, for ``mlp`` and ``distances``.
    """

    masses: Tensor

    def __init__(
        self,
        backbone: Backbone = "schnet",
        head: Head = "scalar",
        pool: Pool = "sum",
        hidden: int | None = None,
        layers: int | None = None,
        radial: int | None = None,
        cutoff: float = 5.0,
        lmax: int = 1,
        vertex: bool = False,
        update_coordinates: bool = False,
        chirality: bool = False,
        atoms: int | None = None,
    ) -> None:
        super().__init__()
        usual = SIZES[backbone]
        sizes = [
            own if given is None else given
            for given, own in zip((hidden, layers, radial), usual, strict=True)
        ]
        self.backbone, self.head, self.pool = backbone, head, pool
        self.cutoff: float | None = None if backbone in ("egnn", *PLAIN) else cutoff
        self.body = _body(backbone, head, sizes, cutoff, lmax, vertex, update_coordinates, atoms)
        self.volumes = SignedVolumes(sizes[0], cutoff) if chirality else None
        self.units = Units()
        self.register_buffer("masses", torch.tensor(MASSES), persistent=False)

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, molecules: int, cell: Tensor | None = None
    ) -> Answer:
        """One number for each molecule.

        Args:
            z: atomic numbers, int64 (N,).
            pos: Angstrom (N, 3).
            batch: int64 (N,), ascending: whose an atom is.
            molecules: B.
            cell: rows are the vectors of periodic cells (B, 3, 3), zeros without one.

        Raises:
            ValueError: one line on molecules that this backbone cannot take.
        """
        self._admit(z, batch, molecules, cell)
        body: Any = self.body
        if isinstance(body, Perceptron):
            return Answer(body(pos.view(molecules, body.atoms, 3)))
        edges = radius_graph(pos, batch, molecules, self.cutoff, cell)
        extra = {} if self.volumes is None else {"extra": self.volumes(z, edges)}
        if isinstance(body, EGNN):
            states = pooled(body(z, edges, **extra), batch, molecules, self.pool)
            return Answer(body.of_molecule(states)[:, 0])
        numbers, vectors = body(z, edges, **extra), None
        if isinstance(numbers, tuple):
            numbers, vectors = numbers
        return self._read_out(numbers, vectors, z, pos, batch, molecules)

    def _read_out(
        self, numbers: Tensor, vectors: Tensor | None, z: Tensor, pos: Tensor, batch: Tensor, molecules: int
    ) -> Answer:
        if self.head == "scalar":
            return Answer(pooled(numbers[:, 0], batch, molecules, self.pool))
        mass = self.masses[z].to(pos)[:, None]
        centre = pooled(mass * pos, batch, molecules, "sum") / pooled(mass, batch, molecules, "sum")
        r = pos - centre[batch]
        if self.head == "r2":
            return Answer(pooled(numbers[:, 0] * r.square().sum(dim=1), batch, molecules, "sum"))
        if self.head == "polarisability":
            assert vectors is not None
            outer = vectors[:, :, None] * r[:, None] + r[:, :, None] * vectors[:, None]
            tensor = pooled(numbers[:, :, None] * torch.eye(3).to(r) + outer, batch, molecules, "sum")
            return Answer(tensor.diagonal(dim1=1, dim2=2).mean(dim=1), tensor)
        charges = numbers
        if self.head == "vector_dipole":
            assert vectors is not None
            charges = numbers - pooled(numbers, batch, molecules, "mean")[batch]
        dipole = pooled(charges * r + (0 if vectors is None else vectors), batch, molecules, "sum")
        # a molecule without a dipole has no gradient of the norm
        length = (dipole.square().sum(dim=1) + 1e-20).sqrt()
        return Answer(length, dipole)

    def _admit(self, z: Tensor, batch: Tensor, molecules: int, cell: Tensor | None) -> None:
        self.units.check(z)
        body = self.body
        if cell is not None and self.backbone not in ("schnet", "painn") and bool(cell.any()):
            raise ValueError(f"backbone {self.backbone} takes no periodic cells; schnet and painn do")
        if isinstance(body, Perceptron):
            sizes = torch.bincount(batch, minlength=molecules)
            other = sizes[sizes != body.atoms]
            if len(other):
                raise ValueError(
                    f"backbone {self.backbone} reads molecules of {body.atoms} atoms "
                    f"(model.init_args.atoms), one has {int(other[0])}"
                )
        if isinstance(body, EGNN):
            strange = z[~torch.isin(z, torch.tensor(body.elements, device=z.device))]
            if len(strange):
                known = ", ".join(SYMBOLS[e] for e in body.elements)
                raise ValueError(f"backbone egnn knows the elements {known}, not {SYMBOLS[int(strange[0])]}")
        if self.backbone == "dimenet++" and bool((z >= 95).any()):
            raise ValueError(
                "backbone dimenet++ has a table of 94 elements, and a molecule has a heavier one"
            )


def _body(
    backbone: Backbone,
    head: Head,
    sizes: Sequence[int],
    cutoff: float,
    lmax: int,
    vertex: bool,
    moves: bool,
    atoms: int | None,
) -> nn.Module:
    hidden, layers, radial = sizes
    if backbone in PLAIN:
        if atoms is None:
            raise ValueError(f"backbone {backbone} needs model.init_args.atoms, the atoms of each molecule")
        return Perceptron(atoms, hidden, layers, backbone == "distances")
    if backbone == "egnn":
        return EGNN(hidden, layers, moves, ELEMENTS)
    if backbone == "painn":
        return PaiNN(hidden, layers, radial, cutoff, head in ("vector_dipole", "polarisability"))
    from zoo.molecules.space import geometric

    if backbone == "schnet":
        return geometric.SchNetAtoms(hidden, layers, radial, cutoff)
    if backbone == "visnet":
        return geometric.ViSNetAtoms(hidden, layers, radial, cutoff, lmax, vertex)
    return geometric.DimeNetAtoms(hidden, layers, radial, cutoff)
