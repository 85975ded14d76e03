"""The RAS LightningModule: deep supervision, recipes of the three papers' codes, evaluation at full size."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from zoo.metrics.saliency import (
    AlignmentMeasure,
    BoundaryMAE,
    EmptyMasks,
    FMeasure,
    SaliencyMAE,
    StructureMeasure,
    WeightedFMeasure,
    binarise,
    stretch,
)
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import shard_blocks
from zoo.nn.precision import ExactModuleDict
from zoo.nn.ranges import Side, check_ranges
from zoo.randomness import step_generator
from zoo.ras.attention import ATTENTIONS, Attention, resize_to
from zoo.ras.backbones import Pool
from zoo.ras.losses import Loss, Reduction, side_losses
from zoo.ras.network import Pixels, RASNetwork, RASResNet, Variant, build
from zoo.ras.report import SaliencyMaps, min_max, overlay, write_curves
from zoo.ras.weights import load_backbone
from zoo.reports import GeneratedImages

Groups = Literal["caffe", "port", "plain"]
GROUPS: tuple[Groups, ...] = ("caffe", "port", "plain")
_SHOWN = 16  # validation pictures in a preview
_SHEETS = 4  # of zoo predict


class RAS(LightningModule):
    """RAS: reverse attention for salient object detection (Chen et al., ECCV 2018; TIP 2020).

    A training batch is a dict with ``image`` float (B, 3, H, W), RGB in [0, 1], and ``mask`` float
    (B, 1, H, W) in [0, 1]. In evaluation ``image`` may be a list of sizes, ``mask`` is a list of grey uint8
    (H, W) at the pictures' own sizes, at which everything is measured, and ``name`` and ``size`` are lists.

    Args:
        variant: ``vgg16`` (ECCV 2018), ``resnet50_v1``, ``resnet50_v2`` (TIP 2020), ``tiny``.
        pool: ``torch`` (2x2, rounded down) or ``caffe`` (rounded up, pools 4 and 5 are 3x3), with the
            up-sampling that belongs to it.
        pixels: normalisation; null is the variant's own: ``imagenet``, ``caffe`` (BGR minus its mean) with
            Caffe's pools, ``port`` for ``resnet50_v2``.
        attention: ``reverse``, ``forward`` or ``none``, the ablation.
        residual: false: a stage gives its map, not what it adds to the coarser one.
        refinement: false: the global map alone.
        deep_supervision: false: a loss on the last refinement alone.
        loss: ``bce`` or ``bce_iou``; null is the variant's own, ``bce_iou`` for ResNet-50.
        loss_reduction: over pixels. ``sum`` is literal Caffe, for learning rates of 1e-8.
        groups: learning rates of parameters: ``caffe`` (biases twice and without decay, the global branch's
            last layer a tenth), ``port`` (backbone a tenth, its first layer not at all) or ``plain``; null is
            ``caffe`` for ``vgg16``, ``port`` for ``resnet50_v2``, else ``plain``.
        scales: sides that training batches are resized to, one drawn per step; null leaves them.
        backbone_weights: torchvision's ``.pth`` for the trunk, or Caffe's as ``.npz`` or ``.caffemodel``; a
            path, here or under ``$ZOO_DATA``. Read when a training begins without other weights.
        flip_average: evaluate the mean of the picture's and its mirror image's maps.
        channels_last: memory order of the activations; the weights keep theirs.
        compile: compile the network with ``torch.compile``.
        lr_interval: whether ``lr_scheduler`` counts optimiser steps or epochs.
        optimizer: called with the parameter groups.
        lr_scheduler: called with the optimizer.

    Raises:
        ValueError: for impossible settings.
    """

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"image": {0: "batch", 2: "height", 3: "width"}}
    least_sizes: ClassVar[dict[str, int]] = {"height": 64, "width": 64}

    def __init__(
        self,
        variant: Variant = "vgg16",
        pool: Pool = "torch",
        pixels: Pixels | None = None,
        attention: Attention = "reverse",
        residual: bool = True,
        refinement: bool = True,
        deep_supervision: bool = True,
        loss: Loss | None = None,
        loss_reduction: Reduction = "mean",
        groups: Groups | None = None,
        scales: list[Side] | None = None,
        backbone_weights: str | None = None,
        flip_average: bool = False,
        channels_last: bool = True,
        compile: bool = False,
        lr_interval: Literal["step", "epoch"] = "step",
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(RAS, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        _check(attention=(attention, ATTENTIONS), loss=(loss, (None, "bce", "bce_iou")))
        _check(loss_reduction=(loss_reduction, ("mean", "sum")), groups=(groups, (None, *GROUPS)))
        _check(lr_interval=(lr_interval, ("step", "epoch")))
        if scales is not None and (not scales or min(scales) < 32):
            raise ValueError(f"scales must be null or sides of at least 32, got {scales}")
        self.network: RASNetwork | RASResNet = build(variant, pool, pixels, attention, residual, refinement)
        resnet = variant.startswith("resnet")
        self.loss: Loss = loss or ("bce_iou" if resnet else "bce")
        own: dict[str, Groups] = {"vgg16": "caffe", "resnet50_v2": "port"}
        self.groups: Groups = groups or own.get(variant, "plain")
        if self.groups == "port" and not resnet:
            raise ValueError(f"groups: port is the recipe of resnet50_v1 and v2, the variant is {variant}")
        if self.groups == "caffe" and resnet:
            raise ValueError(f"groups: caffe is the recipe of the VGG variants, the variant is {variant}")
        if self.groups == "port":
            trunk = self.network.backbone
            for layer in (trunk.conv1, trunk.bn1):  # the port does not optimise them
                layer.requires_grad_(False)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.evaluated: Any = ExactModuleDict({"val": _metrics(full=False)})
        self._begun = False
        self._shown: list[tuple[Tensor, Tensor, Tensor]] = []

    # --- set-up -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        shard_blocks(self, [self.network])

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._begun = True  # the trunk's own weights come too late
        return super().load_state_dict(state_dict, *args, **kwargs)

    def setup(self, stage: str) -> None:
        path = self.hparams["backbone_weights"]
        if stage == "fit" and path and not self._begun:
            load_backbone(self.network, _resolve(path))
        if self.hparams["compile"]:
            self.network.compile()
        if stage == "test":
            data = getattr(self.trainer, "datamodule", None)
            sets = list(getattr(data, "test_sets", [])) or ["test"]
            self.test_sets = [f"{name}/" for name in sets] if len(sets) > 1 else [""]
            for i in range(len(self.test_sets)):
                self.evaluated[f"test{i}"] = _metrics(full=True).to(self.device)

    def configure_optimizers(self) -> Any:
        groups = self.parameter_groups()
        optimizer = self.optimizer([{k: v for k, v in g.items() if k != "decay"} for g in groups])
        for group, wanted in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = group["lr"] * wanted["lr_scale"]
            if not wanted["decay"]:
                group["weight_decay"] = 0.0
        return with_schedule(optimizer, self.lr_scheduler, self.hparams["lr_interval"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with the factor of their learning rate (``lr_scale``) and whether they decay."""
        named = list(self.network.named_parameters())
        if self.groups == "plain":
            return [{"params": [p for _, p in named], "lr_scale": 1.0, "decay": True}]
        if self.groups == "port":
            trunk = ("resnet.", "bkbone.")
            backbone = [p for n, p in named if n.startswith(trunk) and p.requires_grad]
            heads = [p for n, p in named if not n.startswith(trunk)]
            return [
                {"params": backbone, "lr_scale": 0.1, "decay": True},
                {"params": heads, "lr_scale": 1.0, "decay": True},
            ]
        found: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in named:
            bias = name.endswith("bias")
            scale = (2.0 if bias else 1.0) * (0.1 if name.startswith("dsn6.conv5.") else 1.0)
            found.setdefault((scale, not bias), []).append(parameter)
        return [{"params": p, "lr_scale": scale, "decay": decay} for (scale, decay), p in found.items()]

    # --- steps --------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Saliency in [0, 1], (B, 1, H, W): the sigmoid of the last refinement, of RGB in [0, 1]."""
        return self._views(image).sigmoid().mean(dim=0)

    def _views(self, image: Tensor) -> Tensor:
        """Logits (V, B, 1, H, W): the picture's and, with ``flip_average``, those of its mirror image."""
        found = [self.network(self._ordered(image))]
        if self.hparams["flip_average"]:
            found.append(self.network(self._ordered(image.flip(-1))).flip(-1))
        return torch.stack(found).float()

    def _ordered(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=torch.channels_last) if self.hparams["channels_last"] else image

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self._check_sides(batch)
        image, mask = batch["image"], batch["mask"]
        scales = self.hparams["scales"]
        if scales:
            g = step_generator(self, batch_idx)
            side = scales[int(torch.randint(len(scales), (1,), generator=g, device=g.device))]
            image, mask = (
                functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)
                for x in (image, mask)
            )
        sides = self.network(self._ordered(image), self.hparams["deep_supervision"])
        losses = side_losses(sides, mask, self.loss, self.hparams["loss_reduction"])
        loss = losses.sum()
        several = self.trainer.world_size > 1
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(image), sync_dist=several)
        if (self.trainer.global_step + 1) % getattr(self.trainer, "log_every_n_steps", 1) == 0:
            names = self.network.sides[::-1][: len(losses)] if self.network.refinement else self.network.sides
            values = {f"train/side_{n}": v for n, v in zip(names, losses.detach(), strict=False)}
            self.log_dict(values, batch_size=len(image), sync_dist=several)
        return loss

    def saliency(self, image: Tensor | Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Map (H, W) in [0, 1] of each picture at its own size, before the stretch to black and white.

        The logits are resized, then their sigmoid is taken, as in the ports.
        """
        pictures = [image] if isinstance(image, Tensor) else [one[None] for one in image]
        small = [one for part in pictures for one in self._views(part).unbind(1)]  # (V, 1, h, w) each
        corners = self.hparams["variant"].startswith("resnet")
        return [
            resize_to(one, (size[0], size[1]), corners).sigmoid().mean(dim=0)[0]
            for one, size in zip(small, sizes, strict=True)
        ]

    def _check_sides(self, batch: Mapping[str, Any]) -> None:
        """Refuse pictures of which the pools leave nothing."""
        least = self.network.least_side
        for place, (*_, height, width) in enumerate(one.shape for one in batch["image"]):
            if min(height, width) < least:
                name = batch["name"][place] if "name" in batch else "a training picture"
                raise ValueError(
                    f"{name} is {width} x {height} where it meets the network, which needs {least} pixels on "
                    "each side: set data.init_args.size, or model.init_args.pool: caffe, or leave it out"
                )

    def _evaluate(self, batch: dict[str, Any], metrics: Any) -> None:
        self._check_sides(batch)
        masks = batch["mask"]
        maps = self.saliency(batch["image"], [(m.shape[0], m.shape[1]) for m in masks])
        for found, mask in zip(maps, masks, strict=True):
            # as the PNG that zoo predict writes, so that the files and this say the same
            p, g = stretch(min_max(found)), binarise(mask)
            for metric in metrics.values():
                metric.update(p, g)
        room = _SHOWN - len(self._shown)
        if room > 0 and isinstance(batch["image"], Tensor) and not self.trainer.sanity_checking:
            shown = zip(batch["image"].cpu(), maps, masks, strict=True)
            self._shown += [(i, m.cpu(), g.cpu()) for i, m, g in shown][:room]

    def on_validation_epoch_start(self) -> None:
        self._shown = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, self.evaluated["val"])

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val/", self.evaluated["val"])

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, self.evaluated[f"test{dataloader_idx}"])

    def on_test_epoch_end(self) -> None:
        curves = {
            name.rstrip("/") or "test": self._log_metrics(f"test/{name}", self.evaluated[f"test{i}"])
            for i, name in enumerate(self.test_sets)
        }
        folder = self.trainer.log_dir  # asks all processes
        if folder is not None and self.trainer.is_global_zero:
            write_curves(Path(folder), curves)
        count = sum(p.numel() for p in self.parameters())
        self.log_dict({"test/parameters": float(count), "test/megabytes": 4e-6 * count}, sync_dist=True)

    def _log_metrics(self, prefix: str, metrics: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Log the numbers; the curves over thresholds are returned."""
        values: dict[str, Tensor] = {}
        curves: dict[str, np.ndarray[Any, Any]] = {}
        for name, metric in metrics.items():
            found = metric.compute()
            metric.reset()
            for key, value in found.items() if isinstance(found, dict) else [(name, found)]:
                if value.ndim:
                    curves[key] = value.cpu().numpy()
                else:
                    values[key] = value
        if prefix.startswith("test/"):
            values["log_mae"] = values["mae"].log()  # a difference of it is a ratio: what claims are made of
        empty = values.pop("empty_masks")
        if empty > 0:
            rank_zero_warn(f"{int(empty):,} masks of {prefix.rstrip('/')} have no object: their F is 0")
        for name, value in values.items():
            self.log(f"{prefix}{name}", value, prog_bar=name == "mae", sync_dist=True)
        return curves

    # --- what a person looks at ---------------------------------------------------------------------------

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """The first validation pictures, each beside its map and its mask."""
        shown = self._shown[:count]
        if not shown:
            return {}
        size = shown[0][0].shape[1:]
        tiles = []
        for image, found, mask in shown:
            maps = [functional.interpolate(m[None, None].float(), size)[0] for m in (found, mask / 255)]
            if image.shape[1:] == size:
                tiles.append(torch.cat([image, *(m.expand(3, -1, -1) for m in maps)], dim=2))
        images = 2 * torch.stack(tiles) - 1
        index = torch.arange(len(images))
        return {"saliency": GeneratedImages(images, index, index)}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> SaliencyMaps:
        self._check_sides(batch)
        sizes = batch["size"]
        maps = self.saliency(batch["image"], sizes)
        number = batch_idx * self.trainer.world_size + self.global_rank
        sheet = None
        if number < _SHEETS and maps:  # no map: none of the batch's pictures could be read
            image = batch["image"] if isinstance(batch["image"], Tensor) else batch["image"][0][None]
            sheet = self._sheet(image, maps, batch.get("mask"))
        return SaliencyMaps([min_max(m) for m in maps], list(batch["name"]), sheet, number)

    def _sheet(
        self, image: Tensor, maps: Sequence[Tensor], masks: Any
    ) -> dict[str, list[np.ndarray[Any, Any]]]:
        """Columns of the overlay sheet: title -> pictures of the first rows."""
        found = self.network.refine(self._ordered(image))
        rows = min(len(image), 6)
        pixels = (255 * image[:rows].clamp(0, 1)).byte().permute(0, 2, 3, 1).cpu().numpy()
        columns: dict[str, list[np.ndarray[Any, Any]]] = {"picture": list(pixels)}
        if masks is not None:
            columns["mask"] = [m.cpu().numpy() for m in masks[:rows]]
        coarsest = self.network.sides[0]
        columns[f"global map (side {coarsest})"] = _grey(found.logits[coarsest][:rows].sigmoid())
        kind = self.network.attention
        for side, weight in found.attention(kind).items():
            columns[f"{kind} attention {side}"] = _grey(weight[:rows])
        columns["saliency"] = [min_max(m) for m in maps[:rows]]
        columns["overlay"] = [overlay(p, min_max(m)) for p, m in zip(pixels, maps, strict=False)]
        return columns

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Pictures for ``zoo export``, of another size with each batch: its file takes any from 64 px."""
        side = 96 if self.hparams["variant"] == "tiny" else 352
        return {"image": torch.rand(batch, 3, side + 3 * batch, side - 5 * batch, device=self.device)}


def _metrics(full: bool) -> ExactModuleDict:
    metrics: dict[str, Metric] = {"mae": SaliencyMAE(), "f": FMeasure(), "empty_masks": EmptyMasks()}
    if full:
        metrics |= {
            "weighted_f": WeightedFMeasure(),
            "s_measure": StructureMeasure(),
            "e": AlignmentMeasure(),
        }
        metrics["boundary_mae"] = BoundaryMAE()
    return ExactModuleDict(metrics)


def _check(**choices: tuple[Any, Sequence[Any]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            words = ", ".join("null" if a is None else str(a) for a in allowed)
            raise ValueError(f"{name} must be one of {words}, got {value!r}")


def _resolve(path: str) -> Path:
    given = Path(path)
    return given if given.exists() else Path(os.environ.get("ZOO_DATA", "data")) / given


def _grey(maps: Tensor) -> list[np.ndarray[Any, Any]]:
    return [(255 * m[0].float()).round().byte().cpu().numpy() for m in maps]
