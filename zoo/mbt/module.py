"""The MBT LightningModule: mixup, losses, metrics, predictions of the Multimodal Bottleneck Transformer."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.mbt.bottleneck import BottleneckUpdate
from zoo.mbt.cost import macs
from zoo.mbt.losses import (
    TASKS,
    Task,
    mixed,
    mixup_partners,
    mixup_weights,
    sample_losses,
    targets,
    training_loss,
)
from zoo.mbt.network import (
    MODALITIES,
    SIZES,
    Activation,
    Classifier,
    Fusion,
    FusionNetwork,
    PatchMode,
    build,
    fused_logits,
)
from zoo.mbt.report import DRAWN, PICTURES, ClipScores, label_names
from zoo.mbt.rollout import attention_rollout
from zoo.metrics.average_precision import MeanAveragePrecision
from zoo.metrics.epoch_end import log_and_reset
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import shard_blocks
from zoo.nn.precision import ExactModuleDict
from zoo.nn.ranges import (
    Depth,
    DepthOrZero,
    Finite,
    Many,
    NonNegative,
    Positive,
    Rate,
    Size,
    SizeOrZero,
    check_ranges,
)
from zoo.nn.settings import settings_of
from zoo.randomness import local_rows, step_generator
from zoo.reports import class_names_of

_PARTS = ("verb", "noun")


class MBT(LightningModule):
    """Multimodal Bottleneck Transformer (Nagrani et al., NeurIPS 2021): audio-visual classification.

    A batch is a dict with ``rgb`` (B, 3, T, H, W) in [-1, 1], ``spectrogram`` (B, 1, T_a, mel) normalised,
    ``label`` (int64 (B,), of ``verb_noun`` (B, 2), of ``multi_label`` float (B, C)) and ``index``; where
    clips lack a modality ``present`` bool (B, M) in the order rgb, spectrogram. In evaluation inputs may have
    a further dimension of crops after B, over which logits are averaged.

    Args:
        num_classes: C; of ``verb_noun`` the sum of ``class_groups``.
        task: ``multi_label`` (summed binary cross-entropy, mAP), ``single_label`` or ``verb_noun``.
        class_groups: sizes of the logit groups of ``verb_noun``, 97 verbs and 300 nouns in Epic-Kitchens.
        size: tiny, S, B or L; ``width``, ``depth``, ``heads`` and ``mlp`` replace its numbers one by one.
        modalities: ``rgb``, ``spectrogram`` or both.
        fusion: ``bottleneck``, ``cross_attention``, ``shared_self_attention`` (weights shared) or ``late``.
        fusion_layer: L_f, a number or ``early`` (0), ``mid`` (two thirds, 8 of 12) or ``late`` (L).
        num_bottlenecks: B bottleneck tokens.
        extra_bottleneck: one more, as the official models with CLS tokens have.
        bottleneck_update: ``mean``, or ``sequential``: modality by modality.
        share_encoder: one encoder for all modalities.
        classifier: ``token`` (a CLS per modality) or ``gap``.
        image_size: side of the frames.
        patch_size: of the frames.
        frames: that the network sees; of more given ones it takes evenly spaced ones.
        patch_mode: ``temporal_sampling`` or ``tubelet``.
        tubelet_frames: frames of a tubelet.
        spectrogram_frames: T_a, 100 a second; those beyond the last whole patch are not seen.
        mel_bins: bands.
        spectrogram_patch: of the spectrogram.
        spectrogram_channels: 3 repeats the spectrogram for image kernels; 1 does not.
        stochastic_depth: p; layer l drops with rate p l / (L - 1).
        rescale: divide kept branches by 1 - rate (timm); the official code does not.
        dropout: rate.
        label_smoothing: s, for all losses.
        mixup_alpha: of Beta(alpha, alpha); 0 is off.
        modality_mixup: a weight and a label of its own for each modality.
        mixup_groups: parts of the global batch with a weight each, the paper's devices. The number of devices
            must divide it; then the batch is mixed alike on any of them.
        modality_dropout: probability that a training sample loses one modality (an extra).
        test_with_bottlenecks: false evaluates without the exchange.
        layer_norm_eps: of the norms; null is that of ``pretrained`` where it says so, else 1e-6.
        activation: ``gelu_tanh`` or ``gelu``; null is that of ``pretrained``, else ``gelu_tanh``.
        pretrained: ImageNet ViT for both streams at the start of a fresh training: an AugReg npz, a timm or
            transformers file, a folder or a hub id.
        pretrained_bottleneck: ``normal`` or ``positions`` (official).
        tubelet_init: ``central`` or ``average``.
        official_cls: leave the spectrogram's CLS at zero when a ViT is loaded.
        spectrogram_mean: of the log-mel features that it was trained on; a training takes that of its data,
            and test and prediction normalise with it where the data give none.
        spectrogram_std: likewise.
        class_names: C names; a training takes those of its data.
        compile: compile each block.
        activation_checkpointing: recompute blocks in the backward pass.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer, stepped every optimiser step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "num_classes": "num_classes",
        "task": "task",
        "frames": "shapes.rgb.1",
        "image_size": "shapes.rgb.2 shapes.rgb.3",
        "spectrogram_frames": "shapes.spectrogram.1",
        "mel_bins": "shapes.spectrogram.2",
    }

    def __init__(
        self,
        num_classes: Size = 527,
        task: Task = "multi_label",
        class_groups: Sequence[Size] | None = None,
        size: Literal["tiny", "S", "B", "L"] = "B",
        width: Size | None = None,
        depth: Depth | None = None,
        heads: Depth | None = None,
        mlp: Size | None = None,
        modalities: Sequence[str] = MODALITIES,
        fusion: Fusion = "bottleneck",
        fusion_layer: DepthOrZero | Literal["early", "mid", "late"] = 8,
        num_bottlenecks: SizeOrZero = 4,
        extra_bottleneck: bool = False,
        bottleneck_update: BottleneckUpdate = "mean",
        share_encoder: bool = False,
        classifier: Classifier = "token",
        image_size: Size = 224,
        patch_size: Size = 16,
        frames: Size = 8,
        patch_mode: PatchMode = "temporal_sampling",
        tubelet_frames: Size = 2,
        spectrogram_frames: Size = 800,
        mel_bins: Size = 128,
        spectrogram_patch: Size = 16,
        spectrogram_channels: Size = 3,
        stochastic_depth: Rate = 0.3,
        rescale: bool = False,
        dropout: Rate = 0.0,
        label_smoothing: Rate = 0.0,
        mixup_alpha: NonNegative = 0.3,
        modality_mixup: bool = True,
        mixup_groups: Many = 8,
        modality_dropout: Rate = 0.0,
        test_with_bottlenecks: bool = True,
        layer_norm_eps: Positive | None = None,
        activation: Activation | None = None,
        pretrained: str | None = None,
        pretrained_bottleneck: Literal["normal", "positions"] = "normal",
        tubelet_init: Literal["central", "average"] = "central",
        official_cls: bool = False,
        spectrogram_mean: Finite | None = None,
        spectrogram_std: Positive | None = None,
        class_names: Sequence[str] | None = None,
        compile: bool = False,
        activation_checkpointing: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(MBT, locals())
        super().__init__()
        # Stored hyperparameters pass through JSON, which has lists alone.
        modalities = list(modalities)
        class_groups = None if class_groups is None else list(class_groups)
        class_names = None if class_names is None else list(class_names)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self._check()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.task, self.groups, self.modalities = task, list(class_groups or ()), modalities
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        own = {"width": width, "depth": depth, "heads": heads, "mlp": mlp}
        sizes = {k: own[k] or v for k, v in SIZES[size].items()}
        if isinstance(fusion_layer, str):
            words = {"early": 0, "mid": round(sizes["depth"] * 2 / 3), "late": sizes["depth"]}
            fusion_layer = words[fusion_layer]
        self.network_arguments = settings_of(FusionNetwork, self.hparams) | {
            **sizes,
            "fusion_layer": fusion_layer,
            "layer_norm_eps": 1e-6 if layer_norm_eps is None else layer_norm_eps,
            "activation": activation or "gelu_tanh",
        }
        self.network = build(**self.network_arguments)
        self.eval_metrics: Any = ExactModuleDict(
            {k: MeanAveragePrecision() if k.startswith("mAP") else MeanMetric() for k in self._metric_names()}
        )
        self._given_weights = False

    def _check(self) -> None:
        h = self.hparams
        if h["task"] not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {h['task']!r}")
        groups = h["class_groups"] or []
        if h["task"] == "verb_noun" and (len(groups) != 2 or sum(groups) != h["num_classes"]):
            raise ValueError(
                f"task verb_noun needs two class_groups that add up to num_classes, got {groups} and "
                f"{h['num_classes']}"
            )

    def _metric_names(self) -> list[str]:
        sources = ["fused", *(self.modalities if len(self.modalities) > 1 else [])]
        if self.hparams["classifier"] == "gap":
            sources = ["fused"]
        if self.task == "multi_label":
            return ["loss", "mAP", *(f"mAP_{s}" for s in sources[1:])]
        parts = ["top1", "top5"]
        if self.task == "verb_noun":
            parts = [f"{p}_{k}" for p in (*_PARTS, "action") for k in ("top1", "top5")]
        return ["loss", *parts, *(f"acc_{s}" for s in sources)]

    def configure_model(self) -> None:
        blocks = [block for stack in self.network.blocks.values() for block in stack]  # type: ignore[attr-defined]
        shard_blocks(self, [*blocks, self.network])

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random clips of the network's sizes, on the module's device."""
        dtype = next(self.network.parameters()).dtype
        return {k: x.to(self.device, dtype) for k, x in self.network.example_inputs(batch).items()}

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these, not from `pretrained`
        return super().load_state_dict(*args, **kwargs)

    def setup(self, stage: str) -> None:
        fits: dict[str, Any] = {
            key: lambda own, found: True  # of a modality that is not taken
            for key, path in self.data_sizes.items()
            if path.startswith("shapes.") and path.split(".")[1] not in self.modalities
        }
        if self.network.patch_mode == "temporal_sampling":  # takes some of the frames
            fits.setdefault("frames", operator.le)
        check_fit(self, **fits)
        world = self.trainer.world_size
        if stage == "fit" and self.hparams["mixup_alpha"] and self.hparams["mixup_groups"] % world:
            raise ValueError(
                f"model.init_args.mixup_groups must be a multiple of the number of devices, got "
                f"{self.hparams['mixup_groups']} for {world}"
            )
        if stage == "fit":
            self._keep_of_data()
        if stage == "fit" and self.hparams["pretrained"]:
            self._start_from_vit()
        if self.hparams["compile"]:
            for stack in self.network.blocks.values():
                for block in stack:  # type: ignore[attr-defined]
                    block.compile()

    def _keep_of_data(self) -> None:
        """What a prediction without the training data needs; checkpoints keep it."""
        data = getattr(self.trainer, "datamodule", None)
        normalisation, names = getattr(data, "normalisation", None), getattr(data, "class_names", None)
        if normalisation is not None:
            self.hparams["spectrogram_mean"], self.hparams["spectrogram_std"] = map(float, normalisation)
        if names:
            self.hparams["class_names"] = list(names)

    def _start_from_vit(self) -> None:
        if self._given_weights or self.trainer.ckpt_path is not None:
            return
        from zoo.mbt.pretrained import initialise, read_vit

        h = self.hparams
        vit = read_vit(h["pretrained"])
        for name, theirs in (("layer_norm_eps", vit.eps), ("activation", vit.activation)):
            if theirs is not None and h[name] is None:
                h[name] = self.network_arguments[name] = theirs  # checkpoints keep it
                given: dict[str, Any] = {name: theirs}
                self.network.set_function(**given)
            elif theirs not in (None, h[name]):
                self.print(
                    f"zoo: {h['pretrained']} was trained with {name} {theirs}, the model has {h[name]}"
                )
        if vit.activation is None and h["activation"] is None:
            eps = self.network_arguments["layer_norm_eps"]
            self.print(
                f"zoo: {h['pretrained']} does not tell its GELU: gelu_tanh and eps {eps:g} are assumed, set "
                "model.init_args.activation and layer_norm_eps if it was trained with others"
            )
        lines = initialise(
            self.network, vit, h["pretrained_bottleneck"], h["tubelet_init"], h["official_cls"]
        )
        self.print(f"zoo: starts from {'; '.join(lines)}")

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)

    # --- training ------------------------------------------------------------------------------------------

    def _inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        missing = [m for m in self.modalities if m not in batch]
        if missing and len(missing) == len(self.modalities):
            raise ValueError(f"the batch has {', '.join(batch)}, the model needs {' or '.join(missing)}")
        dtype = next(self.network.parameters()).dtype
        return {m: batch[m].to(dtype) for m in self.modalities if m in batch}

    def _present(self, batch: dict[str, Tensor]) -> Tensor | None:
        """bool (B, M) over the model's modalities; None where all are there."""
        if "present" not in batch or len(self.modalities) == 1:
            return None
        return batch["present"][:, [MODALITIES.index(m) for m in self.modalities if m in batch]]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        inputs, present = self._inputs(batch), self._present(batch)
        target = targets(batch["label"], self.task, self.hparams["num_classes"], self.groups)
        inputs, target, present = self._augmented(inputs, target, present, batch_idx)
        logits = self.network(**inputs, present=present)
        loss = training_loss(logits, target, self.task, self.hparams["label_smoothing"], self.groups, present)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(target))
        return loss

    def _augmented(
        self, inputs: dict[str, Tensor], target: Tensor, present: Tensor | None, batch_idx: int
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Mixup of the raw inputs and modality dropout; targets become (B, M, C)."""
        h, rows, names = self.hparams, len(target), list(inputs)
        stacked = target[:, None].expand(-1, len(names), -1)
        if not h["mixup_alpha"] and not h["modality_dropout"]:
            return inputs, stacked, present
        g = step_generator(self, batch_idx)
        seed = int(torch.randint(2**62, (1,), generator=g, device=g.device))
        if h["mixup_alpha"]:
            weights = mixup_weights(
                seed, h["mixup_alpha"], len(names), h["mixup_groups"], h["modality_mixup"]
            )
            partner, group = mixup_partners(
                rows, h["mixup_groups"], self.global_rank, self.trainer.world_size
            )
            w = weights[:, group].to(target.device)  # (M, B)
            partner = partner.to(target.device)
            inputs = {n: mixed(x, w[i], partner) for i, (n, x) in enumerate(inputs.items())}
            stacked = torch.stack([mixed(target, w[i], partner) for i in range(len(names))], dim=1)
            if present is not None:
                present = present | present[partner]
        if h["modality_dropout"] and len(names) > 1:
            draw: Any = {"generator": g, "device": g.device}
            everyone = rows * self.trainer.world_size
            loses = torch.rand(everyone, dtype=torch.float32, **draw) < h["modality_dropout"]
            which = torch.randint(len(names), (everyone,), **draw)
            loses, which = local_rows(self, loses), local_rows(self, which)
            dropped = loses[:, None] & (which[:, None] == torch.arange(len(names), device=loses.device))
            before = torch.ones_like(dropped) if present is None else present
            left = before & ~dropped
            present = torch.where(left.any(dim=1, keepdim=True), left, before)
        return inputs, stacked, present

    # --- evaluation ----------------------------------------------------------------------------------------

    def _clip_logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Logits (B, M, C), the mean over temporal crops, and which modalities are present."""
        inputs, present = self._inputs(batch), self._present(batch)
        ranks = {"rgb": 5, "spectrogram": 4}
        crops = [x.shape[1] for n, x in inputs.items() if x.ndim > ranks[n]]
        repeated = present
        if crops:
            inputs = {n: x.flatten(0, 1) for n, x in inputs.items()}
            repeated = None if present is None else present.repeat_interleave(crops[0], dim=0)
        fuse = self.hparams["test_with_bottlenecks"]
        logits = self.network(**inputs, present=repeated, fuse=fuse).float()
        if crops:
            logits = logits.unflatten(0, (-1, crops[0])).mean(dim=1)
        return logits, present

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def _evaluate(self, batch: dict[str, Tensor]) -> None:
        logits, present = self._clip_logits(batch)
        fused = fused_logits(logits, present)
        target = targets(batch["label"], self.task, self.hparams["num_classes"], self.groups)
        self.eval_metrics["loss"].update(sample_losses(fused, target, self.task, 0.0, self.groups))
        given = [m for m in self.modalities if m in batch]
        sources = [("fused", fused, torch.ones(len(fused), dtype=torch.bool, device=fused.device))]
        for i, name in enumerate(given if logits.shape[1] > 1 else []):
            there = torch.ones_like(sources[0][2]) if present is None else present[:, i]
            sources.append((name, logits[:, i], there))
        for name, scores, there in sources:
            self._score(name, scores[there], batch["label"][there])

    def _score(self, source: str, logits: Tensor, label: Tensor) -> None:
        if not len(logits):
            return
        metrics = self.eval_metrics
        if self.task == "multi_label":
            metrics["mAP" if source == "fused" else f"mAP_{source}"].update(logits, label)
            return
        if self.task == "single_label":
            hits = {"top1": top_hits(logits, label, 1), "top5": top_hits(logits, label, 5)}
            best = hits["top1"]
        else:
            hits = verb_noun_hits(logits, label, self.groups)
            best = hits["action_top1"]
        metrics[f"acc_{source}"].update(best)
        if source == "fused":
            for name, value in hits.items():
                metrics[name].update(value)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        count = sum(p.numel() for p in self.network.parameters())
        costs = {"test/gmac": macs(**self.network_arguments) / 1e9, "test/parameters": float(count)}
        self.log_dict(costs, sync_dist=True)

    def _log_metrics(self, stage: str) -> None:
        # computing and logging wait for all ranks: a modality that one rank has not seen is a metric on all
        called = torch.tensor([m.update_called for m in self.eval_metrics.values()], device=self.device)
        anywhere = self.trainer.strategy.reduce(called.int(), reduce_op="max").tolist()
        nothing = torch.zeros(0, self.hparams["num_classes"], device=self.device)
        for (name, metric), used in zip(self.eval_metrics.items(), anywhere, strict=True):
            if used and not metric.update_called:
                metric.update(*([nothing] * 2 if name.startswith("mAP") else [nothing[:, 0]]))
            if used:
                log_and_reset(self, stage, {name: metric}, ("mAP", "top1", "action_top1"))

    # --- predictions ---------------------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ClipScores:
        logits, present = self._clip_logits(batch)
        fused = fused_logits(logits, present)
        data = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "class_names", None) or self.hparams["class_names"]
        classes = classes or class_names_of(self, self.hparams["num_classes"])
        names = getattr(data, "clip_name", None)
        index = batch["index"].tolist()
        if self.task == "multi_label":
            scores = fused.sigmoid()
        elif self.task == "single_label":
            scores = fused.softmax(dim=1)
        else:
            scores = torch.cat([x.softmax(dim=1) for x in fused.split(self.groups, dim=1)], dim=1)
        known = "label" in batch
        truth = [""] * len(index)
        if known:
            truth = label_names(batch["label"].cpu(), self.task, classes, self.groups)
        result = ClipScores(
            scores=scores.cpu(),
            names=[names(i) if names else str(i) for i in index],
            truth=truth,
            class_names=list(classes),
            number=batch_idx,
            rank=self.global_rank,
            labels=batch["label"].cpu() if known else None,
            several=self.task == "multi_label",
            groups=self.groups if self.task == "verb_noun" else [],
        )
        if present is not None:
            given = [m for m in self.modalities if m in batch]
            rows = present.tolist()
            result.extra["present"] = [";".join(m for m, p in zip(given, r, strict=True) if p) for r in rows]
        if batch_idx < PICTURES and index:  # none: no clip of the batch could be decoded
            self._add_pictures(result, batch, present)
        return result

    def _add_pictures(self, result: ClipScores, batch: dict[str, Tensor], present: Tensor | None) -> None:
        inputs = {n: x[:DRAWN] for n, x in self._inputs(batch).items()}
        for name, rank in (("rgb", 5), ("spectrogram", 4)):
            if name in inputs and inputs[name].ndim > rank:
                inputs[name] = inputs[name][:, inputs[name].shape[1] // 2]
        fuse = self.hparams["test_with_bottlenecks"]
        # a clip at a time: every layer's matrix over all tokens is kept
        each = [
            attention_rollout(
                self.network,
                {n: x[i : i + 1] for n, x in inputs.items()},
                fuse=fuse,
                present=None if present is None else present[i : i + 1],
            )
            for i in range(len(next(iter(inputs.values()))))
        ]
        maps = {n: torch.cat([m[n] for m in each]) for n in inputs}
        if "rgb" in inputs:
            frames = inputs["rgb"].shape[2]
            result.rgb = inputs["rgb"][:, :, frames // 2].float().cpu()
            grid = maps["rgb"]
            result.rgb_map = grid[:, grid.shape[1] // 2].cpu()
        if "spectrogram" in inputs:
            result.spectrogram = inputs["spectrogram"][:, 0].float().cpu()
            result.spectrogram_map = maps["spectrogram"].cpu()


def top_hits(logits: Tensor, label: Tensor, k: int) -> Tensor:
    """Whether the class (B,) is among the k best of (B, C), float (B,); k is at most C."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == label[:, None]).any(dim=1).float()


def verb_noun_hits(logits: Tensor, label: Tensor, groups: Sequence[int]) -> dict[str, Tensor]:
    """Top-1 and top-5 of verb, noun and action.

    An action is a pair: the pairs are ranked by the product of the two softmaxes; top-1 is both right.
    """
    verb, noun = logits.float().split(list(groups), dim=1)
    hits = {}
    for name, scores, column in zip(_PARTS, (verb, noun), (0, 1), strict=True):
        for k in (1, 5):
            hits[f"{name}_top{k}"] = top_hits(scores, label[:, column], k)
    pairs = (verb.softmax(dim=1)[:, :, None] * noun.softmax(dim=1)[:, None]).flatten(1)
    pair = label[:, 0] * noun.shape[1] + label[:, 1]
    for k in (1, 5):
        hits[f"action_top{k}"] = top_hits(pairs, pair, k)
    return hits
