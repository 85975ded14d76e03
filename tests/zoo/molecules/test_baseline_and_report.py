"""scikit-learn on descriptors, and the files that a person opens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quiet import quiet_trainer

import datamodules
import zoo
from zoo.molecules.graph.descriptors import tanimoto
from zoo.molecules.graph.report import MoleculePredictions, draw_parity, draw_roc, table

TARGET = ["measured log solubility in mols per litre"]


def fitted(method: str, **given: Any) -> tuple[zoo.DescriptorBaseline, datamodules.MoleculeNet]:
    data = datamodules.MoleculeNet("esol", batch_size=50)
    module = zoo.DescriptorBaseline(targets=TARGET, method=method, descriptors="ecfp", **given)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    return module, data


def test_tanimoto_is_common_over_either() -> None:
    bits = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    found = tanimoto(bits, bits)
    assert np.allclose(np.diag(found), 1)
    assert found[0, 1] == pytest.approx(2 / 3)
    assert found[0, 2] == 0
    assert found[3, 3] == 1  # two molecules without a bit


def test_kernel_ridge_is_nearly_exact_on_its_own_molecules_and_fits_again_alike() -> None:
    module, data = fitted("kernel_ridge", alpha=1e-6)
    own = module.predicted(data.train_smiles)
    assert np.median(np.abs(own - data.train_target)) < 1e-3
    again = zoo.DescriptorBaseline(**module.hparams)
    again.load_state_dict(module.state_dict())
    again.trainer = module.trainer
    assert np.array_equal(again.predicted(data.test_set.smiles), module.predicted(data.test_set.smiles))


def test_a_baseline_refuses_other_training_molecules() -> None:
    module, data = fitted("ridge")
    data.train_target = data.train_target + 1
    with pytest.raises(ValueError, match="fitted to other training molecules"):
        module.predicted(["CCO"])
    with pytest.raises(ValueError, match="nothing was fitted yet"):
        zoo.DescriptorBaseline(targets=TARGET).predicted(["CCO"])


def predictions(**given: Any) -> MoleculePredictions:
    nan = torch.tensor([[torch.nan], [torch.nan]], dtype=torch.float64)
    values: dict[str, Any] = {
        "smiles": ["CCO", "CC,N"],
        "predicted": torch.tensor([[1.5], [-2.0]], dtype=torch.float64),
        "deviation": None,
        "margin": nan,
        "target": nan,
        "index": [4, 9],
        "neighbour": ["CO", ""],
        "similarity": [0.5, float("nan")],
        "contributions": [[0.1, -0.2, 0.3], [0.0, 0.0, 0.0]],
        "names": ["y"],
        "task": "regression",
        "coverage": 90,
    }
    return MoleculePredictions(**{**values, **given})


def test_the_columns_of_the_csv_are_what_is_known() -> None:
    assert list(csv.reader(table(predictions().records()).splitlines())) == [
        ["index", "smiles", "y", "nearest training molecule", "tanimoto"],
        ["4", "CCO", "1.5", "CO", "0.5"],
        ["9", "CC,N", "-2", "", ""],
    ]
    sure = predictions(
        deviation=torch.tensor([[0.5], [0.25]]),
        margin=torch.tensor([[1.0], [torch.nan]], dtype=torch.float64),
        target=torch.tensor([[1.0], [torch.nan]], dtype=torch.float64),
    )
    rows = list(csv.reader(table(sure.records()).splitlines()))
    assert rows[0][2:7] == ["y", "y deviation", "y low90", "y high90", "y true"]
    assert rows[1][2:7] == ["1.5", "0.5", "0.5", "2.5", "1"]
    assert rows[2][2:7] == ["-2", "0.25", "", "", ""]


def test_files_are_written_for_what_is_known(tmp_path: Path) -> None:
    plain = predictions(smiles=["CCO", "CCN"])
    assert [p.name for p in plain.save(tmp_path / "a")] == ["predictions.csv", "molecules.png"]
    known = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    full = predictions(smiles=["CCO", "CCN"], target=known, fingerprints=torch.ones(2, 3))
    names = [p.name for p in full.save(tmp_path / "b")]
    assert names == ["predictions.csv", "fingerprints.csv", "molecules.png", "parity.png"]
    assert (tmp_path / "b/fingerprints.csv").read_text().splitlines()[1] == "4,CCO,1,1,1"
    classes = predictions(smiles=["CCO", "CCN"], target=known, task="classification")
    assert [p.name for p in classes.save(tmp_path / "c")][-1] == "roc.png"


def test_targets_may_be_called_like_formulas(tmp_path: Path) -> None:
    names = ["$\\frac$", "price, $ of $5^{"]
    values = np.linspace(0, 1, 8).reshape(4, 2)
    draw_parity(tmp_path / "parity.png", values, values + 0.1, names)
    draw_roc(tmp_path / "roc.png", values, (values > 0.4).astype(float), names)
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("parity", "roc"))
