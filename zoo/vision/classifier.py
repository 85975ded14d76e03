"""The ViTClassifier LightningModule."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

import zoo
from zoo.nn.augment import Chain, HorizontalFlip, RandomResizedCrop, step_uniform
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import decayed_groups, with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.rand_augment import RandAugment
from zoo.nn.ranges import Depth, Finite, Positive, Rate, Share, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.reports import class_names_of, say
from zoo.vision.class_report import ClassPictures
from zoo.vision.encoder import SIZES, Classifier, Encoder, Pool, Shape, sizes_of
from zoo.vision.pixels import standardised, statistics

_USES: Uses = dict.fromkeys(SIZES, ("free",))
BINS = 15


class ViTClassifier(LightningModule):
    """Vision transformer for classification (Dosovitskiy et al., ICLR 2021).

    The batch is that of :class:`datamodules.LabelledImages`: ``image`` (B, C, S, S) in [0, 1], ``label``
    (B,), -1 where unknown, ``index``. Test and validation report accuracy, cross-entropy and the expected
    calibration error over 15 bins of equal width.

    Args:
        image_size: S; the data tell.
        channels: C; the data tell.
        num_classes: K; the data tell.
        shape: ``vit-s/16``, ``vit-b/16`` (86,567,656 parameters with 1,000 classes), ``vit-l/16``, or
            ``free`` with the four sizes that follow.
        patch_size: P.
        width: of the encoder.
        depth: its blocks.
        heads: of their attention.
        norm_eps: of every norm: 1e-6 of timm and MAE, 1e-12 of transformers.
        pool: what is classified: the class token (``cls``) or the ``mean`` of the normed patches.
        linear_probe: the encoder stands still, and a linear layer behind batch norm alone is trained.
        pretrained: what a fresh training's encoder starts from: a name or file of :class:`zoo.MAE` or
            :class:`zoo.ViTClassifier` that :func:`zoo.load` takes. Its mean and std are to be said here too.
        drop_path: stochastic depth of the last block.
        label_smoothing: of the training's cross-entropy.
        mean: of the channels of pictures in [0, 1], by which they are standardised; null is .5.
        std: likewise.
        crop: least share of a picture that a training step sees, a part of it resized; 1 is all of it.
        flip: mirror half of the pictures in training.
        rand_augment: timm's rand-m9-mstd0.5 in training.
        optimizer: gets the weights with decay and those without: biases, norms, tokens.
        lr_scheduler: stepped each step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "image_size": "shape.1 shape.2",
        "channels": "shape.0",
        "num_classes": "num_classes",
    }

    def __init__(
        self,
        image_size: Size = 224,
        channels: Depth = 3,
        num_classes: Size = 1000,
        shape: Shape = "vit-b/16",
        patch_size: Size = 16,
        width: Size = 768,
        depth: Depth = 12,
        heads: Depth = 12,
        norm_eps: Positive = 1e-6,
        pool: Pool = "cls",
        linear_probe: bool = False,
        pretrained: str | None = None,
        drop_path: Rate = 0.0,
        label_smoothing: Rate = 0.0,
        mean: list[Finite] | None = None,
        std: list[Positive] | None = None,
        crop: Share = 1.0,
        flip: bool = False,
        rand_augment: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.05),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(ViTClassifier, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        for key, value, choices in (("shape", shape, Shape), ("pool", pool, Pool)):
            if value not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"model.init_args.{key} must be one of {names}, got {value!r}")
        refuse_unused(ViTClassifier, self.hparams, "shape", _USES)
        sizes = sizes_of(self.hparams)
        if linear_probe and drop_path:
            raise ValueError("model.init_args.drop_path is of an encoder that is trained: leave it out")
        if num_classes < 2:
            raise ValueError(f"model.init_args.num_classes is {num_classes}; two or more are told apart")
        self.pixels = statistics(self.hparams)
        self.network = Classifier(
            num_classes, pool, linear_probe, image_size, channels, **sizes, norm_eps=norm_eps,
            drop_path=drop_path,
        )  # fmt: skip
        if linear_probe:
            for name, p in self.network.named_parameters():
                p.requires_grad_(name.startswith("head."))
        parts: list[Any] = [RandomResizedCrop(image_size, crop)] if crop < 1 else []
        parts += [HorizontalFlip()] * flip
        if rand_augment:
            parts.append(RandAugment(fill=[0.5] * channels))
        self.augmentation = Chain(parts)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        for stage in ("val", "test"):
            self.add_module(f"{stage}_loss", MeanMetric())
            self.add_module(f"{stage}_accuracy", MulticlassAccuracy(num_classes, average="micro"))
            if num_classes > 5:
                top = MulticlassAccuracy(num_classes, average="micro", top_k=5)
                self.add_module(f"{stage}_top5", top)
            self.add_module(f"{stage}_ece", MulticlassCalibrationError(num_classes, BINS, norm="l1"))
        self._given_weights = False

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)
        source = self.hparams["pretrained"]
        if stage == "fit" and source and self.trainer.ckpt_path is None and not self._given_weights:
            say(f"the encoder starts from {self.start_from(source)}")

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these
        return super().load_state_dict(*args, **kwargs)

    def start_from(self, source: str) -> str:
        """Take the encoder of other weights; what was taken, in words.

        Raises:
            FileNotFoundError, ValueError: one line on weights that are not there, of another method or size.
        """
        given = zoo.load(source)
        theirs = given.network
        if not isinstance(theirs, Encoder):
            raise ValueError(
                f"model.init_args.pretrained: {source} holds a zoo.{type(given).__name__}, and the encoder "
                "of a zoo.MAE or zoo.ViTClassifier is taken"
            )
        own = Encoder.state_dict(self.network)
        names = [k for k in own if not k.startswith(("head.", "probe_norm."))]
        state = theirs.state_dict()
        for name in names:
            there = tuple(state[name].shape) if name in state else "missing"
            if there != tuple(own[name].shape):
                raise ValueError(
                    f"model.init_args.pretrained: {source} has {name} of {there}, the network of "
                    f"{tuple(own[name].shape)}: set the sizes of the encoder as it has them"
                )
        missing, _ = self.network.load_state_dict({k: state[k] for k in names}, strict=False)
        assert all(k.startswith(("head.", "probe_norm.")) for k in missing)
        pixels: Any = getattr(given, "pixels", None)
        if pixels != self.pixels:
            say(f"note: {source} reads pixels with mean and std {pixels}, here {self.pixels}")
        return f"{source}, a zoo.{type(given).__name__}"

    def configure_optimizers(self) -> Any:
        exempt = () if self.hparams["linear_probe"] else ("cls_token", "pos_embed")
        return with_schedule(self.optimizer(decayed_groups(self.network, exempt)), self.lr_scheduler)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of pictures (B, C, S, S) in [0, 1]."""
        return self.network(standardised(image, self.pixels))

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random standardised pictures for an export of the network."""
        h = self.hparams
        images = torch.rand(batch, h["channels"], h["image_size"], h["image_size"], device=self.device)
        return {"image": images.to(next(self.network.parameters()).dtype)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        image, label = batch["image"], batch["label"]
        if self.augmentation.columns:
            image = self.augmentation(
                image, step_uniform(self, batch_idx, len(image), self.augmentation.columns)
            )
        loss = functional.cross_entropy(
            self(image).float(), label, ignore_index=-1, label_smoothing=self.hparams["label_smoothing"]
        )
        several = self.trainer.world_size > 1
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(image), sync_dist=several)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        known = batch["label"] >= 0
        logits, label = self(batch["image"])[known].float(), batch["label"][known]
        names = ["loss", "accuracy", "ece", *["top5"] * (self.hparams["num_classes"] > 5)]
        for name in names:
            metric: Any = getattr(self, f"{stage}_{name}")
            if not len(label):
                continue
            if name == "loss":
                metric.update(functional.cross_entropy(logits, label, reduction="none"))
            else:
                metric.update(logits.softmax(dim=1) if name == "ece" else logits, label)
            shown = name in ("loss", "accuracy")
            self.log(f"{stage}/{name}", metric, prog_bar=shown, batch_size=len(label))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ClassPictures:
        image = batch["image"]
        with torch.no_grad():
            probability = self(image).softmax(dim=1)
        names = class_names_of(self, probability.shape[1])
        rows = ClassPictures.rows(batch["index"])
        looked = self.network.rollout(standardised(image[rows], self.pixels)) if len(rows) else None
        return ClassPictures.of(probability, batch, names, rows, looked)
