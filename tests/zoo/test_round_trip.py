"""Every public module is built in Python, saved by a Trainer and loaded without unpickling code."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from quiet import quiet_trainer

import zoo
from datamodules import (
    AudioVisual,
    Digits,
    GraphSet,
    KarateClub,
    LinkSplit,
    SaliencyComposites,
    SensorDiffusion,
    Shapes,
    SyntheticGraphs,
)

# Arguments that make a module of each class small; a new method adds its line here.
SMALL: dict[str, list[dict[str, Any]]] = {
    "DTR": [
        {"input_size": 8, "in_channels": 1, "num_classes": 10, "width": 24, "depth": 2, "heads": 2, **extra}
        for extra in (
            {},
            {"loss_weight": "uw"},
            {"routing": "random", "schedule": "cosine"},
            {"backbone": "unet", "unet_channels": 32, "unet_multipliers": [1, 2], "unet_attention": []},
        )
    ],
    "DigitClassifier": [{"width": 4}],
    "LDS": [
        {"num_nodes": 34, "num_features": 34, "num_classes": 4, **extra}
        for extra in ({}, {"num_candidates": 300, "hidden": [8, 8]})
    ],
    "MBT": [
        {
            "num_classes": 3,
            "task": "single_label",
            "width": 8,
            "depth": 2,
            "heads": 2,
            "mlp": 8,
            "image_size": 28,
            "patch_size": 14,
            "frames": 1,
            "spectrogram_frames": 64,
            "mel_bins": 32,
            "spectrogram_patch": 16,
            "fusion_layer": 1,
            **extra,
        }
        for extra in (
            {},
            {"fusion": "cross_attention"},
            {"share_encoder": True, "classifier": "gap"},
            {"modalities": ["spectrogram"]},
        )
    ],
    "LinkPredictor": [
        {"features": 34, "model": m, **extra}
        for m, extra in (("vgae", {}), ("arvga", {"decoder": "mlp"}), ("adamic_adar", {}))
    ],
    "FeatureBaseline": [{"num_features": 34, "num_classes": 4, "method": m} for m in ("logreg", "ffnn")],
    "GAugM": [{"features": 34, "num_classes": 4, "predictor": p} for p in ("vgae", "gae")],
    "GraphGenerator": [
        {"arch": arch, "matching": "pooling", "max_nodes": 20, "bandwidth": 18, "hidden": 8, "num_layers": 2}
        for arch in ("graphrnn_s", "graphrnn", "graphvae", "er", "ba")
    ],
    "SpatioTemporalForecaster": [
        {"arch": arch, "num_nodes": 5, "hidden": 4, "period": 100}
        for arch in ("stgcn_cheb", "stgcn_1st", "dcrnn", "gwnet", "fclstm", "ha", "last")
    ],
    "GraphClassifier": [
        {"hidden": 8, "num_layers": 2, **extra}
        for extra in (
            {"layers": "sum", "norm": "batch"},
            {"arch": "dgcnn", "readout": "sort", "pool_nodes": 12, "head": 8},
            {"arch": "sage", "readout": "diffpool", "pool_nodes": 4},
            {"arch": "ecc", "readout": "sagpool"},
        )
    ],
    "GAugO": [{"features": 34, "num_classes": 4, "backbone": b} for b in ("gcn", "gat", "jknet")],
    "RAS": [
        {"variant": "tiny", **extra}
        for extra in ({}, {"pool": "caffe", "attention": "forward", "scales": [32]}, {"refinement": False})
    ],
    "IMAE": [
        {**extra, "z_dim": 8, "encoder_width": 4}
        for extra in (
            {"input_size": 16, "width": 2},
            {"input_size": 16, "width": 2, "version": "v1"},
            {"input_size": 16, "width": 2, "variational": True},
        )
    ],
    "CNNAE": [{"input_size": 16, "z_dim": 8, "encoder_width": 4}],
    "IMGAN": [
        {"z_dim": 8, "width": 2, "encoder_width": 4, "space": "grid", "input_size": 16, "decoder": d}
        for d in ("implicit", "cnn")
    ],
    "IMSVR": [{"z_dim": 8, "width": 2, "image_width": 4, "autoencoder": None}],
    "NodeClassifier": [
        {"features": 34, "num_classes": 4, "arch": a, **extra}
        for a, extra in (("gcn", {}), ("gat", {"hidden": 8, "heads": 4}), ("pna", {}), ("dgi", {"layers": 1}))
    ],
}
# Data of those that do not take images of digits.
DATA: dict[str, Callable[[], LightningDataModule]] = {
    "FeatureBaseline": lambda: KarateClub(early_stopping=True),
    "GAugM": KarateClub,
    "GAugO": KarateClub,
    "LinkPredictor": lambda: LinkSplit(KarateClub()),
    "GraphGenerator": GraphSet,
    "GraphClassifier": lambda: SyntheticGraphs(graphs=80, batch_size=8),
    "LDS": lambda: KarateClub(early_stopping=True),
    "MBT": lambda: AudioVisual(digit_task="sum", source="procedural", batch_size=16, pairs=40, test_pairs=10),
    "NodeClassifier": KarateClub,
    "RAS": lambda: SaliencyComposites(batch_size=2, side=32, train_items=4, val_items=1),
    "SpatioTemporalForecaster": lambda: SensorDiffusion(sensors=5, steps=200),
}
DATA |= dict.fromkeys(("IMAE", "CNNAE", "IMGAN", "IMSVR"), lambda: solids())
CASES = [(name, arguments) for name in zoo._METHODS for arguments in SMALL.get(name, [{}])]


def solids() -> Shapes:
    """Four solids with views and codes."""
    path = Path(tempfile.mkdtemp()) / "codes.hdf5"
    with h5py.File(path, "w") as file:
        file["zs"] = np.zeros((4, 8), dtype=np.float32)
    stages = [{"resolution": 16, "epochs": 1}]
    sizes = {"train_shapes": 4, "test_shapes": 1, "input_size": 16, "views": 1, "batch_size": 2}
    return Shapes(**sizes, stages=stages, codes=str(path))  # type: ignore[arg-type]


def test_every_method_has_a_case() -> None:
    assert set(SMALL) == set(zoo._METHODS)


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
    trainer.fit(module, DATA.get(name, lambda: Digits(batch_size=16))())
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
