"""The DTR LightningModule: training, validation, sampling and logging of DiT with Denoising Task Routing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

import zoo
from zoo.diffusion.autoencoder import check_scale, decode_latents, load_vae
from zoo.diffusion.losses import (
    LOSS_WEIGHTS,
    LossWeight,
    UncertaintyWeighting,
    q_sample,
    stratified_timesteps,
    timestep_weight,
    variational_bound,
)
from zoo.diffusion.samplers import SampleNoise, SamplerName, ddim, ddpm, dpm_solver, guided
from zoo.diffusion.schedules import NoiseSchedule, ScheduleName, space_timesteps
from zoo.dtr.network import SIZES, DiT
from zoo.dtr.routing import RoutingKind
from zoo.dtr.unet import UNet
from zoo.metrics.digits import DigitClassifier
from zoo.metrics.epoch_end import log_and_reset
from zoo.metrics.frechet import FrechetDistance
from zoo.nn.data_fit import DataSizes, check_fit, named, told
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import shard_blocks
from zoo.nn.precision import ExactModuleDict
from zoo.nn.ranges import Depth, Finite, Fraction, NonNegative, Positive, Rate, Seed, Size, check_ranges
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import derived_seed, generator, global_seed, local_rows, step_generator
from zoo.reports import GeneratedImages

# First words of the keys of this module's random streams.
_VALIDATION_NOISE, _SAMPLE_NOISE = 101, 102
QUARTILES = 4
_USES: dict[str, Uses] = {
    "backbone": {
        **dict.fromkeys(("size", "patch_size", "width", "depth", "heads"), ("dit",)),
        **dict.fromkeys(
            (
                "unet_channels",
                "unet_multipliers",
                "unet_res_blocks",
                "unet_attention",
                "unet_head_channels",
                "unet_groups",
                "unet_dropout",
            ),
            ("unet",),
        ),
    },
    "routing": {"alpha": ("dtr",), "beta": ("dtr", "random"), "routing_seed": ("random",)},
    "loss_weight": {
        "min_snr_gamma": ("min_snr",),
        **dict.fromkeys(("p2_gamma", "p2_k"), ("p2",)),
        **dict.fromkeys(("uw_intervals", "uw_lr"), ("uw",)),
    },
    "sampler": {"spacing": ("ddpm", "ddim")},
}


class DTR(LightningModule):
    """DiT with Denoising Task Routing (Park et al., ICLR 2024; DiT: Peebles & Xie, ICCV 2023).

    A batch is a dict with ``image`` or ``latent`` (B, C, S, S) float in about [-1, 1], ``label`` int64 (B,)
    and, for validation, test and prediction, ``index`` int64 (B,).

    Args:
        backbone: ``dit`` or ``unet`` (ADM's, sized by the ``unet_`` arguments alone).
        size: DiT size, S, B, L or XL; ``width``, ``depth`` and ``heads`` replace its numbers one by one.
        patch_size: p of DiT (2, 4 or 8 in the paper).
        input_size: side S of the images or latents.
        in_channels: their channels C.
        num_classes: K; 1 is unconditional (no label dropout, no guidance).
        unet_channels: width of the U-Net's first level; the defaults are ADM's for 64 x 64 ImageNet.
        unet_multipliers: width of each level in units of ``unet_channels``; each level halves the side.
        unet_res_blocks: residual blocks per level.
        unet_attention: sides of the levels with attention.
        unet_head_channels: width of an attention head.
        unet_groups: of the group norms; divides every width.
        unet_dropout: dropout rate in the residual blocks.
        routing: ``dtr``, ``random`` (R-TR, the paper's ablation) or ``none`` (plain DiT).
        alpha: speed of the sliding window, > 1 moves it at high noise.
        beta: share of channels that each task sees.
        routing_seed: seed of ``random`` routing.
        timesteps: T.
        schedule: ``linear`` or ``cosine`` noise schedule.
        learn_sigma: learn the variance (adds the variational term to the loss).
        loss_weight: ``constant``, ``min_snr``, ``p2`` or ``uw`` (ANT-UW: stratified timesteps, learned).
        min_snr_gamma: gamma of ``min_snr``.
        p2_gamma: gamma of ``p2``.
        p2_k: k of ``p2``.
        uw_intervals: number of timestep intervals of ``uw``; must divide the batch of each device.
        uw_lr: learning rate of the log-variances of ``uw`` (own AdamW group, no weight decay).
        label_dropout: probability of replacing a training label by the null class.
        sampler: ``ddpm``, ``ddim`` or ``dpm++`` (diffusers' DPM-Solver++).
        sampling_steps: number of network evaluations per sample.
        spacing: which timesteps a shorter sampler keeps, ``iddpm`` (reaches T - 1) or ``ddim``.
        guidance: classifier-free guidance scale, 1 is none.
        cfg_channels: guide only the first channels; null guides all (DTR), 3 is official DiT.
        clip_denoised: clip the x_0 prediction to [-1, 1] while sampling (for pixels, not for latents).
        features: name or path of a :class:`zoo.DigitClassifier` that measures samples in ``zoo test``.
        vae: local folder or hub id of a diffusers ``AutoencoderKL`` that decodes sampled latents into images.
        latent_scale: factor of the latents, 0.18215 for Stable Diffusion's VAE; not with ``latent_mean``.
        latent_mean: of latents that were normalised per channel, z = (x - mean) / std: C numbers. Null takes
            those of the data where they have any, see ``latent_norm`` of ``datamodules.ImageNetLatents``; the
            checkpoint keeps them, and samples are decoded by them.
        latent_std: see ``latent_mean``.
        compile: compile each transformer block with ``torch.compile``.
        activation_checkpointing: recompute blocks in the backward pass to save memory.
        optimizer: called with parameter groups.
        lr_scheduler: called with the optimizer, stepped every optimiser step.
    """

    data_sizes: ClassVar[DataSizes] = {
        "num_classes": "num_classes",
        "in_channels": "shape.0",
        "input_size": "shape.1 shape.2",
    }

    def __init__(
        self,
        size: Literal["S", "B", "L", "XL"] = "L",
        patch_size: Size = 2,
        input_size: Size = 32,
        in_channels: Size = 4,
        num_classes: Size = 1000,
        backbone: Literal["dit", "unet"] = "dit",
        width: Size | None = None,
        depth: Depth | None = None,
        heads: Depth | None = None,
        unet_channels: Size = 192,
        unet_multipliers: Sequence[Depth] = (1, 2, 3, 4),
        unet_res_blocks: Depth = 3,
        unet_attention: Sequence[Size] = (32, 16, 8),
        unet_head_channels: Size = 64,
        unet_groups: Size = 32,
        unet_dropout: Rate = 0.1,
        routing: RoutingKind = "dtr",
        alpha: Positive = 4.0,
        beta: Fraction = 0.8,
        routing_seed: Seed = 0,
        timesteps: Size = 1000,
        schedule: ScheduleName = "linear",
        learn_sigma: bool = True,
        loss_weight: LossWeight = "constant",
        min_snr_gamma: Positive = 5.0,
        p2_gamma: NonNegative = 1.0,
        p2_k: Positive = 1.0,
        uw_intervals: Size = 8,
        uw_lr: NonNegative = 0.025,
        label_dropout: Rate = 0.1,
        sampler: SamplerName = "ddpm",
        sampling_steps: Size = 250,
        spacing: Literal["iddpm", "ddim"] = "iddpm",
        guidance: Finite = 1.5,
        cfg_channels: Size | None = None,
        clip_denoised: bool = False,
        features: str | None = None,
        vae: str | None = None,
        latent_scale: Positive = 0.18215,
        latent_mean: list[Finite] | None = None,
        latent_std: list[Positive] | None = None,
        compile: bool = False,
        activation_checkpointing: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.0),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(DTR, locals())
        super().__init__()
        # Stored hyperparameters pass through JSON, which has lists alone.
        unet_multipliers, unet_attention = list(unet_multipliers), list(unet_attention)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        if loss_weight not in LOSS_WEIGHTS:
            raise ValueError(f"loss_weight must be one of {', '.join(LOSS_WEIGHTS)}, got {loss_weight!r}")
        if loss_weight == "uw" and timesteps % uw_intervals:
            raise ValueError(f"uw_intervals must divide timesteps, got {uw_intervals} and {timesteps}")
        if backbone not in ("dit", "unet"):
            raise ValueError(f"backbone must be dit or unet, got {backbone!r}")
        for choice, uses in _USES.items():
            refuse_unused(DTR, self.hparams, choice, uses)
        _check_statistics(latent_mean, latent_std, in_channels)
        if latent_mean is not None:
            _refuse_scale(latent_scale, "latent_mean and latent_std are set")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.num_classes, self.timesteps, self.loss_weight = num_classes, timesteps, loss_weight
        self.label_dropout = label_dropout if num_classes > 1 else 0.0
        self.network: DiT | UNet
        if backbone == "dit":
            sizes = {k: self.hparams[k] or v for k, v in SIZES[size].items()}
            self.network = DiT(**settings_of(DiT, self.hparams) | sizes)
        else:
            self.network = UNet(**settings_of(UNet, self.hparams, prefix="unet_"))
        self.shape = (in_channels, input_size, input_size)
        self.schedule = NoiseSchedule.named(schedule, timesteps)
        self.uncertainty = UncertaintyWeighting(uw_intervals) if loss_weight == "uw" else None
        if sampler != "dpm++":
            # Refuses impossible numbers here, not after training.
            space_timesteps(timesteps, sampling_steps, spacing)
        self.eval_metrics: Any = ExactModuleDict(
            {k: MeanMetric() for k in ("loss", "mse", "vb", *(f"mse_q{q + 1}" for q in range(QUARTILES)))}
        )
        self.sample_metrics: Any = ExactModuleDict()
        self._judge: DigitClassifier | None = None
        self._largest_batch = 0
        self._decoder: Any = None

    def configure_model(self) -> None:
        shard_blocks(self, [*self.network.blocks, self.network, self.uncertainty])

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of the network: images or latents, timesteps 0..T-1, labels with the null class."""
        noise = torch.randn(batch, *self.shape, device=self.device)
        labels = self.network.null_label + 1
        return {
            "x": noise.to(next(self.network.parameters()).dtype),
            "t": torch.randint(self.timesteps, (batch,), device=self.device),
            "y": torch.randint(labels, (batch,), device=self.device),
        }

    def setup(self, stage: str) -> None:
        # one class is the unconditional model, whatever the data have
        check_fit(self, num_classes=lambda own, found: own in (1, found))
        self._take_statistics(stage)
        if self.hparams["compile"]:
            for block in self.network.blocks:
                block.compile()
        if stage == "test" and self.hparams["features"]:
            self._load_judge(self.hparams["features"])

    def _take_statistics(self, stage: str) -> None:
        """Keep how the data normalised their latents, for :meth:`decode`; refuse other ones later."""
        data, own = getattr(self.trainer, "datamodule", None), self.hparams
        if not hasattr(data, "latent_mean"):
            return
        for key in ("latent_mean", "latent_std"):
            found = told(data, key)
            if own[key] is None and found is not None:
                _refuse_scale(own["latent_scale"], f"{named(data)} tells latent_mean and latent_std")
                own[key] = list(found)
            elif own[key] != found and (found is not None or stage == "fit"):
                raise ValueError(
                    f"model.init_args.{key} is {_beginning(own[key])}, but {named(data)} has "
                    f"{_beginning(found)}: they were normalised otherwise than those that the weights know; "
                    "give latents of the same statistics (layout lightningdit: a copy of the training set's "
                    "latents_stats.pt)"
                )
        if own["vae"] is not None and own["latent_mean"] is None and told(data, "own_scale"):
            raise ValueError(
                f"{named(data)} has latents of a scale of their own, which neither the weights nor its files "
                "tell, so samples cannot be decoded; set data.init_args.root to the training latents, or "
                "model.init_args.latent_mean and latent_std, or model.init_args.vae: null to write latents"
            )

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.uncertainty is not None:
            groups.append(
                {
                    "params": list(self.uncertainty.parameters()),
                    "lr": self.hparams["uw_lr"],
                    "weight_decay": 0.0,
                }
            )
        return with_schedule(self.optimizer(groups), self.lr_scheduler)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        x0, y = _input(batch), self._labels(batch["label"])
        t, noise, dropped = self._training_draws(x0, batch_idx)
        y = torch.where(dropped, self.network.null_label, y)
        mse, vb = self._errors(x0, t, y, noise)
        if self.uncertainty is not None:
            loss = self.uncertainty(mse + vb)
        else:
            weight = timestep_weight(
                self.schedule,
                t,
                self.loss_weight,
                self.hparams["min_snr_gamma"],
                self.hparams["p2_gamma"],
                self.hparams["p2_k"],
            )
            loss = (weight * mse + vb).mean()
        self._log_training(mse, vb)
        return loss

    def _training_draws(self, x0: Tensor, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps, noise and label drops of this rank's rows, drawn for the global batch."""
        g = step_generator(self, batch_idx)
        size = len(x0) * self.trainer.world_size
        if self.uncertainty is not None:
            t = stratified_timesteps(size, self.timesteps, self.uncertainty.intervals, g)
        else:
            t = torch.randint(self.timesteps, (size,), generator=g, device=g.device)
        # float32 by name: pure bfloat16 training changes torch's default type.
        float32: Any = {"generator": g, "device": g.device, "dtype": torch.float32}
        noise = torch.randn(size, *x0.shape[1:], **float32)
        dropped = torch.rand(size, **float32) < self.label_dropout
        return local_rows(self, t), local_rows(self, noise), local_rows(self, dropped)

    def _errors(self, x0: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squared eps error and variational term per sample, each float32 (B,)."""
        x_t = q_sample(self.schedule, x0, t, noise)
        output = self.network(x_t.to(x0.dtype), t, y).float()
        eps = output[:, : x0.shape[1]]
        mse = (noise.float() - eps).pow(2).flatten(1).mean(dim=1)
        if not self.hparams["learn_sigma"]:
            return mse, torch.zeros_like(mse)
        return mse, variational_bound(self.schedule, x0, x_t, t, eps, output[:, x0.shape[1] :])

    def _log_training(self, mse: Tensor, vb: Tensor) -> None:
        means = torch.stack([(mse + vb).mean(), mse.mean(), vb.mean()]).detach()
        if self.trainer.world_size > 1:
            gathered: Any = self.all_gather(means)
            means = gathered.mean(dim=0)
        size = len(mse)
        # The unweighted mean: the weighted total of uw may be negative and says nothing about progress.
        self.log("train/loss", means[0], prog_bar=True, batch_size=size)
        if (self.trainer.global_step + 1) % getattr(self.trainer, "log_every_n_steps", 1):
            return  # each logged value costs 0.2 ms on a CPU; the rest is needed only for a row
        self.log("train/mse", means[1], batch_size=size)
        self.log("train/vb", means[2], batch_size=size)
        if self.uncertainty is not None:
            weights = self.uncertainty.weights
            weights = weights.full_tensor() if isinstance(weights, DTensor) else weights
            self.log_dict({f"uw/weight_{i + 1}": w for i, w in enumerate(weights)}, batch_size=size)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, len(_dataset(self.trainer.val_dataloaders)))

    def on_validation_epoch_end(self) -> None:
        log_and_reset(self, "val", self.eval_metrics, ("mse",))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, len(_dataset(self.trainer.test_dataloaders)))
        if self._judge is not None:
            images = self._generate_batch(batch)
            features, logits = self._judge.features_and_logits(images.clamp(-1, 1))
            self.sample_metrics["frechet_distance"].update(features, real=False)
            self.sample_metrics["class_accuracy"].update(logits, batch["label"])

    def on_test_epoch_end(self) -> None:
        log_and_reset(self, "test", self.eval_metrics, ("mse",))
        log_and_reset(self, "test", self.sample_metrics)

    def _evaluate(self, batch: dict[str, Tensor], total: int) -> None:
        """Losses with noise and timestep fixed by each item's index.

        Item i of N sits at t = round(i' (T - 1) / (N - 1)), i' a fixed permutation of 0..N-1, so that any
        part of the set covers all noise levels.
        """
        x0, y, index = _input(batch), self._labels(batch["label"]), batch["index"]
        order = torch.randperm(total, generator=generator(_VALIDATION_NOISE))
        position = order[index.cpu()].double() * (self.timesteps - 1) / max(total - 1, 1)
        t = position.round().long().to(x0.device)
        seeds = [derived_seed(_VALIDATION_NOISE, int(i)) for i in index]
        noise = SampleNoise(seeds, x0.shape[1:], x0.device)()
        full = self._full_batch(len(index))
        mse, vb = self._errors(x0[full], t[full], y[full], noise[full])
        mse, vb = mse[: len(index)], vb[: len(index)]
        for name, value in (("loss", mse + vb), ("mse", mse), ("vb", vb)):
            self.eval_metrics[name].update(value)
        for q in range(QUARTILES):
            inside = t * QUARTILES // self.timesteps == q
            self.eval_metrics[f"mse_q{q + 1}"].update(mse, inside.float())

    def _load_judge(self, name: str) -> None:
        judge = zoo.load(name)
        if not isinstance(judge, DigitClassifier):
            raise ValueError(
                f"model.init_args.features: {name!r} holds a {type(judge).__name__}, not a DigitClassifier"
            )
        if judge.hparams["input_size"] != self.shape[1] or self.shape[0] != 1:
            raise ValueError(
                f"model.init_args.features: {name!r} judges 1 x {judge.hparams['input_size']}-pixel images, "
                f"the model makes {self.shape[0]} x {self.shape[1]}"
            )
        self._judge = judge.to(self.device)
        distance = FrechetDistance(judge.feature_size)
        distance.set_reference(judge.reference_mean, judge.reference_covariance)
        accuracy = MulticlassAccuracy(self.num_classes, average="micro")
        self.sample_metrics["frechet_distance"] = distance.to(self.device)
        self.sample_metrics["class_accuracy"] = accuracy.to(self.device)

    def __setattr__(self, name: str, value: Any) -> None:
        # The judge of the samples and the VAE are tools, no part of the model: not in its state dict.
        if name in ("_judge", "_decoder"):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        *,
        seed: int | list[int] = 0,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        cfg_channels: int | None = None,
        clip_denoised: bool | None = None,
        eta: float = 0.0,
    ) -> Tensor:
        """Samples of the given classes: images in about [-1, 1], or latents in training scale.

        float32 (B, C, S, S). The same label and seed give the same sample, whatever the batch; whole-number
        seeds give what ``zoo predict`` gives under that ``seed_everything``. Arguments left out take the
        values of the constructor.

        Args:
            labels: int64 (B,) in 0..K-1.
            seed: one number (sample i uses the i-th stream of it) or one number per sample.
            eta: stochasticity of ``ddim``.

        Raises:
            ValueError: for labels that are no (B,) whole numbers in 0..K-1, guidance that is not finite, and
                as many seeds as there are not samples.
        """
        h = self.hparams
        sampler, steps = sampler or h["sampler"], h["sampling_steps"] if steps is None else steps
        scale = h["guidance"] if guidance is None else guidance
        cfg = h["cfg_channels"] if cfg_channels is None else cfg_channels
        clip = h["clip_denoised"] if clip_denoised is None else clip_denoised
        if not math.isfinite(scale) or not math.isfinite(eta):
            raise ValueError(f"guidance and eta must be finite numbers, got {scale} and {eta}")
        labels = torch.as_tensor(labels, device=self.device)
        if labels.dim() != 1 or not len(labels) or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels must be whole numbers (B,), B >= 1, got {labels.dtype} {tuple(labels.shape)}"
            )
        labels = self._labels(labels)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1}, got {labels.min()}..{labels.max()}"
            )
        if isinstance(seed, int):
            seeds = [derived_seed(_SAMPLE_NOISE, seed, i) for i in range(len(labels))]
        else:
            seeds = seed
        if len(seeds) != len(labels):
            raise ValueError(f"{len(labels)} labels need as many seeds, got {len(seeds)}")
        noise = SampleNoise(seeds, self.shape, self.device)
        dtype = next(self.network.parameters()).dtype

        def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.network(x.to(dtype), t, y)

        scale = scale if self.num_classes > 1 else 1.0
        denoiser = guided(network, labels, self.network.null_label, scale, self.shape[0], cfg)
        if sampler == "dpm++":
            return dpm_solver(denoiser, self.schedule, noise, steps, clip)
        schedule = self.schedule.respaced(space_timesteps(self.timesteps, steps, h["spacing"]))
        if sampler == "ddim":
            return ddim(denoiser, schedule, noise, clip, eta)
        if sampler == "ddpm":
            return ddpm(denoiser, schedule, noise, clip)
        raise ValueError(f"sampler must be ddpm, ddim or dpm++, got {sampler!r}")

    def _generate(self, labels: Tensor, index: Tensor) -> Tensor:
        """Samples whose noise depends on (seed, index of the item) alone."""
        return self.sample(labels, seed=[derived_seed(_SAMPLE_NOISE, global_seed(), int(i)) for i in index])

    def _generate_batch(self, batch: dict[str, Tensor]) -> Tensor:
        full = self._full_batch(len(batch["index"]))
        return self._generate(batch["label"][full], batch["index"][full])[: len(batch["index"])]

    def _full_batch(self, size: int) -> list[int]:
        """Rows that fill a last batch up to the size of those before it: torch.compile works per size."""
        self._largest_batch = max(self._largest_batch, size) if self.hparams["compile"] else size
        return [min(i, size - 1) for i in range(self._largest_batch)]

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> GeneratedImages:
        samples = self._generate_batch(batch)
        return GeneratedImages(self.decode(samples).cpu(), batch["label"].cpu(), batch["index"].cpu())

    def preview(self, count: int) -> dict[str, GeneratedImages]:
        """What a person looks at while training: ``count`` samples over the classes, of the same noise."""
        classes = min(self.num_classes, count)
        labels = torch.arange(count, device=self.device) * classes // count
        samples = self._generate(labels, torch.arange(count))
        return {"samples": GeneratedImages(self.decode(samples).cpu(), labels.cpu(), torch.arange(count))}

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Latents (B, 4, S, S) -> images (B, 3, 8 S, 8 S) through the VAE; without one, the samples."""
        h = self.hparams
        if h["vae"] is None:
            return samples
        if self._decoder is None:
            vae = load_vae(h["vae"])
            if h["latent_mean"] is None:
                check_scale(vae, h["latent_scale"], "model.init_args.latent_scale")
            self._decoder = vae.to(self.device)
        normalised = h["latent_mean"] is not None
        scale = (h["latent_mean"], h["latent_std"]) if normalised else h["latent_scale"]
        return decode_latents(self._decoder, samples, scale)

    def _labels(self, labels: Tensor) -> Tensor:
        """Unconditional models know one label, 0."""
        return labels if self.num_classes > 1 else torch.zeros_like(labels)


def _check_statistics(mean: list[float] | None, std: list[float] | None, channels: int) -> None:
    if (mean is not None or std is not None) and not len(mean or ()) == len(std or ()) == channels:
        raise ValueError(
            f"latent_mean and latent_std are each one number per channel, {channels}, got {mean} and {std}"
        )


def _refuse_scale(scale: float, why: str) -> None:
    """Latents that were normalised per channel have no factor besides."""
    default = inspect.signature(DTR).parameters["latent_scale"].default
    if scale != default:
        raise ValueError(
            f"model.init_args.latent_scale is {scale:g}, but {why}, and samples are decoded by these alone; "
            f"leave latent_scale out (its default is {default})"
        )


def _beginning(numbers: list[float] | None) -> str:
    return "null" if numbers is None else f"[{', '.join(f'{v:.4g}' for v in numbers[:4])}, ...]"


def _input(batch: dict[str, Tensor]) -> Tensor:
    return batch["latent"] if "latent" in batch else batch["image"]


def _dataset(loader: Any) -> Any:
    """The data set behind the one evaluation loader."""
    return loader.dataset
