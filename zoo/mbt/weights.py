"""Official MBT checkpoints (scenic, Flax) <-> ours, as npz files of flattened parameter paths.

The official files are msgpack: with flax installed they are read directly; without it, turn them into an npz
elsewhere (docs/pages/mbt.md has the five lines). Nothing is unpickled.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.hub.foreign import State, Weights, building, fitted, written_whole
from zoo.mbt.module import MBT
from zoo.mbt.pretrained import read_npz, torch_layout

FORMATS: dict[str, tuple[str, ...]] = {"official": (".npz",)}
"""What :func:`write` writes, with the suffixes of its file."""

_SUFFIX = "_spectrogram"
_PREFIXES = ("params/", "optimizer/target/", "target/", "model/")
_BLOCK = {
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "MultiHeadDotProductAttention_0/out": "proj",
    "MlpBlock_0/Dense_0": "fc1",
    "MlpBlock_0/Dense_1": "fc2",
}
_THIRDS = ("query", "key", "value")
_ATTENTION = "MultiHeadDotProductAttention_0"


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """An official checkpoint as weights of :class:`zoo.MBT`, and lines on what was found.

    Args:
        path: ``.npz`` of flattened paths, or a Flax msgpack file.
        given: constructor arguments that tensors cannot tell: ``fusion_layer`` (8), ``task``
            (``multi_label``), ``image_size`` (224), ``mel_bins`` (128), ``spectrogram_frames`` that are no
            whole patches, ``fusion`` of a model without bottleneck.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    state = _load(path)
    try:
        found = _sizes(state, given)
        for key, value in given.items():
            if found.get(key, value) != value:
                raise ValueError(f"its {key} is {found[key]}, which contradicts --set {key}={value}")
        hparams = {"task": "multi_label"} | found | given
        with building(path):
            module = MBT(**hparams)
        tensors = _ours(state, hparams["modalities"])
    except KeyError as error:
        raise ValueError(f"{path}: these are no weights of MBT: {error.args[0]} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = fitted(tensors, module.network.state_dict(), path)
    tokens = found.get("num_bottlenecks", 0) + found.get("extra_bottleneck", False)
    lines = [
        f"an MBT over {' and '.join(hparams['modalities'])}, width {found['width']}, {found['depth']} layers,"
        f" {found['num_classes']} classes, {tokens} bottleneck tokens",
        f"fusion_layer {module.network.fusion_layer} and task {hparams['task']} are not in the file: --set",
    ]
    return Weights(path, "zoo.MBT", hparams, {f"network.{k}": v for k, v in tensors.items()}), lines


def write(module: MBT, out: Path, to: str) -> list[str]:
    """Write the official parameter paths as npz; returns the lines to print.

    Raises:
        ValueError: for a ``sequential`` update, which the official model does not have.
    """
    arguments = module.network_arguments
    if arguments["bottleneck_update"] != "mean":
        raise ValueError(
            f"the official model has the mean update of the bottleneck alone, this one was trained with "
            f"bottleneck_update {arguments['bottleneck_update']}"
        )
    with written_whole(out) as temporary:
        np.savez(temporary, **{k: v.numpy() for k, v in official_state(module).items()})  # type: ignore[arg-type]
    lines = [f"wrote {out}: flax.traverse_util.unflatten_dict(..., sep='/') makes the official tree of it"]
    found = arguments["activation"], arguments["layer_norm_eps"]
    if found != ("gelu_tanh", 1e-6):
        lines.append(
            f"WARNING: the official code computes gelu_tanh with eps 1e-06, this model {found[0]} with eps "
            f"{found[1]:g}: with these weights it gives other logits; read back here with --set "
            f"activation={found[0]} --set layer_norm_eps={found[1]:g}"
        )
    return lines


def official_state(module: MBT) -> State:
    """Parameters under the official paths, in Flax's layout."""
    network, state = module.network, module.network.state_dict()
    found: State = {}
    for key, value in state.items():
        value, parts = value.detach().cpu().float(), key.split(".")
        if parts[0] == "blocks":
            _add_block(found, parts, value, network.blocks[parts[1]][0].heads)  # type: ignore[index]
        elif parts[0] == "patch":
            name = f"embedding{_suffix(parts[1])}/{'kernel' if parts[2] == 'weight' else 'bias'}"
            found[name] = value.permute(*range(2, value.ndim), 1, 0) if parts[2] == "weight" else value
        elif parts[0] == "cls":
            alone = len(network.modalities) == 1
            found["cls" if parts[1] == "rgb" or alone else "clsspectrogram"] = value
        elif parts[0] == "positions":
            found[f"Transformer/posembed_input{_suffix(parts[1])}/pos_embedding"] = value
        elif parts[0] == "norm":
            leaf = "scale" if parts[1] == "weight" else "bias"
            found[f"Transformer/encoder_norm/{leaf}"] = value
        elif parts[0] == "head":
            weight = parts[1] == "weight"
            found[f"output_projection/{'kernel' if weight else 'bias'}"] = value.T if weight else value
        else:
            found[key] = value
    return {k: v.contiguous() for k, v in found.items()}


def _suffix(modality: str) -> str:
    return _SUFFIX if modality == "spectrogram" else ""


def _add_block(found: State, parts: list[str], value: Tensor, heads: int) -> None:
    _, stream, layer, part, leaf = parts
    where = f"Transformer/encoderblock_{layer}{_suffix(stream)}"
    theirs = "bias" if leaf == "bias" else "kernel"
    if part == "qkv":
        for name, third in zip(_THIRDS, value.chunk(3), strict=True):
            shaped = (
                third.T.unflatten(1, (heads, -1)) if leaf == "weight" else third.unflatten(0, (heads, -1))
            )
            found[f"{where}/{_ATTENTION}/{name}/{theirs}"] = shaped
        return
    official = {v: k for k, v in _BLOCK.items()}[part]
    if part.startswith("norm"):
        theirs = "bias" if leaf == "bias" else "scale"
    elif leaf == "weight":
        value = value.T.unflatten(0, (heads, -1)) if part == "proj" else value.T
    found[f"{where}/{official}/{theirs}"] = value


# --- reading -------------------------------------------------------------------------------------------


def _load(path: Path) -> State:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    state = read_npz(path) if path.suffix == ".npz" else _read_msgpack(path)
    for prefix in _PREFIXES:
        if any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _read_msgpack(path: Path) -> State:
    try:
        # By name: flax is no dependency of the zoo, not even an optional one.
        restore = importlib.import_module("flax.serialization").msgpack_restore
        flatten = importlib.import_module("flax.traverse_util").flatten_dict
    except ImportError:
        raise ValueError(
            f"{path} is no .npz; a Flax msgpack file needs flax (pip install flax), or save its flattened "
            "parameters as npz, see the MBT page"
        ) from None
    try:
        flat = flatten(restore(path.read_bytes()), sep="/")
    except Exception as error:
        raise ValueError(
            f"{path} is no readable msgpack file ({' '.join(str(error).split())[:80]})"
        ) from None
    return {k: torch.from_numpy(np.array(v)).float() for k, v in flat.items() if isinstance(v, np.ndarray)}


def _sizes(state: State, given: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments that paths and shapes tell."""
    modalities = [m for m in ("rgb", "spectrogram") if f"embedding{_suffix(m)}/kernel" in state]
    if not modalities:
        raise KeyError("embedding/kernel")
    own = _SUFFIX if modalities == ["spectrogram"] else ""
    block = f"Transformer/encoderblock_0{own}"
    query = state[f"{block}/{_ATTENTION}/query/kernel"]
    sizes: dict[str, Any] = {
        "modalities": modalities,
        "width": query.shape[0],
        "heads": query.shape[1],
        "mlp": state[f"{block}/MlpBlock_0/Dense_0/kernel"].shape[1],
        "depth": sum(1 for k in state if re.fullmatch(rf".*/encoderblock_\d+{own}/LayerNorm_0/bias", k)),
        "num_classes": state["output_projection/kernel"].shape[1],
        "classifier": "token" if "cls" in state else "gap",
        "share_encoder": len(modalities) == 2 and _is_shared(state),
    }
    token = sizes["classifier"] == "token"
    if "rgb" in modalities:
        kernel = state["embedding/kernel"]
        sizes["patch_size"] = kernel.shape[-4]
        tube = kernel.shape[0] if kernel.ndim == 5 else 1
        sizes["patch_mode"] = "tubelet" if kernel.ndim == 5 else "temporal_sampling"
        if kernel.ndim == 5:
            sizes["tubelet_frames"] = tube
        side = given.get("image_size", 224) // kernel.shape[-4]
        places = state["Transformer/posembed_input/pos_embedding"].shape[1] - token
        if places % side**2:
            raise ValueError(f"{places} positions are no frames of {side} x {side}: give --set image_size=N")
        sizes["frames"] = places // side**2 * tube
    if "spectrogram" in modalities:
        kernel = state[f"embedding{_SUFFIX}/kernel"]
        sizes["spectrogram_patch"], sizes["spectrogram_channels"] = kernel.shape[0], kernel.shape[2]
        bands = given.get("mel_bins", 128) // kernel.shape[0]
        places = state[f"Transformer/posembed_input{_SUFFIX}/pos_embedding"].shape[1] - token
        if places % bands:
            raise ValueError(f"{places} positions are no {bands} mel patches high: give --set mel_bins=N")
        times, patch = places // bands, kernel.shape[0]
        # 200 frames make 12 patches of 16, as 192 do: the table cannot tell them apart
        told = given.get("spectrogram_frames", times * patch)
        sizes["spectrogram_frames"] = told if told // patch == times else times * patch
    if "bottleneck" in state:
        tokens = state["bottleneck"].shape[1]
        sizes |= {"fusion": "bottleneck", "num_bottlenecks": tokens - token, "extra_bottleneck": token}
    elif len(modalities) == 2 and "fusion" not in given:
        raise ValueError(
            "two modalities without bottleneck tokens: say how they meet, --set fusion=cross_attention, "
            "shared_self_attention or late"
        )
    return sizes


def _is_shared(state: State) -> bool:
    return f"Transformer/encoderblock_0{_SUFFIX}/LayerNorm_0/scale" not in state


def _ours(state: State, modalities: list[str]) -> State:
    """Official paths and layout as ours; a path that is none of MBT's stops."""
    tensors: State = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    shared = len(modalities) == 2 and _is_shared(state)
    for key, value in state.items():
        module, _, leaf = key.rpartition("/")
        value, leaf = torch_layout(key, value), "bias" if leaf == "bias" else "weight"
        match = re.fullmatch(rf"Transformer/encoderblock_(\d+)({_SUFFIX})?/(.+)", module)
        if match:
            stream = "shared" if shared else ("spectrogram" if match[2] else "rgb")
            where = f"blocks.{stream}.{match[1]}"
            name = match[3].rpartition("/")[2]
            if match[3] in _BLOCK:
                tensors[f"{where}.{_BLOCK[match[3]]}.{leaf}"] = value
            elif match[3].startswith(f"{_ATTENTION}/") and name in _THIRDS:
                thirds.setdefault(f"{where}.qkv.{leaf}", {})[_THIRDS.index(name)] = value
            else:
                raise ValueError(f"{key} is no parameter of MBT")
        else:
            tensors[_whole(key, module, leaf, modalities)] = value
    for name, parts in thirds.items():
        if len(parts) != 3:
            raise ValueError(f"query, key and value of {name} are not all there")
        tensors[name] = torch.cat([parts[i] for i in range(3)])
    return tensors


def _whole(key: str, module: str, leaf: str, modalities: list[str]) -> str:
    names = {
        "cls": f"cls.{modalities[0]}",
        "clsspectrogram": "cls.spectrogram",
        "bottleneck": "bottleneck",
        "Transformer/posembed_input/pos_embedding": "positions.rgb",
        f"Transformer/posembed_input{_SUFFIX}/pos_embedding": "positions.spectrogram",
    }
    modules = {
        "embedding": "patch.rgb",
        f"embedding{_SUFFIX}": "patch.spectrogram",
        "Transformer/encoder_norm": "norm",
        "output_projection": "head",
    }
    if key in names:
        return names[key]
    if module in modules:
        return f"{modules[module]}.{leaf}"
    raise ValueError(f"{key} is no parameter of MBT")
