"""The rows of LDS's table that learn no graph: scikit-learn's classifiers under the same splits."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from zoo.lds.pictures import NodeScores, split_names
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Depth, Many, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import derived_seed, global_seed
from zoo.reports import class_names_of

Method = Literal["logreg", "linear_svm", "rbf_svm", "random_forest", "ffnn", "label_propagation"]
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_SETS = ("train", "val", "es", "test")
# First word of the key of scikit-learn's random_state.
_FIT = 310
_UNTRIED = -1.0
GRIDS: dict[str, list[dict[str, Any]]] = {
    "logreg": [{"C": c} for c in _STRENGTHS],
    "linear_svm": [{"C": c} for c in _STRENGTHS],
    "rbf_svm": [{"C": c, "width": w} for c in (0.1, 1.0, 10.0, 100.0) for w in (0.1, 1.0, 10.0)],
    "random_forest": [{"max_depth": d, "max_features": f} for d in (None, 3, 6) for f in ("sqrt", 0.5)],
    "ffnn": [{"alpha": a, "learning_rate_init": r} for a in (5e-4, 5e-2) for r in (0.02, 0.002)],
    "label_propagation": [
        *({"kernel": "rbf", "width": w} for w in (0.1, 1.0, 10.0, 100.0)),
        *({"kernel": "knn", "n_neighbors": k} for k in (5, 10, 20)),
    ],
}
"""Settings that are tried. ``width`` is gamma in units of 1 / (F variance of all features)."""


_USES: Uses = {"hidden": ("ffnn",), "trees": ("random_forest",)}


class FeatureBaseline(LightningModule):
    """A classifier of scikit-learn that sees features alone: the rows of LDS's table without a graph.

    One training step fits one setting of the grid to the training nodes; the best accuracy on the validation
    and early-stopping nodes together wins, ties by cross-entropy. A checkpoint holds what each setting
    reached, the seed and a digest of the training nodes, and no fitted object: evaluation fits the winner
    again, which gives the same classifier. The batch is that of :class:`zoo.LDS`.

    Args:
        method: ``logreg``, ``linear_svm``, ``rbf_svm``, ``random_forest``, ``ffnn`` (one hidden layer) or
            ``label_propagation``, which sees the features of all nodes.
        num_features: F.
        num_classes: C.
        hidden: width of ``ffnn``.
        trees: of ``random_forest``.

    Raises:
        ValueError: for an unknown method.
    """

    tried: nn.Parameter
    fitted_seed: Tensor
    digest: Tensor

    data_sizes: ClassVar[DataSizes] = {"num_features": "num_features", "num_classes": "num_classes"}

    def __init__(
        self,
        method: Method = "logreg",
        num_features: Many = 13,
        num_classes: Size = 3,
        hidden: Size = 16,
        trees: Depth = 200,
    ) -> None:
        check_ranges(FeatureBaseline, locals())
        super().__init__()
        if method not in GRIDS:
            raise ValueError(f"method must be one of {', '.join(GRIDS)}, got {method!r}")
        self.save_hyperparameters()
        refuse_unused(FeatureBaseline, self.hparams, "method", _USES)
        self.automatic_optimization = False
        # accuracy and loss of each setting; a parameter so that an optimiser counts the steps
        self.tried = nn.Parameter(torch.full((len(GRIDS[method]), 2), _UNTRIED), requires_grad=False)
        self.register_buffer("fitted_seed", torch.tensor(0))
        self.register_buffer("digest", torch.tensor(0))

    def setup(self, stage: str) -> None:
        refuse_processes(self, "fits one model on one graph")
        check_fit(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.tried], lr=0.0)  # counts steps: there is no gradient

    @property
    def best(self) -> int:
        """Index of the winning setting.

        Raises:
            ValueError: when none was fitted.
        """
        if bool((self.tried[:, 0] == _UNTRIED).all()):
            raise ValueError("nothing was fitted yet: run `zoo fit`, or give --weights or --ckpt_path")
        order = [(-a, b, i) for i, (a, b) in enumerate(self.tried.tolist())]
        return min(order)[2]

    def on_train_start(self) -> None:
        # a run that was killed behind its last setting has nothing left to do
        self.trainer.should_stop |= self.trainer.global_step >= len(GRIDS[self.hparams["method"]])

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        index = self.trainer.global_step
        grid = GRIDS[self.hparams["method"]]
        if index == 0:
            self.fitted_seed.fill_(global_seed())
            self.digest.fill_(_digest(batch))
        if index < len(grid):
            scores = self._fitted_scores(batch, index)
            chosen = batch.val_mask | batch.es_mask
            accuracy, loss = (
                _accuracy(scores[chosen], batch.y[chosen]),
                _loss(scores[chosen], batch.y[chosen]),
            )
            self.tried[index] = torch.stack([accuracy, loss])
            self.log("train/selection_accuracy", accuracy, prog_bar=True, batch_size=1)
            self.log("train/selection_loss", loss, batch_size=1)
        optimizer: Any = self.optimizers()
        optimizer.step()
        if index + 1 >= len(grid):
            self.trainer.should_stop = True

    def scores(self, batch: Any) -> Tensor:
        """Scores (N, C) of the winning setting, fitted anew.

        Raises:
            ValueError: when nothing was fitted, or to other nodes than those of the batch.
        """
        best = self.best
        if int(self.digest) != _digest(batch):
            raise ValueError(
                "these weights were fitted to other training nodes than the data have; give the data of the "
                "fit (data.init_args.seed picks the split)"
            )
        return self._fitted_scores(batch, best)

    def _fitted_scores(self, batch: Any, index: int) -> Tensor:
        h = self.hparams
        state = derived_seed(_FIT, int(self.fitted_seed)) % 2**32
        settings = GRIDS[h["method"]][index]
        x, y = batch.x.double().cpu().numpy(), batch.y.cpu().numpy()
        train = batch.train_mask.cpu().numpy()
        model = _estimator(h["method"], settings, h["hidden"], h["trees"], x, state)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # too few iterations and divisions by zero: the selection sees them
            if h["method"] == "label_propagation":
                model.fit(x, np.where(train, y, -1))
                found = np.log(np.nan_to_num(model.label_distributions_) + 1e-12)
            else:
                model.fit(x[train], y[train])
                found = _outputs(model, x)
        scores = torch.full((len(x), h["num_classes"]), -1e4)
        scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(found).float()
        return scores.to(batch.y.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not bool((self.tried[:, 0] == _UNTRIED).all()):
            self._evaluate(batch, "val", ("val", "es"))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test", ("test", "val", "es"))

    def _evaluate(self, batch: Any, stage: str, sets: Sequence[str]) -> None:
        scores = self.scores(batch)
        for name in sets:
            mask = batch[f"{name}_mask"]
            prefix = f"{stage}/" if name == stage else f"{stage}/{name}_"
            self.log(f"{prefix}accuracy", _accuracy(scores[mask], batch.y[mask]), batch_size=1)
            self.log(f"{prefix}loss", _loss(scores[mask], batch.y[mask]), batch_size=1)
        self.log(f"{stage}/setting", float(self.best), batch_size=1)

    def predict_step(self, batch: Any, batch_idx: int) -> NodeScores:
        names = class_names_of(self, self.hparams["num_classes"])
        return NodeScores(self.scores(batch).cpu(), batch.y.cpu(), split_names(batch, _SETS), names)


def _accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(dim=1) == labels).float().mean()


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(scores, labels)


def _digest(batch: Any) -> int:
    """63 bits of the training nodes, their features and labels."""
    train = batch.train_mask.cpu()
    total = hashlib.sha256(train.nonzero().numpy().tobytes())
    total.update(batch.x.cpu()[train].contiguous().numpy().tobytes())
    total.update(batch.y.cpu()[train].contiguous().numpy().tobytes())
    return int.from_bytes(total.digest()[:8], "big") >> 1


def _estimator(method: str, settings: dict[str, Any], hidden: int, trees: int, x: Any, state: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.semi_supervised import LabelPropagation
    from sklearn.svm import SVC

    settings = dict(settings)
    if "width" in settings:
        settings["gamma"] = settings.pop("width") / (x.shape[1] * x.var())
    if method == "logreg":
        return LogisticRegression(max_iter=2000, **settings)
    if method in ("linear_svm", "rbf_svm"):
        return SVC(kernel=method.removesuffix("_svm"), **settings)
    if method == "random_forest":
        return RandomForestClassifier(trees, random_state=state, n_jobs=1, **settings)
    if method == "ffnn":
        return MLPClassifier((hidden,), max_iter=400, random_state=state, **settings)
    return LabelPropagation(max_iter=2000, **settings)


def _outputs(model: Any, x: Any) -> Any:
    """Scores of each class (N, C): the margins of an SVM, else logarithms of probabilities."""
    if hasattr(model, "decision_function") and not hasattr(model, "predict_log_proba"):
        margin = model.decision_function(x)
        return np.stack([-margin, margin], axis=1) if margin.ndim == 1 else margin
    return np.log(model.predict_proba(x) + 1e-12)
