"""Files of weights: our own safetensors and checkpoints, other projects' state dicts, folders, arrays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.forked import Reader

import zoo
from zoo.dtr.weights import official_state
from zoo.hub import convert, foreign
from zoo.hub import weights as hub
from zoo.metrics.frechet import read_reference


def _module() -> zoo.DTR:
    torch.manual_seed(0)
    return zoo.DTR(input_size=4, in_channels=4, num_classes=2, width=8, depth=1, heads=2, routing="none")


def _safetensors(folder: Path) -> Path:
    return zoo.save(_module(), folder / "x.safetensors")


def _checkpoint(folder: Path) -> Path:
    module = _module()
    content = {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "callbacks": {hub.EMA_KEY: {"shadow": {k: v.clone() for k, v in module.state_dict().items()}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}],
        "zoo": {"class_path": "zoo.DTR", "config": "dtr_dit_digits"},
    }
    torch.save(content, folder / "step=00000003.ckpt")
    return folder / "step=00000003.ckpt"


def _sharded(folder: Path) -> Path:
    content = {
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": dict(_module().hparams),
        "zoo": {"class_path": "zoo.DTR", "config": "dtr_dit_digits"},
    }
    sharded = folder / "step=00000003.ckpt"
    sharded.mkdir()
    torch.save(content, sharded / "meta.pt")
    return sharded / "meta.pt"


def _state(folder: Path, zipped: bool) -> Path:
    torch.save(official_state(_module()), folder / "dit.pt", _use_new_zipfile_serialization=zipped)
    return folder / "dit.pt"


def _trainer(folder: Path) -> Path:
    content = {"ema": official_state(_module()), "opt": {}, "args": argparse.Namespace(model="DiT-XL/2")}
    torch.save(content, folder / "0400000.pt")
    return folder / "0400000.pt"


def _folder(folder: Path, name: str) -> Path:
    list(convert.convert(_safetensors(folder), folder / "dit", None, "diffusers", (), False))
    return folder / "dit" / name


def _arrays(folder: Path) -> Path:
    mean, covariance = np.arange(4.0), np.eye(4)
    np.savez(folder / "reference.npz", mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance)
    return folder / "reference.npz"


def _caffe(folder: Path) -> Path:
    """NetParameter with two layers, each ``layer {name, blobs {shape, data}}``."""

    def varint(number: int) -> bytes:
        return bytes([number & 127 | 128, number >> 7])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def blob(shape: tuple[int, ...]) -> bytes:
        values = np.ones(shape, np.float32).tobytes()
        return field(7, field(7, field(1, bytes(shape))) + field(5, values))

    layers = [field(1, f"conv1_{k}".encode()) + blob((2, 3, 3, 3)) + blob((2,)) for k in (1, 2)]
    (folder / "x.caffemodel").write_bytes(b"".join(field(100, layer) for layer in layers))
    return folder / "x.caffemodel"


def _built(path: Path) -> Any:
    return hub.load(path).state_dict()


def _shards_read(path: Path) -> Any:
    return sorted(hub.read(path.parent, tensors=False).hparams)


def _converted(path: Path) -> Any:
    weights, _ = convert.read_foreign(path, "dtr", ["heads=2"])
    return hub.build(weights).state_dict()


def _caffe_read(path: Path) -> Any:
    from zoo.ras.weights import from_caffe, read_layers

    return foreign.state_dict(from_caffe(read_layers(path)), path)


READERS = [
    Reader("safetensors of the zoo", _safetensors, _built),
    Reader("checkpoint", _checkpoint, _built),
    Reader("meta.pt of a sharded checkpoint", _sharded, _shards_read),
    Reader("state dict, zip", lambda folder: _state(folder, True), _converted),
    Reader("state dict, older format", lambda folder: _state(folder, False), _converted),
    Reader("checkpoint of DiT's trainer", _trainer, _converted),
    Reader(
        "config.json of a diffusers folder",
        lambda folder: _folder(folder, "config.json"),
        lambda path: _converted(path.parent),
    ),
    Reader(
        "safetensors of a diffusers folder",
        lambda folder: _folder(folder, "diffusion_pytorch_model.safetensors"),
        lambda path: _converted(path.parent),
    ),
    Reader(
        "npz of reference statistics",
        _arrays,
        lambda path: [*read_reference(path), *read_reference(path, True)],
    ),
    Reader("caffemodel", _caffe, _caffe_read),
]
