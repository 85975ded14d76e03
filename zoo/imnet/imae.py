"""The LightningModule of IM-AE: a shape autoencoder whose decoder is an implicit field."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from zoo.imnet.decoding import optimised_codes
from zoo.imnet.field import (
    PointSampling,
    PointWeight,
    Version,
    chosen_points,
    coordinates,
    density_weights,
    field_loss,
    grid_points,
)
from zoo.imnet.module import AutoencoderModule
from zoo.imnet.network import ImplicitDecoder, Init, ShapeAutoencoder
from zoo.imnet.report import MeshFormat
from zoo.nn.ranges import CountOrZero, DepthOrZero, Fraction, Many, NonNegative, Positive, Size, check_ranges
from zoo.randomness import local_rows, step_generator


class IMAE(AutoencoderModule):
    """IM-AE (Chen & Zhang, CVPR 2019): an encoder of voxels and an implicit decoder f(p, z).

    A batch is a dict with ``voxels`` float32 (B, 1, S, S, S) (or (B, 1, S, S)), ``points`` (B, P, D) in the
    unit cube, ``values`` (B, P) and ``resolution`` int64 (B,): the same network is trained on the point sets
    of 16, 32 and 64 in turn, and where the resolution changes the optimiser starts anew. For tests and
    prediction also ``fine`` (B, R, R, R) and ``surface`` (B, N, 6).

    Args:
        version: ``v1``, the paper (batch norm, skips, sigmoid), or ``v2``, the improved code (instance norm,
            no skips, leaky clamp).
        dims: 3, or 2 for pictures (use ``version: v1``, the paper's).
        input_size: side S of the encoder's input.
        z_dim: size of the code; null is 256 in v2, 128 in v1, 100 in 2-D (128 where variational).
        width: of the decoder's last hidden layer; null is 128, 64 in 2-D.
        encoder_width: channels of the encoder's first layer; null is 32, 16 in 2-D.
        norm_momentum: of the encoder's batch norm in v1.
        variational: IM-VAE: the encoder gives mean and log-variance, codes end in no sigmoid.
        kl_weight: of the divergence, per point of the loss.
        init: of the decoder, ``paper`` or ``he``.
        point_weight: ``density`` weighs points by the inverse of their density, as the paper's text; ``none``
            is all released code.
        points_per_shape: points of a shape that a step sees; null is all.
        point_sampling: ``random`` for each shape, ``contiguous`` blocks as the PyTorch release, or
            ``consecutive`` blocks over the epochs, the chunks of v1.
        reset_optimizer_each_stage: start the optimiser anew where the resolution changes.
        threshold: of the inside.
        mesh_resolution: side of the grid that meshes are extracted from, coarse to fine.
        mesh_format: ``obj``, ``ply`` or ``glb``.
        refine: move the vertices of predicted meshes to the threshold (may fold them over).
        interpolate: predict also so many shapes between each two of a batch, as an animation.
        code_steps: fit the codes of tests and predictions to their shapes' points by so many steps of Adam,
            the decoder held fixed (the auto-decoder's way); for shapes unlike those of training.
        code_lr: of these steps.
        points_per_chunk: points decoded at once outside training, which bounds the memory.
        compile: compile encoder and decoder with ``torch.compile``.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer, stepped every optimiser step.

    Raises:
        ValueError: for impossible settings.
    """

    trained_on: ClassVar[frozenset[str]] = frozenset({"voxels", "points", "values"})
    """Keys of a batch that a training step takes, so that data read no others."""

    def __init__(
        self,
        version: Version = "v2",
        dims: Size = 3,
        input_size: Size = 64,
        z_dim: Size | None = None,
        width: Size | None = None,
        encoder_width: Size | None = None,
        norm_momentum: Fraction = 0.001,
        variational: bool = False,
        kl_weight: NonNegative = 1e-5,
        init: Init = "paper",
        point_weight: PointWeight = "none",
        points_per_shape: Many | None = 4096,
        point_sampling: PointSampling = "random",
        reset_optimizer_each_stage: bool = True,
        threshold: Fraction = 0.5,
        mesh_resolution: Size = 64,
        mesh_format: MeshFormat = "obj",
        refine: bool = False,
        interpolate: DepthOrZero = 0,
        code_steps: CountOrZero = 0,
        code_lr: Positive = 0.05,
        points_per_chunk: Many = 65536,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(IMAE, locals())
        super().__init__(version, dims, z_dim, variational)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for name, value, choices in (
            ("point_weight", point_weight, ("none", "density")),
            ("point_sampling", point_sampling, ("random", "contiguous", "consecutive")),
            ("init", init, ("paper", "he")),
            ("mesh_format", mesh_format, ("obj", "ply", "glb")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.generator_width = width or (128 if dims == 3 else 64)
        encoder = self.encoder()
        generator = ImplicitDecoder(self.z_dim, dims, self.generator_width, version, init)
        self.network = ShapeAutoencoder(encoder, generator, variational)
        self.stage_resolution = 0

    # --- training ---------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        resolution = int(batch["resolution"][0])
        if self.stage_resolution not in (0, resolution) and self.hparams["reset_optimizer_each_stage"]:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()  # each stage of the release is a process of its own
        self.stage_resolution = resolution

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        h, g = self.hparams, step_generator(self, batch_idx)
        points, values = self._chosen(batch, g)
        z, divergence = self.drawn_codes(batch["voxels"], g)
        predicted = self.network.generator(coordinates(points, self.version), z).float()
        weight = density_weights(points) if h["point_weight"] == "density" else None
        size = len(values)
        self.log("stage/resolution", float(self.stage_resolution), batch_size=size)
        return self.whole_loss(field_loss(predicted, values, weight), divergence, size)

    def _chosen(self, batch: dict[str, Tensor], g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points and values of this step, drawn for the global batch."""
        points, values = batch["points"], batch["values"]
        h = self.hparams
        rows = local_rows(
            self,
            chosen_points(
                len(points) * self.trainer.world_size,
                points.shape[1],
                h["points_per_shape"],
                h["point_sampling"],
                g,
                int(batch["epoch"][0]) if "epoch" in batch else 0,
            ),
        )
        return (
            points.gather(1, rows[:, :, None].expand(-1, -1, self.dims)),
            values.gather(1, rows),
        )

    # --- evaluation -------------------------------------------------------------------------------------

    def codes_of(self, batch: dict[str, Tensor]) -> Tensor:
        z, h = super().codes_of(batch), self.hparams
        if not h["code_steps"]:
            return z
        if "points" in batch:
            points, values = batch["points"], batch["values"]
        else:  # of a shape's voxels alone, their centres
            values = batch["voxels"].flatten(1)
            points = grid_points(h["input_size"], self.dims, z.device).expand(len(z), -1, -1)
        return optimised_codes(
            self.network.generator,
            z,
            points,
            values,
            self.version,
            h["code_steps"],
            h["code_lr"],
            bounded=not h["variational"],
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        z = self.network.encode(batch["voxels"])
        h = self.hparams
        points, values = batch["points"], batch["values"]
        if h["points_per_shape"] is not None:  # as many as a step sees, of the whole stored order
            every = max(1, points.shape[1] // h["points_per_shape"])
            points, values = points[:, ::every], values[:, ::every]
        predicted = self.network.generator(coordinates(points, self.version), z).float()
        self.val_loss.update((predicted - values).square().mean(dim=1))
        self.add_iou(self.grids(z, h["input_size"]), batch["voxels"][:, 0])
        self.show(batch, batch_idx)

    # --- checkpoints, export ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage_resolution"] = self.stage_resolution

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.stage_resolution = int(checkpoint.get("stage_resolution", 0))

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {
        "voxels": {0: "batch"},
        "points": {0: "batch", 1: "points"},
    }

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Voxels and points (in the decoder's coordinates) for ``zoo export``, whose file gives values."""
        size, device = self.hparams["input_size"], self.device
        unit = torch.rand(batch, 16 * batch, self.dims, device=device)
        return {
            "voxels": (torch.rand(batch, 1, *[size] * self.dims, device=device) > 0.5).float(),
            "points": coordinates(unit, self.version),
        }
