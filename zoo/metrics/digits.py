"""A small digit classifier whose features judge generated digits, as Inception's judge generated photos."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from zoo.metrics.frechet import FrechetDistance, mean_and_covariance
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.ranges import Size, check_ranges


class DigitClassifier(LightningModule):
    """Two or three convolutions, a hidden layer of ``feature_size`` units, a linear classifier.

    The mean and covariance of the hidden layer over the training images travel with the weights, as the
    reference statistics do that ADM ships for ImageNet. A batch has ``image`` (B, 1, S, S) in [-1, 1] and
    ``label`` (B,).

    Args:
        input_size: S, a multiple of 4.
        width: channels of the first convolution.
        feature_size: units of the hidden layer (F).
        num_classes: K.
    """

    reference_mean: Tensor
    reference_covariance: Tensor

    data_sizes: ClassVar[DataSizes] = {"input_size": "shape.1 shape.2", "num_classes": "num_classes"}
    image_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __init__(
        self,
        input_size: Size = 8,
        width: Size = 16,
        feature_size: Size = 32,
        num_classes: Size = 10,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(DigitClassifier, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if input_size % 4:
            raise ValueError(f"input_size must be a multiple of 4, got {input_size}")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.feature_size = feature_size
        self.network = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (input_size // 4) ** 2, feature_size),
            nn.ReLU(),
            nn.Linear(feature_size, num_classes),
        )
        self.register_buffer("reference_mean", torch.zeros(feature_size, dtype=torch.float64))
        self.register_buffer("reference_covariance", torch.eye(feature_size, dtype=torch.float64))
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.distance = FrechetDistance(feature_size)

    def setup(self, stage: str) -> None:
        check_fit(self)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images (batch, 1, S, S) in [-1, 1] for the network, which gives class scores (batch, K)."""
        size = self.hparams["input_size"]
        images = 2 * torch.rand(batch, 1, size, size, device=self.device) - 1
        return {"input": images.to(next(self.network.parameters()).dtype)}

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, S, S) in [-1, 1] -> hidden layer (B, F) and class scores (B, K)."""
        features = self.network[:-1](images.to(next(self.network.parameters()).dtype))
        return features, self.network[-1](features)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.network(batch["image"]), batch["label"])
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_test_start(self) -> None:
        self.distance.set_reference(self.reference_mean, self.reference_covariance)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accuracy, and the Frechet distance of real held-out images: the floor of what samples can reach."""
        features = self._evaluate(batch, "test")
        self.distance.update(features, real=False)
        self.log("test/frechet_distance", self.distance, on_epoch=True, batch_size=len(batch["label"]))

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        features, logits = self.features_and_logits(batch["image"])
        self.accuracy.update(logits, batch["label"])
        self.log(
            f"{stage}/accuracy", self.accuracy, on_epoch=True, prog_bar=True, batch_size=len(batch["label"])
        )
        return features

    def on_train_epoch_end(self) -> None:
        self._refresh_reference()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Every checkpoint, also one amid an epoch, holds the statistics of its own weights."""
        if self.trainer.train_dataloader is None:
            return
        self._refresh_reference()
        for name in ("reference_mean", "reference_covariance"):
            checkpoint["state_dict"][name] = getattr(self, name)

    @torch.no_grad()
    def _refresh_reference(self) -> None:
        loader: Any = self.trainer.train_dataloader
        batch = loader.dataset.__getitems__(range(len(loader.dataset)))
        features, _ = self.features_and_logits(batch["image"].to(self.device))
        self.reference_mean, self.reference_covariance = mean_and_covariance(features)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)
