"""The baseline in space without learned features: kernel ridge regression on Coulomb matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.molecules.space.elements import IN_EV
from zoo.molecules.space.errors import Errors
from zoo.molecules.space.report import MoleculePredictions
from zoo.nn.data_fit import DataSizes, check_fit, named
from zoo.nn.parallel import refuse_processes
from zoo.nn.ranges import Many, check_ranges

Features = Literal["eigenvalues", "rows"]
Array = np.ndarray[Any, Any]
GRID = [(width, ridge) for width in (0.3, 1.0, 3.0, 10.0, 30.0) for ridge in (1e-9, 1e-6, 1e-3)]
"""Widths of the kernel, in mean distances of training molecules, and ridges."""
_BOHR = 0.529177210903
_UNTRIED = -1.0
_BLOCK = 1000
_PAIRS = 500


def coulomb_matrix(z: Array, pos: Array, size: int) -> Array:
    """C_ii = .5 z_i^2.4 and C_ij = z_i z_j / r_ij with r in bohr, zeros beyond the molecule: (size, size).

    Args:
        z: atomic numbers (n,).
        pos: Angstrom (n, 3).
        size: at least n.
    """
    n, charge = len(z), np.asarray(z, np.float64)
    between = np.linalg.norm(pos[:, None].astype(np.float64) - pos[None], axis=2) / _BOHR
    np.fill_diagonal(between, 1.0)
    found = charge[:, None] * charge / between
    np.fill_diagonal(found, 0.5 * charge**2.4)
    padded = np.zeros((size, size))
    padded[:n, :n] = found
    return padded


def features(matrix: Array, kind: Features) -> Array:
    """What does not change with the order of the atoms.

    ``eigenvalues`` by their size, (size,); ``rows``: the matrix with its rows and columns sorted by the rows'
    norm, the upper triangle, (size (size + 1) / 2,).
    """
    if kind == "eigenvalues":
        values = np.linalg.eigvalsh(matrix)
        return np.asarray(values[np.argsort(-np.abs(values), kind="stable")])
    order = np.argsort(-np.linalg.norm(matrix, axis=1), kind="stable")
    return np.asarray(matrix[order][:, order][np.triu_indices(len(matrix))])


def laplacian_kernel(a: Array, b: Array, width: float) -> Array:
    """exp(-|a - b|_1 / width): (A, B)."""
    from scipy.spatial.distance import cdist

    return np.exp(cdist(a, b, "cityblock") / -width)


class CoulombRidge(LightningModule):
    """Kernel ridge regression on Coulomb matrices (Rupp et al. 2012; Hansen et al. 2013).

    One training step fits one setting of the grid, widths x ridges, to the training molecules; the least
    error on the validation molecules wins. A checkpoint holds what each setting reached and a digest of the
    training molecules, and no fitted object: evaluation fits the winner again. The batch is that of
    :class:`zoo.MoleculeRegressor3D`; forces are not looked at.

    Args:
        target: name of the property; the data tell.
        unit: of it; the data tell.
        representation: sorted ``eigenvalues`` of the matrix, or the matrix with sorted ``rows``.
        most: training molecules that are looked at, the first ones: memory grows with their square.
    """

    tried: nn.Parameter
    digest: Tensor

    data_sizes: ClassVar[DataSizes] = {"target": "target", "unit": "unit"}

    def __init__(
        self,
        target: str = "energy",
        unit: str = "kcal/mol",
        representation: Features = "rows",
        most: Many = 10_000,
    ) -> None:
        check_ranges(CoulombRidge, locals())
        super().__init__()
        if representation not in get_args(Features):
            raise ValueError(
                f"model.init_args.representation must be one of {', '.join(get_args(Features))}, "
                f"got {representation!r}"
            )
        self.save_hyperparameters()
        self.automatic_optimization = False
        # a parameter so that an optimiser counts the steps
        self.tried = nn.Parameter(torch.full((len(GRID),), _UNTRIED), requires_grad=False)
        self.register_buffer("digest", torch.tensor(0))
        self.errors = Errors()
        self._fit: tuple[Any, ...] | None = None

    def setup(self, stage: str) -> None:
        refuse_processes(self, "fits one model on one set")
        check_fit(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.tried], lr=0.0)  # counts steps: there is no gradient

    @property
    def best(self) -> int:
        """Index of the winning setting.

        Raises:
            ValueError: when none was fitted.
        """
        errors = torch.where(self.tried < 0, torch.inf, self.tried)
        if bool(errors.isinf().all()):
            raise ValueError("nothing was fitted yet: run `zoo fit`, or give --weights or --ckpt_path")
        return int(errors.argmin())

    # --- data -----------------------------------------------------------------------------------------------

    def _train_set(self) -> Any:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        train = getattr(data, "train_set", None)
        if not hasattr(train, "compositions"):
            raise ValueError(
                f"{named(data)} has no training molecules, which zoo.{type(self).__name__} is fitted to"
            )
        return train

    def _features(self, batch: Mapping[str, Tensor], size: int) -> Array:
        counts = torch.bincount(batch["batch"]).tolist()
        if max(counts) > size:
            raise ValueError(
                f"a molecule has {max(counts)} atoms, but the largest training molecule has {size}; Coulomb "
                "matrices cannot grow"
            )
        z, pos = batch["z"].cpu().split(counts), batch["pos"].cpu().split(counts)
        kind: Features = self.hparams["representation"]
        return np.stack([
            features(coulomb_matrix(a.numpy(), r.numpy(), size), kind) for a, r in zip(z, pos, strict=True)
        ])  # fmt: skip

    def _all(self, items: Any, size: int, most: int | None = None) -> tuple[Array, Array, Array]:
        """Features, targets and compositions of a set."""
        count = min(len(items), most or len(items))
        parts = [
            self._features(items.__getitems__(list(range(s, min(s + _BLOCK, count)))), size)
            for s in range(0, count, _BLOCK)
        ]
        return np.concatenate(parts), items.targets()[:count], items.compositions()[:count]

    def _fitted(self, index: int) -> tuple[Array, Array, Array, float, float, int]:
        """Training features, coefficients, references, mean, width and size of one setting."""
        train = self._train_set()
        size = int(train.compositions().sum(axis=1).max())
        x, y, counts = self._all(train, size, self.hparams["most"])
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        references = np.zeros(100)
        known = getattr(data, "references", None)
        if known is not None:
            references[list(known)] = list(known.values())
        elif self.hparams["target"] == "energy" and len(np.unique(counts, axis=0)) > 1:
            references = np.linalg.lstsq(counts, y, rcond=None)[0]
        rest = y - counts @ references
        factor, ridge = GRID[index]
        some = x[:_PAIRS]
        width = factor * float(np.abs(some[:, None] - some[None]).sum(axis=2).mean()) + 1e-9
        kernel = laplacian_kernel(x, x, width)
        kernel[np.diag_indices_from(kernel)] += ridge
        from scipy.linalg import cho_factor, cho_solve

        alpha = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), rest - rest.mean())
        return x, alpha, references, float(rest.mean()), width, size

    def _digest(self) -> int:
        train = self._train_set()
        y = train.targets()
        return int(np.frombuffer(np.float64(y.sum()).tobytes(), np.int64)[0] % 2**31) + len(y)

    # --- steps ----------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self.trainer.should_stop |= self.trainer.global_step >= len(GRID)

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        index = self.trainer.global_step
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if index == 0:
            self.digest.fill_(self._digest())
        if index < len(GRID):
            if data.val_set is None:
                raise ValueError(f"{named(data)} has no validation molecules, by which a setting is chosen")
            fitted = self._fitted(index)
            x, y, counts = self._all(data.val_set, fitted[-1])
            error = float(np.abs(_predicted(fitted, x, counts) - y).mean())
            self.tried[index] = error if np.isfinite(error) else torch.finfo(torch.float32).max
            self.log("train/selection_mae", self.tried[index].clone(), prog_bar=True, batch_size=1)
        optimizer: Any = self.optimizers()
        optimizer.step()
        if index + 1 >= len(GRID):
            self.trainer.should_stop = True

    def on_validation_start(self) -> None:
        self._fit = None

    def on_test_start(self) -> None:
        self._fit = None

    def on_predict_start(self) -> None:
        self._fit = None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The target of each molecule, float64 (B,), by the winner fitted anew.

        Raises:
            ValueError: when nothing was fitted, or to other molecules than the data have.
        """
        if self._fit is None:
            best = self.best
            if int(self.digest) != self._digest():
                raise ValueError(
                    "these weights were fitted to other training molecules than the data have; give the data "
                    "of the fit"
                )
            self._fit = self._fitted(best)
        x = self._features(batch, self._fit[-1])
        owner = batch["batch"].cpu().numpy()
        counts = np.zeros((len(x), 100))
        np.add.at(counts, (owner, batch["z"].cpu().numpy()), 1)
        return torch.from_numpy(_predicted(self._fit, x, counts)).to(batch["pos"].device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if bool((self.tried >= 0).any()):
            self.errors.update(self(batch), batch["y"], torch.bincount(batch["batch"]), None, None)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.errors.update(self(batch), batch["y"], torch.bincount(batch["batch"]), None, None)

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")
        self.log("test/setting", float(self.best))

    def _log(self, stage: str) -> None:
        found, unit = self.errors.compute(), self.hparams["unit"]
        self.errors.reset()
        per_atom = found.pop("mae_per_atom", None)
        if per_atom is not None and unit in IN_EV:
            found["mae_per_atom_meV"] = per_atom * 1000 * IN_EV[unit]
        self.log_dict({f"{stage}/{k}": v for k, v in found.items()})

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> MoleculePredictions:
        names = getattr(self.trainer.datamodule, "names", ()) or ()  # type: ignore[attr-defined]
        numbers = batch["index"].tolist()
        return MoleculePredictions(
            index=batch["index"].cpu(),
            z=batch["z"].cpu(),
            pos=batch["pos"].double().cpu(),
            batch=batch["batch"].cpu(),
            found=self(batch).cpu(),
            target=batch["y"].cpu(),
            what=self.hparams["target"],
            unit=self.hparams["unit"],
            names=[names[i] for i in numbers] if len(names) else [str(i) for i in numbers],
        )


def _predicted(fitted: tuple[Any, ...], x: Array, counts: Array) -> Array:
    train, alpha, references, mean, width, _ = fitted
    return np.asarray(laplacian_kernel(x, train, width) @ alpha + mean + counts @ references)
