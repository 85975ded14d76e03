"""The LightningModule of the baseline: the same encoder, a transposed-convolution decoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric

from zoo.callbacks.predictions import GeneratedImages
from zoo.imnet.decoding import (
    ShapeScores,
    between,
    check_not_empty,
    decoded_grids,
    extract_mesh,
    grid_scores,
    interpolation_score,
    surface_scores,
)
from zoo.imnet.field import Version, kl_divergence
from zoo.imnet.network import CNNDecoder, ShapeAutoencoder, ShapeEncoder
from zoo.imnet.report import MeshFormat, ShapeMeshes, ShapePictures, preview_of, reconstructions
from zoo.imnet.setup import INTERPOLATED, check_data, check_version, optimisers, z_dim_of
from zoo.randomness import local_rows, step_generator

_SHOWN = 4


class CNNAE(LightningModule):
    """CNN-AE, the paper's baseline of equal code size: voxels -> code -> voxels, mean squared error.

    A batch is that of :class:`zoo.IMAE`, of which it takes ``voxels`` alone. Above the side of its output,
    grids are resampled linearly.

    Args:
        version: of the encoder, ``v1`` (batch norm, the paper) or ``v2`` (instance norm).
        dims: 3, or 2 for pictures.
        input_size: side of input and output.
        z_dim: size of the code; null is 128 in v1, 256 in v2, 100 in 2-D.
        encoder_width: channels of the encoder's first layer and the decoder's last but one; null is 32, 16
            in 2-D.
        norm_momentum: of the batch norms.
        variational: CNN-VAE.
        kl_weight: of the divergence, per voxel of the loss.
        threshold: of the inside.
        mesh_resolution: side of the grid that meshes are extracted from.
        mesh_format: ``obj``, ``ply`` or ``glb``.
        compile: compile encoder and decoder with ``torch.compile``.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer, stepped every optimiser step.
    """

    def __init__(
        self,
        version: Version = "v1",
        dims: int = 3,
        input_size: int = 64,
        z_dim: int | None = None,
        encoder_width: int | None = None,
        norm_momentum: float = 0.001,
        variational: bool = False,
        kl_weight: float = 1e-5,
        threshold: float = 0.5,
        mesh_resolution: int = 64,
        mesh_format: MeshFormat = "obj",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        check_version(version, dims)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.version, self.dims = version, dims
        self.z_dim = z_dim_of(z_dim, version, dims)
        outputs = 2 * self.z_dim if variational else self.z_dim
        base = encoder_width or (32 if dims == 3 else 16)
        encoder = ShapeEncoder(outputs, input_size, base, version, dims, norm_momentum)
        decoder = CNNDecoder(self.z_dim, input_size, base, dims, norm_momentum)
        self.network = ShapeAutoencoder(encoder, decoder, variational)
        self.val_loss, self.val_iou, self.test_scores = MeanMetric(), MeanMetric(), ShapeScores()
        self._shown: Tensor | None = None

    def setup(self, stage: str) -> None:
        check_data(self)
        if self.hparams["compile"]:
            self.network.encoder.compile()
            self.network.generator.compile()

    def configure_optimizers(self) -> Any:
        return optimisers(self, self.network.parameters())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        voxels, h = batch["voxels"], self.hparams
        if h["variational"]:
            g = step_generator(self, batch_idx)
            mean, log_variance = self.network.posterior(voxels)
            size = len(mean) * self.trainer.world_size
            noise = torch.randn(size, self.z_dim, generator=g, device=g.device)
            z = mean + local_rows(self, noise) * (0.5 * log_variance).exp()
        else:
            z = self.network.encode(voxels)
        loss = functional.mse_loss(self.network.generator(z).float(), voxels[:, 0])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(voxels), sync_dist=True)
        if h["variational"]:
            loss = loss + h["kl_weight"] * kl_divergence(mean.float(), log_variance.float()).mean()
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        voxels = batch["voxels"]
        grids = self._grids(self.network.encode(voxels), voxels.shape[-1])
        self.val_loss.update((grids - voxels[:, 0]).square().flatten(1).mean(dim=1))
        for grid, truth in zip(grids, voxels[:, 0], strict=True):
            self.val_iou.update(grid_scores(grid, truth, self.hparams["threshold"])["iou"])
        if batch_idx == 0:
            self._shown = voxels[:_SHOWN]

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute(), prog_bar=True, sync_dist=True)
        self.log("val/iou", self.val_iou.compute(), prog_bar=True, sync_dist=True)
        self.val_loss.reset()
        self.val_iou.reset()

    def _grids(self, z: Tensor, resolution: int) -> Tensor:
        return decoded_grids(self.network.generator, z, self.version, resolution, self.dims, 0)

    def _mesh(self, z: Tensor) -> Any:
        h = self.hparams
        return extract_mesh(self.network.generator, z, self.version, h["mesh_resolution"], h["threshold"], 0)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        z, threshold = self.network.encode(batch["voxels"]), self.hparams["threshold"]
        fine = batch["fine"] if self.dims == 3 else batch["voxels"][:, 0]
        for row, grid in enumerate(self._grids(z, fine.shape[-1])):
            scores = grid_scores(grid, fine[row], threshold)
            if self.dims == 3:
                scores |= surface_scores(self._mesh(z[row]), batch["surface"][row], int(batch["index"][row]))
            elif "partner" in batch:
                end = self.network.encode(batch["partner"][row : row + 1])[0]
                grids = self._grids(between(z[row], end, INTERPOLATED), fine.shape[-1])
                templates = self.trainer.datamodule.templates  # type: ignore[attr-defined]
                scores["interpolation_iou"] = interpolation_score(grids, templates, threshold)
            self.test_scores.add(scores)

    def on_test_epoch_end(self) -> None:
        values = self.test_scores.collect()
        values["test/parameters"] = float(sum(p.numel() for p in self.network.parameters()))
        self.log_dict(values, sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ShapeMeshes | ShapePictures:
        z, index = self.network.encode(batch["voxels"]), batch["index"].cpu()
        number = batch_idx * self.trainer.world_size + self.global_rank
        inputs = batch["voxels"][:, 0].cpu()
        if self.dims == 3:
            meshes = [self._mesh(code) for code in z]
            check_not_empty(meshes, self.hparams["threshold"])
            return ShapeMeshes(
                meshes, index, number, self.hparams["mesh_format"], inputs, z.cpu(), [], self.global_rank
            )
        strips, size = None, inputs.shape[-1]
        if "partner" in batch:
            ends = self.network.encode(batch["partner"])
            rows = [
                torch.cat([a[None], between(a, b, INTERPOLATED), b[None]])
                for a, b in zip(z[:12], ends[:12], strict=True)
            ]
            strips = torch.stack([self._grids(codes, size) for codes in rows]).cpu()
        return ShapePictures(inputs, self._grids(z, size).cpu(), index, number, strips)

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """Input and reconstruction of the first validation shapes."""
        if self._shown is None:
            return {}
        shown = self._shown[: max(1, count)]
        grids = self._grids(self.network.encode(shown), self.hparams["input_size"])
        return preview_of(reconstructions(shown[:, 0], grids, self.hparams["threshold"]))

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"voxels": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Voxels for ``zoo export``, whose file gives voxels."""
        size = [self.hparams["input_size"]] * self.dims
        return {"voxels": (torch.rand(batch, 1, *size, device=self.device) > 0.5).float()}
