"""The MAE LightningModule."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.nn.augment import Chain, HorizontalFlip, RandomResizedCrop, step_uniform
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import decayed_groups, with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import Depth, Finite, Part, Positive, Share, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import global_seed
from zoo.vision.encoder import SIZES, Shape, sizes_of
from zoo.vision.mae_report import Reconstructions
from zoo.vision.masking import MaskedAutoencoder, masked_error, masks, patchify, seen, unpatchify
from zoo.vision.pixels import standardised, statistics

_USES: Uses = dict.fromkeys(SIZES, ("free",))
_TRAINING, _EVALUATION = 771, 772  # first words of the keys of masks


class MAE(LightningModule):
    """Masked autoencoder (He et al., CVPR 2022): most patches of a picture are hidden, the encoder sees the
    others alone, a small decoder draws what is hidden.

    The mask of a picture is a function of (seed, epoch, its number); validation, test and prediction have one
    mask of each for ever. The loss is the squared error on hidden patches, each of mean 0 and deviation 1.
    The batch is that of :class:`datamodules.LabelledImages`; labels are not looked at. Its weights are what
    :class:`zoo.ViTClassifier` may start from (``pretrained``).

    Args:
        image_size: S; the data tell.
        channels: C; the data tell.
        shape: ``vit-s/16``, ``vit-b/16``, ``vit-l/16``, or ``free`` with the four sizes that follow.
        patch_size: P.
        width: of the encoder.
        depth: its blocks.
        heads: of their attention.
        decoder_width: of the decoder.
        decoder_depth: its blocks.
        decoder_heads: of their attention.
        norm_eps: of every norm.
        mask_ratio: share of hidden patches.
        normalise: each patch is predicted with mean 0 and deviation 1; else its pixels.
        mean: of the channels of pictures in [0, 1], by which they are standardised; null is .5.
        std: likewise.
        crop: least share of a picture that a training step sees, a part of it resized; 1 is all of it.
        flip: mirror half of the pictures in training.
        optimizer: gets the weights with decay and those without: biases, norms, tokens.
        lr_scheduler: stepped each step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"image_size": "shape.1 shape.2", "channels": "shape.0"}

    def __init__(
        self,
        image_size: Size = 224,
        channels: Depth = 3,
        shape: Shape = "vit-b/16",
        patch_size: Size = 16,
        width: Size = 768,
        depth: Depth = 12,
        heads: Depth = 12,
        decoder_width: Size = 512,
        decoder_depth: Depth = 8,
        decoder_heads: Depth = 16,
        norm_eps: Positive = 1e-6,
        mask_ratio: Part = 0.75,
        normalise: bool = True,
        mean: list[Finite] | None = None,
        std: list[Positive] | None = None,
        crop: Share = 1.0,
        flip: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(
            p, lr=1.5e-4, weight_decay=0.05, betas=(0.9, 0.95)
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(MAE, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if shape not in get_args(Shape):
            names = ", ".join(get_args(Shape))
            raise ValueError(f"model.init_args.shape must be one of {names}, got {shape!r}")
        refuse_unused(MAE, self.hparams, "shape", _USES)
        sizes = sizes_of(self.hparams)
        if decoder_width % decoder_heads or decoder_width % 4 or sizes["width"] % 4:
            raise ValueError(
                f"model.init_args.decoder_width is {decoder_width} and width {sizes['width']}: 4 must divide "
                f"both, and decoder_heads: {decoder_heads} the first"
            )
        if sizes["patch_size"] ** 2 * channels < 2:
            raise ValueError("model.init_args.patch_size is 1: one pixel has no deviation to divide by")
        self.pixels = statistics(self.hparams)
        self.network = MaskedAutoencoder(
            decoder_width, decoder_depth, decoder_heads, image_size, channels, **sizes, norm_eps=norm_eps
        )
        self.seen = seen(self.network.side**2, mask_ratio)
        parts: list[Any] = [RandomResizedCrop(image_size, crop)] if crop < 1 else []
        self.augmentation = Chain(parts + [HorizontalFlip()] * flip)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        for stage in ("val", "test"):
            for name in ("loss", "loss_of_mean"):
                self.add_module(f"{stage}_{name}", MeanMetric())

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)

    def configure_optimizers(self) -> Any:
        groups = decayed_groups(self.network, ("cls_token", "mask_token"))
        return with_schedule(self.optimizer(groups), self.lr_scheduler)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image = batch["image"]
        if self.augmentation.columns:
            image = self.augmentation(
                image, step_uniform(self, batch_idx, len(image), self.augmentation.columns)
            )
        image = standardised(image, self.pixels)
        order = self._order(batch["index"], _TRAINING, global_seed(), self.current_epoch)
        predicted = self.network(image, order, self.seen)
        target = self.network.target(image, self.hparams["normalise"])
        loss = masked_error(predicted, target, order, self.seen).mean()
        several = self.trainer.world_size > 1
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(image), sync_dist=several)
        return loss

    def _order(self, index: Tensor, *key: int) -> Tensor:
        return masks(index, self.network.side**2, self.hparams["mask_ratio"], *key)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        image, order = standardised(batch["image"], self.pixels), self._order(batch["index"], _EVALUATION)
        target = self.network.target(image, self.hparams["normalise"])
        found = {"loss": masked_error(self.network(image, order, self.seen), target, order, self.seen)}
        flat = target.mean(dim=(0, 1), keepdim=True) if not self.hparams["normalise"] else 0 * target
        found["loss_of_mean"] = masked_error(flat.expand_as(target), target, order, self.seen)
        for name, values in found.items():
            metric: Any = getattr(self, f"{stage}_{name}")
            metric.update(values)
            self.log(f"{stage}/{name}", metric, prog_bar=name == "loss", batch_size=len(image))

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, 1 + N, D) of whole pictures in [0, 1], the class token first."""
        return self.network.tokens(standardised(image, self.pixels))

    @torch.no_grad()
    def reconstruct(self, image: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pictures with their hidden patches in grey, and with those drawn by the decoder, in [0, 1].

        A patch of ``normalise`` is drawn with the mean and the deviation that it really has, which the
        network is not asked for.

        Args:
            image: (B, C, S, S) in [0, 1].
            index: numbers that decide the masks; null counts from 0.
        """
        index = torch.arange(len(image), device=image.device) if index is None else index
        order, x = self._order(index, _EVALUATION), standardised(image, self.pixels)
        drawn, real = self.network(x, order, self.seen).float(), patchify(x, self.network.patch_size)
        if self.hparams["normalise"]:
            spread = (real.var(dim=-1, keepdim=True) + 1e-6).sqrt()
            drawn = drawn * spread + real.mean(dim=-1, keepdim=True)
        hidden = torch.ones_like(real[..., :1], dtype=torch.bool)
        hidden.scatter_(1, order[:, : self.seen, None], False)
        channels = self.hparams["channels"]
        joined = unpatchify(torch.where(hidden, drawn, real), self.network.patch_size, channels)
        masked = patchify(image, self.network.patch_size).masked_fill(hidden, 0.5)
        mean, std = (joined.new_tensor(v).view(1, -1, 1, 1) for v in self.pixels)
        return unpatchify(masked, self.network.patch_size, channels), (joined * std + mean).clamp(0, 1)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Reconstructions:
        image = batch["image"]
        masked, drawn = self.reconstruct(image, batch["index"])
        x, order = standardised(image, self.pixels), self._order(batch["index"], _EVALUATION)
        with torch.no_grad():
            predicted = self.network(x, order, self.seen)
        error = masked_error(predicted, self.network.target(x, self.hparams["normalise"]), order, self.seen)
        return Reconstructions.of(image, masked, drawn, error, batch["index"])
