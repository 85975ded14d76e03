"""The LightningModules: stages, resume, two processes, single views, the latent GAN, what predict leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import trimesh
from commands import of_data, of_model, of_trainer, summary
from covering import covering
from fakes.shapes import fake_shapes
from interruption import Killed, die, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference
from torch import Tensor
from torch.nn import functional

import cli
import zoo
from datamodules import Shapes
from zoo.file_names import make_own
from zoo.imnet.decoding import (
    between,
    check_not_empty,
    decoded_grids,
    extract_mesh,
    interpolation_score,
    optimised_codes,
)
from zoo.imnet.extraction import Mesh, marching_cubes
from zoo.imnet.imgan import gradient_penalty
from zoo.imnet.imsvr import IMSVR
from zoo.imnet.report import ShapeMeshes
from zoo.imnet.setup import training_codes
from zoo.reports import PARTS

SMALL = {"input_size": 16, "z_dim": 8, "width": 4, "encoder_width": 4, "init": "he"}
FLAGS = (
    "--config=imae_solids",
    *(f"--model.init_args.{k}={v}" for k, v in SMALL.items()),
    *of_model(points_per_shape=64, mesh_resolution=16),
    *of_data(train_shapes=6, test_shapes=2, input_size=16, fine=16, batch_size=2,
        stages='[{"resolution": 16, "epochs": 1}, {"resolution": 32, "epochs": 1}]'),
    "--previews.count=0",
    *of_trainer(max_steps=8, val_check_interval=4, log_every_n_steps=1, enable_progress_bar=False,
        accelerator="cpu"),
    "--checkpoint.every_n_train_steps=2",
)  # fmt: skip


def test_codes_are_made_of_files_that_are_read_through_in_order() -> None:
    """A single row of the release costs a second."""

    class InOrder(list[Tensor]):
        def voxels_in_order(self, size: int) -> Any:
            return torch.stack(self).split(2)

    voxels = torch.rand(5, 1, 16, 16, 16).round()
    autoencoder = zoo.IMAE(**SMALL)  # type: ignore[arg-type]
    codes = training_codes(autoencoder, InOrder(voxels), torch.device("cpu"))
    torch.testing.assert_close(codes, autoencoder.network.eval().encode(voxels))


def test_data_are_told_what_a_step_takes() -> None:
    """IM-SVR and IM-GAN were given voxels and points that they never use."""
    assert zoo.IMSVR.trained_on == {"view", "code"}
    assert zoo.IMAE.trained_on == {"voxels", "points", "values"}
    assert zoo.CNNAE.trained_on == {"voxels"}
    for space, taken in (("latent", "code"), ("grid", "voxels")):
        assert zoo.IMGAN(space=space, width=2).trained_on == {taken}  # type: ignore[arg-type]


def newest(root: Path) -> Path:
    folders = (root / "imae_solids").glob("version_*")
    return max(folders, key=lambda p: int(p.name.removeprefix("version_")))


def fit(root: Path, *flags: str) -> Path:
    assert cli.main(["fit", *FLAGS, f"--trainer.default_root_dir={root}", *flags]) == 0
    return newest(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


def rows(folder: Path, key: str) -> list[float]:
    from zoo.engine.metrics_csv import read_metrics

    return [row[key] for row in read_metrics(folder / "metrics.csv") if key in row]


def test_stages_change_with_the_epochs_in_one_run(whole: Path) -> None:
    assert rows(whole, "stage/resolution") == [16.0] * 3 + [32.0] * 5


def test_the_optimiser_starts_anew_where_the_resolution_changes(whole: Path, tmp_path: Path) -> None:
    def steps(folder: Path) -> set[float]:
        saved = torch.load(newest_checkpoint(folder), weights_only=True)["optimizer_states"][0]["state"]
        return {float(s["step"]) for s in saved.values()}

    assert steps(whole) == {5.0}  # of eight steps, five are of the second stage
    kept = fit(tmp_path, "--model.init_args.reset_optimizer_each_stage=false")
    assert steps(kept) == {8.0}


@pytest.mark.parametrize("step", covering([3, 4], [3]))
def test_a_killed_run_goes_on_to_the_same_bits(step: int, whole: Path, tmp_path: Path) -> None:
    """Killed at and after the change of the resolution, which follows step 3."""
    from unittest import mock

    def on_train_batch_end(self: zoo.IMAE, *_: Any) -> None:
        if self.trainer.global_step == step:
            die()

    with mock.patch.object(zoo.IMAE, "on_train_batch_end", on_train_batch_end), pytest.raises(Killed):
        fit(tmp_path)
    again = fit(tmp_path, "--ckpt_path=last")
    assert run_differences(whole, again) == []


@pytest.mark.slow
def test_two_processes_train_what_one_trains(whole: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, str(CLI), "fit", *FLAGS, "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        [*command, f"--trainer.default_root_dir={tmp_path}"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    one, two = (
        torch.load(newest_checkpoint(folder), weights_only=True)["state_dict"]
        for folder in (whole, newest(tmp_path))
    )
    assert largest_difference(one, two) < 1e-5
    assert rows(newest(tmp_path), "val/loss") == pytest.approx(rows(whole, "val/loss"), abs=1e-5)


def test_variational_codes_and_density_weights_train(tmp_path: Path) -> None:
    folder = fit(
        tmp_path,
        "--model.init_args.variational=true",
        "--model.init_args.point_weight=density",
        "--model.init_args.version=v1",
        "--trainer.max_steps=2",
    )
    assert rows(folder, "train/kl")[0] > 0
    module: Any = zoo.load(newest_checkpoint(folder))
    assert module.network.encoder.conv_3.out_channels == 2 * SMALL["z_dim"]


@pytest.mark.parametrize("suffix", covering(["obj", "ply", "glb"], ["obj"]))
def test_predict_writes_meshes_codes_sheet_and_animation(suffix: str, tmp_path: Path) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    arguments = [*FLAGS, f"--trainer.default_root_dir={tmp_path}", f"--weights={path}"]
    arguments += [f"--model.init_args.mesh_format={suffix}", "--model.init_args.interpolate=2"]
    assert cli.main(["predict", *arguments]) == 0
    folder = newest(tmp_path) / "predictions"
    mesh: Any = trimesh.load(folder / f"shape_0001.{suffix}", force="mesh", process=True)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(0.1, abs=0.04)  # positive: normals point outwards
    with h5py.File(folder / "codes.hdf5") as file:
        assert file["zs"].shape == (2, 8)
    assert {p.name for p in folder.iterdir()} >= {
        "shapes_000.png",
        "interpolation_000.gif",
        "interpolation_000.png",
    }


def test_codes_of_all_processes_are_one_file_in_the_place_of_their_index(tmp_path: Path) -> None:
    make_own(tmp_path / PARTS)
    codes = torch.arange(10.0).view(5, 2)
    for rows_of_rank in ([0, 2, 4], [1, 3]):
        empty = [Mesh(*(np.zeros((0, 3)),) * 3)] * len(rows_of_rank)
        index = torch.tensor(rows_of_rank)
        ShapeMeshes(empty, index, rows_of_rank[0], codes=codes[index]).write(tmp_path)
    assert ShapeMeshes.merge(tmp_path) == [tmp_path / "codes.hdf5"]
    with h5py.File(tmp_path / "codes.hdf5") as file:
        assert file["zs"][:].tolist() == codes.tolist()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from zoo.imnet.report import ShapeMeshes

folder = Path(sys.argv[1])
np.savez(folder / "parts" / "codes_0.npz", index=np.arange(500), zs=np.ones((500, 64), "float32"))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    ShapeMeshes.merge(folder)
except OSError as error:
    print(error)
"""


def test_codes_that_do_not_fit_on_the_disk_are_one_line(tmp_path: Path) -> None:
    """In a process of its own, for HDF5's writer would crash it at its end."""
    (tmp_path / PARTS).mkdir()
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    wanted = f"cannot write {tmp_path}/codes.hdf5 (File too large)\n"
    assert (done.returncode, done.stdout) == (0, wanted), done.stderr
    assert not (tmp_path / "codes.hdf5").exists()


@cache
def sphere_autoencoder() -> zoo.IMAE:
    """An IMAE of :data:`SMALL` whose field is 0.5 + 4 (0.3 - |p|_approx): a ball, whatever the code."""
    torch.manual_seed(0)
    module = zoo.IMAE(**SMALL, mesh_resolution=16)  # type: ignore[arg-type]
    decoder = module.network.generator
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    for _ in range(400):
        points = torch.rand(1, 1024, 3) - 0.5
        target = (0.5 + 4 * (0.3 - points.norm(dim=2))).clamp(0, 1)
        loss = (decoder(points, torch.rand(1, 8)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def test_zoo_test_measures_grid_and_mesh(tmp_path: Path) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    assert cli.main(["test", *FLAGS, f"--trainer.default_root_dir={tmp_path}", f"--weights={path}"]) == 0
    final = json.loads((newest(tmp_path) / "summary_test.json").read_text())["final"]
    assert 0 < final["test/iou"] < 1
    assert "test/iou_input" not in final  # voxels of 16, as the grid that is scored
    assert 0.5 < final["test/largest_value"] < 2
    assert final["test/chamfer_x1000"] > 1
    assert (final["test/components"], final["test/empty"]) == (1, 0)
    assert final["test/parameters"] == sum(p.numel() for p in sphere_autoencoder().network.parameters())


def test_nothing_above_the_threshold_is_a_clear_error(tmp_path: Path, capsys: Any) -> None:
    module = zoo.IMAE(**{**SMALL, "init": "paper"}, mesh_resolution=16)  # type: ignore[arg-type]
    path = zoo.save(module, tmp_path / "new.safetensors")
    assert cli.main(["predict", *FLAGS, f"--trainer.default_root_dir={tmp_path}", f"--weights={path}"]) == 1
    text = capsys.readouterr()
    assert "meshes are empty: the largest value of their grids is 0.0" in text.out + text.err
    with pytest.raises(ValueError, match=r"threshold 0\.5"):
        check_not_empty([marching_cubes(torch.zeros(8, 8, 8))], 0.5)


def test_wrong_sizes_name_both_keys(tmp_path: Path, capsys: Any) -> None:
    flags = [*FLAGS, f"--trainer.default_root_dir={tmp_path}", "--data.init_args.input_size=32"]
    assert cli.main(["fit", *flags]) == 1
    text = capsys.readouterr()
    assert "model.init_args.input_size is 16, but the data (datamodules.Shapes) has 32" in text.out + text.err


def test_gradient_penalty_by_hand() -> None:
    critic = torch.nn.Linear(3, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 0.0, 4.0]]))
    penalty = gradient_penalty(critic, torch.zeros(5, 3), torch.ones(5, 3), torch.rand(5, 1))
    assert float(penalty.detach()) == pytest.approx((5 - 1) ** 2)


def test_each_interpolate_has_a_share_of_its_own() -> None:
    class Half(torch.nn.Module):  # |x|^2 / 2, whose gradient is x
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(dim=1, keepdim=True) / 2

    real, fake = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.zeros(2, 2)
    penalty = gradient_penalty(Half(), real, fake, torch.tensor([[0.0], [0.6]]))
    assert float(penalty.detach()) == pytest.approx(((5 - 1) ** 2 + (2 - 1) ** 2) / 2)


def test_critic_and_generator_have_the_released_signs() -> None:
    module = zoo.IMGAN(z_dim=2, width=2, hidden=4)

    class FirstNumber(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1]

    module.network.critic = FirstNumber()
    real, fake = torch.tensor([[0.9, 0.0]]), torch.tensor([[0.2, 0.0]])
    loss, distance = module._critic_loss(real, fake, torch.rand(1, 1))
    assert float(loss.detach()) == pytest.approx(0.9 - 0.2)  # |grad| is 1: no penalty
    assert float(distance.detach()) == pytest.approx(-0.7)
    assert float(module._generator_loss(fake)) == pytest.approx(0.2)  # minimised, not its negative

    class Triple(FirstNumber):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    module.network.critic = Triple()  # |grad| is 3: the penalty is 10 (3 - 1)^2
    loss, _ = module._critic_loss(real, fake, torch.rand(1, 1))
    assert float(loss.detach()) == pytest.approx(3 * 0.7 + 40, rel=1e-5)


def test_dcgan_labels_are_one_for_real_and_for_what_the_generator_wants() -> None:
    module = zoo.IMGAN(space="grid", objective="dcgan", dims=2, version="v1", input_size=28, width=2)
    module.network.critic = torch.nn.Identity()
    two, zero = torch.tensor([[2.0]]), torch.tensor([[0.0]])
    of_two, of_zero = float(functional.softplus(-two)), float(functional.softplus(zero))
    loss, _ = module._critic_loss(two, zero, torch.rand(1, 1))
    assert float(loss) == pytest.approx(of_two + of_zero)
    assert float(module._generator_loss(two)) == pytest.approx(of_two)


def test_noise_of_the_gan_has_a_fifth_of_unit_deviation() -> None:
    module = zoo.IMGAN(z_dim=64, width=2, hidden=4)
    seen: list[Tensor] = []
    module.network.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.sample_codes(500, seed=0)
    assert float(seen[0].std()) == pytest.approx(0.2, rel=0.02)


def gan_run(root: Path, autoencoder: Path, *flags: str) -> Path:
    arguments = [
        "--config=imgan_solids",
        *of_model(
            autoencoder=autoencoder, z_dim=8, width=4, input_size=16, hidden=16, samples=3, mesh_resolution=16
        ),
        *of_data(train_shapes=6, test_shapes=2, input_size=16, fine=16, batch_size=3),
        *of_trainer(max_steps=4, val_check_interval=2, enable_progress_bar=False, default_root_dir=root),
        *flags,
    ]
    assert cli.main(["fit", *arguments]) == 0
    folder = root / "imgan_solids" / "version_0"
    weights = f"--weights={newest_checkpoint(folder)}"
    for verb in ("test", "predict"):
        assert cli.main([verb, *arguments[:-1], f"--trainer.default_root_dir={root / verb}", weights]) == 0
    return folder


def test_latent_gan_learns_codes_and_draws_shapes(tmp_path: Path) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    folder = gan_run(tmp_path, path)
    module: Any = zoo.load(newest_checkpoint(folder))
    autoencoder: Any = zoo.load(path)
    assert bool(module.decodes)
    for a, b in zip(module.decoder.parameters(), autoencoder.network.generator.parameters(), strict=True):
        assert torch.equal(a, b)  # frozen
    codes = module.sample_codes(5, seed=3)
    assert torch.equal(codes, module.sample_codes(5, seed=3))
    assert 0 < float(codes.min()) < float(codes.max()) < 1
    final = json.loads(next((tmp_path / "test").rglob("summary_test.json")).read_text())["final"]
    assert 0 < final["test/cov_cd"] <= 1
    assert final["test/mmd_cd_x1000"] > 0
    assert 0 < final["test/mmd_silhouette"] < 1
    predictions = tmp_path / "predict" / "imgan_solids" / "version_0" / "predictions"
    assert len(list(predictions.glob("shape_*.obj"))) == 3


@pytest.mark.slow
def test_another_autoencoder_is_refused_naming_both(tmp_path: Path, capsys: Any) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    flags = [*of_model(autoencoder=path), *of_data(train_shapes=2, batch_size=2, test_shapes=1)]
    assert cli.main(["fit", "--config=imgan_solids", *flags, f"--trainer.default_root_dir={tmp_path}"]) == 1
    text = capsys.readouterr()
    assert "model.init_args.z_dim is 64, but the autoencoder" in text.out + text.err


@pytest.mark.parametrize(("decoder", "objective"), [("implicit", "dcgan"), ("cnn", "wgan_gp")])
def test_grid_gans_train_on_pictures(objective: str, decoder: str, tmp_path: Path) -> None:
    flags = [
        *of_model(objective=objective, decoder=decoder, width=2, encoder_width=4, input_size=32),
        *of_data(source="letters", canvas=32, batch_size=4),
        *of_trainer(max_steps=2, limit_val_batches=0),
    ]
    assert summary("fit", "imgan_mnist", tmp_path, *flags)["steps"] == 2


def svr_flags(root: Path, autoencoder: Path) -> list[str]:
    return [
        "--config=imsvr_solids",
        *of_model(autoencoder=autoencoder, z_dim=8, width=4, image_width=4, mesh_resolution=16),
        *of_data(train_shapes=4, test_shapes=2, input_size=16, fine=16, views=2, batch_size=2),
        "--previews.count=1",
        *of_trainer(max_steps=3, val_check_interval=2, enable_progress_bar=False, default_root_dir=root),
    ]


def test_single_views_learn_codes_with_a_frozen_decoder(tmp_path: Path) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    flags = svr_flags(tmp_path, path)
    assert cli.main(["fit", *flags]) == 0
    folder = tmp_path / "imsvr_solids" / "version_0"
    module: Any = zoo.load(newest_checkpoint(folder))
    autoencoder: Any = zoo.load(path)
    ours, theirs = (m.network.generator.parameters() for m in (module, autoencoder))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for verb in ("test", "predict"):
        more = [f"--trainer.default_root_dir={tmp_path / verb}", f"--weights={newest_checkpoint(folder)}"]
        assert cli.main([verb, *flags, *more]) == 0
    final = json.loads(next((tmp_path / "test").rglob("summary_test.json")).read_text())["final"]
    assert final["test/chamfer_x1000"] > 0
    assert len(list((tmp_path / "predict").rglob("shape_*.obj"))) == 2


def test_single_views_need_an_autoencoder_and_views(tmp_path: Path, capsys: Any) -> None:
    flags = svr_flags(tmp_path, tmp_path)
    assert cli.main(["fit", *flags, "--model.init_args.autoencoder=null"]) == 1
    text = capsys.readouterr()
    assert "set model.init_args.autoencoder" in text.out + text.err
    assert cli.main(["fit", *flags, "--data.init_args.views=0"]) == 1
    text = capsys.readouterr()
    assert "set data.init_args.views to 24" in text.out + text.err


def test_batch_norm_of_the_image_encoder_is_frozen_at_test() -> None:
    module = IMSVR(z_dim=4, width=2, image_width=4).eval()
    view = torch.rand(3, 1, 128, 128)
    together = module.network.img_encoder(view)
    alone = module.network.img_encoder(view[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_codes_between_are_linear_and_scored_by_the_best_template() -> None:
    codes = between(torch.zeros(2), torch.tensor([10.0, 20.0]), 9)
    assert codes[:, 0].tolist() == pytest.approx(list(range(1, 10)))
    templates = torch.eye(4).view(4, 2, 2)
    grids = torch.stack([torch.eye(4)[2].view(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])])
    assert interpolation_score(grids, templates, 0.5) == pytest.approx((1 + 0.5) / 2)


def test_a_mesh_of_a_cnn_is_resampled_linearly() -> None:
    module = zoo.CNNAE(version="v2", input_size=16, z_dim=4, encoder_width=4).eval()
    with torch.no_grad():
        mesh = extract_mesh(module.network.generator, torch.rand(4), "v2", 32, 0.0, 0)
    # all cells are above 0: the cube and the half cell of zeros around it
    assert mesh.vertices.min() == -0.515625
    data = Shapes(train_shapes=1, test_shapes=1, input_size=16)
    assert data.dims == module.dims


@pytest.mark.parametrize("bounded", [True, False])
def test_a_code_is_found_again_from_its_field_alone(bounded: bool) -> None:
    torch.manual_seed(0)
    decoder = zoo.IMAE(**SMALL).network.generator  # type: ignore[arg-type]
    codes, points, start = 0.05 + 0.9 * torch.rand(2, 8), torch.rand(2, 256, 3), torch.full((2, 8), 0.5)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            weight.mul_(1.6 if name.endswith("weight") else 1)  # a field that varies with the code
        values = decoder(points - 0.5, codes)

    @torch.no_grad()
    def loss(z: Tensor) -> Tensor:
        return (decoder(points - 0.5, z) - values).square().mean(dim=1)

    with torch.inference_mode():
        found = optimised_codes(decoder, start, points, values, "v2", 200, 0.05, bounded)
        none = optimised_codes(decoder, start, points, values, "v2", 0, 0.05, bounded)
        wild = optimised_codes(decoder, codes, points, values, "v2", 3, 50.0, bounded)
    assert torch.equal(none, start)
    share = loss(found) / loss(start)
    assert share[0] < 0.3  # a local minimum
    assert share[1] < 0.01
    assert not bounded or bool(((found > 0) & (found < 1)).all())
    assert torch.allclose(wild, codes, atol=1e-5)  # steps that only make it worse leave the code as it was
    assert all(p.grad is None for p in decoder.parameters())


def test_codes_fitted_at_test_lower_the_error(tmp_path: Path) -> None:
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    errors = []
    for steps in (0, 100):
        flags = [*FLAGS, f"--trainer.default_root_dir={tmp_path}", f"--weights={path}"]
        assert cli.main(["test", *flags, f"--model.init_args.code_steps={steps}"]) == 0
        final = json.loads((newest(tmp_path) / "summary_test.json").read_text())["final"]
        errors.append(final["test/mse"])
    assert errors[1] < 0.8 * errors[0]


def test_a_shape_without_points_is_fitted_at_the_centres_of_its_voxels() -> None:
    torch.manual_seed(0)
    module = zoo.IMAE(**SMALL, code_steps=50).eval()  # type: ignore[arg-type]
    voxels = torch.zeros(1, 1, 16, 16, 16)
    voxels[..., 4:, 2:9, :7] = 1

    def error(z: Tensor) -> Tensor:
        grid = decoded_grids(module.network.generator, z, "v2", 16, 3, 4096)
        return (grid - voxels[:, 0]).square().mean()

    with torch.no_grad():
        assert error(module.codes_of({"voxels": voxels})) < error(module.network.encode(voxels))


def test_scores_are_given_by_category_and_averaged_over_them(tmp_path: Path) -> None:
    fake_shapes(tmp_path / "all_vox256_img_train.hdf5", "v2", 1)
    fake_shapes(tmp_path / "all_vox256_img_test.hdf5", "v2", 3)
    # names of folders: spaces, a dot, and one that a ModuleDict would not take
    (tmp_path / "all_vox256_img_test.txt").write_text("items/0 0\nitems/1\na v1.0/2\n")
    path = zoo.save(sphere_autoencoder(), tmp_path / "ball.safetensors")
    flags = [
        *(f for f in FLAGS if "train_shapes" not in f and "test_shapes" not in f),
        *of_data(source="hdf5", root=tmp_path, fine=32),
        f"--trainer.default_root_dir={tmp_path}",
        f"--weights={path}",
    ]
    assert cli.main(["test", *flags]) == 0
    final = json.loads((newest(tmp_path) / "summary_test.json").read_text())["final"]
    of_a, of_b = final["test/iou/a v1.0"], final["test/iou/items"]
    assert of_a != of_b
    assert final["test/iou"] == pytest.approx((of_a + 2 * of_b) / 3, rel=1e-5)
    assert final["test/category_mean_iou"] == pytest.approx((of_a + of_b) / 2, rel=1e-5)
    assert final["test/iou_input"] != final["test/iou"]  # 16 against 32


def test_empty_meshes_are_told_beside_the_scores(tmp_path: Path) -> None:
    module = zoo.IMAE(**{**SMALL, "init": "paper"}, mesh_resolution=16)  # type: ignore[arg-type]
    path = zoo.save(module, tmp_path / "new.safetensors")
    with pytest.warns(UserWarning, match=r"test/empty is 1\.000"):
        assert cli.main(["test", *FLAGS, f"--trainer.default_root_dir={tmp_path}", f"--weights={path}"]) == 0
