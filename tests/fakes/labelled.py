"""CIFAR's python batches, STL-10's binaries and ImageNet's folders, tiny and of noise."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from fakes.pictures import fake_pictures

_SIDE = 64  # of pictures in folders; batch norm of 4 of them needs more than one place


def fake_cifar(root: Path, names: tuple[str, ...], key: str, count: int = 12) -> Path:
    """Pickles of protocol 2, as the official ones."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        held = {"data": data, key: [i % 3 for i in range(count)], "batch_label": name}
        (root / name).write_bytes(pickle.dumps(held, protocol=2))
    return root / names[0]


def fake_stl10(root: Path, count: int = 12) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for name in ("train", "test", "unlabeled"):
        rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(root / f"{name}_X.bin")
        if name != "unlabeled":
            np.array([1 + i % 3 for i in range(count)], dtype=np.uint8).tofile(root / f"{name}_y.bin")
    return root / "train_X.bin"


CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def fake_labelled(root: Path) -> None:
    """``cifar10``, ``cifar100``, ``stl10`` and ``folder`` under ``root``."""
    fake_cifar(root / "cifar10", CIFAR10, "labels")
    fake_cifar(root / "cifar100", ("train", "test"), "fine_labels")
    fake_stl10(root / "stl10")
    for part in ("train", "val"):
        fake_pictures(root / "folder" / part, 3, 4)


def _attacked(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Three batches of two pictures against a tiny classifier that finds each of them right."""
    import torch

    import zoo
    from zoo.hub import weights

    size = _SIDE if config["data"]["init_args"]["source"] == "folder" else 32
    target = zoo.RobustClassifier(in_channels=3, input_size=size, width=1, hidden=2)
    torch.nn.init.zeros_(target.network[-1].weight)
    target.network[-1].bias.data = -torch.arange(10.0)  # class 0, whatever the picture
    weights.save(target, folder / "target.safetensors")
    flags = {"model.init_args.target": folder / "target.safetensors", "data.init_args.eval_batch_size": 2}
    if config["model"]["class_path"] == "zoo.CAA":
        return {**flags, "model.init_args.population": 3, "model.init_args.longest": 3,
                "data.init_args.train_items": 8}  # fmt: skip
    if config["data"]["init_args"]["source"] == "folder":
        flags["data.init_args.test_items"] = 6
    long = config["model"]["init_args"]["policy"] != "caa_linf"  # thousands of passes of each picture
    return {**flags, "trainer.limit_test_batches": 1 if long else 3}


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    source = config["data"]["init_args"]["source"]
    fake_labelled(root)
    (root / source).rename(root.parent / "own")
    for path in root.iterdir():
        path.rename(root.parent / path.name)
    root.rmdir()
    (root.parent / "own").rename(root)
    flags: dict[str, Any] = {"data.init_args.batch_size": 4, "data.init_args.num_workers": 0}
    flags |= {"data.init_args.eval_batch_size": 4}
    if "target" in config["model"]["init_args"]:
        flags |= _attacked(root.parent, config)
    elif config["model"]["class_path"] == "zoo.RobustClassifier":
        # the published networks take minutes a step on a processor; tests count their parameters
        flags |= {
            "model.init_args.arch": "small",
            "model.init_args.width": 2,
            "model.init_args.attack_steps": 2,
        }
    elif config["model"]["class_path"] in ("zoo.ViTClassifier", "zoo.MAE"):
        flags |= {"model.init_args.shape": "free", "trainer.precision": 32}
        flags |= {f"model.init_args.{k}": v for k, v in (("width", 16), ("depth", 2), ("heads", 2))}
        if config["model"]["class_path"] == "zoo.ViTClassifier":
            flags["model.init_args.num_classes"] = 3
        else:
            flags |= {"model.init_args.decoder_width": 16, "model.init_args.decoder_depth": 1}
            flags["model.init_args.decoder_heads"] = 2
    else:
        flags["model.init_args.hidden"] = 16
    if config["model"]["init_args"].get("negatives") == "queue":
        flags["model.init_args.queue_size"] = 16
    if source == "folder":
        flags["data.init_args.size"] = _SIDE
    if "jigsaw_weight" in config["model"]["init_args"]:
        flags["model.init_args.jigsaw_crop"] = 20
    return flags


TWINS = {"datamodules.LabelledImages": _twin}
WITHOUT_FILES = {
    "datamodules.LabelledImages": lambda given: given.get("source", "digits") in ("digits", "mnist")
}
