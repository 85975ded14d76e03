"""The module of molecules in space: units, forces in every stage, dynamics, files of other projects."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run, words
from fakes.molecules_space import fake_subset, fake_xyz
from quiet import quiet_trainer

import datamodules
import zoo
from zoo.hub.convert import convert
from zoo.molecules.space.coulomb import coulomb_matrix, features
from zoo.molecules.space.dynamics import velocity_verlet
from zoo.molecules.space.errors import Errors
from zoo.molecules.space.network import MoleculeNetwork

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"hidden": 16, "layers": 2}


def ethanol(**given: Any) -> Any:
    return datamodules.MDTrajectory(**{"train": 40, "val": 10, "test": 10, "batch_size": 4, **given})


def test_units_are_of_the_training_set_and_the_loss_of_both_parts_of_one_scale() -> None:
    module = zoo.MoleculeRegressor3D(forces=True, loss="l1", **SMALL)
    data = ethanol()
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    y, rms = data.train_set.targets(), data.train_set.force_rms()
    units = module.network.units
    assert float(units.scale) == pytest.approx(rms)
    assert float(units.mean) * 9 == pytest.approx(y.mean())
    assert units.elements.nonzero()[:, 0].tolist() == [1, 6, 8]
    batch = data.train_set.__getitems__([(0, i) for i in range(4)])
    module.train()
    number, force, _ = module._answer(batch, forces=True)
    found = module._loss(number, force, batch, together=False)
    energies, forces, _ = module.energies_and_forces(batch, forces=True)
    of_energy = (energies - batch["y"]).abs().mean() / rms
    of_forces = (forces - batch["forces"]).abs().mean() / rms
    assert float(found["energy_loss"]) == pytest.approx(float(of_energy), rel=1e-4)
    assert float(found["force_loss"]) == pytest.approx(float(of_forces), rel=1e-5)
    assert float(found["loss"]) == pytest.approx(0.01 * float(of_energy) + 0.99 * float(of_forces), rel=1e-4)


def test_references_are_the_datas_or_fitted_where_compositions_vary(tmp_path: Path) -> None:
    fake_subset(tmp_path)
    data = datamodules.QM9(target="U0", root=str(tmp_path), train=20, val=8, batch_size=4)
    module = zoo.MoleculeRegressor3D(target="U0", unit="eV", **SMALL)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    units = module.network.units
    assert float(units.references[8]) == pytest.approx(-75.064579 * 27.211386246)
    rest = data.train_set.targets() - data.train_set.compositions() @ units.references.numpy()
    sizes = data.train_set.compositions().sum(axis=1)
    assert float(units.mean) == pytest.approx((rest / sizes).mean())
    assert float(units.scale) == pytest.approx((rest - sizes * float(units.mean)).std())
    charges = zoo.MoleculeRegressor3D(target="r2", unit="a0^2", **SMALL)
    data = datamodules.QM9(target="r2", root=str(tmp_path), train=20, val=8, batch_size=4)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(charges, data)
    assert float(charges.network.units.scale) == 1
    assert float(charges.network.units.mean) == 0
    fake_xyz(tmp_path / "a.xyz")
    frames = datamodules.XYZFrames(str(tmp_path / "a.xyz"), batch_size=4)
    module = zoo.MoleculeRegressor3D(unit="eV", **SMALL)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, frames)
    fitted = module.network.units.references
    assert float(fitted[6]) == pytest.approx(-30, abs=1.5)  # -30 an atom, and noise of 1 a molecule
    assert float(fitted[16]) == 0


def test_heads_and_pools_go_by_the_target() -> None:
    def resolved(**given: Any) -> tuple[str, str]:
        module = zoo.MoleculeRegressor3D(unit="x", **SMALL, **given)
        return module.head, module.pool

    assert resolved(target="mu") == ("vector_dipole", "sum")
    assert resolved(target="mu", backbone="schnet") == ("dipole", "sum")
    assert resolved(target="mu", backbone="egnn") == ("scalar", "sum")
    assert resolved(target="r2") == ("r2", "sum")
    assert resolved(target="gap") == ("scalar", "mean")
    assert resolved(target="gap", backbone="egnn") == ("scalar", "sum")
    assert resolved(target="gap", pool="sum") == ("scalar", "sum")
    with pytest.raises(ValueError, match="backbone egnn has no head dipole"):
        zoo.MoleculeRegressor3D(backbone="egnn", head="dipole")
    with pytest.raises(ValueError, match="forces are the derivative of an energy"):
        zoo.MoleculeRegressor3D(target="mu", forces=True)
    with pytest.raises(ValueError, match="does not use"):
        zoo.MoleculeRegressor3D(lmax=2)


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad"])
def test_forces_are_there_in_validation_and_test(mode: str) -> None:
    module = zoo.MoleculeRegressor3D(forces=True, **SMALL)
    trainer = quiet_trainer(max_steps=2, inference_mode=mode == "inference_mode")
    data = ethanol()
    trainer.fit(module, data)
    (found,) = trainer.test(module, data, verbose=False)
    assert 5 < found["test/force_mae"] < 40
    assert found["test/force_rmse_percent"] == pytest.approx(
        100 * found["test/force_rmse"] / float(np.sqrt(np.square(
            torch.cat([b["forces"] for b in data.test_dataloader()]).numpy()).mean())), rel=1e-4)  # fmt: skip
    assert found["test/mae_per_atom_meV"] == pytest.approx(found["test/mae"] / 9 * 43.3641, rel=1e-4)


@pytest.mark.parametrize("switched_off", [torch.inference_mode, torch.no_grad])
def test_forces_need_no_gradients_from_outside(switched_off: Any) -> None:
    module = zoo.MoleculeRegressor3D(forces=True, **SMALL).eval()
    data = ethanol()
    data.setup("test")
    batch = data.test_set.__getitems__([0, 1])
    wanted = module.energies_and_forces(batch, forces=True)[1]
    with switched_off():
        copied = {k: v * 1 for k, v in batch.items()}  # made where no tensor may have a gradient
        found = module.energies_and_forces(copied, forces=True)[1]
    assert found is not None
    assert torch.equal(found, wanted)
    assert float(found.abs().max()) > 1e-3


def test_errors_by_hand() -> None:
    errors = Errors()
    force, true = torch.zeros(3, 3), torch.tensor([[3.0, 4, 0], [0, 0, 0], [0, 0, 1]])
    errors.update(torch.tensor([1.0, 5.0]), torch.tensor([2.0, math.nan]), torch.tensor([2, 1]), force, true)
    found = errors.compute()
    assert float(found["mae"]) == 1
    assert float(found["mae_per_atom"]) == 0.5
    assert float(found["force_mae"]) == pytest.approx(8 / 9)
    assert float(found["force_vector"]) == 2
    assert float(found["force_rmse"]) == pytest.approx(math.sqrt(26 / 9))
    assert float(found["force_rmse_percent"]) == pytest.approx(100)
    assert "mae_over_sd" not in found


def spring(k: float = 20.0) -> Any:
    def field(pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        between = pos[1] - pos[0]
        length = between.norm()
        pull = k * (length - 1) * between / length
        return 0.5 * k * (length - 1) ** 2, torch.stack([pull, -pull])

    return field


def pulling(pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pos.sum() * 0, torch.tensor([[-9.0, 0, 0], [9, 0, 0]])


def test_velocity_verlet_keeps_the_energy_and_sees_a_broken_bond() -> None:
    z, mass = torch.tensor([1, 6]), torch.tensor([1.008, 12.011])
    pos = torch.tensor([[0.0, 0, 0], [1.05, 0, 0]])
    g = torch.Generator().manual_seed(0)
    run_ = velocity_verlet(spring(), z, mass, pos, 400, 0.25, 300.0, g)
    assert run_.fluctuation < 2e-3 * float(run_.kinetic.max())
    assert abs(run_.drift) < 1e-4
    assert run_.broken is None
    # half a period: two masses on a spring of 20 eV/A^2
    reduced = 1.008 * 12.011 / 13.019
    period = 2 * math.pi * math.sqrt(reduced / (20 * 9.648533212e-3))
    stretch = (run_.positions[:, 1] - run_.positions[:, 0]).norm(dim=1)
    crossings = ((stretch[1:] - stretch.mean()) * (stretch[:-1] - stretch.mean()) < 0).sum()
    assert int(crossings) == pytest.approx(2 * 100 / period, abs=2)
    pulled = velocity_verlet(pulling, z, mass, pos, 60, 0.5, 300.0, g)
    assert pulled.broken is not None
    assert 3 < pulled.broken < 60


@pytest.mark.parametrize("backbone", ["painn", "schnet"])
def test_a_calculator_of_ase_conserves_energy(backbone: Any) -> None:
    from ase import Atoms, units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    torch.manual_seed(0)
    module = zoo.MoleculeRegressor3D(backbone=backbone, forces=True, **SMALL).double().eval()
    module.network.units.scale.fill_(20.0)
    batch = datamodules.MDTrajectory()
    batch.setup("test")
    frame = batch.test_set[0]
    atoms = Atoms(numbers=frame["z"].numpy(), positions=frame["pos"].numpy(), calculator=module.ase())
    energy, force, _ = module.energies_and_forces(frame, forces=True)
    assert atoms.get_potential_energy() == pytest.approx(float(energy[0]) * 0.04336410390, rel=1e-6)
    assert np.allclose(atoms.get_forces(), force.numpy() * 0.04336410390, atol=1e-5)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    start, kinetic, potential = atoms.get_total_energy(), [], []
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    for _ in range(100):
        dynamics.run(1)
        kinetic.append(atoms.get_kinetic_energy())
        potential.append(atoms.get_potential_energy())
    total = np.array(kinetic) + np.array(potential)
    assert np.ptp(kinetic) > 0.02
    assert np.abs(total - start).max() < 0.02 * np.ptp(kinetic)


def test_molecules_of_other_sizes_are_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    from ase.build import molecule

    module = zoo.MoleculeRegressor3D(backbone="painn", forces=True, atoms=9, **SMALL).eval()
    module.network.units.elements.fill_(True)
    for name in ("CH3CH2OH", "H2O", "H2O"):
        atoms = molecule(name)
        atoms.calc = module.ase()
        atoms.get_potential_energy()
    told = "zoo: note: these weights saw molecules of 9 atoms alone; energy of one of 3 is extrapolated"
    assert capfd.readouterr().out.splitlines() == [told]


def test_a_calculator_of_what_is_no_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="predict mu in D, which is no energy"):
        zoo.MoleculeRegressor3D(target="mu", unit="D", **SMALL).ase()


def test_own_frames_go_from_a_file_to_predictions(tmp_path: Path) -> None:
    fake_xyz(tmp_path / "own.xyz")
    data = {"data.class_path": "datamodules.XYZFrames", "data.init_args.file": tmp_path / "own.xyz"}
    small = {"model.init_args.hidden": 8, "model.init_args.layers": 1, "trainer.max_steps": 4,
             "trainer.val_check_interval": 4, "data.init_args.batch_size": 4,
             "checkpoint.every_n_train_steps": 4}  # fmt: skip
    folder = run("fit", "molecules_ethanol", tmp_path, *words({**data, **small}))
    weights = folder / "checkpoints" / "best.ckpt"
    fake_xyz(tmp_path / "new.xyz", 5, labelled=False, seed=4)
    new = {**data, "data.init_args.predict_file": tmp_path / "new.xyz", "weights": weights}
    out = run("predict", "molecules_ethanol", tmp_path, *words(new)) / "predictions"
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 5
    assert rows[0]["true"] == ""
    module = zoo.load(weights)
    again = datamodules.XYZFrames(
        predict_file=str(out / "predictions.xyz"), energy_key="energy", forces_key="forces"
    )
    again.setup("predict")
    batch = again.predict_set[2]
    energy, force, _ = module.energies_and_forces(batch, forces=True)
    assert float(batch["y"]) == pytest.approx(float(energy[0]), rel=1e-5)
    assert torch.allclose(batch["forces"], force, atol=1e-4)
    assert float(rows[2]["energy (eV)"]) == pytest.approx(float(energy[0]), rel=1e-5)


# --- other projects' files ----------------------------------------------------------------------------------


def schnetpack(network: Any) -> dict[str, torch.Tensor]:
    """A PaiNN under schnetpack 2's names."""
    body = network.body
    found = {
        "representation.embedding.weight": body.embedding.weight,
        "representation.radial_basis.freqs": torch.arange(1, body.radial + 1) * math.pi / body.cutoff,
        "representation.cutoff_fn.cutoff": torch.tensor([body.cutoff]),
        "representation.filter_net.weight": torch.cat([m.filter.weight for m in body.messages]),
        "representation.filter_net.bias": torch.cat([m.filter.bias for m in body.messages]),
        "postprocessors.1.mean": torch.tensor([-4.24]),
    }
    for n, (message, update) in enumerate(zip(body.messages, body.updates, strict=True)):
        found[f"representation.mixing.{n}.mu_channel_mix.weight"] = update.mix.weight
        for theirs, own in ((0, 0), (1, 2)):
            for kind in ("weight", "bias"):
                name = f"representation.interactions.{n}.interatomic_context_net.{theirs}.{kind}"
                found[name] = getattr(message.phi[own], kind)
                name = f"representation.mixing.{n}.intraatomic_context_net.{theirs}.{kind}"
                found[name] = getattr(update.mlp[own], kind)
    for theirs, own in ((0, 0), (1, 2)):
        for kind in ("weight", "bias"):
            found[f"output_modules.0.outnet.{theirs}.{kind}"] = getattr(body.head[own], kind)
    return {k: v.detach().clone() for k, v in found.items()}


def test_state_dicts_of_schnetpack_and_torch_geometric_give_the_same_numbers(tmp_path: Path) -> None:
    from torch_geometric.nn.models import SchNet

    data = ethanol()
    data.setup("test")
    batch = data.test_set.__getitems__([0, 1])
    torch.manual_seed(0)
    ours = MoleculeNetwork("painn", hidden=16, layers=2, radial=12, cutoff=4.0)
    torch.save(schnetpack(ours), tmp_path / "painn.pt")
    list(
        convert(
            tmp_path / "painn.pt", tmp_path / "painn.safetensors", "molecules3d", "zoo", ["unit=eV"], False
        )
    )
    module: Any = zoo.load(tmp_path / "painn.safetensors")
    assert (module.hparams["cutoff"], module.hparams["unit"]) == (4.0, "eV")
    wanted = ours(batch["z"], batch["pos"], batch["batch"], 2).number.double() - 4.24 * 9
    assert torch.allclose(module(batch), wanted, atol=1e-5)

    theirs = SchNet(16, 16, 2, 10, 6.0, interaction_graph=_all_pairs, atomref=torch.arange(100.0)[:, None])
    torch.save(theirs.state_dict(), tmp_path / "schnet.pt")
    given = ["target=U0", "unit=eV"]
    list(convert(tmp_path / "schnet.pt", tmp_path / "schnet.safetensors", "molecules3d", "zoo", given, False))
    module = zoo.load(tmp_path / "schnet.safetensors")
    assert torch.allclose(
        module(batch), theirs(batch["z"], batch["pos"], batch["batch"])[:, 0].double(), atol=1e-4
    )
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds neither a PaiNN of schnetpack"):
        list(convert(tmp_path / "other.pt", tmp_path / "o.safetensors", "molecules3d", "zoo", [], False))


def _all_pairs(pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    near = (torch.cdist(pos, pos) <= 6) & (batch[:, None] == batch) & ~torch.eye(len(pos), dtype=torch.bool)
    index = near.nonzero().T.flip(0)
    return index, (pos[index[0]] - pos[index[1]]).norm(dim=1)


# --- kernel ridge regression --------------------------------------------------------------------------------


def test_coulomb_matrices_do_not_change_with_order_rotation_and_padding() -> None:
    z, pos = np.array([8, 1, 1]), np.array([[0, 0, 0.0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    matrix = coulomb_matrix(z, pos, 5)
    assert matrix[0, 0] == pytest.approx(0.5 * 8**2.4)
    assert matrix[0, 1] == pytest.approx(8 / (0.96 / 0.529177210903))
    assert matrix[3:].any() == False  # noqa: E712
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    other = coulomb_matrix(z[[2, 0, 1]], pos[[2, 0, 1]] @ turn + 3, 5)
    for kind in ("eigenvalues", "rows"):
        assert np.allclose(features(matrix, kind), features(other, kind), atol=1e-10)  # type: ignore[arg-type]


def test_kernel_ridge_learns_and_says_what_it_was_fitted_to(tmp_path: Path) -> None:
    module = zoo.CoulombRidge()
    data = ethanol(train=150, val=30, test=40)
    trainer = quiet_trainer(max_steps=15, limit_val_batches=0)
    trainer.fit(module, data)
    (found,) = trainer.test(module, data, verbose=False)
    assert found["test/mae_over_sd"] < 0.6
    again: Any = zoo.load(zoo.save(module, tmp_path / "k.safetensors"))
    (same,) = quiet_trainer().test(again, data, verbose=False)
    assert same["test/mae"] == pytest.approx(found["test/mae"])
    with pytest.raises(ValueError, match="fitted to other training molecules"):
        quiet_trainer().test(again, ethanol(train=100, val=30, test=40), verbose=False)
