"""Encoders of other projects: InfoMin's and MoCo's checkpoints, torchvision's files; heads are dropped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from zoo.demi.encoders import Views
from zoo.demi.module import DEMI
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights, building

FORMATS: dict[str, tuple[str, ...]] = {}
_WRAPPERS = ("model", "state_dict")
_PREFIXES = (
    "module.encoder_q.",
    "encoder_q.",
    "module.encoder.",
    "encoder.",
    "module.backbone.",
    "module.",
    "",
)
_HEADS = ("fc.", "head.", "jigsaw")


def encoder_state(path: Path) -> State:
    """The tensors of an encoder under torchvision's names.

    InfoMin has them in ``model`` behind ``module.encoder.``, MoCo in ``state_dict`` behind
    ``module.encoder_q.`` (whose slow copy ``encoder_k`` is left out), torchvision bare. Heads are dropped.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or holds no residual network, in one line.
    """
    content = foreign.load(path, admitted=(argparse.Namespace,))
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no tensors by name")
    prefix = next((p for p in _PREFIXES if f"{p}conv1.weight" in content), None)
    if prefix is None:
        raise ValueError(f"{path} has no conv1.weight under {', '.join(p or 'no prefix' for p in _PREFIXES)}")
    named = {str(k)[len(prefix) :]: v for k, v in content.items() if str(k).startswith(prefix)}
    return foreign.state_dict({k: v for k, v in named.items() if not k.startswith(_HEADS)}, path)


def _settings(state: State) -> dict[str, Any]:
    kernel = state["conv1.weight"].shape
    return {
        "encoder": "resnet50" if "layer1.0.conv3.weight" in state else "resnet18",
        "stem": "imagenet" if kernel[-1] == 7 else "cifar",
        "channels": int(kernel[1]),
    }


def start_from(network: Views, source: str, pixels: str) -> str:
    """Load the encoder of a file into a network and its slow copy; returns what was found, in words.

    Raises:
        FileNotFoundError, ValueError: one line where it does not fit.
    """
    path = Path(source)
    state = foreign.fitted(encoder_state(path), network.encoder.state_dict(), path, "the encoder")
    network.encoder.load_state_dict(state)
    if network.key is not None:
        network.key.encoder.load_state_dict(state)
    note = "" if pixels == "imagenet" else "; pixels are centred, published weights read imagenet"
    return f"{source} ({sum(v.numel() for v in state.values()):,} numbers){note}"


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A checkpoint as weights of :class:`zoo.DEMI`, whose critics are at random: for probes, neighbours, and
    as the start of a training.

    Args:
        path: ``.pth`` or ``.pth.tar``.
        given: constructor arguments.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such encoder or contradicts ``given``.
    """
    state = encoder_state(path)
    found = _settings(state)
    for key, value in found.items():
        if given.get(key, value) != value:
            raise ValueError(f"{path} has {key} {value}, and --set says {given[key]}")
    hparams = {"pixels": "imagenet", **found, **given}
    with building(path), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = DEMI(**hparams)
    module.network.encoder.load_state_dict(
        foreign.fitted(state, module.network.encoder.state_dict(), path, f"a {found['encoder']}")
    )
    if module.network.key is not None:
        module.network.key.encoder.load_state_dict(module.network.encoder.state_dict())
    lines = [
        f"{path}: {found['encoder']}, stem {found['stem']}; its heads are dropped, the critics are random"
    ]
    return Weights(path, "zoo.DEMI", dict(module.hparams), module.state_dict()), lines
