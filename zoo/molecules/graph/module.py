"""The LightningModule of molecular properties: graphs, descriptors, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from zoo.metrics.properties import Collected, Task, averaged, by_task, undefined
from zoo.molecules.graph.descriptors import Descriptors, Standardiser, applied_but, width_of
from zoo.molecules.graph.features import ATOM_WIDTH, Features, GraphBatch
from zoo.molecules.graph.featurised import canonical, descriptors_of, graphs_of, prepare
from zoo.molecules.graph.losses import Head, each_loss, mean_loss, moments
from zoo.molecules.graph.network import Backbone, MoleculeEnsemble, MoleculeNetwork, Readout
from zoo.molecules.graph.predicting import predictions_of
from zoo.molecules.graph.probes import probed
from zoo.molecules.graph.report import MoleculePredictions
from zoo.molecules.graph.uncertainty import (
    LEAST_VARIANCE,
    LEVELS,
    NO_INTERVAL,
    calibrated,
    gaussian_widths,
    interval_scores,
    mixture,
)
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import predict_in_one_process, refuse_sharding
from zoo.nn.ranges import Depth, Range, Rate, Size, check_ranges
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.reports import say

Coverage = Annotated[int, Range(1, 99)]
"""Per cent, whole."""
_GRAPH = ("gin", "dmpnn", "attentivefp")
_USES: Uses = {
    **dict.fromkeys(("features", "hidden", "depth"), _GRAPH),
    **dict.fromkeys(("fingerprints", "probes"), _GRAPH),
    "readout": ("gin", "dmpnn"),
    "dmpnn_2019": ("dmpnn",),
    "chirality": {"backbone": _GRAPH, "descriptors": ("ecfp", "both")},
}


class MoleculeGraph2D(LightningModule):
    """Properties of molecules from 2-D graphs, descriptors, or both (Atz, Grisoni & Schneider 2021).

    ``y = FFN([h_G, d])``: h_G is read from the atoms' states of a graph network, d are standardised
    descriptors. Regression is learned on targets standardised by the training molecules, with the mean
    squared error or, with ``head: mve``, the Gaussian likelihood of a mean and a variance; classification by
    the cross-entropy of each task. Missing targets are left out. A batch is that of
    ``datamodules.MoleculeTable``: SMILES, which are featurised once and kept.

    With data that have a ``calibration`` share each validation sets conformal intervals by it; without,
    intervals are Gaussian, and there are none for a single network without variance.

    Args:
        targets: names of the T columns that are predicted.
        task: ``regression`` or ``classification`` (0 and 1).
        backbone: ``dmpnn``, ``gin`` (with bond features), ``attentivefp``, or ``none``: an FFN on
            descriptors.
        descriptors: ``none``, ``ecfp`` (ECFP4, 2,048 bits), ``rdkit`` (its list of 2-D descriptors) or
            ``both``.
        features: of atoms, chemprop's ``v1`` (133) or ``v2`` (72).
        chirality: whether atoms, bonds and ECFP tell mirror images apart.
        hidden: width of the graph network.
        depth: its layers or steps.
        readout: of the atoms, ``mean``, ``sum``, or ``norm`` (sum / 100); AttentiveFP has its own.
        dropout: in both networks.
        ffn_hidden: width of the FFN.
        ffn_layers: its layers, with the last.
        dmpnn_2019: as the paper's: features v1 and readout mean, whatever ``features`` and ``readout`` say.
        head: ``point``, or ``mve``: mean and variance.
        members: networks of a deep ensemble, trained side by side.
        coverage: per cent that the intervals of predictions are to cover.
        fingerprints: whether ``predict`` writes h_G of each molecule, too.
        probes: whether ``test`` asks what h_G and classical features tell of each other: linear CKA,
            ridge probes of rdkit's descriptors from h_G and back, common neighbours; ``probes.csv``.
        compile: compile the network with ``torch.compile``.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer; stepped by step.

    Raises:
        ValueError: for impossible settings.
    """

    network: MoleculeEnsemble
    target_mean: Tensor
    target_deviation: Tensor
    fitted: Tensor
    half_widths: Tensor

    data_sizes: ClassVar[DataSizes] = {"targets": "targets", "task": "task"}
    _told_intervals = False

    def __init__(
        self,
        targets: list[str] | None = None,
        task: Task = "regression",
        backbone: Backbone = "dmpnn",
        descriptors: Descriptors = "none",
        features: Features = "v2",
        chirality: bool = True,
        hidden: Size = 300,
        depth: Depth = 3,
        readout: Readout = "mean",
        dropout: Rate = 0.0,
        ffn_hidden: Size = 300,
        ffn_layers: Depth = 2,
        dmpnn_2019: bool = False,
        head: Head = "point",
        members: Depth = 1,
        coverage: Coverage = 90,
        fingerprints: bool = False,
        probes: bool = False,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(MoleculeGraph2D, locals())
        super().__init__()
        targets = ["target"] if targets is None else list(targets)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        refuse_unused(MoleculeGraph2D, self.hparams, "backbone", _USES)
        if not targets or len(set(targets)) != len(targets):
            raise ValueError(f"model.init_args.targets must be names, each once, got {targets}")
        if backbone == "none" and descriptors == "none":
            raise ValueError("backbone: none is an FFN on descriptors; set model.init_args.descriptors")
        if head == "mve" and task != "regression":
            raise ValueError("head: mve is of regression; set model.init_args.head: point")
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.columns = len(targets)
        self.features: Features = "v1" if dmpnn_2019 else features
        outputs = self.columns * (2 if head == "mve" else 1)
        given: dict[str, Any] = {
            **settings_of(MoleculeNetwork, self.hparams),
            "atoms": ATOM_WIDTH[self.features],
            "descriptors": width_of(descriptors),
            "outputs": outputs,
            "readout": "mean" if dmpnn_2019 else readout,
        }
        self.network = MoleculeEnsemble([MoleculeNetwork(**given) for _ in range(members)])
        self.standardiser = Standardiser(descriptors)
        self.register_buffer("target_mean", torch.zeros(self.columns, dtype=torch.float64))
        self.register_buffer("target_deviation", torch.ones(self.columns, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("half_widths", torch.full((self.columns, len(LEVELS)), NO_INTERVAL))
        self.collected: Any = torch.nn.ModuleDict(
            {name: Collected(self.columns) for name in ("val_set", "calibration_set", "test_set")}
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        exact = ("target_mean", "target_deviation", "half_widths")
        applied_but(self, exact, lambda: super(MoleculeGraph2D, self)._apply(fn, recurse))
        return self

    # --- data -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        predict_in_one_process(self, stage)
        check_fit(self)
        data = getattr(self.trainer, "datamodule", None)
        if self.hparams["descriptors"] in ("rdkit", "both"):
            prepare(getattr(data, "all_smiles", ()))
        if self.hparams["task"] != "regression" and getattr(data, "calibration_set", None) is not None:
            raise ValueError(
                "intervals are of regression: leave data.init_args.calibration out, or set task: regression"
            )
        if stage == "fit" and not bool(self.fitted):
            smiles, target = getattr(data, "train_smiles", None), getattr(data, "train_target", None)
            if smiles is None or target is None:
                raise ValueError(
                    "zoo.MoleculeGraph2D scales by the training molecules, which the data do not tell "
                    "(train_smiles, train_target); use datamodules.MoleculeTable or MoleculeNet"
                )
            self.fit_scales(smiles, target)
        if self.hparams["compile"]:
            self.network.compile()

    def fit_scales(self, smiles: Sequence[str], target: Any) -> None:
        """Take mean and deviation of descriptors and targets (N, T) from the training molecules alone.

        Weights that were trained before keep theirs.

        Raises:
            ValueError: for a column in which no training molecule has a value.
        """
        h = self.hparams
        if h["descriptors"] != "none":
            self.standardiser.fit(descriptors_of(smiles, h["descriptors"], h["chirality"]))
        known = ~np.isnan(target)
        for name, some in zip(h["targets"], known.any(axis=0), strict=True):
            if not some:
                raise ValueError(f"no training molecule has a value of {name!r}: leave it out of the targets")
        if h["task"] == "regression":
            mean = np.nanmean(target, axis=0)
            deviation = np.nanstd(target, axis=0)
            self.target_mean.copy_(torch.from_numpy(mean))
            self.target_deviation.copy_(torch.from_numpy(np.where(deviation > 0, deviation, 1.0)))
        self.fitted.fill_(True)

    def featurised(self, smiles: Sequence[str]) -> tuple[GraphBatch | None, Tensor]:
        """Graphs and standardised descriptors (B, D) of molecules, in the network's type."""
        h = self.hparams
        dtype = next(self.network.parameters()).dtype
        graph = None
        if h["backbone"] != "none":
            graph = graphs_of(smiles, self.features, h["chirality"]).to(self.device, dtype)
        if h["descriptors"] == "none":
            return graph, torch.zeros(len(smiles), 0, device=self.device, dtype=dtype)
        raw = descriptors_of(smiles, h["descriptors"], h["chirality"])
        return graph, self.standardiser(raw).to(self.device, dtype)

    # --- outputs --------------------------------------------------------------------------------------------

    def forward(self, smiles: Sequence[str]) -> Tensor:
        """Raw outputs (M, B, T), or (M, B, 2 T) with ``head: mve``, of M members, on the learned scale."""
        outputs = self.network(*self.featurised(smiles))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def predicted(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and its deviation (B, T), in the unit of the data; of classes the probability of 1."""
        if self.hparams["task"] == "classification":
            return mixture(outputs.double().sigmoid(), torch.zeros_like(outputs).double())[0], (
                outputs.double().sigmoid().std(dim=0, correction=0)
            )
        means, variances = moments(outputs.double(), self.hparams["head"])
        mean, variance = mixture(means, variances)
        return mean * self.target_deviation + self.target_mean, variance.sqrt() * self.target_deviation

    @property
    def knows_deviation(self) -> bool:
        """Whether it says of each molecule how sure it is."""
        return self.hparams["head"] == "mve" or self.hparams["members"] > 1

    def sigma(self, deviation: Tensor) -> Tensor:
        """What intervals are measured in: a molecule's deviation, else one number for all."""
        return deviation if self.knows_deviation else self.target_deviation.expand_as(deviation)

    def widths(self) -> Any:
        """Half widths (T, 99) in units of sigma: conformal ones, else Gaussian, else NaN."""
        own = self.half_widths.double().cpu().numpy()
        if (own > NO_INTERVAL).any():
            return np.where(own > NO_INTERVAL, own, np.nan)
        none = np.full(len(LEVELS), np.nan)
        return np.tile(gaussian_widths() if self.knows_deviation else none, (self.columns, 1))

    # --- steps ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        outputs = self(batch["smiles"])
        target = batch["target"]
        known = ~target.isnan()
        each = self.losses(outputs, target)  # (M, B, T), 0 where unknown
        count = known.sum()
        if self.trainer.world_size > 1:  # processes may know different numbers of targets
            count = self.trainer.strategy.reduce(count.float(), reduce_op="mean")
        loss = each.sum(dim=(1, 2)) / count.clamp(min=1)
        shown = loss.detach().mean()
        self.log("train/loss", shown, prog_bar=True, sync_dist=True, batch_size=len(target))
        return loss.sum()  # a member's gradient is that of a network alone

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of each target of each member (M, B, T), 0 where the target is unknown."""
        task, head = self.hparams["task"], self.hparams["head"]
        return each_loss(outputs, target, task, head, self.target_mean, self.target_deviation)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._collect("calibration_set" if dataloader_idx else "val_set", batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self._collect("test_set", batch)

    def _collect(self, name: str, batch: Mapping[str, Any]) -> None:
        predicted, deviation = self.predicted(self(batch["smiles"]))
        self.collected[name].update(predicted, deviation, batch["target"])

    def on_validation_epoch_end(self) -> None:
        held = self._taken("calibration_set")
        if held is not None and not self.trainer.sanity_checking:
            self._calibrate(held)
        self._report("val", self._taken("val_set"))

    def on_test_epoch_end(self) -> None:
        self._report("test", self._taken("test_set"))
        if self.hparams["probes"]:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            for name, value in probed(self, data.train_smiles, data.test_set.smiles).items():
                self.log(f"test/{name}", value, batch_size=1, sync_dist=True)

    def _taken(self, name: str) -> Tensor | None:
        metric = self.collected[name]
        if not metric.update_called:
            return None
        values = metric.compute()  # of all processes
        metric.reset()
        return values

    def _calibrate(self, values: Tensor) -> None:
        sigma = self.sigma(values[1]).clamp(min=LEAST_VARIANCE)
        self.half_widths.copy_(calibrated(values, sigma))
        coverage = self.hparams["coverage"]
        without = (self.half_widths[:, coverage - 1] <= NO_INTERVAL).tolist()
        names = [name for name, none in zip(self.hparams["targets"], without, strict=True) if none]
        if names and not self._told_intervals:
            self._told_intervals = True
            few = "too few of the calibration molecules have it"
            say(f"no {coverage} % interval of {', '.join(names)}: {few}")

    def _report(self, stage: str, values: Tensor | None) -> None:
        if values is None:
            return
        predicted, deviation, target = (v.cpu() for v in values)
        found = by_task(self.hparams["task"], predicted.numpy(), target.numpy())
        h, scale = self.hparams, self.target_deviation.cpu()
        loss = mean_loss(predicted, deviation, target, h["task"], h["head"], scale)
        scores = {"loss": loss} | averaged(found)
        if self.hparams["task"] == "regression":
            scores |= self._interval_scores(predicted, deviation, target)
        missing = undefined(found, self.hparams["targets"])
        if missing and not self.trainer.sanity_checking:
            name = next(iter(found))
            some = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
            rank_zero_warn(
                f"{stage}: {name} is undefined for {some} (no known targets, or of one kind alone): "
                "left out of the mean"
            )
        for name, value in scores.items():
            shown = name in ("rmse", "roc_auc")
            self.log(
                f"{stage}/{name}", value, prog_bar=shown, batch_size=1, rank_zero_only=False, sync_dist=True
            )

    def _interval_scores(self, predicted: Tensor, deviation: Tensor, target: Tensor) -> dict[str, float]:
        sigma = self.sigma(deviation.to(self.device)).cpu().clamp(min=LEAST_VARIANCE).numpy()
        return averaged(
            interval_scores(predicted, target, sigma, self.widths(), self.hparams["coverage"] - 1)
        )

    # --- predictions ----------------------------------------------------------------------------------------

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> MoleculePredictions:
        data = getattr(self.trainer, "datamodule", None)
        return predictions_of(
            self,
            batch["smiles"],
            batch["target"],
            batch["index"].tolist(),
            getattr(data, "train_smiles", None) or [],
        )

    def predict_smiles(self, smiles: Sequence[str], train: Sequence[str] = ()) -> MoleculePredictions:
        """Predictions for SMILES, with contributions of the atoms: ``zoo.load(...).predict_smiles(["CCO"])``.

        Args:
            smiles: molecules, written in any way.
            train: training molecules, for the nearest of each.

        Raises:
            ValueError: naming a text that is no molecule, or for none.
        """
        known = canonical(smiles)
        if not known:
            raise ValueError("no SMILES are given")
        train = canonical(train, "training molecule")
        unknown = torch.full((len(known), self.columns), torch.nan)
        training, self.training = self.training, False
        self.eval()
        try:
            return predictions_of(self, known, unknown, list(range(len(known))), train)
        finally:
            self.train(training)

    def configure_optimizers(self) -> Any:
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler)
