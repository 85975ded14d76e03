"""A trained network as a calculator of ASE, for relaxation and dynamics with that package's tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.molecules.chemistry import chem
from zoo.molecules.space.elements import IN_EV

if TYPE_CHECKING:
    from zoo.molecules.space.module import MoleculeRegressor3D


def calculator(module: MoleculeRegressor3D) -> Any:
    """An ``ase.calculators.calculator.Calculator`` of energies (eV) and forces (eV / Angstrom).

    Raises:
        ImportError: one line without ase.
        ValueError: for a module whose target is no energy.
    """
    unit = module.hparams["unit"]
    if unit not in IN_EV or module.network.head != "scalar":
        raise ValueError(
            f"these weights predict {module.hparams['target']} in {unit}, which is no energy; a "
            "calculator needs one"
        )
    base = chem("ase.calculators.calculator")
    factor = IN_EV[unit]

    class ZooCalculator(base.Calculator):  # type: ignore[name-defined]
        implemented_properties = ("energy", "forces")

        def calculate(
            self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = None
        ) -> None:
            super().calculate(atoms, properties, system_changes or base.all_changes)
            periodic = bool(self.atoms.pbc.any())
            if periodic and not self.atoms.pbc.all():
                raise ValueError(
                    "atoms.pbc is periodic in some directions alone; all three or none can be taken"
                )
            like = next(module.network.parameters())
            batch = {
                "z": torch.tensor(self.atoms.numbers, dtype=torch.long, device=like.device),
                "pos": torch.tensor(self.atoms.positions, dtype=like.dtype, device=like.device),
                "batch": torch.zeros(len(self.atoms), dtype=torch.long, device=like.device),
                "index": torch.zeros(1, dtype=torch.long, device=like.device),
            }
            if periodic:
                cell = torch.tensor(self.atoms.cell.array, dtype=like.dtype, device=like.device)
                batch["cell"] = cell[None]
            module.tell_other_sizes(batch)
            energy, forces, _ = module.energies_and_forces(batch, forces=True)
            assert forces is not None
            self.results["energy"] = float(energy[0]) * factor
            self.results["forces"] = forces.double().cpu().numpy() * factor

    return ZooCalculator()
