"""Adversarial training (Madry et al., ICLR 2018) of a small classifier: a target for attacks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from zoo.caa.balls import Ball, Norm
from zoo.caa.composition import run_policy
from zoo.caa.draws import derived, image_keys, normal, uniform
from zoo.caa.network import SmallCNN
from zoo.caa.policy import chosen_policy
from zoo.caa.victim import Victim
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.ranges import Count, DepthOrZero, Positive, Size, check_ranges
from zoo.randomness import derived_seed, global_seed

_ATTACK, _JUDGE = 1701, 1702  # first words of the keys of its draws
_JUDGE_STEPS = 20
_STEP_SHARE = 3.0
_WARMUP = 5


class RobustClassifier(LightningModule):
    """A small CNN trained on PGD's images alone, min_w E max_{|d| <= eps} L(w, x + d, y).

    A batch has ``image`` (B, C, S, S) in [0, 1], ``label`` (B,) and ``index`` (B,). The radius grows to eps
    over the first epochs; validation and test report clean accuracy and that under 20 steps of PGD.

    Args:
        in_channels: C.
        input_size: S.
        num_classes: K.
        width: channels of the first convolution.
        hidden: units of the hidden layer.
        norm: ``linf`` or ``l2``.
        eps: radius of the training ball, images in [0, 1].
        attack_steps: of PGD, of eps / 3 each; 0 trains on clean images.
        warmup_epochs: in epoch e the radius is eps min(1, (e + 1) / warmup_epochs).
        judge: policy that the test attacks with, as :class:`zoo.RobustEvaluation` takes it; null: 20 steps of
            PGD as in validation.
        judge_threat: of the judge: ``linf`` or ``l2``; null takes the preset's.
        judge_eps: its radius; null is eps.
    """

    data_sizes: ClassVar[DataSizes] = {
        "in_channels": "shape.0",
        "input_size": "shape.1 shape.2",
        "num_classes": "num_classes",
    }
    image_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(
        self,
        in_channels: Size = 1,
        input_size: Size = 8,
        num_classes: Size = 10,
        width: Size = 16,
        hidden: Size = 64,
        norm: Norm = "linf",
        eps: Positive = 0.15,
        attack_steps: DepthOrZero = 6,
        warmup_epochs: Count = _WARMUP,
        judge: str | list[dict[str, Any]] | None = None,
        judge_threat: Norm | None = None,
        judge_eps: Positive | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(RobustClassifier, locals())
        super().__init__()
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm must be linf or l2, got {norm!r}")
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if not attack_steps and warmup_epochs != _WARMUP:
            raise ValueError(
                f"model.init_args.warmup_epochs is {warmup_epochs}, which attack_steps: 0 does not use; "
                "leave it out, or set model.init_args.attack_steps"
            )
        self.judge = None if judge is None else chosen_policy(judge, judge_threat)
        if self.judge is None and (judge_threat, judge_eps) != (None, None):
            raise ValueError(
                "model.init_args.judge_threat and judge_eps are of a judge; leave them out, or set "
                "model.init_args.judge"
            )
        if self.judge is not None and self.judge[0] == "unrestricted":
            raise ValueError("model.init_args.judge_threat must be linf or l2, got unrestricted")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network = SmallCNN(in_channels, input_size, width, hidden, num_classes)
        names = ("accuracy", "robust_accuracy")
        self.scores = nn.ModuleDict({n: MulticlassAccuracy(num_classes, average="micro") for n in names})

    def setup(self, stage: str) -> None:
        check_fit(self)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random images (batch, C, S, S) in [0, 1] for the network, which gives class scores (batch, K)."""
        h = self.hparams
        images = torch.rand(batch, h["in_channels"], h["input_size"], h["input_size"], device=self.device)
        return {"input": images.to(next(self.network.parameters()).dtype)}

    def radius(self) -> float:
        """Of the training ball at this step."""
        batches = max(int(self.trainer.num_training_batches), 1)
        epoch = self.trainer.global_step // batches
        return float(self.hparams["eps"] * min(1.0, (epoch + 1) / self.hparams["warmup_epochs"]))

    def adversarial(self, batch: dict[str, Tensor], radius: float, steps: int, *key: int) -> Tensor:
        """PGD's last iterate from a uniform start in the ball, (B, C, S, S); each image has its own draws."""
        image, label, ball = batch["image"], batch["label"], Ball(self.hparams["norm"], radius)
        keys = derived(image_keys(derived_seed(global_seed(), *key), batch["index"].to(image.device)), 0)
        shape = image.shape[1:]
        if ball.norm == "linf":
            noise = radius * uniform(keys, shape, -1, 1)
        else:
            noise = ball.scaled(normal(keys, shape)) * uniform(derived(keys, 9), (1, 1, 1))
        x = (image + noise.to(image)).clamp(0, 1)
        with torch.inference_mode(False), torch.enable_grad():
            x, image, label = x.clone(), image.clone(), label.clone()
            for _ in range(steps):
                x.requires_grad_()
                loss = nn.functional.cross_entropy(self.network(x), label, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, x)
                x = ball.project(x.detach() + radius / _STEP_SHARE * ball.direction(gradient), image)
        return x.detach()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        radius, steps = self.radius(), self.hparams["attack_steps"]
        image = batch["image"]
        if steps:
            image = self.adversarial(batch, radius, steps, _ATTACK, self.trainer.global_step, batch_idx)
        loss = nn.functional.cross_entropy(self.network(image), batch["label"])
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("train/radius", radius if steps else 0.0)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.judge is None:
            self._evaluate(batch, "test")
            return
        threat, policy = self.judge
        norm: Norm = "l2" if threat == "l2" else "linf"
        eps = self.hparams["judge_eps"] or self.hparams["eps"]
        keys = image_keys(global_seed(), batch["index"].to(batch["image"].device))
        victim, size = Victim(self.network), len(batch["label"])
        found = run_policy(victim, policy, batch["image"], batch["label"], keys, norm, eps)
        for name, value in (
            ("accuracy", found.clean.double().mean()),
            ("robust_accuracy", found.robust.double().mean()),
            ("forward", torch.tensor(found.cost.forward / size)),
            ("backward", torch.tensor(found.cost.backward / size)),
            ("nominal_backward", torch.tensor(float(policy.backward(victim.classes)))),
            ("cpu_seconds", torch.tensor(found.cost.cpu_seconds / size)),
        ):
            self.log(f"test/{name}", value, batch_size=size, sync_dist=True)

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        attacked = self.adversarial(batch, self.hparams["eps"], _JUDGE_STEPS, _JUDGE)
        for name, image in (("accuracy", batch["image"]), ("robust_accuracy", attacked)):
            metric: Any = self.scores[name]
            metric.update(self.network(image), batch["label"])
            self.log(f"{stage}/{name}", metric, on_epoch=True, prog_bar=True, batch_size=len(batch["label"]))

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)
