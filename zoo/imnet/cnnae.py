"""The LightningModule of the baseline: the same encoder, a transposed-convolution decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional

from zoo.imnet.field import Version
from zoo.imnet.module import AutoencoderModule
from zoo.imnet.network import CNNDecoder, ShapeAutoencoder
from zoo.imnet.report import MeshFormat
from zoo.nn.ranges import Fraction, NonNegative, Size, check_ranges
from zoo.randomness import step_generator


class CNNAE(AutoencoderModule):
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

    trained_on: ClassVar[frozenset[str]] = frozenset({"voxels"})
    """Keys of a batch that a training step takes, so that data read no others."""

    def __init__(
        self,
        version: Version = "v1",
        dims: Size = 3,
        input_size: Size = 64,
        z_dim: Size | None = None,
        encoder_width: Size | None = None,
        norm_momentum: Fraction = 0.001,
        variational: bool = False,
        kl_weight: NonNegative = 1e-5,
        threshold: Fraction = 0.5,
        mesh_resolution: Size = 64,
        mesh_format: MeshFormat = "obj",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(CNNAE, locals())
        super().__init__(version, dims, z_dim, variational)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        encoder = self.encoder()
        decoder = CNNDecoder(self.z_dim, input_size, self.base_width, dims, norm_momentum)
        self.network = ShapeAutoencoder(encoder, decoder, variational)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        voxels = batch["voxels"]
        z, divergence = self.drawn_codes(voxels, step_generator(self, batch_idx))
        loss = functional.mse_loss(self.network.generator(z).float(), voxels[:, 0])
        return self.whole_loss(loss, divergence, len(voxels))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        voxels = batch["voxels"]
        grids = self.grids(self.network.encode(voxels), voxels.shape[-1])
        self.val_loss.update((grids - voxels[:, 0]).square().flatten(1).mean(dim=1))
        self.add_iou(grids, voxels[:, 0])
        self.show(batch, batch_idx)

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"voxels": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Voxels for ``zoo export``, whose file gives voxels."""
        size = [self.hparams["input_size"]] * self.dims
        return {"voxels": (torch.rand(batch, 1, *size, device=self.device) > 0.5).float()}
