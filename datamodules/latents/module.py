"""The data module of ImageNet as VAE latents."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from datamodules.latents.layouts import (
    IMAGENET_TRAIN_ITEMS,
    IMAGENET_VAL_ITEMS,
    LatentItems,
    LatentLayout,
    check_labels,
)
from datamodules.latents.lightningdit import LightningDiTLatents
from datamodules.latents.packed import PackedLatents
from datamodules.latents.per_image import FastDiTLatents, RepaLatents
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import SplitModule, TensorItems
from datamodules.loading.ranges import Many, Positive, Size, Workers, check_ranges
from datamodules.loading.variants import Uses, check_variants


def open_latents(
    root: Path,
    layout: LatentLayout,
    num_classes: int = 1000,
    *,
    expected: int = IMAGENET_TRAIN_ITEMS,
    latent_norm: bool = True,
    latent_multiplier: float = 1.0,
) -> LatentItems:
    """The data set of a folder of latents; see :class:`ImageNetLatents` for the arguments."""
    if layout == "fast-dit":
        return FastDiTLatents(root, num_classes, expected)
    if layout == "repa":
        return RepaLatents(root, num_classes)
    if layout == "lightningdit":
        return LightningDiTLatents(root, num_classes, latent_norm, latent_multiplier)
    data = PackedLatents(root)
    check_labels(root, data.labels.numpy(), num_classes)
    return data


class ImageNetLatents(SplitModule):
    """ImageNet encoded by a VAE.

    Batch: ``latent`` float32 (B, 4, S, S) in training scale, ``label`` int64 (B,), ``index`` int64 (B,).
    Prediction batches have ``label`` and ``index`` alone: classes uniform at random, as in ADM's protocol.

    Args:
        root: folder of the latents; defaults to ``$ZOO_DATA/imagenet256`` or ``data/imagenet256``.
        layout: ``packed`` (the zoo's own, one memory-mapped array), ``fast-dit`` and ``repa`` (one file per
            image) or ``lightningdit`` (safetensors shards).
        batch_size: global training batch, over all devices.
        val_root: folder of held-out latents in the same layout, for validation and test; null has none.
        predict_samples: number of labels that ``zoo predict`` samples (50,000 for FID-50K).
        eval_batch_size: global batch of validation, test and prediction.
        num_classes: number of classes of the labels.
        num_workers: loader processes.
        latent_norm: for ``lightningdit``, normalise with the statistics of ``latents_stats.pt``, while
            training the held-out latents with the training set's.
        latent_multiplier: for ``lightningdit``, factor after that.

    Attributes:
        latent_mean: of each channel; the VAE's latents are z * latent_std + latent_mean. None where its own
            factor alone was used, and before :meth:`setup`.
        latent_std: see ``latent_mean``.
        own_scale: whether they are needed to decode, ``lightningdit``.
    """

    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": dict.fromkeys(("latent_norm", "latent_multiplier"), ("lightningdit",))
    }

    def __init__(
        self,
        root: str | None = None,
        layout: LatentLayout = "packed",
        batch_size: Many = 256,
        val_root: str | None = None,
        predict_samples: Many = 50_000,
        eval_batch_size: Many = 64,
        num_classes: Size = 1000,
        num_workers: Workers = 4,
        latent_norm: bool = True,
        latent_multiplier: Positive = 1.0,
    ) -> None:
        check_ranges(ImageNetLatents, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("layout", layout, LatentLayout)
        check_variants(ImageNetLatents, locals())
        self.root = data_folder(root, "imagenet256")
        self.layout, self.val_root = layout, Path(val_root) if val_root else None
        self.predict_samples, self.num_classes = predict_samples, num_classes
        self.latent_norm, self.latent_multiplier = latent_norm, latent_multiplier
        self.shape: tuple[int, ...] | None = None
        self.latent_mean: list[float] | None = None
        self.latent_std: list[float] | None = None
        self.own_scale = layout == "lightningdit"

    def _open(self, root: Path, expected: int) -> LatentItems:
        return open_latents(
            root,
            self.layout,
            self.num_classes,
            expected=expected,
            latent_norm=self.latent_norm,
            latent_multiplier=self.latent_multiplier,
        )

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_set = self._open(self.root, IMAGENET_TRAIN_ITEMS)
            self.shape = self.train_set.shape
            self._tell(self.train_set)
        if stage in ("fit", "validate", "test") and self.val_root:
            self.val_set = self._open(self.val_root, IMAGENET_VAL_ITEMS)
            self.shape = self.val_set.shape
            if stage != "fit":
                self._tell(self.val_set)
            elif isinstance(self.val_set, LightningDiTLatents):
                self.val_set.normalise(self.train_set.mean, self.train_set.std)
        elif stage in ("validate", "test"):
            raise ValueError(
                f"zoo {stage} needs held-out latents: set data.init_args.val_root to their folder"
            )
        elif stage == "predict" and self.own_scale and any(self.root.glob("*.safetensors")):
            self._tell(self._open(self.root, IMAGENET_TRAIN_ITEMS))
        generator = torch.Generator().manual_seed(0)
        self.predict_set = TensorItems(
            label=torch.randint(self.num_classes, (self.predict_samples,), generator=generator)
        )

    def _tell(self, items: LatentItems) -> None:
        if items.statistics is not None:
            self.latent_mean, self.latent_std = items.statistics
