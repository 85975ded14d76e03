"""Molecular dynamics at constant energy with the forces of a module, as ``test`` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.molecules.space.dynamics import Run, velocity_verlet, write_run
from zoo.molecules.space.elements import IN_EV
from zoo.randomness import generator, global_seed
from zoo.reports import say

if TYPE_CHECKING:
    from zoo.molecules.space.module import MoleculeRegressor3D

_VELOCITIES = 420


def dynamics_of(module: MoleculeRegressor3D, z: Tensor, pos: Tensor) -> Run:
    """``nve_steps`` of molecular dynamics of one molecule, in double precision where the network is.

    Args:
        module: of the forces, whose settings say how long.
        z: atomic numbers (n,).
        pos: Angstrom (n, 3).
    """
    h, factor = module.hparams, IN_EV[module.hparams["unit"]]
    like = next(module.network.parameters())
    z = z.to(like.device)
    group = torch.zeros_like(z)

    def field(at: Tensor) -> tuple[Tensor, Tensor]:
        given = {"z": z, "pos": at.to(like.dtype), "batch": group, "index": group[:1]}
        energy, force, _ = module.energies_and_forces(given, forces=True)
        assert force is not None
        return energy[0] * factor, force * factor

    random = generator(_VELOCITIES, global_seed())
    mass = module.network.masses[z].double()
    given = (h["nve_steps"], h["nve_timestep"], h["temperature"])
    return velocity_verlet(field, z, mass, pos.to(like.device), *given, random)


def log_dynamics(module: MoleculeRegressor3D, reference: Tensor, sizes: Tensor) -> None:
    """Molecular dynamics of the first test molecule; logs drift, fluctuation, broken bonds, and draws them.

    Args:
        module: of the forces.
        reference: positions (N, 3) of the first test batch.
        sizes: atoms of each of its molecules.

    Raises:
        ValueError: for a periodic cell.
    """
    batch = module.trainer.datamodule.test_set[0]  # type: ignore[attr-defined]
    if "cell" in batch and bool(batch["cell"].any()):
        raise ValueError("model.init_args.nve_steps is for molecules without a periodic cell; set it to 0")
    run = dynamics_of(module, batch["z"], batch["pos"])
    folder, reference = module.trainer.log_dir, reference.cpu()
    alike = reference.view(-1, len(batch["z"]), 3) if bool((sizes == len(batch["z"])).all()) else None
    broken = run.broken
    fs = module.hparams["nve_timestep"]
    module.log_dict(
        {
            "test/nve_drift_meV_per_ps": 1000 * run.drift,
            "test/nve_fluctuation_meV": 1000 * run.fluctuation,
            "test/nve_fs_before_a_bond_breaks": float(
                (len(run.total) - 1 if broken is None else broken) * fs
            ),
            "test/nve_bond_broken": float(broken is not None),
        }
    )
    if folder is not None:
        for path in write_run(Path(folder), run, alike):
            say(f"dynamics    {path}")
