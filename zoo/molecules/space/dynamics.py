"""What a force field is for: molecular dynamics at constant energy, and whether the energy is constant."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.drawing import drawing
from zoo.molecules.space.neighbours import pairs_within
from zoo.reports import writing

BOLTZMANN = 8.617333262e-5
"""eV / K."""
_ACCELERATION = 9.648533212331002e-3
"""(eV / Angstrom / u) in Angstrom / fs^2."""
BONDED, STRETCHED = 1.25, 0.5
"""A pair is bonded below so many sums of covalent radii; broken once longer by so many Angstrom."""
_RADII = {
    1: 0.31,
    6: 0.76,
    7: 0.71,
    8: 0.66,
    9: 0.57,
    14: 1.11,
    15: 1.07,
    16: 1.05,
    17: 1.02,
    35: 1.20,
    53: 1.39,
}
_BIN, _FARTHEST = 0.05, 6.0


@dataclass
class Run:
    """One molecule's way.

    Attributes:
        timestep: fs.
        potential: eV, of each frame (T,).
        kinetic: likewise.
        positions: Angstrom (T, n, 3).
        bonds: pairs (2, b) of the first frame.
    """

    timestep: float
    potential: Tensor
    kinetic: Tensor
    positions: Tensor
    bonds: Tensor

    @property
    def total(self) -> Tensor:
        """eV (T,)."""
        return self.potential + self.kinetic

    @property
    def drift(self) -> float:
        """Slope of the total energy, eV per ps, by least squares."""
        t = torch.arange(len(self.total), dtype=torch.float64) * self.timestep / 1000
        t = t - t.mean()
        return float((t * (self.total - self.total.mean())).sum() / t.square().sum())

    @property
    def fluctuation(self) -> float:
        """Root mean square of the total energy about its mean, eV."""
        return float(self.total.std(correction=0))

    @property
    def broken(self) -> int | None:
        """The first step with a bond longer by more than .5 Angstrom than at the start, or not a number."""
        a, b = self.bonds
        length = torch.linalg.vector_norm(self.positions[:, a] - self.positions[:, b], dim=2)
        bad = ((length - length[:1]) > STRETCHED).any(dim=1) | ~self.total.isfinite()
        return int(bad.nonzero()[0, 0]) if bool(bad.any()) else None


def covalent_bonds(z: Tensor, pos: Tensor) -> Tensor:
    """Pairs (2, b) of one molecule that lie nearer than 1.25 sums of covalent radii."""
    radii = torch.tensor([_RADII.get(int(a), 1.3) for a in z], device=pos.device)
    source, target = pairs_within(torch.zeros_like(z), 1)
    source, target = source[source < target], target[source < target]
    near = torch.linalg.vector_norm(pos[source] - pos[target], dim=1) < BONDED * (
        radii[source] + radii[target]
    )
    return torch.stack([source[near], target[near]])


def thermal(mass: Tensor, pos: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """Velocities in Angstrom / fs of a temperature, without drift and rotation of the whole."""
    draw = torch.randn(len(mass), 3, generator=random, dtype=torch.float64).to(pos)
    v = draw * (BOLTZMANN * temperature * _ACCELERATION / mass).sqrt()[:, None]
    v = v - (mass[:, None] * v).sum(dim=0) / mass.sum()
    r = pos - (mass[:, None] * pos).sum(dim=0) / mass.sum()
    momentum = (mass[:, None] * torch.linalg.cross(r, v)).sum(dim=0)
    inertia = mass[:, None, None] * (
        r.square().sum(dim=1)[:, None, None] * torch.eye(3).to(r) - r[:, :, None] * r[:, None]
    )
    return v - torch.linalg.cross((torch.linalg.pinv(inertia.sum(dim=0)) @ momentum).expand_as(r), r)


def velocity_verlet(
    field: Callable[[Tensor], tuple[Tensor, Tensor]],
    z: Tensor,
    mass: Tensor,
    pos: Tensor,
    steps: int,
    timestep: float,
    temperature: float,
    random: torch.Generator,
) -> Run:
    """Molecular dynamics of one molecule at constant energy.

    Args:
        field: energy (eV) and forces (eV / Angstrom) of coordinates (n, 3).
        z: atomic numbers (n,).
        mass: u (n,).
        pos: start, Angstrom (n, 3).
        steps: of ``timestep``.
        timestep: fs.
        temperature: K, of the start.
        random: draws the start's velocities.
    """
    mass, pos = mass.double(), pos.double()
    v = thermal(mass, pos, temperature, random)
    energy, force = field(pos)
    potential, kinetic, positions = [], [], []
    for step in range(steps + 1):
        potential.append(float(energy))
        kinetic.append(float(0.5 * (mass[:, None] * v.square()).sum() / _ACCELERATION))
        positions.append(pos)
        if step == steps or not bool(pos.isfinite().all()):
            break
        half = v + 0.5 * timestep * _ACCELERATION * force.double() / mass[:, None]
        pos = pos + timestep * half
        try:
            energy, force = field(pos)
        except ValueError:  # atoms in one place: the molecule has collapsed
            potential[-1] = float("nan")
            break
        v = half + 0.5 * timestep * _ACCELERATION * force.double() / mass[:, None]
    return Run(
        timestep,
        torch.tensor(potential, dtype=torch.float64),
        torch.tensor(kinetic, dtype=torch.float64),
        torch.stack(positions).cpu(),
        covalent_bonds(z, positions[0]).cpu(),
    )


def distances(positions: Tensor) -> Tensor:
    """All distances of frames (T, n, 3), in a row."""
    a, b = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    return torch.linalg.vector_norm(positions[:, a] - positions[:, b], dim=2).flatten()


def histogram(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Middles of bins in Angstrom and the share of interatomic distances in each, per Angstrom."""
    edges = torch.arange(0, _FARTHEST + _BIN / 2, _BIN, dtype=torch.float64)
    found = distances(positions).double().nan_to_num(posinf=_FARTHEST)
    counts = torch.histogram(found.clamp(max=_FARTHEST), edges).hist
    return (edges[1:] + edges[:-1]) / 2, counts / counts.sum() / _BIN


def write_run(folder: Path, run: Run, reference: Tensor | None) -> list[Path]:
    """``dynamics.csv``, energies by time, and ``dynamics.png``, with distances beside those of true frames.

    Args:
        folder: of both.
        run: the dynamics.
        reference: true frames (T, n, 3), or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder / "dynamics.csv", folder / "dynamics.png"
    time = torch.arange(len(run.total)) * run.timestep
    with writing(table), table.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["fs", "potential_eV", "kinetic_eV", "total_eV"])
        for t, p, k in zip(time.tolist(), run.potential.tolist(), run.kinetic.tolist(), strict=True):
            rows.writerow([f"{t:g}", f"{p:.6f}", f"{k:.6f}", f"{p + k:.6f}"])
    with drawing(picture, 1, 2, dpi=110, figsize=(10, 3.8)) as (_, (left, right)):
        for values, words in ((run.potential, "potential"), (run.kinetic, "kinetic"), (run.total, "total")):
            start = values[0] if words != "kinetic" else 0
            left.plot(time, 1000 * (values - start), lw=0.8 if words != "total" else 1.8, label=words)
        left.set(xlabel="fs", ylabel="meV from the start", title=f"drift {1000 * run.drift:.3g} meV/ps")
        left.legend(fontsize=8)
        middles, share = histogram(run.positions)
        right.plot(middles, share, label="learned forces")
        if reference is not None:
            right.plot(*histogram(reference), color="black", lw=0.8, label="reference frames")
        right.set(xlabel="interatomic distance (Angstrom)", ylabel="share per Angstrom")
        right.legend(fontsize=8)
    return [table, picture]
