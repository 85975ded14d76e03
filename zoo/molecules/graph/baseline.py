"""The rows of the tables that learn no features: scikit-learn on descriptors, on the same splits."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from zoo.metrics.properties import Task, averaged, by_task, undefined
from zoo.molecules.graph.descriptors import Descriptors, Standardiser, nearest, tanimoto
from zoo.molecules.graph.featurised import descriptors_of, prepare
from zoo.molecules.graph.report import MoleculePredictions
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Depth, Positive, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import derived_seed, global_seed

Method = Literal["random_forest", "ridge", "kernel_ridge", "mlp"]
_FIT = 2110  # first word of the key of scikit-learn's random_state
_USES: Uses = {
    "trees": ("random_forest",),
    "alpha": ("ridge", "kernel_ridge"),
    "hidden": ("mlp",),
    "epochs": ("mlp",),
}


class DescriptorBaseline(LightningModule):
    """scikit-learn on ECFP4 bits or rdkit's descriptors: what learned features are to be compared with.

    Fitted once, in the one step of ``fit``. A checkpoint holds the seed and a digest of the training
    molecules and no fitted object: evaluation fits again, which gives the same. Descriptors are standardised
    by the training molecules as those of :class:`zoo.MoleculeGraph2D`; the forest and Tanimoto's kernel of
    ECFP bits take them as they are. Each target is fitted on the molecules that have it.

    Args:
        targets: names of the T columns that are predicted.
        task: ``regression`` or ``classification``.
        method: ``random_forest``, ``ridge`` (of classes logistic regression), ``kernel_ridge`` (Gaussian
            kernel, of ``ecfp`` Tanimoto's; of classes their 0 and 1, clipped) or ``mlp``.
        descriptors: ``ecfp``, ``rdkit`` or ``both``.
        chirality: whether ECFP tells mirror images apart.
        trees: of the forest.
        alpha: strength of the ridge.
        hidden: width of the MLP's one layer.
        epochs: of the MLP.

    Raises:
        ValueError: for impossible settings.
    """

    fitted_seed: Tensor
    digest: Tensor

    data_sizes: ClassVar[DataSizes] = {"targets": "targets", "task": "task"}

    def __init__(
        self,
        targets: list[str] | None = None,
        task: Task = "regression",
        method: Method = "random_forest",
        descriptors: Descriptors = "rdkit",
        chirality: bool = False,
        trees: Depth = 500,
        alpha: Positive = 1.0,
        hidden: Size = 300,
        epochs: Depth = 100,
    ) -> None:
        check_ranges(DescriptorBaseline, locals())
        super().__init__()
        targets = ["target"] if targets is None else list(targets)
        self.save_hyperparameters()
        refuse_unused(DescriptorBaseline, self.hparams, "method", _USES)
        refuse_unused(DescriptorBaseline, self.hparams, "descriptors", {"chirality": ("ecfp", "both")})
        if descriptors == "none":
            raise ValueError("model.init_args.descriptors must be ecfp, rdkit or both, got 'none'")
        if not targets or len(set(targets)) != len(targets):
            raise ValueError(f"model.init_args.targets must be names, each once, got {targets}")
        self.automatic_optimization = False
        # a parameter so that an optimiser counts the step
        self.fits = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("fitted_seed", torch.tensor(0))
        self.register_buffer("digest", torch.tensor(0))
        self._models: list[Any] | None = None
        self._seen: list[dict[str, Any]] = []

    def setup(self, stage: str) -> None:
        refuse_processes(self, "fits one model")
        check_fit(self)
        self._train()
        if self.hparams["descriptors"] != "ecfp":
            prepare(getattr(self.trainer.datamodule, "all_smiles", ()))  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.fits], lr=0.0)  # counts steps: there is no gradient

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.trainer.global_step >= 1  # killed behind its step

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.fitted_seed.fill_(global_seed())
        self.digest.fill_(_digest(*self._train()))
        self.fits.fill_(1.0)
        predicted = self.predicted(self._train()[0])
        scores = averaged(by_task(self.hparams["task"], predicted, self._train()[1]))
        for name, value in scores.items():
            self.log(f"train/{name}", value, batch_size=1)
        optimizer: Any = self.optimizers()
        optimizer.step()
        self.trainer.should_stop = True

    def _train(self) -> tuple[Sequence[str], Any]:
        data = getattr(self.trainer, "datamodule", None)
        smiles, target = getattr(data, "train_smiles", None), getattr(data, "train_target", None)
        if smiles is None or target is None:
            raise ValueError(
                "zoo.DescriptorBaseline fits the training molecules, which the data do not tell "
                "(train_smiles, train_target); use datamodules.MoleculeTable or MoleculeNet"
            )
        return smiles, target

    def predicted(self, smiles: Sequence[str]) -> Any:
        """Predictions float64 (N, T); of classes the probability of 1.

        Raises:
            ValueError: when nothing was fitted, or to other molecules than the data's.
        """
        if not bool(self.fits.any()):
            raise ValueError("nothing was fitted yet: run `zoo fit`, or give --weights or --ckpt_path")
        train, target = self._train()
        if int(self.digest) != _digest(train, target):
            raise ValueError(
                "these weights were fitted to other training molecules than the data have; give the data of "
                "the fit (data.init_args.split and split_seed)"
            )
        h = self.hparams
        if self._models is None:
            state = derived_seed(_FIT, int(self.fitted_seed)) % 2**32
            self._scalers = (Standardiser(h["descriptors"]),)  # in a tuple it is no part of the weights
            raw = descriptors_of(train, h["descriptors"], h["chirality"])
            self._scalers[0].fit(raw)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # too few iterations: the scores show it
                self._models = [
                    _fitted(h, self._columns(raw), target[:, t], state) for t in range(target.shape[1])
                ]
        x = self._columns(descriptors_of(smiles, h["descriptors"], h["chirality"]))
        return np.stack([model(x) for model in self._models], axis=1)

    def _columns(self, raw: Any) -> Any:
        """What the method takes: raw descriptors, or standardised ones."""
        h = self.hparams
        bits = h["method"] == "kernel_ridge" and h["descriptors"] == "ecfp"
        if h["method"] == "random_forest" or bits:
            return np.clip(np.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0), -1e30, 1e30)
        return self._scalers[0](raw).double().cpu().numpy()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        if bool(self.fits.any()) and not dataloader_idx:
            self._seen.append({"smiles": batch["smiles"], "target": batch["target"].double().cpu().numpy()})

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self._seen.append({"smiles": batch["smiles"], "target": batch["target"].double().cpu().numpy()})

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        seen, self._seen = self._seen, []
        if not seen:
            return
        smiles = [text for batch in seen for text in batch["smiles"]]
        found = by_task(
            self.hparams["task"], self.predicted(smiles), np.concatenate([batch["target"] for batch in seen])
        )
        missing = undefined(found, self.hparams["targets"])
        if missing and not self.trainer.sanity_checking:
            rank_zero_warn(
                f"{stage}: {next(iter(found))} is undefined for {', '.join(missing[:5])}: left out"
            )
        for name, value in averaged(found).items():
            self.log(f"{stage}/{name}", value, prog_bar=True, batch_size=1)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> MoleculePredictions:
        h, smiles = self.hparams, batch["smiles"]
        predicted = torch.from_numpy(self.predicted(smiles))
        neighbour, similarity = nearest(smiles, self._train()[0])
        return MoleculePredictions(
            smiles=list(smiles),
            predicted=predicted,
            deviation=None,
            margin=torch.full_like(predicted, torch.nan),
            target=batch["target"].double().cpu(),
            index=batch["index"].tolist(),
            neighbour=neighbour,
            similarity=similarity,
            contributions=[],
            names=list(h["targets"]),
            task=h["task"],
            coverage=90,
        )


def _digest(smiles: Sequence[str], target: Any) -> int:
    """63 bits of the training molecules and their targets."""
    total = hashlib.sha256("\n".join(smiles).encode())
    total.update(np.ascontiguousarray(target).tobytes())
    return int.from_bytes(total.digest()[:8], "big") >> 1


def _fitted(h: Mapping[str, Any], x: Any, target: Any, state: int) -> Any:
    """What predicts one target: a function of (N, D)."""
    known = ~np.isnan(target)
    x, y = x[known], target[known]
    if h["task"] == "classification" and len(np.unique(y)) < 2:
        value = float(y[0]) if len(y) else 0.5
        return lambda rows: np.full(len(rows), value)
    if not len(y):
        raise ValueError(
            "no training molecule has a value of one of the targets: leave it out of the targets"
        )
    if h["method"] == "kernel_ridge":
        return _kernel_ridge(h, x, y)
    classes = h["task"] == "classification"
    model = _estimator(h, classes, state).fit(x, y.astype(int) if classes else y)
    return (lambda rows: model.predict_proba(rows)[:, 1]) if classes else model.predict


def _estimator(h: Mapping[str, Any], classes: bool, state: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if h["method"] == "random_forest":
        return (RandomForestClassifier if classes else RandomForestRegressor)(
            h["trees"], random_state=state, n_jobs=1
        )
    if h["method"] == "ridge":
        return LogisticRegression(C=1 / h["alpha"], max_iter=2000) if classes else Ridge(h["alpha"])
    return (MLPClassifier if classes else MLPRegressor)(
        (h["hidden"],), max_iter=h["epochs"], random_state=state
    )


def _kernel_ridge(h: Mapping[str, Any], x: Any, y: Any) -> Any:
    """``k(x, X) (K + alpha)^-1 (y - mean)`` with Tanimoto's kernel of bits, else a Gaussian one."""
    from sklearn.metrics.pairwise import rbf_kernel

    kernel = tanimoto if h["descriptors"] == "ecfp" else rbf_kernel
    mean = y.mean()
    weights = np.linalg.solve(kernel(x, x) + h["alpha"] * np.eye(len(x)), y - mean)
    clip = h["task"] == "classification"

    def predict(rows: Any) -> Any:
        found = kernel(rows, x) @ weights + mean
        return np.clip(found, 0, 1) if clip else found

    return predict
