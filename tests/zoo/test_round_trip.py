"""Every public module is built in Python, saved by a Trainer and loaded without unpickling code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from quiet import quiet_trainer

import datamodules
import zoo

# Small modules and their data are declared by each method's package.
CASES = [(name, dict(small)) for name, (_, method) in zoo._DECLARED.items() for small in method.small]


def data_of(name: str, folder: Path) -> LightningDataModule:
    """What the method's declaration names, else digits."""
    given = zoo._DECLARED[name][1].data
    return built(given, folder) if given else datamodules.Digits(batch_size=16)


def built(given: Mapping[str, Any], folder: Path) -> Any:
    arguments = {
        key: built(value, folder) if isinstance(value, Mapping) and "class_path" in value else value
        for key, value in given.get("init_args", {}).items()
    }
    if "codes" in arguments:  # a file that another method makes
        arguments["codes"] = str(folder / "codes.hdf5")
        with h5py.File(arguments["codes"], "w") as file:
            file["zs"] = np.zeros((arguments["train_shapes"], 8), dtype=np.float32)
    return getattr(datamodules, given["class_path"].removeprefix("datamodules."))(**arguments)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_module_built_in_python_survives_a_checkpoint(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    cls = getattr(zoo, name)
    callables = {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-3),
        "lr_scheduler": lambda o: zoo.WarmupStableDecay(o, total_steps=4),
    }
    takes = inspect.signature(cls).parameters  # scikit-learn's classifiers have no optimiser
    module = cls(**arguments, **{k: v for k, v in callables.items() if k in takes})
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(module, data_of(name, tmp_path))
    path = tmp_path / "module.ckpt"
    trainer.save_checkpoint(path)

    checkpoint = torch.load(path, weights_only=True)
    hparams = checkpoint["hyper_parameters"]
    assert arguments.items() <= hparams.items()
    assert not {"optimizer", "lr_scheduler"} & set(hparams)
    again = cls(**hparams)
    assert dict(again.hparams) == dict(module.hparams)
    again.load_state_dict(checkpoint["state_dict"])
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_module_survives_zoo_save_and_load(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    module = getattr(zoo, name)(**arguments)
    again = zoo.load(zoo.save(module, tmp_path / "module.safetensors"))
    assert type(again) is type(module)
    assert not again.training
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
