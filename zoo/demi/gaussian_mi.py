"""Estimates of mutual information by InfoNCE and by its decomposition, side by side on the same pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from zoo.demi.estimation import Scorer, estimates, optimal_curves, pointwise, training_bounds
from zoo.demi.network import UNDIVIDED, Critic, Curve, Estimators
from zoo.demi.report import Estimate, PointwiseInformation, draw_estimates, write_estimates
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Depth, Positive, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, step_generator
from zoo.reports import say

_EVALUATION = 730  # first word of the keys of the draws of an evaluation, which are the same for all seeds
_SHOWN = ("exact", "is", "bound")
_USES: Uses = {
    "embedding": ("separable",),
    **dict.fromkeys(("hidden", "layers"), ("separable", "joint")),
}
_TOTALS = (0.5, 1, 2, 3, 5, 7, 10, 15, 20)


class GaussianMI(LightningModule):
    """I(x; y) by InfoNCE, and by DEMI as a sum of terms each of which is small enough to be estimated.

    I(x_1 .. x_n; y) = I(x_1; y) + sum_i I(x_i; y | x_1 .. x_{i-1}), the first term by I_NCE, the others by a
    conditional bound (Sordoni et al., ICML 2021). A decomposition has n log(B / n) as its ceiling where
    InfoNCE on the same B pairs has log B.

    A batch is a dict with ``subviews`` float (B, n, d), least informed first, ``y`` float (B, e); Gaussian
    data add ``mean`` (B, n, e) and ``variance`` (B, n) of y given the first subviews, with which exact
    negatives and the optimal critics can be had.

    Args:
        dim: d, components of a subview; the data tell.
        y_dim: e, components of y; the data tell.
        subviews: n; the data tell.
        curves: which estimators are trained side by side: ``infonce``; ``dv``, ``nwj`` and ``smile``, which
            have no ceiling and a variance that grows with the information; and decompositions, by what trains
            their conditional critics: ``bo``, ``is``, ``exact`` (negatives from p(y|x''), Gaussian data
            alone), ``var`` (from a proposal that is learned beside it). The first one's estimate is
            ``val/estimate``.
        critic: ``separable`` g(a) . h(y), ``joint`` MLP([a, y]), or ``oracle``, the closed form of Gaussian
            data, which learns nothing.
        hidden: width of the critics.
        layers: hidden layers; null is 2 of ``separable``, 3 of ``joint``.
        embedding: outputs of g and h.
        clip: tau of ``smile``.
        optimizer: of all of them. No parameter is shared, so each learns as if it were alone.
    """

    data_sizes: ClassVar[DataSizes] = {"dim": "dim", "y_dim": "y_dim", "subviews": "subviews"}
    answers_untrained: ClassVar[Mapping[str, Sequence[str]]] = {"critic": ("oracle",)}

    def __init__(
        self,
        dim: Size = 20,
        y_dim: Size = 20,
        subviews: Depth = 2,
        curves: list[Curve] | None = None,
        critic: Critic = "separable",
        hidden: Size = 256,
        layers: Depth | None = None,
        embedding: Size = 32,
        clip: Positive = 5.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=5e-4),
    ) -> None:
        check_ranges(GaussianMI, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        if critic not in get_args(Critic):
            raise ValueError(f"model.init_args.critic must be {', '.join(get_args(Critic))}, got {critic!r}")
        refuse_unused(GaussianMI, self.hparams, "critic", _USES)
        self.curves: list[Curve] = ["bo", "infonce"] if curves is None else list(curves)
        if not self.curves or len({*self.curves}) < len(self.curves) or {*self.curves} - {*get_args(Curve)}:
            raise ValueError(
                f"model.init_args.curves must be of {', '.join(get_args(Curve))}, each once, got {curves}"
            )
        if clip != 5.0 and "smile" not in self.curves:
            raise ValueError(
                f"model.init_args.clip is {clip}, which curves: {', '.join(self.curves)} does not use; leave "
                "it out (its default is 5.0), or add smile"
            )
        if subviews < 2 and {*self.curves} - {*UNDIVIDED}:
            raise ValueError(
                f"model.init_args.subviews is {subviews}, of which nothing is decomposed: set 2 or more, or "
                "curves: [infonce]"
            )
        learned = {*self.curves} - {"bo", *UNDIVIDED}
        if critic == "oracle" and learned:
            raise ValueError(
                f"model.init_args.curves: {', '.join(sorted(learned))} say how a critic is trained, and "
                "critic: oracle is not; leave them out"
            )
        self.network: Any = None
        if critic != "oracle":
            depth = layers or (2 if critic == "separable" else 3)
            self.network = Estimators(dim, y_dim, subviews, self.curves, critic, hidden, depth, embedding)
        self.scorer = Scorer(self.network, subviews, clip)
        self.optimizer = optimizer
        self._found: dict[str, list[float]] = {}
        self._rows, self._skipped = 0, 0
        self._before: dict[str, Tensor] = {}

    # --- set-up and training ------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_processes(self, "takes all pairs of a batch as each other's negatives")
        check_fit(self)
        if stage == "fit" and self.network is None:
            raise ValueError(
                "model.init_args.critic: oracle is closed form, there is nothing to fit: use zoo test"
            )

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.network.parameters())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self._check(batch)
        found = training_bounds(self.scorer, self.curves, batch, step_generator(self, batch_idx))
        size = len(batch["y"])
        self.log_dict({f"train/{k}": v.detach() for k, v in found.items()}, batch_size=size)
        loss = -torch.stack(list(found.values())).sum()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
        return loss

    def _check(self, batch: Mapping[str, Tensor]) -> None:
        closed = "exact" in self.curves or self.network is None
        if closed and "mean" not in batch:
            what = "critic: oracle" if self.network is None else "curves: exact"
            raise ValueError(
                f"model.init_args.{what} needs p(y | x''), which Gaussian data alone tell: set "
                "data.init_args.family: gaussian, or take bo or is"
            )

    # --- evaluation ---------------------------------------------------------------------------------------

    def estimates(self, batch: Mapping[str, Tensor], batch_idx: int = 0) -> dict[str, float]:
        """Every bound on one held-out batch, in nats, by name; see :func:`zoo.demi.estimation.estimates`."""
        self._check(batch)
        g = generator(_EVALUATION, batch_idx, device=batch["y"].device)
        with torch.no_grad():
            return estimates(self.scorer, self.curves, batch, g)

    def _begin(self) -> None:
        self._found, self._rows, self._skipped = {}, 0, 0

    def on_validation_epoch_start(self) -> None:
        self._begin()

    def on_test_epoch_start(self) -> None:
        self._begin()

    def on_predict_start(self) -> None:
        self._before = {}

    def _evaluate(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """A batch of fewer rows has another K: it is left out."""
        self._rows = self._rows or len(batch["y"])
        if len(batch["y"]) < self._rows:
            self._skipped += len(batch["y"])
            return
        for name, value in self.estimates(batch, batch_idx).items():
            self._found.setdefault(name, []).append(value)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        found = self._log("test")
        truth = self._truth()
        if self._skipped:
            say(f"{self._skipped} rows at the end are no whole batch of {self._rows} and are left out")
        if len(found[0].values) == 1:
            say(
                f"one batch of {self._rows} rows alone has no interval: for one, lower "
                f"data.init_args.eval_batch_size to {self._rows // 2} or less"
            )
        for e in found:
            if e.saturated:
                say(
                    f"{e.name} is saturated: {e.mean:.3f} of at most {e.ceiling:.3f} nats; the truth may be "
                    "anything above: raise data.init_args.eval_batch_size, or split further"
                )
        folder = self.trainer.log_dir
        if folder is None or not self.trainer.is_global_zero:
            return
        write_estimates(Path(folder), found, truth)
        more: dict[str, Any] = {}
        if truth is not None and "mean" in self._sample:
            totals = sorted({*_TOTALS, truth})
            size, n = int(self._sample["y"].shape[1]), self.hparams["subviews"]
            g = generator(_EVALUATION)
            more = {"totals": totals, "optimal": optimal_curves(size, n, self._rows, totals, 6, g)}
        draw_estimates(Path(folder) / "estimates.png", found, truth, **more)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self._sample: dict[str, Tensor] = batch

    def _truth(self) -> float | None:
        return getattr(getattr(self.trainer, "datamodule", None), "truth", None)

    def _log(self, stage: str) -> list[Estimate]:
        """Means over batches; of the first curve also the truth's share. The estimates of I(x; y)."""
        n, rows = self.hparams["subviews"], self._rows
        found = []
        for name, values in self._found.items():
            undivided = name in UNDIVIDED
            whole = undivided or (name.rpartition("_")[2] in _SHOWN and "conditional" not in name)
            e = Estimate(name, values, rows if undivided else rows // n, 1 if undivided else n)
            self.log(f"{stage}/{name}", e.mean, batch_size=1)
            if whole:
                found.append(e)
                if math.isfinite(e.ceiling):
                    self.log(f"{stage}/{name}_saturation", e.mean / e.ceiling, batch_size=1)
        first = self._first(found)
        self.log(f"{stage}/estimate", first.mean, prog_bar=True, batch_size=1)
        if stage == "test":
            log_k = first.terms * math.log(first.columns)
            self.log("test/log_k", log_k, batch_size=1)
            if len(first.values) > 1:
                self.log("test/estimate_sd", first.deviation, batch_size=1)
            truth = self._truth()
            if truth is not None:
                bias = first.mean - truth
                found_ = {"truth": truth, "bias": bias, "ratio": first.mean / truth}
                sides = {"excess": max(0.0, bias), "shortfall": max(0.0, -bias)}  # what claims compare
                self.log_dict({f"test/{k}": v for k, v in (found_ | sides).items()}, batch_size=1)
        return found

    def _first(self, found: Sequence[Estimate]) -> Estimate:
        """Of the first curve: with exact negatives where there are some, else by I_IS."""
        curve = self.curves[0]
        names = [curve] if curve in UNDIVIDED else [f"{curve}_exact", f"{curve}_is"]
        by_name = {e.name: e for e in found}
        return next(by_name[name] for name in names if name in by_name)

    # --- what a person looks at ---------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> PointwiseInformation:
        """The last rows, where they are fewer, have rows of the batch before them as negatives."""
        self._check(batch)
        size = len(batch["y"])
        lacking = len(self._before.get("y", ())) - size
        rows = (
            {k: torch.cat([self._before[k][:lacking], v]) for k, v in batch.items()} if lacking > 0 else batch
        )
        if len(rows["y"]) < 2:
            raise ValueError("one pair alone has no negatives: predict needs 2 rows or more")
        self._before = self._before or batch
        nats: dict[str, Tensor] = {
            str(curve): pointwise(self.scorer, curve, rows)[-size:].cpu() for curve in self.curves
        }
        return PointwiseInformation(batch["index"].cpu(), nats)
