"""The ActGen LightningModule: a classifier, and the generator that makes variants of what it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from zoo.actgen import settings
from zoo.actgen.augmentation import Augmenting, weighted_loss
from zoo.actgen.classifiers import VITS, ClassifierName, classifier_of
from zoo.actgen.evaluation import check_guides, measured, variants_of
from zoo.actgen.generator import Generator
from zoo.actgen.guidance import Curriculum, GradientNorm, Mask
from zoo.actgen.loading import load_classifier, load_generator, load_judge
from zoo.actgen.making import Maker
from zoo.actgen.mining import Generation, NoneWrong, Select, asked
from zoo.actgen.pipeline import Precision
from zoo.actgen.report import Variants
from zoo.actgen.rounds import Rounds
from zoo.actgen.sampling import RandomSampler
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import EpochWarmupCosine, decayed_groups
from zoo.nn.parallel import predict_in_one_process, refuse_processes, refuse_sharding
from zoo.nn.ranges import (
    Count,
    CountOrZero,
    Depth,
    Finite,
    Fraction,
    Many,
    NonNegative,
    Positive,
    Rate,
    Share,
    Size,
    SizeOrZero,
    check_ranges,
)
from zoo.nn.resnet import Stem
from zoo.nn.vision_transformer import NO_WEIGHT_DECAY
from zoo.randomness import derived_seed, global_seed
from zoo.reports import class_names_of

_PREDICTED = 767
_FEW_CLASSES = 20
"""Up to so many, ``test`` tells the accuracy of each."""


def counts(step: int, counted: int, last: bool) -> bool:
    """Whether the schedule moves after step ``step`` (from 0) of an epoch.

    It moves ``counted`` times an epoch: after each of the first ``counted`` - 1 steps, and at the end of the
    epoch. What lies between, by which the set has grown, trains at the rate of the last counted one.
    """
    return step < counted - 1 or last


class ActGen(LightningModule):
    """Active generation for image classification (Huang, Liu, You, Xu, ECCV 2024).

    A classifier trains; after each epoch of the first half, held-out images that it gets wrong are guides of
    a text-to-image diffusion model, whose variants of them join the training set. At half time the held-out
    part itself joins.

    A batch has ``image`` float (B, C, S, S) in [0, 1], ``label`` int64 (B,), ``index`` and, in training,
    ``generated`` bool (B,); see :class:`datamodules.ActiveGeneration`. E is ``trainer.max_epochs``. The
    generator is frozen and in no state dict.

    Args:
        num_classes: K; the data tell.
        image_size: S; the data tell.
        channels: C; the data tell.
        classifier: ``cnn`` (two convolutions, for digits), a ResNet, or a vision transformer by timm's name.
        stem: of a ResNet, ``imagenet`` or ``cifar`` (3x3, stride 1, no max-pool).
        dropout: before the last layer of a ResNet or transformer.
        drop_path: rate of a transformer's stochastic depth.
        pretrained: file of torchvision's ResNet or timm's transformer to begin with.
        mean: that is subtracted from each channel, one for all or one each.
        std: that it is divided by.
        crop_padding: random crops of so many pixels around the picture; 0 has none.
        flip: mirror half of the training images; not for digits.
        rand_augment: mean magnitude of RandAugment; 0 has none.
        rand_augment_std: its deviation.
        erasing: probability of random erasing.
        mixup: alpha; 0 has none.
        cutmix: alpha; 0 has none.
        generation: ``none``; ``random``, plain images of the labels that are wrong; ``image``, guided by the
            image; ``mask``, on the object alone; ``contrastive`` and ``adversarial``, with that loss besides;
            ``full``, with both, the method; ``real_guidance``, image to image from random training images.
        generator: registered weights or a file of :class:`zoo.DigitGenerator`, or Stable Diffusion, a
            diffusers folder or a hub id.
        generator_precision: of Stable Diffusion's weights.
        generator_checkpointing: recompute its UNet in the backward pass.
        prompt: with ``{}`` for the name of the class.
        preset: ``official`` takes the official code's settings where they differ from the paper's.
        images_per_round: K, over all processes.
        generation_batch: images made together; none of them depends on it.
        select: which held-out images: ``wrong``, or those of most ``loss``, least ``margin``, most
            ``entropy``.
        none_wrong: where nothing is wrong ``skip`` the round, or take those of most ``loss``.
        balanced: take classes in turn.
        random_rate: share of plain images in a round; null is r_e, from .5 to 0 over the first half.
        random_sampler: of plain images, ``ddpm`` or ``pndm``.
        steps: N of the sampler.
        guidance: scale s of classifier-free guidance.
        guidance_centre: gamma_i = sigmoid(centre - i) of step i.
        centre_by_loss: moves the centre of an image by so many steps for each nat of its guide's loss above
            the round's mean.
        mask: ``normalized`` (paper) or ``official`` (1 plus all attention so far).
        gradient_steps: first steps that move the prompt embeddings.
        step_size: by which they move.
        gradient_norm: ``token`` (code) or ``global`` (paper).
        margin: rho; null is 1.5625 sqrt(D), 200 of Stable Diffusion's latents.
        memory_size: latents of a class that an image is kept from, at most.
        memory_update: what they are of: earlier rounds alone (``round``), or earlier images too (``image``,
            the code, one after the other).
        adversarial_weight: lambda.
        double_denorm: the code's second x / 2 + 1 / 2 before the classifier.
        curriculum: share of adversarial images among the guided, .5 - r_e (``code``) or .5 e / E (``paper``).
        strength: of ``real_guidance``.
        generated_weight: of generated images in the loss.
        duplicate_distance: root mean squared difference of pixels in [0, 1] below which an image is a copy.
        judge: independent classifier, registered weights or a file of this class, for label consistency.
        test_variants: kind of variants of test images that ``test`` measures, whatever the training makes.
        test_guides: of how many images, over the whole set.
        min_lr: of the method's schedule, a cosine over the iterations of the first set.
        warmup_epochs: of that schedule.
        warmup_lr: its first rate.
        decay_all: decay all parameters; false leaves biases, norms, class token and positions out.
        optimizer: of the classifier.
        lr_scheduler: in the place of the method's schedule, of every step.

    Raises:
        ValueError: for settings that exclude each other.
    """

    data_sizes: ClassVar[DataSizes] = {
        "num_classes": "num_classes",
        "image_size": "shape.1 shape.2",
        "channels": "shape.0",
    }

    def __init__(
        self,
        num_classes: Size = 10,
        image_size: Size = 32,
        channels: Depth = 3,
        classifier: ClassifierName = "resnet50",
        stem: Stem = "imagenet",
        dropout: Rate = 0.0,
        drop_path: Rate = 0.0,
        pretrained: str | None = None,
        mean: Sequence[Finite] = (0.0,),
        std: Sequence[Positive] = (1.0,),
        crop_padding: SizeOrZero = 0,
        flip: bool = False,
        rand_augment: NonNegative = 0.0,
        rand_augment_std: NonNegative = 0.5,
        erasing: Fraction = 0.0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        generation: Generation = "full",
        generator: str = "actgen_generator_digits",
        generator_precision: Precision = "float32",
        generator_checkpointing: bool = False,
        prompt: str = "a photo of {}",
        preset: str | None = None,
        images_per_round: Many = 64,
        generation_batch: Many = 8,
        select: Select = "wrong",
        none_wrong: NoneWrong = "skip",
        balanced: bool = False,
        random_rate: Fraction | None = None,
        random_sampler: RandomSampler = "ddpm",
        steps: Size = 40,
        guidance: Finite = 7.5,
        guidance_centre: Finite = 12.5,
        centre_by_loss: Finite = 0.0,
        mask: Mask = "normalized",
        gradient_steps: CountOrZero = 10,
        step_size: NonNegative = 0.05,
        gradient_norm: GradientNorm = "token",
        margin: NonNegative | None = None,
        memory_size: Count = 1024,
        memory_update: str = "round",
        adversarial_weight: NonNegative = 0.1,
        double_denorm: bool = False,
        curriculum: Curriculum = "code",
        strength: Share = 0.5,
        generated_weight: NonNegative = 1.0,
        duplicate_distance: NonNegative = 0.02,
        judge: str | None = None,
        test_variants: Generation = "none",
        test_guides: Count = 60,
        min_lr: NonNegative = 0.0,
        warmup_epochs: CountOrZero = 0,
        warmup_lr: NonNegative = 0.0,
        decay_all: bool = True,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(ActGen, locals())
        super().__init__()
        mean, std = list(mean), list(std)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        settings.check(ActGen, self.hparams, lr_scheduler is not None)
        self.network = classifier_of(self.hparams)
        self._augmenting = Augmenting(self.hparams)
        for stage in ("val", "test"):
            self.add_module(f"{stage}_accuracy", MulticlassAccuracy(num_classes, average="micro"))
        self.test_counts = MulticlassStatScores(num_classes, average="none")
        self._guides: list[tuple[Tensor, Tensor]] = []
        self._generator: Generator | None = None
        self._judge: LightningModule | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # generator and judge are tools, no part of the classifier: not in its state dict
        if name in ("_generator", "_judge"):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # --- set-up -----------------------------------------------------------------------------------------

    def configure_callbacks(self) -> Sequence[Callback]:
        return [Rounds()]

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)
        predict_in_one_process(self, stage)
        if stage == "fit" and self.hparams["pretrained"]:
            load_classifier(self.network.body, Path(self.hparams["pretrained"]))

    @property
    def class_names(self) -> list[str]:
        """Of the data where they tell, else numbers."""
        return class_names_of(self, self.hparams["num_classes"])

    def maker(self, network: torch.nn.Module | None = None) -> Maker:
        """What makes images for a classifier, frozen and in eval mode; the module's own by default."""
        h = self.hparams
        with torch.inference_mode(False):
            self._load_tools()
        assert self._generator is not None
        return Maker(h, self._generator, network or self.network, self._judge)

    def _load_tools(self) -> None:
        h = self.hparams
        if self._generator is None:
            data = getattr(self._trainer, "datamodule", None)
            self._generator = load_generator(h, self.class_names, getattr(data, "names_told", True))
        if self._judge is None and h["judge"]:
            self._judge = load_judge(h)
        self._generator.to(self.device)
        if self._judge is not None:
            self._judge.to(self.device)

    def configure_optimizers(self) -> Any:
        parameters: Any = list(self.network.parameters())
        if not self.hparams["decay_all"]:
            exempt = NO_WEIGHT_DECAY if self.hparams["classifier"] in VITS else ()
            parameters = decayed_groups(self.network, exempt)
        optimizer = self.optimizer(parameters)
        if self.lr_scheduler is not None:
            schedule: Any = self.lr_scheduler(optimizer)
        else:
            h = self.hparams
            epochs = self._epochs
            warmup = (h["warmup_epochs"], h["warmup_lr"])
            schedule = EpochWarmupCosine(optimizer, epochs, self._counted, *warmup, h["min_lr"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _epochs(self) -> int:
        epochs = self.trainer.max_epochs
        if not epochs or epochs < 1:
            raise ValueError("zoo.ActGen divides its training in halves: set trainer.max_epochs")
        return epochs

    @property
    def _counted(self) -> int:
        """Optimiser steps of an epoch of the set that training began with."""
        data: Any = getattr(self.trainer, "datamodule", None)
        batches = getattr(data, "counted_batches", None)
        batches = self.trainer.num_training_batches if batches is None else batches
        return max(1, -(-int(batches) // self.trainer.accumulate_grad_batches))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Moves as often in each epoch as in the first, however the set has grown."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        step = done // self.trainer.accumulate_grad_batches
        if self.lr_scheduler is not None or counts(step, self._counted, self.trainer.is_last_batch):
            scheduler.step()

    # --- classifier -------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, K) of images (B, C, S, S) in [0, 1]."""
        return self.network(image)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images for an export of the classifier."""
        h = self.hparams
        image = torch.rand(batch, h["channels"], h["image_size"], h["image_size"], device=self.device)
        return {"image": image.to(next(self.network.parameters()).dtype)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image, target = self._augmenting(self, batch_idx, batch["image"], batch["label"])
        made = batch.get("generated", torch.zeros_like(batch["label"], dtype=torch.bool))
        scores = self.network.body(image)
        loss = weighted_loss(scores, target, made, self.hparams["generated_weight"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(image), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_test_start(self) -> None:
        self._guides = []
        if self.hparams["test_variants"] != "none":
            refuse_processes(self, "makes its variants of a test together", " for test")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.test_counts.update(self._evaluate(batch, "test"), batch["label"])
        if self.hparams["test_variants"] != "none":
            self._guides.append((batch["image"].cpu(), batch["label"].cpu()))

    def on_test_epoch_end(self) -> None:
        """Variants of images that are spread over the test set, see :mod:`zoo.actgen.evaluation`."""
        h = self.hparams
        self._tell_classes()
        if h["test_variants"] == "none":
            return
        images, labels = (torch.cat(parts) for parts in zip(*self._guides, strict=True))
        rows = torch.linspace(0, len(images) - 1, min(h["test_guides"], len(images))).round().long()
        images, chosen = images[rows], labels[rows].tolist()
        tools, kind = self.maker(), h["test_variants"]
        made = variants_of(h, tools.generator, self.network, tools.judge, images, chosen, kind, global_seed())
        found = measured(made, images, chosen)
        self.log_dict({f"test/variant_{k}": v for k, v in found.items()})

    def _tell_classes(self) -> None:
        """Accuracy of each class that the test has images of, where classes are few."""
        right, images = self.test_counts.compute()[:, [0, 4]].unbind(dim=1)  # of all processes
        self.test_counts.reset()
        if len(images) <= _FEW_CLASSES:
            for k in images.nonzero().flatten().tolist():
                self.log(f"test/class_{k}_accuracy", float(right[k] / images[k]))

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        scores = self(batch["image"]).float()
        metric: Any = getattr(self, f"{stage}_accuracy")
        metric.update(scores, batch["label"])
        many = len(batch["label"])
        loss = F.cross_entropy(scores, batch["label"])
        self.log(f"{stage}/accuracy", metric, on_epoch=True, prog_bar=True, batch_size=many)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=many, sync_dist=True)
        return scores

    # --- variants ---------------------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Variants:
        image, label = batch["image"], batch["label"]
        scores = self(image).float().softmax(dim=1)
        index = batch["index"]
        names = self.class_names
        if self.hparams["generation"] == "none":
            return Variants(image.cpu(), label.cpu(), index.cpu(), scores.cpu(), names)
        seeds = [derived_seed(_PREDICTED, global_seed(), int(i)) for i in index]
        made = self.maker().make(asked(self.hparams["generation"], label.tolist(), seeds), image)
        return Variants(image.cpu(), label.cpu(), index.cpu(), scores.cpu(), names, made)

    @torch.no_grad()
    def variants(self, images: Tensor, labels: Sequence[int], seed: int = 0) -> Tensor:
        """A variant of each image, as a round would make it: (B, C, S, S) in [0, 1] at the generator's size.

        Args:
            images: (B, C, S, S) in [0, 1] at the classifier's size.
            labels: their classes.
            seed: of the noise, with the image's place.

        Raises:
            ValueError: for images of another shape, out of range or not finite, labels that are no classes,
                and a classifier without a generation.
        """
        h = self.hparams
        if h["generation"] == "none":
            raise ValueError("generation is none: load with generation='full', say")
        images = torch.as_tensor(images, dtype=torch.float32, device=self.device)
        labels = [int(label) for label in labels]
        check_guides(h, images, labels)
        self.eval()
        seeds = [derived_seed(_PREDICTED, seed, i) for i in range(len(labels))]
        return self.maker().make(asked(h["generation"], labels, seeds), images).images
