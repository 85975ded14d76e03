"""The LightningModule of molecules in space: one number for each, and forces as its derivative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, distributed

from zoo.molecules.space.dynamics import Run
from zoo.molecules.space.elements import IN_EV
from zoo.molecules.space.errors import Errors
from zoo.molecules.space.fitted_units import take_units
from zoo.molecules.space.network import PLAIN, Backbone, Head, MoleculeNetwork, Pool
from zoo.molecules.space.nve import dynamics_of, log_dynamics
from zoo.molecules.space.report import MoleculePredictions
from zoo.molecules.space.settings import (
    Centre,
    Interval,
    Loss,
    References,
    Scale,
    check_settings,
    head_of,
    pool_of,
)
from zoo.nn.data_fit import DataSizes, check_fit, named
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_processes, refuse_sharding
from zoo.nn.ranges import CountOrZero, Depth, ManyOrZero, NonNegative, Positive, Size, check_ranges
from zoo.reports import say


class MoleculeRegressor3D(LightningModule):
    """A property of molecules from elements and coordinates, with ``forces`` F_i = -dE/dr_i too.

    A batch has ``z`` int64 (N,), ``pos`` (N, 3) in Angstrom, ``batch`` int64 (N,), whose an atom is, ``y``
    float64 (B,), ``index`` (B,), and may have ``forces`` (N, 3) and ``cell`` (B, 3, 3), see
    ``datamodules.MDTrajectory``. Forces are the derivative of the energy in every stage: they conserve it,
    and turn with the molecule because it does not.

    The network's numbers times ``scale``, plus ``centre`` and ``references``, which the training set tells,
    are the target. The loss is of both divided by ``scale``: ``energy_weight`` of the energies' and
    ``force_weight`` of the mean over all components of forces.

    Args:
        backbone: ``schnet``, ``dimenet++``, ``visnet``, ``egnn`` or ``painn``; ``mlp`` reads raw coordinates
            and ``distances`` inverse distances of molecules whose atoms come in one order.
        target: name of the property; the data tell.
        unit: of it; the data tell.
        forces: whether forces are trained and predicted.
        atoms: of each molecule, for ``mlp`` and ``distances``; the data tell, 0 where it varies.
        head: ``scalar``; ``dipole`` and ``r2`` of charges; with ``painn`` also ``vector_dipole`` and
            ``polarisability``; ``auto`` goes by the target, mu and r2.
        pool: ``sum`` or ``mean`` over the atoms; ``auto`` is ``mean`` for homo, lumo, gap, A, B and C but not
            in ``egnn``, whose code adds up for all.
        hidden: features; null is the paper's.
        layers: null is the paper's.
        radial: basis functions of distances; null is the paper's.
        cutoff: Angstrom.
        lmax: of ``visnet``, 1 or 2.
        vertex: of ``visnet``, with features of vertices.
        update_coordinates: of ``egnn``.
        chirality: signed volumes of neighbours join the embeddings: mirror images differ then.
        references: subtracted for each atom by its element: ``auto`` takes those that the data know, else,
            for energies of different molecules, fits them to the training set, as ``fit`` always does.
        centre: mean of the training set, by ``atom`` or ``molecule``, that the network need not learn.
        scale: ``forces``, root mean square of their components; ``sd`` or ``mad`` (mean absolute deviation)
            of what references and centre leave; ``auto`` is ``forces`` with forces, else ``sd``, and
            ``none`` of heads of charges and tensors, whose numbers have a unit of their own.
        loss: ``mse`` or ``l1``.
        energy_weight: of the energies' loss, with forces.
        force_weight: of the forces' loss.
        nve_steps: of molecular dynamics at constant energy, which ``test`` runs from its first molecule.
        nve_timestep: fs.
        temperature: K, of its start.
        schedule_interval: whether the learning rate's schedule counts steps or epochs.
        optimizer: of the network.
        lr_scheduler: of its learning rate; Lightning's ``ReduceLROnPlateau`` counts epochs.
    """

    data_sizes: ClassVar[DataSizes] = {"target": "target", "unit": "unit", "atoms": "atoms"}

    def __init__(
        self,
        backbone: Backbone = "painn",
        target: str = "energy",
        unit: str = "kcal/mol",
        forces: bool = False,
        atoms: ManyOrZero = 0,
        head: Literal["auto"] | Head = "auto",
        pool: Literal["auto"] | Pool = "auto",
        hidden: Size | None = None,
        layers: Depth | None = None,
        radial: Size | None = None,
        cutoff: Positive = 5.0,
        lmax: Depth = 1,
        vertex: bool = False,
        update_coordinates: bool = False,
        chirality: bool = False,
        references: References = "auto",
        centre: Centre = "atom",
        scale: Scale = "auto",
        loss: Loss = "mse",
        energy_weight: NonNegative = 0.01,
        force_weight: NonNegative = 0.99,
        nve_steps: CountOrZero = 0,
        nve_timestep: Positive = 0.5,
        temperature: Positive = 300.0,
        schedule_interval: Interval = "epoch",
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=5e-4, weight_decay=0.0),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(MoleculeRegressor3D, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        check_settings(MoleculeRegressor3D, self.hparams)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network = MoleculeNetwork(
            backbone, self.head, self.pool, hidden, layers, radial, cutoff, lmax, vertex, update_coordinates,
            chirality, atoms or None,
        )  # fmt: skip
        self.val_errors, self.test_errors = Errors(), Errors()
        self._given_weights = False
        self._reference: list[Tensor] = []

    @property
    def head(self) -> Head:
        """The given one or that of the target."""
        return head_of(self.hparams)

    @property
    def pool(self) -> Pool:
        """The given one or that of the target."""
        return pool_of(self.hparams)

    @property
    def per_atom(self) -> bool:
        """Whether the centre counts for each atom."""
        return self.hparams["centre"] == "atom" and self.pool == "sum"

    # --- data -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        predict_in_one_process(self, stage)
        plain = self.hparams["backbone"] in PLAIN
        check_fit(self, atoms=lambda own, found: own == found or not plain)
        if stage == "test" and self.hparams["nve_steps"]:
            refuse_processes(self, "runs molecular dynamics", " for test")
        data: Any = getattr(self.trainer, "datamodule", None)
        train: Any = getattr(data, "train_set", None)
        if stage == "fit" and hasattr(train, "compositions"):
            if self.hparams["forces"] and train.force_rms() is None:
                raise ValueError(
                    f"model.init_args.forces is true, but {named(data)} has no forces; set it to false"
                )
            if self.trainer.ckpt_path is None and not self._given_weights:
                take_units(self, train, getattr(data, "references", None))

    _told_sizes = False

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning goes on in their units
        return super().load_state_dict(*args, **kwargs)

    # --- the network's answer -------------------------------------------------------------------------------

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The target of each molecule of a batch, float64 (B,)."""
        return self.energies_and_forces(batch, forces=False)[0]

    def energies_and_forces(
        self, batch: Mapping[str, Tensor], forces: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Target (B,) in double precision, forces (N, 3) where asked for, dipole or polarisability.

        Forces come whatever mode the trainer is in: inference tensors are copied, gradients switched on.
        """
        number, force, tensor = self._answer(batch, forces)
        units, molecules = self.network.units, len(number)
        offset = units.offset(batch["z"], batch["batch"], molecules, self.per_atom)
        scale = units.scale.to(number.dtype)
        return (
            number.double() * units.scale + offset,
            None if force is None else force * scale,
            None if tensor is None else tensor * scale,
        )

    def _answer(
        self, batch: Mapping[str, Tensor], forces: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """In units of the scale, without offset."""
        like = next(self.network.parameters())
        if not forces:
            answer = self._of_network(batch, batch["pos"].to(like.dtype))
            return answer.number, None, answer.tensor
        differentiate = self.training and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            given = {k: v.clone() if v.is_inference() else v for k, v in batch.items()}
            pos = given["pos"].to(like.dtype).detach().clone().requires_grad_()
            answer = self._of_network(given, pos)
            force = torch.zeros_like(pos)
            if answer.number.requires_grad:
                found = torch.autograd.grad(
                    answer.number.sum(), pos, create_graph=differentiate, allow_unused=True
                )[0]
                force = force if found is None else -found
        if differentiate:
            return answer.number, force, answer.tensor
        return answer.number.detach(), force.detach(), answer.tensor

    def _of_network(self, batch: Mapping[str, Tensor], pos: Tensor) -> Any:
        cell = batch.get("cell")
        cell = None if cell is None else cell.to(pos.dtype)
        return self.network(batch["z"], pos, batch["batch"], len(batch["index"]), cell)

    def ase(self) -> Any:
        """A calculator of ASE, for energies in eV and forces in eV / Angstrom."""
        from zoo.molecules.space.calculator import calculator

        return calculator(self)

    # --- steps ----------------------------------------------------------------------------------------------

    def _loss(
        self, number: Tensor, force: Tensor | None, batch: Mapping[str, Tensor], together: bool
    ) -> dict[str, Tensor]:
        """Loss of energies, of forces and of both, by units of the scale.

        Args:
            number: of the network (B,).
            force: likewise (N, 3).
            batch: with ``y`` and ``forces``.
            together: force components are counted over all processes, whose molecules may differ in size.
        """
        units, h = self.network.units, self.hparams
        offset = units.offset(batch["z"], batch["batch"], len(number), self.per_atom)
        wanted = ((batch["y"] - offset) / units.scale).to(torch.promote_types(number.dtype, torch.float32))
        error = number.to(wanted.dtype) - wanted
        of_energy = (error.square() if h["loss"] == "mse" else error.abs()).mean()
        if force is None:
            return {"loss": of_energy}
        difference = force - batch["forces"].to(force.dtype) / units.scale.to(force.dtype)
        total = (difference.square() if h["loss"] == "mse" else difference.abs()).sum()
        count = torch.tensor(float(difference.numel()), device=total.device)
        if together and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(count)
            count = count / distributed.get_world_size()
        of_forces = total / count
        loss = h["energy_weight"] * of_energy + h["force_weight"] * of_forces
        return {"loss": loss, "energy_loss": of_energy, "force_loss": of_forces}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        number, force, _ = self._answer(batch, self.hparams["forces"])
        found = self._loss(number, force, batch, together=True)
        several = self.trainer.world_size > 1
        for name, value in found.items():
            self.log(
                f"train/{name}",
                value.detach(),
                prog_bar=name == "loss",
                batch_size=len(number),
                sync_dist=several,
            )
        return found["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_errors)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.hparams["nve_steps"] and not self._reference:
            self._reference.append(batch["pos"].detach().clone())
            self._reference.append(torch.bincount(batch["batch"]))
        self._evaluate(batch, "test", self.test_errors)

    def _evaluate(self, batch: dict[str, Tensor], stage: str, errors: Errors) -> None:
        forces = self.hparams["forces"]
        if forces and "forces" not in batch:
            raise ValueError("model.init_args.forces is true, but the data have no forces")
        y, force, _ = self.energies_and_forces(batch, forces)
        units = self.network.units
        number = (y - units.offset(batch["z"], batch["batch"], len(y), self.per_atom)) / units.scale
        scaled = None if force is None else force / units.scale.to(force.dtype)
        loss = self._loss(number, scaled, batch, together=False)["loss"]
        self.log(f"{stage}/loss", loss, batch_size=len(y), sync_dist=True, on_epoch=True)
        errors.update(y, batch["y"], torch.bincount(batch["batch"]), force, batch.get("forces"))

    def on_validation_epoch_end(self) -> None:
        self._log_errors("val", self.val_errors)

    def on_test_epoch_end(self) -> None:
        self._log_errors("test", self.test_errors)
        if self.hparams["nve_steps"]:
            (reference, sizes), self._reference = self._reference, []
            log_dynamics(self, reference, sizes)

    def _log_errors(self, stage: str, errors: Errors) -> None:
        found = errors.compute()
        errors.reset()
        unit = self.hparams["unit"]
        per_atom = found.pop("mae_per_atom", None)
        if per_atom is not None and unit in IN_EV:
            found["mae_per_atom_meV"] = per_atom * 1000 * IN_EV[unit]
        if stage == "test" and "force_mae" in found:
            found["force_mae_log2"] = found["force_mae"].log2()  # a difference of 1 is half the error
        for name, value in found.items():
            shown = name in ("mae", "force_mae")
            self.log(f"{stage}/{name}", value, prog_bar=shown and stage == "val", sync_dist=True)

    def dynamics(self, z: Tensor, pos: Tensor) -> Run:
        """``nve_steps`` of molecular dynamics of one molecule, atomic numbers (n,) and Angstrom (n, 3)."""
        return dynamics_of(self, z, pos)

    def tell_other_sizes(self, batch: Mapping[str, Tensor]) -> None:
        """Say once that molecules are of other sizes than all that were trained on: their energies are a
        guess, for one composition does not tell what each element adds."""
        own = self.hparams["atoms"]
        sizes = torch.bincount(batch["batch"])
        if own and not self._told_sizes and (other := sizes[sizes != own].tolist()):
            self._told_sizes = True
            say(f"note: these weights saw molecules of {own} atoms alone; {self.hparams['target']} of one of "
                f"{other[0]} is extrapolated")  # fmt: skip

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> MoleculePredictions:
        self.tell_other_sizes(batch)
        y, force, tensor = self.energies_and_forces(batch, self.hparams["forces"])
        names = getattr(getattr(self._trainer, "datamodule", None), "names", ()) or ()
        numbers = batch["index"].tolist()
        optional = {
            "forces": force,
            "true_forces": batch.get("forces"),
            "cell": batch.get("cell"),
            "tensor": tensor,
        }
        return MoleculePredictions(
            index=batch["index"].cpu(),
            z=batch["z"].cpu(),
            pos=batch["pos"].double().cpu(),
            batch=batch["batch"].cpu(),
            found=y.detach().double().cpu(),
            target=batch["y"].cpu(),
            what=self.hparams["target"],
            unit=self.hparams["unit"],
            names=[names[i] for i in numbers] if len(names) else [str(i) for i in numbers],
            **{k: None if v is None else v.detach().double().cpu() for k, v in optional.items()},
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(p for p in self.network.parameters() if p.requires_grad)
        found = with_schedule(optimizer, self.lr_scheduler, self.hparams["schedule_interval"])
        if isinstance(found, dict) and hasattr(found["lr_scheduler"]["scheduler"], "monitor"):
            found["lr_scheduler"] |= {
                "monitor": found["lr_scheduler"]["scheduler"].monitor,
                "interval": "epoch",
            }
        return found
