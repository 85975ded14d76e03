"""The LightningModule of IM-SVR: a shape from a single view, through the codes of an autoencoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional

from zoo.imnet.extraction import marching_cubes
from zoo.imnet.field import Version, coordinates
from zoo.imnet.module import SHOWN, ShapeModule
from zoo.imnet.network import ImageEncoder, ImplicitDecoder, SingleView
from zoo.imnet.render import render
from zoo.imnet.report import MeshFormat, ShapeMeshes, enlarged, preview_of
from zoo.imnet.setup import load_autoencoder, training_codes
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import Fraction, Many, Size, check_ranges
from zoo.reports import GeneratedImages

VIEW_SIDE = 128


class IMSVR(ShapeModule):
    """IM-SVR (Chen & Zhang, CVPR 2019): an image encoder learns the codes of a trained, frozen IM-AE.

    The loss is the mean squared error of codes, ``mean((E(view) - z)^2)``; the codes of the training shapes
    are extracted once. A batch has ``view`` float32 (B, 1, 128, 128) in [0, 1], as rendered on white (the
    network inverts it), and ``code`` (B, Z) or ``index`` (B,); for evaluation that of :class:`zoo.IMAE`.

    Args:
        autoencoder: name or path of a :class:`zoo.IMAE`, whose decoder becomes part of this model; null
            needs ``code`` in the data, and the decoder draws nothing.
        version: of the decoder.
        z_dim: size of the code; null is 256 in v2, 128 in v1.
        width: of the decoder's last hidden layer.
        image_width: channels of the image encoder's first stage.
        threshold: of the inside; null is the demo's, 0.5 in v2, 0.6 in v1.
        mesh_resolution: side of the grid of meshes.
        mesh_format: ``obj``, ``ply`` or ``glb``.
        refine: move the vertices of predicted meshes to the threshold (may fold them over).
        points_per_chunk: points decoded at once.
        compile: compile the image encoder with ``torch.compile``.
        optimizer: called with the image encoder's parameters.
        lr_scheduler: called with the optimizer, stepped every optimiser step.
    """

    codes: Tensor
    decodes: Tensor

    trained_on: ClassVar[frozenset[str]] = frozenset({"view", "code"})
    """Keys of a batch that a training step takes, so that data read no others."""

    def __init__(
        self,
        autoencoder: str | None = None,
        version: Version = "v2",
        z_dim: Size | None = None,
        width: Size = 128,
        image_width: Size = 64,
        threshold: Fraction | None = None,
        mesh_resolution: Size = 64,
        mesh_format: MeshFormat = "obj",
        refine: bool = False,
        points_per_chunk: Many = 65536,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-5, betas=(0.5, 0.999)),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(IMSVR, locals())
        if threshold is None:
            threshold = 0.6 if version == "v1" else 0.5
        super().__init__(version, 3, z_dim)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.optimizer, self.lr_scheduler, self.generator_width = optimizer, lr_scheduler, width
        self.network = SingleView(
            ImageEncoder(self.z_dim, image_width), ImplicitDecoder(self.z_dim, 3, width, version)
        )
        self.network.generator.requires_grad_(False)
        self.register_buffer("decodes", torch.tensor(False))
        self.register_buffer("codes", torch.zeros(0, self.z_dim), persistent=False)
        self._shown: tuple[Tensor, Tensor] | None = None

    # --- training ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "views", 1) == 0:
            raise ValueError("zoo.IMSVR needs views: set data.init_args.views to 24, or any number above 0")
        if self.hparams["compile"]:
            self.network.img_encoder.compile()
        if stage != "fit":
            return
        name = self.hparams["autoencoder"]
        if name is None:
            if not self.decodes and getattr(data, "codes_path", None) is None:
                raise ValueError(
                    "zoo.IMSVR learns the codes of a trained zoo.IMAE: set model.init_args.autoencoder to "
                    "its name or path, or data.init_args.codes to a file of them"
                )
            return
        autoencoder: Any = load_autoencoder(self, name)
        self.network.generator.load_state_dict(autoencoder.network.generator.state_dict())
        self.decodes.fill_(True)
        if getattr(data, "codes_path", None) is None and data is not None:
            self.codes = training_codes(autoencoder, data.train_set, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.img_encoder.parameters()), self.lr_scheduler)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        target = batch["code"] if "code" in batch else self.codes[batch["index"]]
        loss = functional.mse_loss(self.network.img_encoder(batch["view"]).float(), target)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(target), sync_dist=True)
        return loss

    # --- evaluation -------------------------------------------------------------------------------------

    def codes_of(self, batch: dict[str, Tensor]) -> Tensor:
        codes: Tensor = self.network.img_encoder(batch["view"])
        return codes

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        z = self.codes_of(batch)
        predicted = self.network.generator(coordinates(batch["points"], self.version), z).float()
        self.val_loss.update((predicted - batch["values"]).square().mean(dim=1))
        voxels = batch["voxels"][:, 0]
        self.add_iou(self.grids(z, voxels.shape[-1]), voxels)
        if batch_idx == 0:
            self._shown = batch["view"][:SHOWN], voxels[:SHOWN]

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ShapeMeshes:
        return self.meshes_of(batch, self.codes_of(batch), batch_idx, batch["view"][:, 0])

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """View, true voxels and reconstruction of the first validation shapes."""
        if self._shown is None:
            return {}
        views, voxels = (x[: max(1, count)] for x in self._shown)
        grids = self.grids(self.network.img_encoder(views), voxels.shape[-1]).cpu()
        pictures = []
        for view, shape, grid in zip(views[:, 0].cpu(), voxels.cpu(), grids, strict=True):
            pictures += [
                enlarged(view),
                render(marching_cubes(shape), 224),
                render(marching_cubes(grid, self.hparams["threshold"]), 224),
            ]
        return preview_of(pictures)

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {
        "view": {0: "batch"},
        "points": {0: "batch", 1: "points"},
    }

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Views and points (in the decoder's coordinates) for ``zoo export``, whose file gives values."""
        unit = torch.rand(batch, 16 * batch, 3, device=self.device)
        return {
            "view": torch.rand(batch, 1, VIEW_SIDE, VIEW_SIDE, device=self.device),
            "points": coordinates(unit, self.version),
        }
