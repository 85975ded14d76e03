"""The embedded generator: class tokens -> small pictures, a stand-in for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.actgen.generator import ClassUNet, EmbeddedGenerator, class_schedule
from zoo.actgen.sampling import Job, sample_random
from zoo.diffusion.losses import q_sample
from zoo.diffusion.samplers import SampleNoise
from zoo.diffusion.schedules import leading_timesteps
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import Depth, Finite, Part, Rate, Size, check_ranges
from zoo.randomness import derived_seed, global_seed, local_rows, step_generator
from zoo.reports import GeneratedImages

_VALIDATION, _SAMPLES = 771, 772


class DigitGenerator(LightningModule):
    """A text-to-digit diffusion model, what :class:`zoo.ActGen` generates with where no Stable Diffusion is.

    diffusers' ``UNet2DConditionModel`` on pixels predicts the noise from the tokens [BOS, class, EOS, PAD];
    scaled-linear betas as Stable Diffusion's. A batch has ``image`` float (B, C, S, S) in [0, 1], ``label``
    int64 (B,) and ``index``.

    Args:
        image_size: S.
        channels: C.
        num_classes: K.
        widths: channels of each level; the number of levels halves S so often, less one.
        token_width: of a token's embedding.
        heads: of an attention.
        groups: of the group norms; divides every width.
        timesteps: T.
        beta_start: first beta.
        beta_end: last beta.
        label_dropout: share of the training labels that become the empty prompt.
        guidance: of the samples that ``test`` and ``predict`` show.
        sampling_steps: of those samples.
        optimizer: of all parameters.
        lr_scheduler: stepped every optimiser step.
    """

    data_sizes: ClassVar[DataSizes] = {
        "image_size": "shape.1 shape.2",
        "channels": "shape.0",
        "num_classes": "num_classes",
    }

    def __init__(
        self,
        image_size: Size = 8,
        channels: Depth = 1,
        num_classes: Size = 10,
        widths: Sequence[Size] = (16, 32),
        token_width: Size = 32,
        heads: Depth = 8,
        groups: Depth = 8,
        timesteps: Size = 1000,
        beta_start: Part = 0.00085,
        beta_end: Part = 0.012,
        label_dropout: Rate = 0.1,
        guidance: Finite = 3.0,
        sampling_steps: Size = 20,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=2e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(DigitGenerator, locals())
        super().__init__()
        widths = list(widths)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        _check_sizes(image_size, widths, heads, groups, timesteps, sampling_steps)
        if not beta_start <= beta_end:
            raise ValueError(f"model.init_args.beta_start is {beta_start}, more than beta_end {beta_end}")
        self.network = ClassUNet(num_classes, image_size, channels, widths, token_width, heads, groups)
        self.schedule = class_schedule(timesteps, beta_start, beta_end)
        self.shape = (channels, image_size, image_size)
        self.error: Any = MeanMetric()

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of the network: noisy pictures, timesteps, labels with -1, the empty prompt."""
        x = torch.randn(batch, *self.shape, device=self.device)
        return {
            "x": x.to(next(self.network.parameters()).dtype),
            "t": torch.randint(self.hparams["timesteps"], (batch,), device=self.device),
            "y": torch.randint(-1, self.hparams["num_classes"], (batch,), device=self.device),
        }

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x0, y = 2 * batch["image"] - 1, batch["label"]
        g = step_generator(self, batch_idx)
        size = len(x0) * self.trainer.world_size
        t = torch.randint(self.hparams["timesteps"], (size,), generator=g, device=g.device)
        noise = torch.randn(size, *self.shape, generator=g, device=g.device)
        dropped = torch.rand(size, generator=g, device=g.device) < self.hparams["label_dropout"]
        t, noise, dropped = (local_rows(self, d) for d in (t, noise, dropped))
        loss = self._errors(x0, torch.where(dropped, -1, y), t, noise).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(x0), sync_dist=True)
        return loss

    def _errors(self, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the noise of each image (B,)."""
        x_t = q_sample(self.schedule, x0, t, noise)
        eps = self.network(x_t.to(x0.dtype), t, y).float()
        return (noise - eps).pow(2).flatten(1).mean(dim=1)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def _evaluate(self, batch: dict[str, Tensor]) -> None:
        """Error at a timestep and with noise that are fixed by the item."""
        x0, steps = 2 * batch["image"] - 1, self.hparams["timesteps"]
        keys = [derived_seed(_VALIDATION, int(i)) for i in batch["index"]]
        t = torch.tensor([key % steps for key in keys], device=x0.device)
        noise = SampleNoise(keys, self.shape, x0.device)()
        self.error.update(self._errors(x0, batch["label"], t, noise))

    def on_validation_epoch_end(self) -> None:
        self._log_error("val")

    def on_test_epoch_end(self) -> None:
        self._log_error("test")

    def _log_error(self, stage: str) -> None:
        self.log(f"{stage}/loss", self.error.compute(), prog_bar=True)
        self.error.reset()

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Sequence[int], steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Pictures of the given classes in [0, 1], one of each seed, whatever the batch. (B, C, S, S)

        Args:
            labels: int64 (B,) in 0..K-1.
            seeds: B numbers.
            steps: of the DDPM sampler; null takes the constructor's.
            guidance: likewise.

        Raises:
            ValueError: for labels outside of the classes, and as many seeds as there are not labels.
        """
        labels = torch.as_tensor(labels)
        classes = self.hparams["num_classes"]
        if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(seeds):
            raise ValueError("labels must be whole numbers (B,), and as many seeds as labels be given")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
        training = self.training
        found = EmbeddedGenerator(self, "self")
        found.device = self.device
        h = self.hparams
        job = Job(labels.tolist(), list(seeds))
        try:
            made = sample_random(
                found, job, steps or h["sampling_steps"], h["guidance"] if guidance is None else guidance
            )
        finally:
            self.network.requires_grad_(True).train(training)
        return made.images

    def _drawn(self, labels: Tensor, index: Tensor) -> GeneratedImages:
        seeds = [derived_seed(_SAMPLES, global_seed(), int(i)) for i in index]
        images = 2 * self.sample(labels, seeds) - 1
        return GeneratedImages(images.cpu(), labels.cpu(), index.cpu())

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> GeneratedImages:
        return self._drawn(batch["label"], batch["index"])

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """``count`` samples over the classes, of the same noise each time."""
        classes = min(self.hparams["num_classes"], count)
        return {"samples": self._drawn(torch.arange(count) * classes // count, torch.arange(count))}


def _check_sizes(
    size: int, widths: Sequence[int], heads: int, groups: int, timesteps: int, steps: int
) -> None:
    if size % 2 ** (len(widths) - 1) or not widths:
        raise ValueError(
            f"model.init_args.image_size is {size}, which widths of {len(widths)} levels do not halve evenly"
        )
    if bad := [w for w in widths if w % groups or w % heads]:
        raise ValueError(
            f"model.init_args.widths has {bad[0]}, which groups ({groups}) and heads ({heads}) must divide"
        )
    try:
        leading_timesteps(timesteps, steps, 1)
    except ValueError as error:
        raise ValueError(f"model.init_args.sampling_steps and timesteps do not fit: {error}") from None
