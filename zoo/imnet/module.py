"""What IM-NET's LightningModules share: evaluation, predictions and pictures of codes and their shapes."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

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
from zoo.imnet.extraction import Mesh
from zoo.imnet.field import Version, kl_divergence, reparameterised
from zoo.imnet.network import ShapeAutoencoder, ShapeEncoder
from zoo.imnet.report import ShapeMeshes, ShapePictures, preview_of, reconstructions
from zoo.imnet.setup import INTERPOLATED, check_version, z_dim_of
from zoo.metrics.epoch_end import log_and_reset
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import Size, check_ranges
from zoo.randomness import local_rows
from zoo.reports import GeneratedImages

SHOWN = 4
"""Shapes of a preview."""
_STRIPS = 12


class ShapeModule(LightningModule):
    """A module that gives a batch codes, and codes shapes by ``network.generator``.

    Subclasses have the hyperparameters ``threshold``, ``mesh_resolution`` and ``mesh_format``; of those that
    only some have, ``points_per_chunk``, ``refine`` and ``interpolate`` count.
    """

    network: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, version: Version, dims: Size, z_dim: Size | None, variational: bool = False) -> None:
        check_ranges(ShapeModule, locals())
        super().__init__()
        check_version(version, dims)
        self.version, self.dims = version, dims
        self.z_dim = z_dim_of(z_dim, version, dims, variational)
        self.val_loss, self.val_iou, self.test_scores = MeanMetric(), MeanMetric(), ShapeScores()
        self.category_names: list[str] = []
        self.category_scores = nn.ModuleList()  # names of folders are no names of modules

    def codes_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Codes (B, Z) of a batch."""
        raise NotImplementedError

    def grids(self, z: Tensor, resolution: int) -> Tensor:
        """Values at all cell centres for codes (B, Z), (B, R, ..., R)."""
        chunk = self.hparams.get("points_per_chunk", 0)
        return decoded_grids(self.network.generator, z, self.version, resolution, self.dims, chunk)

    def mesh(self, z: Tensor, **more: Any) -> Mesh:
        """The mesh of one code (Z,); further arguments are those of :func:`extract_mesh`."""
        h = self.hparams
        chunk = h.get("points_per_chunk", 0)
        return extract_mesh(
            self.network.generator, z, self.version, h["mesh_resolution"], h["threshold"], chunk, **more
        )

    def add_iou(self, grids: Tensor, truth: Tensor) -> None:
        """Count grids (B, S, ..., S) against voxels of the same shape in ``val/iou``."""
        for grid, voxels in zip(grids, truth, strict=True):
            self.val_iou.update(grid_scores(grid, voxels, self.hparams["threshold"])["iou"])

    def on_validation_epoch_end(self) -> None:
        log_and_reset(self, "val", {"loss": self.val_loss, "iou": self.val_iou}, ("loss", "iou"))

    def on_test_start(self) -> None:
        self.category_names = getattr(getattr(self.trainer, "datamodule", None), "category_names", [])
        self.category_scores = nn.ModuleList(ShapeScores() for _ in self.category_names).to(self.device)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        z, threshold = self.codes_of(batch), self.hparams["threshold"]
        fine = batch["fine"] if self.dims == 3 else batch["voxels"][:, 0]
        ends = self.codes_of({"voxels": batch["partner"]}) if "partner" in batch else None
        inputs = batch["voxels"][:, 0]
        coarse = None if inputs.shape == fine.shape else self.grids(z, inputs.shape[-1])
        for row, grid in enumerate(self.grids(z, fine.shape[-1])):
            scores = grid_scores(grid, fine[row], threshold)
            if coarse is not None:
                scores["iou_input"] = grid_scores(coarse[row], inputs[row], threshold)["iou"]
            if self.dims == 3:
                scores |= surface_scores(self.mesh(z[row]), batch["surface"][row], int(batch["index"][row]))
            elif ends is not None:
                grids = self.grids(between(z[row], ends[row], INTERPOLATED), fine.shape[-1])
                templates = self.trainer.datamodule.templates  # type: ignore[attr-defined]
                scores["interpolation_iou"] = interpolation_score(grids, templates, threshold)
            self.test_scores.add(scores)
            if "category" in batch:
                chosen: Any = self.category_scores[int(batch["category"][row])]
                chosen.add(scores)

    def on_test_epoch_end(self) -> None:
        values = self.test_scores.collect()
        if values.get("test/empty", 0) > 0:
            rank_zero_warn(
                f"test/empty is {values['test/empty']:.3f}: such a share of the meshes is empty and counts "
                "in no measure of surfaces; read them together"
            )
        scores: list[Any] = list(self.category_scores)
        each = [metric.collect() for metric in scores]
        for key in list(values) if each else ():
            found = {n: v[key] for n, v in zip(self.category_names, each, strict=True) if key in v}
            values |= {f"{key}/{name}": value for name, value in found.items()}
            values[key.replace("test/", "test/category_mean_")] = sum(found.values()) / len(found)
        values["test/parameters"] = float(sum(p.numel() for p in self.network.parameters()))
        self.log_dict(values, sync_dist=True)

    def meshes_of(self, batch: dict[str, Tensor], z: Tensor, batch_idx: int, inputs: Tensor) -> ShapeMeshes:
        """Meshes of the codes, beside what they were made from, for ``zoo predict``."""
        h = self.hparams
        meshes = [self.mesh(code, refine=h.get("refine", False), normals=True) for code in z]
        check_not_empty(meshes, h["threshold"])
        number = batch_idx * self.trainer.world_size + self.global_rank
        index = batch["index"].cpu()
        known = getattr(getattr(self.trainer, "datamodule", None), "shape_names", None)
        names = [known[i] for i in index.tolist()] if known else []
        return ShapeMeshes(meshes, index, number, h["mesh_format"], inputs.cpu(), names=names)


class AutoencoderModule(ShapeModule):
    """An encoder of voxels or pictures, variational or not, and a decoder.

    Subclasses have the hyperparameters ``input_size``, ``variational``, ``kl_weight`` and ``compile`` too.
    """

    network: ShapeAutoencoder

    data_sizes: ClassVar[DataSizes] = {"dims": "dims", "input_size": "input_size"}

    def __init__(self, version: Version, dims: Size, z_dim: Size | None, variational: bool) -> None:
        check_ranges(AutoencoderModule, locals())
        super().__init__(version, dims, z_dim, variational)
        self._shown: Tensor | None = None

    def encoder(self) -> ShapeEncoder:
        """A fresh encoder of the hyperparameters' sizes."""
        h = self.hparams
        outputs = 2 * self.z_dim if h["variational"] else self.z_dim
        return ShapeEncoder(
            outputs, h["input_size"], self.base_width, self.version, self.dims, h["norm_momentum"]
        )

    @property
    def base_width(self) -> int:
        """Channels of the encoder's first layer."""
        return self.hparams["encoder_width"] or (32 if self.dims == 3 else 16)

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)
        if self.hparams["compile"]:
            self.network.encoder.compile()
            self.network.generator.compile()

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return with_schedule(self.optimizer(trained), self.lr_scheduler)

    def codes_of(self, batch: dict[str, Tensor]) -> Tensor:
        return self.network.encode(batch["voxels"])

    def drawn_codes(self, voxels: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Codes of a training step, drawn if variational; and the divergence to add to the loss."""
        if not self.hparams["variational"]:
            return self.network.encode(voxels), None
        mean, log_variance = self.network.posterior(voxels)
        size = len(mean) * self.trainer.world_size
        noise = torch.randn(size, self.z_dim, generator=g, device=g.device)
        z = reparameterised(mean, log_variance, local_rows(self, noise))
        return z, kl_divergence(mean.float(), log_variance.float()).mean()

    def whole_loss(self, loss: Tensor, divergence: Tensor | None, size: int) -> Tensor:
        """The loss with the weighted divergence; logs both."""
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size, sync_dist=True)
        if divergence is None:
            return loss
        self.log("train/kl", divergence.detach(), batch_size=size, sync_dist=True)
        return loss + self.hparams["kl_weight"] * divergence

    def show(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep the first validation shapes for the preview."""
        if batch_idx == 0:
            self._shown = batch["voxels"][:SHOWN]

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ShapeMeshes | ShapePictures:
        z, inputs = self.codes_of(batch), batch["voxels"][:, 0].cpu()
        steps = self.hparams.get("interpolate", 0)
        if self.dims == 3:
            found = self.meshes_of(batch, z, batch_idx, inputs)
            found.codes = z.cpu()
            for a, b in itertools.pairwise(z) if steps else ():
                found.frames += [self.mesh(code) for code in torch.cat([a[None], between(a, b, steps)])]
            return found
        size, strips = inputs.shape[-1], None
        if "partner" in batch:
            ends = self.codes_of({"voxels": batch["partner"]})
            rows = [
                torch.cat([a[None], between(a, b, steps or INTERPOLATED), b[None]])
                for a, b in zip(z[:_STRIPS], ends[:_STRIPS], strict=True)
            ]
            strips = torch.stack([self.grids(codes, size) for codes in rows]).cpu()
        number = batch_idx * self.trainer.world_size + self.global_rank
        return ShapePictures(inputs, self.grids(z, size).cpu(), batch["index"].cpu(), number, strips)

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """Input and reconstruction of the first validation shapes."""
        if self._shown is None:
            return {}
        shown = self._shown[: max(1, count)]
        grids = self.grids(self.network.encode(shown), self.hparams["input_size"])
        return preview_of(reconstructions(shown[:, 0], grids, self.hparams["threshold"]))
