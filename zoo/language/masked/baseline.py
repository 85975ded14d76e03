"""What any network on sequences must beat: a regression on how many of each residue there are, and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.language.masked.report import ProteinPredictions
from zoo.language.masked.residues import FIRST, PAD, STANDARD
from zoo.language.masked.scores import property_scores
from zoo.metrics.properties import Collected
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Positive, check_ranges

FEATURES = STANDARD + 1


def composition(ids: Tensor) -> Tensor:
    """Shares of the 20 standard residues and the length, float64 (B, 21).

    Args:
        ids: (B, T) of ESM-2's alphabet, ends and padding among them.
    """
    counts = torch.stack([(ids == FIRST + i).sum(dim=1) for i in range(STANDARD)], dim=1).double()
    length = ((ids >= FIRST) & (ids != PAD)).sum(dim=1, keepdim=True).double()
    return torch.cat([counts / length.clamp(min=1), length], dim=1)


class CompositionBaseline(LightningModule):
    """Logistic regression (numbers: ridge) on residue composition and length: order counts for nothing.

    Fitted once, in the one step of ``fit``, to all training items; features are standardised by them. Each
    target is fitted on the items that have it. For batches see :class:`datamodules.Proteins`.

    Args:
        task: ``classification`` or ``regression``.
        targets: columns that are predicted; the data know them.
        alpha: strength of the ridge penalty; 1 is scikit-learn's default of a logistic regression.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"task": "task", "targets": "targets"}
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        targets: list[str] | None = None,
        alpha: Positive = 1.0,
    ) -> None:
        check_ranges(CompositionBaseline, locals())
        super().__init__()
        self.save_hyperparameters()
        if task not in ("classification", "regression"):
            raise ValueError(f"model.init_args.task must be classification or regression, got {task!r}")
        columns = len(targets or ["target"])
        self.automatic_optimization = False
        # a parameter so that an optimiser counts the step
        self.fits = nn.Parameter(torch.zeros(1), requires_grad=False)
        for name, shape in (("mean", (FEATURES,)), ("scale", (FEATURES,)), ("bias", (columns,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(columns, FEATURES, dtype=torch.float64))
        self.collected = Collected(columns)

    def setup(self, stage: str) -> None:
        refuse_processes(self, "fits one regression")
        check_fit(self, targets=lambda own, found: (own or []) == found)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.fits], lr=0.0)  # counts steps: there is no gradient

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.trainer.global_step >= 1  # killed behind its step

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        train = self.trainer.datamodule.train_set  # type: ignore[attr-defined]
        parts = [train.__getitems__([*range(i, min(i + 512, len(train)))]) for i in range(0, len(train), 512)]
        x = torch.cat([composition(part["ids"]) for part in parts])
        y = torch.cat([part["target"] for part in parts]).double()
        self.mean.copy_(x.mean(dim=0))
        spread = x.std(dim=0, correction=0)
        self.scale.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        scaled = ((x - self.mean.cpu()) / self.scale.cpu()).numpy()
        for column, target in enumerate(y.T.numpy()):
            known = ~np.isnan(target)
            weight, bias = self._fitted(scaled[known], target[known])
            self.weight[column] = torch.from_numpy(weight)
            self.bias[column] = bias
        self.fits.fill_(1.0)
        answer = self.answer(x.to(self.device)).cpu().numpy()
        for name, value in property_scores(self.hparams["task"], answer, y.numpy()).items():
            self.log(f"train/{name}", value, batch_size=1)
        optimizer: Any = self.optimizers()
        optimizer.step()
        self.trainer.should_stop = True

    def _fitted(self, x: Any, y: Any) -> tuple[Any, float]:
        from sklearn.linear_model import LogisticRegression, Ridge

        alpha = self.hparams["alpha"]
        if not len(y):
            raise ValueError("no training sequence has a value of one of the targets: leave it out of them")
        if self.hparams["task"] == "regression":
            found = Ridge(alpha).fit(x, y)
            return found.coef_, float(found.intercept_)
        if len(np.unique(y)) < 2:  # nothing to tell apart: an answer far on its side
            return np.zeros(FEATURES), 10.0 * (2 * float(y[0]) - 1)
        found = LogisticRegression(C=1 / alpha, max_iter=2000).fit(x, y.astype(int))
        return found.coef_[0], float(found.intercept_[0])

    def answer(self, features: Tensor) -> Tensor:
        """Probabilities or numbers (B, T) of :func:`composition`.

        Raises:
            ValueError: when nothing was fitted.
        """
        if not bool(self.fits.any()):
            raise ValueError("nothing was fitted yet: run `zoo fit`, or give --weights or --ckpt_path")
        out = ((features.to(self.mean.device) - self.mean) / self.scale) @ self.weight.T + self.bias
        return out.sigmoid() if self.hparams["task"] == "classification" else out

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if bool(self.fits.any()):
            self._collect(batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self._collect(batch)

    def _collect(self, batch: Mapping[str, Any]) -> None:
        answer = self.answer(composition(batch["ids"]))
        self.collected.update(answer, torch.zeros_like(answer), batch["target"])

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        predicted, _, target = self.collected.compute().cpu().numpy()
        self.collected.reset()
        if not len(target):
            return
        for name, value in property_scores(self.hparams["task"], predicted, target).items():
            self.log(f"{stage}/{name}", value, prog_bar=name in ("roc_auc", "rmse"))

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> ProteinPredictions:
        answer = self.answer(composition(batch["ids"])).float().cpu()
        names: Sequence[str] = self.hparams["targets"] or ["target"]
        return ProteinPredictions(
            batch["name"], batch["sequence"], answer, batch["target"].cpu(), batch["index"].tolist(), names,
            self.hparams["task"],
        )  # fmt: skip
