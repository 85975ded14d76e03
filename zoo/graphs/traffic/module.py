"""Forecasting on a graph of sensors: one LightningModule, the architecture is one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, distributed, nn

from zoo.graphs.traffic.baselines import FCLSTM, HistoricalAverage, LastValue
from zoo.graphs.traffic.dcrnn import DCRNN, teaching_probability
from zoo.graphs.traffic.report import Forecasts
from zoo.graphs.traffic.stgcn import STGCN
from zoo.graphs.traffic.wavenet import GraphWaveNet
from zoo.metrics.masked import MaskedMAE, MaskedMAPE, MaskedRMSE, known
from zoo.nn.data_fit import DataSizes, check_fit, misfit, named
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_sharding
from zoo.nn.ranges import Depth, Finite, Many, NonNegative, Rate, Size, SizeOrZero, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import step_generator

ForecastArch = Literal["stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm", "ha", "last"]
_ARCHS = ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm", "ha", "last")
_ON_GRAPH = ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet")
_UNTRAINED = ("ha", "last")
_STGCN = ("stgcn_cheb", "stgcn_1st")
# `period` describes the data, whatever the arch
_USES: Uses = {
    "layers": ("dcrnn", "fclstm"),
    "dropout": (*_STGCN, "gwnet"),
    "cheb_terms": ("stgcn_cheb",),
    "diffusion_steps": ("dcrnn", "gwnet"),
    "embedding": ("gwnet",),
    "teaching_decay": ("dcrnn",),
    "unused_aligns": _STGCN,
}


class SpatioTemporalForecaster(LightningModule):
    """Forecasts of N sensors on a graph, by ``arch``.

    ============  ==========================================================================================
    stgcn_cheb    STGCN (Yu et al., IJCAI 2018) with Chebyshev graph convolutions
    stgcn_1st     STGCN with the first-order kernel
    dcrnn         DCRNN (Li et al., ICLR 2018)
    gwnet         Graph WaveNet (Wu et al., IJCAI 2019)
    fclstm        encoder and decoder LSTM on the vector of all sensors, no graph
    ha            mean of the training rows at the same time of the period, nothing is trained
    last          the last measurement, nothing is trained
    ============  ==========================================================================================

    A batch has ``x`` (B, lags, N, C), the past in the unit of the data, channel 0 the value; ``y``
    (B, horizon, N), what follows; ``time`` (B, horizon), when that is, in steps; ``index`` (B,). Mean and
    deviation of the training inputs, the graph, and the table of ``ha`` come from the data module when
    training begins and travel with the weights. Errors are of de-normalised forecasts, missing targets left
    out.

    Args:
        arch: see above.
        num_nodes: N.
        lags: steps of the past.
        horizon: steps of the future in the data.
        target_step: predict this step alone, as STGCN's port does (one model per horizon; the authors' code
            predicts one step and reads its own forecasts for the later ones); null predicts all at once.
        in_channels: of the past that the network reads; by default 1 for STGCN and 2 (value, time of day)
            for the others, as in their papers.
        hidden: width; by default 64 (dcrnn), 32 (gwnet), 256 (fclstm), and 64-16-64 for STGCN, of which it
            is the outer width.
        layers: of the recurrent encoder and decoder of dcrnn and fclstm.
        dropout: by default .5 (STGCN, its port's; its authors have none) and .3 (gwnet); others have none.
        cheb_terms: Ks of stgcn_cheb.
        diffusion_steps: K of dcrnn, order of gwnet.
        embedding: size of gwnet's node embeddings; 0 has no learned graph.
        teaching_decay: c of dcrnn's scheduled sampling, the truth with probability c / (c + exp(i / c)) at
            step i; 0 never teaches.
        period: of ha, in steps: a week of five minutes; 1,440 where the data leave weekends out.
        unused_aligns: keep the 1 x 1 convolutions of STGCN's port that nothing reads, frozen.
        null_value: what a missing measurement is written as; null where there is no such value.
        loss: ``masked_mae`` of the de-normalised or ``mse`` of the normalised values.
        report: steps whose errors are logged on their own; by default 3, 6 and 12.
        schedule_interval: when the learning-rate schedule steps.
        compile: compile the network.
        optimizer: of all weights.
        lr_scheduler: none by default.

    Raises:
        ValueError: for impossible settings.
    """

    mean: Tensor
    std: Tensor
    taken: Tensor

    data_sizes: ClassVar[DataSizes] = {"num_nodes": "num_nodes", "lags": "lags", "horizon": "horizon"}
    answers_untrained: ClassVar[Mapping[str, Sequence[str]]] = {"arch": _UNTRAINED}

    def __init__(
        self,
        arch: ForecastArch = "dcrnn",
        num_nodes: Many = 207,
        lags: Size = 12,
        horizon: Size = 12,
        target_step: Size | None = None,
        in_channels: Size | None = None,
        hidden: Size | None = None,
        layers: Depth = 2,
        dropout: Rate | None = None,
        cheb_terms: Depth = 3,
        diffusion_steps: Depth = 2,
        embedding: SizeOrZero = 10,
        teaching_decay: NonNegative = 2000.0,
        period: Many = 2016,
        unused_aligns: bool = False,
        null_value: Finite | None = 0.0,
        loss: Literal["masked_mae", "mse"] = "masked_mae",
        report: Sequence[Size] | None = None,
        schedule_interval: Literal["epoch", "step"] = "epoch",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(SpatioTemporalForecaster, locals())
        super().__init__()
        report = None if report is None else list(report)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self._check_settings()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.channels = in_channels or (1 if arch.startswith("stgcn") else 2)
        self.network = self._build(dropout)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("taken", torch.tensor(False))
        if arch in _UNTRAINED:
            # an optimiser needs a parameter, and a run needs optimiser steps to be compared by; it stays 0
            self.anchor = nn.Parameter(torch.zeros(()))
        steps = (
            [target_step] if target_step else report or [s for s in (3, 6, 12) if s <= horizon] or [horizon]
        )
        self.report = list(steps)
        errors: dict[str, Any] = {"mae": MaskedMAE, "rmse": MaskedRMSE, "mape": MaskedMAPE}
        if null_value is None:  # values around 0 have no percentage
            del errors["mape"]
        names = {
            f"{e}{suffix}": cls for e, cls in errors.items() for suffix in ("", *(f"_{s}" for s in steps))
        }
        self.metrics = nn.ModuleDict({name: cls(null_value) for name, cls in names.items()})
        self._forecasts: list[dict[str, Tensor]] = []

    def _check_settings(self) -> None:
        h = self.hparams
        for key, choices in (
            ("arch", _ARCHS),
            ("loss", ("masked_mae", "mse")),
            ("schedule_interval", ("epoch", "step")),
        ):
            if h[key] not in choices:
                raise ValueError(f"{key} must be one of {', '.join(choices)}, got {h[key]!r}")
        for key, steps in (
            ("target_step", [h["target_step"]] if h["target_step"] is not None else []),
            ("report", h["report"] or []),
        ):
            if any(not 1 <= s <= h["horizon"] for s in steps):
                raise ValueError(
                    f"{key} counts steps of the future, 1..horizon = {h['horizon']}, got {h[key]}"
                )
        refuse_unused(SpatioTemporalForecaster, h, "arch", _USES, _UNTRAINED)
        if h["arch"] == "dcrnn" and h["target_step"] is not None:
            raise ValueError("dcrnn reaches a step through all before it: leave target_step out")

    def _build(self, dropout: float | None) -> nn.Module:
        h = self.hparams
        arch, nodes = h["arch"], h["num_nodes"]
        outputs = h["horizon"] if h["target_step"] is None else 1
        if arch.startswith("stgcn"):
            width = h["hidden"] or 64
            return STGCN(
                nodes,
                h["lags"],
                outputs,
                self.channels,
                "cheb" if arch == "stgcn_cheb" else "1st",
                h["cheb_terms"],
                widths=(width, 16, width),
                output_width=2 * width,
                dropout=0.5 if dropout is None else dropout,
                unused_aligns=h["unused_aligns"],
            )
        if arch == "dcrnn":
            return DCRNN(nodes, outputs, self.channels, h["hidden"] or 64, h["layers"], h["diffusion_steps"])
        if arch == "gwnet":
            width = h["hidden"] or 32
            return GraphWaveNet(
                nodes,
                outputs,
                self.channels,
                width,
                skip=8 * width,
                end=16 * width,
                order=h["diffusion_steps"],
                embedding=h["embedding"],
                dropout=0.3 if dropout is None else dropout,
            )
        if arch == "fclstm":
            return FCLSTM(nodes, outputs, self.channels, h["hidden"] or 256, h["layers"])
        return HistoricalAverage(nodes, h["period"]) if arch == "ha" else LastValue(outputs)

    # --- data -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        predict_in_one_process(self, stage)
        refuse_sharding(self)
        check_fit(self)
        null = getattr(data, "null_value", self.hparams["null_value"])
        if null != self.hparams["null_value"]:
            raise misfit(self, "null_value", null)
        channels = getattr(data, "in_channels", self.channels)
        if channels < self.channels:
            raise ValueError(
                f"{self.hparams['arch']} reads {self.channels} channels, but {named(data)} has {channels}; "
                f"set model.init_args.in_channels: {channels}, or data.init_args.time_of_day: true"
            )
        if not self.taken and data is not None:
            self._take(data)
        if self.hparams["compile"]:
            self.network.compile()

    @torch.no_grad()
    def _take(self, data: Any) -> None:
        """Scale, graph and history of the training data, once; weights that are loaded bring their own."""
        for key in ("mean", "std", "adjacency"):
            if getattr(data, key, None) is None:
                raise ValueError(
                    f"{type(data).__name__} has no {key}: a forecaster takes mean, std and adjacency from "
                    "its data"
                )
        self.mean.fill_(data.mean)
        self.std.fill_(data.std)
        network: Any = self.network
        if self.hparams["arch"] in _ON_GRAPH:
            network.set_graph(data.adjacency)
        elif self.hparams["arch"] == "ha":
            values = data.train_values
            mask = known(values, self.hparams["null_value"])
            network.set_history(self._normalised(values), data.train_clock, mask)
        elif self.hparams["arch"] == "last" and self.hparams["null_value"] is not None:
            network.set_null(self._normalised(torch.tensor(self.hparams["null_value"])))
        self.taken.fill_(True)

    def _normalised(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std

    def _inputs(self, x: Tensor) -> Tensor:
        """Value normalised, the other channels as they are; (B, lags, N, channels)."""
        return torch.cat([self._normalised(x[..., :1]), x[..., 1 : self.channels]], dim=-1)

    def _target(self, steps: Tensor) -> Tensor:
        """The steps that are predicted, of (B, horizon, ...)."""
        step = self.hparams["target_step"]
        return steps if step is None else steps[:, step - 1 : step]

    def forecast(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Past (B, lags, N, C) -> future (B, outputs, N), both in the unit of the data.

        ``time`` (B, horizon) is needed by ``ha`` alone.
        """
        inputs = self._inputs(x)
        if self.hparams["arch"] == "ha":
            assert time is not None
            out = self.network(inputs, self._target(time))
        else:
            out = self.network(inputs)
        return out.float() * self.std + self.mean

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Normalised pasts (batch, lags, N, channels) for the network, which gives normalised futures."""
        h = self.hparams
        inputs = {"x": torch.randn(batch, h["lags"], h["num_nodes"], self.channels, device=self.device)}
        if h["arch"] == "ha":
            inputs["time"] = torch.arange(batch, device=self.device)[:, None] + torch.arange(h["horizon"])
        return inputs

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        target = self._target(batch["y"])
        if self.hparams["arch"] == "dcrnn":
            forecast = self._taught(batch, target, batch_idx)
        else:
            forecast = self.forecast(batch["x"], batch["time"])
        loss = self._loss(forecast, target)
        if self.hparams["arch"] in _UNTRAINED:
            loss = loss + 0 * self.anchor
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(target))
        return loss

    def _taught(self, batch: dict[str, Tensor], target: Tensor, batch_idx: int) -> Tensor:
        """DCRNN with scheduled sampling: a coin per decoder step, the same for the whole batch."""
        decay = self.hparams["teaching_decay"]
        probability = teaching_probability(self.trainer.global_step, decay) if decay else 0.0
        random = step_generator(self, batch_idx)
        coins = torch.rand(target.shape[1], generator=random, device=self.device)
        out = self.network(self._inputs(batch["x"]), self._normalised(target), coins < probability)
        return out.float() * self.std + self.mean

    def _loss(self, forecast: Tensor, target: Tensor) -> Tensor:
        """Mean over the known targets of the global batch: each rank's sum over its share of their number."""
        mask = known(target, self.hparams["null_value"])
        difference = torch.where(mask, forecast - target, torch.zeros_like(forecast))
        squared = self.hparams["loss"] == "mse"
        error = (difference / self.std).square() if squared else difference.abs()
        count = mask.sum().float()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(count)
            count = count / distributed.get_world_size()
        return error.sum() / count.clamp(min=1)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        return with_schedule(optimizer, self.lr_scheduler, self.hparams["schedule_interval"])

    # --- evaluation -------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Errors over all steps, and of each reported step alone."""
        forecast, target = self.forecast(batch["x"], batch["time"]), self._target(batch["y"])
        for name, metric in self.metrics.items():
            _, _, step = name.partition("_")
            if step:
                place = 0 if self.hparams["target_step"] else int(step) - 1
                metric.update(forecast[:, place], target[:, place])  # type: ignore[operator]
            else:
                metric.update(forecast, target)  # type: ignore[operator]
            shown = name in ("mae", f"mae_{self.report[-1]}")
            self.log(
                f"{stage}/{name}",
                metric,  # type: ignore[arg-type]
                on_epoch=True,
                prog_bar=shown,
                batch_size=len(target),
            )

    def on_predict_start(self) -> None:
        self._forecasts = []

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Forecasts:
        """The forecasts of all batches so far; those of the last batch write themselves."""
        self._forecasts.append(
            {
                "forecast": self.forecast(batch["x"], batch["time"]).cpu(),
                "target": self._target(batch["y"]).cpu(),
                "time": self._target(batch["time"]).cpu(),
                "past": batch["x"][..., 0].cpu(),
            }
        )
        data: Any = getattr(self.trainer, "datamodule", None)
        batches = self.trainer.num_predict_batches
        total = batches[0] if isinstance(batches, list) else batches
        step = self.hparams["target_step"]
        return Forecasts(
            **{key: torch.cat([f[key] for f in self._forecasts]) for key in self._forecasts[0]}
            if batch_idx + 1 == total
            else self._forecasts[-1],
            steps=[step] if step else list(range(1, self.hparams["horizon"] + 1)),
            report=self.report,
            names=list(getattr(data, "names", map(str, range(self.hparams["num_nodes"])))),
            positions=getattr(data, "positions", None),
            null=self.hparams["null_value"],
            unit=getattr(data, "unit", ""),
            complete=batch_idx + 1 == total,
        )
