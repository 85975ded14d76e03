"""Official weights <-> ours: torchvision's trunks, the ports' files, the ECCV 2018 caffemodel.

The ports' parameter names are ours, so that their files load as they are. The caffemodel has layers
``conv1_1`` .. ``conv5_3`` and ``conv{k}-dsn{i}``; it is read from the protobuf itself or an ``.npz`` with
``LAYER.weight`` and ``LAYER.bias``. Nothing is unpickled but tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.hub import foreign
from zoo.hub.foreign import State, Weights
from zoo.ras.network import RASNetwork, build

FORMATS: dict[str, tuple[str, ...]] = {"official": (".pth", ".npz")}
"""What :func:`write` writes, with the suffixes of its file."""

_CAFFE = (".npz", ".caffemodel")
# settings of the official codes: their files hold none
_OFFICIAL: dict[str, dict[str, Any]] = {
    "vgg16": {"pool": "caffe", "pixels": "caffe"},
    "resnet50_v1": {"pool": "torch", "pixels": "imagenet"},
    "resnet50_v2": {"pool": "torch", "pixels": "port"},
}
_SOURCES = {
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "resnet": "https://download.pytorch.org/models/resnet50-19c8e357.pth",
}
# Caffe's name -> place in torchvision's VGG-16
CAFFE_LAYERS = {
    **{f"conv1_{k}": n for k, n in enumerate((0, 2), 1)},
    **{f"conv2_{k}": n for k, n in enumerate((5, 7), 1)},
    **{f"conv3_{k}": n for k, n in enumerate((10, 12, 14), 1)},
    **{f"conv4_{k}": n for k, n in enumerate((17, 19, 21), 1)},
    **{f"conv5_{k}": n for k, n in enumerate((24, 26, 28), 1)},
}


def load_backbone(network: nn.Module, path: Path) -> None:
    """Load the trunk's published weights, strictly; the classifier in the file is left out.

    Raises:
        FileNotFoundError: with the file's source.
        ValueError: for a file of another network, or one that was trained on other ``pixels``.
    """
    vgg = isinstance(network, RASNetwork)
    trunk: Any = network.backbone
    pixels: Any = network.pixels
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}, which model.init_args.backbone_weights names: it is "
            f"{_SOURCES['vgg' if vgg else 'resnet']}; null starts from random weights"
        )
    caffe = path.suffix in _CAFFE
    if caffe != (pixels == "caffe"):
        trained, right = ("Caffe's BGR", "caffe") if caffe else ("torchvision's RGB", "imagenet")
        raise ValueError(
            f"{path} was trained on {trained}, pixels here are {pixels}: set model.init_args.pixels: {right}"
        )
    if caffe:
        state = {k.removeprefix("backbone."): v for k, v in from_caffe(read_layers(path)).items()}
    else:
        state = foreign.load(path)
    state = foreign.state_dict(state, path)
    state = {k: v for k, v in state.items() if not k.startswith(("classifier.", "fc.", "dsn"))}
    trunk.load_state_dict(foreign.fitted(state, trunk.state_dict(), path))


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """``RAS.v1.pth``, ``RAS.v2.pth`` or the caffemodel as weights of :class:`zoo.RAS`.

    Args:
        path: ``.pth`` of a port (bare, or its trainer's with ``module.`` before each name), ``.caffemodel``
            or its layers as ``.npz``.
        given: constructor arguments.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    if path.suffix in _CAFFE:
        state = foreign.state_dict(from_caffe(read_layers(path)), path)
        found: dict[str, Any] = {"variant": "vgg16", "pool": "caffe"}
    else:
        state = foreign.state_dict(foreign.load(path), path)
        port = "resnet50_v1" if any(k.startswith("resnet.") for k in state) else "resnet50_v2"
        found = {"variant": "vgg16"} if any(k.startswith("dsn") for k in state) else {"variant": port}
    for name, value in {**(_OFFICIAL["vgg16"] if path.suffix in _CAFFE else {}), **found}.items():
        if given.get(name) not in (None, value):
            raise ValueError(f"{path} holds {value}, not {given[name]}")
    hparams = found | given
    with torch.device("meta"):
        wanted = build(hparams["variant"], hparams.get("pool", "torch")).state_dict()
    state = foreign.fitted(state, wanted, path)
    tensors = {f"network.{k}": v if k.endswith("tracked") else v.float() for k, v in state.items()}
    count = sum(
        v.numel() for k, v in state.items() if not k.endswith(("running_mean", "running_var", "tracked"))
    )
    line = f"{path} holds {hparams['variant']} with {count:,} parameters"
    return Weights(path, "zoo.RAS", hparams, tensors, averaged=True), [line]


def write(module: Any, out: Path, to: str) -> list[str]:
    """Write what the official code reads: a port's state dict, or the layers of the caffemodel as ``.npz``.

    Raises:
        ValueError: for a variant that has no such file, or settings that the file cannot tell of: it would be
            read as another network.
    """
    variant = module.hparams["variant"]
    if variant not in _OFFICIAL:
        raise ValueError(f"the official code has no {variant}: write it with --to zoo")
    wanted = _OFFICIAL[variant] | {"attention": "reverse", "residual": True, "refinement": True}
    found = {k: module.hparams[k] if k == "pool" else getattr(module.network, k) for k in wanted}
    if found != wanted:
        wrong = ", ".join(f"{k} {found[k]} in the place of {v}" for k, v in wanted.items() if found[k] != v)
        raise ValueError(
            f"the official {variant} differs: the weights have {wrong}; write them with --to zoo"
        )
    state = {k: v.detach().cpu() for k, v in module.network.state_dict().items()}
    if isinstance(module.network, RASNetwork):
        if out.suffix != ".npz":
            raise ValueError(f"--out {out}: the layers of a VGG variant are written as .npz")
        names = {n: caffe for caffe, n in CAFFE_LAYERS.items()}
        layers: dict[str, Any] = {}
        for key, value in state.items():
            layer, _, kind = key.rpartition(".")
            if layer.startswith("backbone."):
                caffe = names[int(layer.rpartition(".")[2])]
            else:
                side, _, convolution = layer.partition(".")
                caffe = f"{convolution}-{side}"
            layers[f"{caffe}.{kind}"] = value.numpy()
        with foreign.written_whole(out) as temporary:
            np.savez(temporary, **layers)
        return [f"wrote {out}, {len(layers)} arrays named as the caffemodel's layers"]
    if out.suffix != ".pth":
        raise ValueError(f"--out {out}: the state dict of a port is written as .pth")
    with foreign.written_whole(out) as temporary:
        torch.save(state, temporary)
    return [f"wrote {out}, the state dict of the official {module.hparams['variant']}"]


# --- Caffe --------------------------------------------------------------------------------------------------


def from_caffe(layers: dict[str, np.ndarray[Any, Any]]) -> State:
    """Caffe's layers (``NAME.weight``, ``NAME.bias``) under our names. Deconvolutions are fixed and left out.

    The network's input stays BGR in 0..255 minus its mean: ``pixels: caffe``.
    """
    state: State = {}
    for key, array in layers.items():
        layer, _, kind = key.rpartition(".")
        value = torch.from_numpy(np.array(array, dtype=np.float32))
        if kind == "bias":
            value = value.flatten()  # (1, 1, 1, C) in old files
        convolution, _, side = layer.partition("-")
        if layer in CAFFE_LAYERS:
            state[f"backbone.features.{CAFFE_LAYERS[layer]}.{kind}"] = value
        elif side.startswith("dsn"):
            state[f"{side}.{convolution}.{kind}"] = value
    return state


def read_layers(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Weights and biases of a ``.caffemodel``, or of an ``.npz`` made of one.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".npz":
        return foreign.read_arrays(path)
    with foreign.reading(path, "caffemodel"):
        layers = _caffemodel(memoryview(path.read_bytes()))
    if not layers:
        raise ValueError(f"{path} is no caffemodel: it holds no layers with weights")
    return layers


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field, wire type, value) of a protobuf message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        tag = varint()
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            yield field, wire, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size = varint()
        if size is None or position + size > len(data):
            raise ValueError("not a protobuf message")
        yield field, wire, data[position : position + size]
        position += size


def _caffemodel(data: memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """NetParameter: ``layer`` (100; name 1, blobs 7) or, in old files, ``layers`` (2; name 4, blobs 6)."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for field, wire, layer in _fields(data):
        if field not in (2, 100) or wire != 2:
            continue
        name_field, blob_field = (1, 7) if field == 100 else (4, 6)
        name, blobs = "", []
        for inner, kind, value in _fields(layer):
            if inner == name_field and kind == 2:
                name = bytes(value).decode()
            elif inner == blob_field and kind == 2:
                blobs.append(_blob(value))
        found |= {f"{name}.{kind}": blob for kind, blob in zip(("weight", "bias"), blobs, strict=False)}
    return found


def _blob(data: memoryview) -> np.ndarray[Any, Any]:
    """BlobProto: data 5 (floats), shape 7 (dim 1), or num, channels, height, width 1..4."""
    sizes: dict[int, int] = {}
    shape: list[int] = []
    parts = []
    for field, wire, value in _fields(data):
        if field in (1, 2, 3, 4) and wire == 0:
            sizes[field] = value
        elif field == 5:
            parts.append(np.frombuffer(value, dtype="<f4"))
        elif field == 7:
            for inner, kind, dims in _fields(value):
                if inner == 1 and kind == 0:
                    shape.append(dims)
                elif inner == 1:
                    shape += [v for _, _, v in _fields(_as_field(dims))]
    values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return values.reshape(shape or [sizes.get(i, 1) for i in (1, 2, 3, 4)])


def _as_field(packed: memoryview) -> memoryview:
    """Packed varints as a message of one field each, so that :func:`_fields` reads them."""
    out = bytearray()
    start = True
    for byte in packed:
        if start:
            out.append(8)  # field 1, varint
        out.append(byte)
        start = byte < 128
    return memoryview(bytes(out))
