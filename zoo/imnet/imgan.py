"""The LightningModule of IM-GAN: a WGAN-GP on the codes of an autoencoder, or on whole shapes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from zoo.imnet.decoding import check_not_empty, decoded_grids, extract_mesh
from zoo.imnet.extraction import Mesh
from zoo.imnet.field import Version
from zoo.imnet.network import (
    CNNDecoder,
    GridGAN,
    ImplicitDecoder,
    Init,
    LatentGAN,
    LatentLayers,
    ShapeEncoder,
)
from zoo.imnet.quality import chamfer, coverage_and_mmd, sample_surface, silhouette_distance
from zoo.imnet.report import MeshFormat, ShapeMeshes, ShapePictures, preview_of, reconstructions
from zoo.imnet.setup import check_version, load_autoencoder, training_codes, z_dim_of
from zoo.nn.data_fit import DataSizes, check_fit, misfit, told
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Count, Fraction, Many, NonNegative, Size, check_ranges
from zoo.randomness import generator, global_seed, step_generator
from zoo.reports import GeneratedImages

_SAMPLES = 140
_POINTS = 2048
_PREVIEWED = 4


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E (|grad D(x)| - 1)^2 at x = real + share (fake - real), ``share`` (B, 1, ...) of each sample."""
    between = torch.lerp(real, fake, share).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


class IMGAN(LightningModule):
    """IM-GAN (Chen & Zhang, CVPR 2019): a WGAN-GP on the codes that an IM-AE gives the training shapes.

    The sign is that of the released code: the critic minimises
    ``E D(real) - E D(fake) + 10 E(|grad| - 1)^2``, the generator ``E D(fake)``. Interpolates
    have a share per sample (the release draws one per batch) and batches are shuffled. ``space: grid`` trains
    on whole shapes instead, the generator being the decoder itself and the critic the encoder with one
    output: the 2-D experiments, as WGAN-GP or DCGAN.

    A batch has ``code`` (B, Z), or ``index`` (B,) and ``autoencoder`` encodes all shapes once at the start,
    or for ``space: grid`` ``voxels``. It runs on one device.

    Args:
        autoencoder: name or path of a :class:`zoo.IMAE`, whose decoder becomes part of this model; null
            needs ``code`` in the data, and draws no shapes.
        space: ``latent`` or ``grid``.
        objective: ``wgan_gp`` or, in grid space, ``dcgan``.
        decoder: of grid space, ``implicit`` or ``cnn``.
        version: of decoder and critic, see :class:`zoo.IMAE`, as all down to ``init``.
        dims: 3 or 2.
        input_size: side of shapes in grid space.
        z_dim: Z; the noise has as many numbers.
        width: of the decoder.
        encoder_width: of the critic in grid space.
        norm_momentum: of batch norms in grid space.
        init: of the decoder in grid space.
        hidden: width of the latent generator and critic.
        noise: standard deviation of the noise.
        penalty: weight of the gradient penalty.
        critic_steps: of the critic, per step of the generator.
        samples: shapes that ``zoo test`` draws and compares with the test shapes, and ``zoo predict`` writes.
        threshold: of the inside.
        mesh_resolution: side of the grid of meshes.
        mesh_format: ``obj``, ``ply`` or ``glb``.
        points_per_chunk: points decoded at once.
        optimizer: of the generator, called with its parameters.
        critic_optimizer: of the critic.
    """

    codes: Tensor
    decodes: Tensor

    data_sizes: ClassVar[DataSizes] = {"dims": "dims"}

    def __init__(
        self,
        autoencoder: str | None = None,
        space: Literal["latent", "grid"] = "latent",
        objective: Literal["wgan_gp", "dcgan"] = "wgan_gp",
        decoder: Literal["implicit", "cnn"] = "implicit",
        version: Version = "v2",
        dims: Size = 3,
        input_size: Size | None = None,
        z_dim: Size | None = None,
        width: Size | None = None,
        encoder_width: Size | None = None,
        norm_momentum: Fraction = 0.001,
        init: Init = "paper",
        hidden: Size = 2048,
        noise: NonNegative = 0.2,
        penalty: NonNegative = 10.0,
        critic_steps: Count = 1,
        samples: Many = 32,
        threshold: Fraction = 0.5,
        mesh_resolution: Size = 64,
        mesh_format: MeshFormat = "obj",
        points_per_chunk: Many = 65536,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
        critic_optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
    ) -> None:
        check_ranges(IMGAN, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "critic_optimizer"])
        check_version(version, dims)
        self._check_settings()
        self.automatic_optimization = False
        self.optimizer, self.critic_optimizer = optimizer, critic_optimizer
        self.version, self.dims = version, dims
        self.z_dim = z_dim_of(z_dim, version, dims)
        self.generator_width = width or (128 if dims == 3 else 64)
        self.decoder: nn.Module | None = None
        if space == "latent":
            self.network: Any = LatentGAN(
                LatentLayers(self.z_dim, self.z_dim, hidden), LatentLayers(self.z_dim, 1, hidden)
            )
            self.decoder = ImplicitDecoder(self.z_dim, dims, self.generator_width, version)
            self.decoder.requires_grad_(False)
        else:
            size, base = input_size or 64, encoder_width or (32 if dims == 3 else 16)
            drawn: nn.Module = (
                ImplicitDecoder(self.z_dim, dims, self.generator_width, version, init)
                if decoder == "implicit"
                else CNNDecoder(self.z_dim, size, base, dims, norm_momentum)
            )
            self.network = GridGAN(
                drawn, ShapeEncoder(1, size, base, version, dims, norm_momentum), version, size, dims
            )
        self.register_buffer("decodes", torch.tensor(space == "grid"))
        self.register_buffer("codes", torch.zeros(0, self.z_dim), persistent=False)
        self._references: list[np.ndarray[Any, Any]] = []

    def _check_settings(self) -> None:
        h = self.hparams
        for name, choices in (
            ("space", ("latent", "grid")),
            ("objective", ("wgan_gp", "dcgan")),
            ("decoder", ("implicit", "cnn")),
        ):
            if h[name] not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {h[name]!r}")
        if h["space"] == "latent" and h["objective"] == "dcgan":
            raise ValueError("the latent GAN is a WGAN-GP; objective: dcgan needs space: grid")

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_processes(self, "trains two small networks", "; run seeds side by side")
        check_fit(self)
        side = told(getattr(self.trainer, "datamodule", None), "input_size")
        default = 64 if self.hparams["space"] == "grid" else side
        if side is not None and (self.hparams["input_size"] or default) != side:
            raise misfit(self, "input_size", side)
        name = self.hparams["autoencoder"]
        if stage != "fit" or self.hparams["space"] == "grid" or name is None:
            return
        autoencoder: Any = load_autoencoder(self, name)
        assert self.decoder is not None
        self.decoder.load_state_dict(autoencoder.network.generator.state_dict())
        self.decodes.fill_(True)
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "codes_path", None) is None:
            self.codes = training_codes(autoencoder, data.train_set, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        return [
            self.optimizer(self.network.generator.parameters()),
            self.critic_optimizer(self.network.critic.parameters()),
        ]

    @property
    def trained_on(self) -> frozenset[str]:
        """Keys of a batch that a training step takes, so that data read no others."""
        return frozenset({"voxels"} if self.hparams["space"] == "grid" else {"code"})

    # --- training ---------------------------------------------------------------------------------------

    def _real(self, batch: dict[str, Tensor]) -> Tensor:
        if self.hparams["space"] == "grid":
            return batch["voxels"]
        if "code" in batch:
            return batch["code"]
        if not len(self.codes):
            raise ValueError(
                "zoo.IMGAN needs codes: set model.init_args.autoencoder to a trained zoo.IMAE, or "
                "data.init_args.codes to a file of them"
            )
        return self.codes[batch["index"]]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        g, real = step_generator(self, batch_idx), self._real(batch)
        draws: Any = {"generator": g, "device": g.device}
        for _ in range(self.hparams["critic_steps"]):
            noise = torch.randn(len(real), self.z_dim, **draws) * self.hparams["noise"]
            share = torch.rand(len(real), *[1] * (real.ndim - 1), **draws)
            with torch.no_grad():
                fake = self.network(noise).view_as(real)
            critic_loss, distance = self._critic_loss(real, fake, share)
            self._update(optimizers[1].optimizer, critic_loss)
        # the same noise as the critic's last step
        drawn = self.network(noise).view_as(real)
        loss = self._generator_loss(drawn)
        self.network.critic.requires_grad_(False)
        optimizers[0].zero_grad()
        self.manual_backward(loss)
        self.network.critic.requires_grad_(True)
        optimizers[0].step()
        size = len(real)
        self.log("train/critic_loss", critic_loss.detach(), prog_bar=True, batch_size=size)
        self.log("train/generator_loss", loss.detach(), prog_bar=True, batch_size=size)
        self.log("train/distance", distance.detach(), prog_bar=True, batch_size=size)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """A step that does not count as one of the trainer's: a batch is one step."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def _generator_loss(self, drawn: Tensor) -> Tensor:
        scores: Tensor = self.network.critic(drawn)
        if self.hparams["objective"] == "dcgan":
            return functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
        return scores.mean()

    def _critic_loss(self, real: Tensor, fake: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and E D(fake) - E D(real): how far apart the critic holds the two."""
        critic = self.network.critic
        of_real, of_fake = critic(real), critic(fake)
        distance = of_fake.mean() - of_real.mean()
        if self.hparams["objective"] == "dcgan":
            loss = functional.binary_cross_entropy_with_logits(of_real, torch.ones_like(of_real))
            return loss + functional.binary_cross_entropy_with_logits(
                of_fake, torch.zeros_like(of_fake)
            ), -distance
        penalty = gradient_penalty(critic, real, fake, share)
        return -distance + self.hparams["penalty"] * penalty, distance

    # --- evaluation -------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Nothing is measured: previews show what the generator draws."""

    @torch.no_grad()
    def sample_codes(self, count: int, seed: int | None = None) -> Tensor:
        """Codes (count, Z) of latent space, a function of the seed."""
        g = generator(_SAMPLES, global_seed() if seed is None else seed, device=self.device)
        noise = torch.randn(count, self.z_dim, generator=g, device=self.device) * self.hparams["noise"]
        codes: Tensor = noise if self.hparams["space"] == "grid" else self.network(noise)
        return codes

    def _shapes(self) -> nn.Module:
        """The decoder of drawn codes."""
        if not self.decodes:
            raise ValueError(
                "this zoo.IMGAN was trained on codes alone and has no decoder: train it with "
                "model.init_args.autoencoder"
            )
        found: nn.Module = self.network.generator if self.decoder is None else self.decoder
        return found

    def _mesh(self, z: Tensor) -> Mesh:
        h = self.hparams
        return extract_mesh(
            self._shapes(), z, self.version, h["mesh_resolution"], h["threshold"], h["points_per_chunk"]
        )

    def _grids(self, z: Tensor, size: int) -> Tensor:
        return decoded_grids(
            self._shapes(), z, self.version, size, self.dims, self.hparams["points_per_chunk"]
        )

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.dims == 3:
            self._references += list(batch["surface"][:, :_POINTS].cpu().numpy())
        else:
            self._references += list(batch["voxels"][:, 0].cpu().numpy())

    def on_test_epoch_end(self) -> None:
        """COV and MMD of the drawn shapes against the test shapes, by Chamfer distance and by silhouettes."""
        references, self._references = self._references, []
        codes = self.sample_codes(self.hparams["samples"])
        if self.dims == 2:
            drawn = self._grids(codes, references[0].shape[-1]).flatten(1)
            truth = torch.from_numpy(np.stack(references)).flatten(1).to(drawn.device)
            distances = (torch.cdist(drawn, truth).square() / truth.shape[1]).cpu().numpy()
            coverage, mmd = coverage_and_mmd(distances)
            self.log_dict({"test/cov_mse": coverage, "test/mmd_mse_x1000": 1000 * mmd})
            return
        meshes = [m for m in map(self._mesh, codes) if not m.empty]
        self.log("test/empty", 1 - len(meshes) / len(codes))
        if not meshes:
            check_not_empty([self._mesh(codes[0])], self.hparams["threshold"])
        points = [sample_surface(m, _POINTS, np.random.default_rng(n)) for n, m in enumerate(meshes)]
        for name, distance, scale in (("cd", chamfer, 1000.0), ("silhouette", silhouette_distance, 1.0)):
            table = np.array([[distance(a, b) for b in references] for a in points])
            coverage, mmd = coverage_and_mmd(table)
            suffix = "_x1000" if scale != 1 else ""
            self.log_dict({f"test/cov_{name}": coverage, f"test/mmd_{name}{suffix}": scale * mmd})

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ShapeMeshes | ShapePictures:
        """The samples that belong to this batch's places: batches deal out ``samples`` in turn."""
        index = batch["index"].cpu()
        index = torch.arange(self.hparams["samples"]) if batch_idx == 0 else index[:0]
        codes = self.sample_codes(self.hparams["samples"])[index.to(self.device)]
        if self.dims == 2:
            return ShapePictures(None, self._grids(codes, batch["voxels"].shape[-1]).cpu(), index, batch_idx)
        meshes = [self._mesh(z) for z in codes]
        check_not_empty(meshes, self.hparams["threshold"])
        return ShapeMeshes(meshes, index, batch_idx, self.hparams["mesh_format"])

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """Shapes of the same noise at each validation."""
        if not self.decodes:
            return {}
        codes = self.sample_codes(max(1, min(count, _PREVIEWED)))
        grids = self._grids(codes, self.hparams["input_size"] or 32)
        return preview_of(reconstructions(grids, grids, self.hparams["threshold"])[1::2])

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"noise": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Noise for ``zoo export``, whose file gives codes, or in grid space shapes."""
        noise = torch.randn(batch, self.z_dim, device=self.device) * self.hparams["noise"]
        return {"noise": noise}
