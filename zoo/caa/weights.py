"""Published robust classifiers -> ours: the robustness library's files, RobustBench's and TRADES'.

WideResNets of TRADES, Carmon, Rice and Hendrycks have our names but for ``module.`` and an unused
``sub_block1``; the robustness library's CIFAR ResNets say ``shortcut`` and ``linear``, its ImageNet ones are
torchvision's. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.caa.classifier import RobustClassifier
from zoo.caa.network import STATISTICS, WIDE
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights, building, fitted
from zoo.nn.resnet import BASIC, BLOCKS

FORMATS: dict[str, tuple[str, ...]] = {}
"""Nothing is written in their formats: a file of ours is read by anyone."""

_WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
_LIBRARY = ("module.model.", "model.", "module.")  # the longest first
_DROPPED = re.compile(r"^(module\.)?(attacker\.|normalizer\.|normalize\.|sub_block1\.)|(^|\.)new_(mean|std)$")
_MEAN = re.compile(r"(^|\.)(new_mean|normalizer\.mean|normalize\.mean)$")
_RESNETS = ("resnet18", "resnet50")


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A published file as weights of :class:`zoo.RobustClassifier`, and lines on what was found.

    Args:
        path: of ``torch.save`` or safetensors.
        given: what tensors do not tell: ``normalisation`` where the file holds no mean (Hendrycks: ``half``),
            ``norm`` and ``eps`` of the training, ``input_size``.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights.
    """
    content = foreign.load(path)
    while isinstance(content, dict) and (found := [k for k in _WRAPPERS if isinstance(content.get(k), dict)]):
        content = content[found[0]]
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no state_dict: save model.state_dict()")
    content = {str(k): v for k, v in content.items()}
    means = [v for k, v in content.items() if _MEAN.search(k) and isinstance(v, Tensor)]
    held = {k: v for k, v in content.items() if not _DROPPED.search(k)}
    prefix = next((p for p in _LIBRARY if held and any(k.startswith(p) for k in held)), "")
    held = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}
    state = foreign.state_dict({k: v for k, v in held.items() if not _DROPPED.search(k)}, path)
    state = {_ours(k): v.float() if v.is_floating_point() else v for k, v in state.items()}
    sizes = _sizes(state, path) | _normalisation(means, path)
    for key, value in given.items():
        if sizes.get(key, value) != value:
            raise ValueError(f"{path}: its {key} is {sizes[key]}, which contradicts --set {key}={value}")
    hparams = {"input_size": 224 if sizes.get("stem") == "imagenet" else 32, **sizes, **given}
    with building(path):
        module = RobustClassifier(**hparams)
    inner = "model." if hparams.get("normalisation", "none") != "none" else ""
    state = fitted({f"{inner}{k}": v for k, v in state.items()}, module.network.state_dict(), path)
    count = sum(p.numel() for p in module.parameters())
    told = "said by the file" if means else "not in the file: see --set normalisation"
    lines = [
        f"{sizes['arch']} of {count:,} parameters, {sizes['num_classes']} classes",
        f"normalisation {hparams.get('normalisation', 'none')}, {told}",
    ]
    return Weights(
        path, "zoo.RobustClassifier", hparams, {f"network.{k}": v for k, v in state.items()}
    ), lines


def _ours(name: str) -> str:
    return re.sub(r"^linear\.", "fc.", name.replace(".shortcut.", ".downsample."))


def _normalisation(means: list[Tensor], path: Path) -> dict[str, Any]:
    """The one whose mean the file holds."""
    if not means:
        return {}
    mean = means[0].flatten().tolist()
    for name, (known, _) in STATISTICS.items():
        full = list(known) * (len(mean) if len(known) == 1 else 1)
        if len(full) == len(mean) and all(abs(a - b) < 1e-3 for a, b in zip(full, mean, strict=True)):
            return {"normalisation": name}
    raise ValueError(f"{path}: its normalisation has mean {mean}, which is none of {', '.join(STATISTICS)}")


def _sizes(state: State, path: Path) -> dict[str, Any]:
    first, head = state.get("conv1.weight"), state.get("fc.weight")
    if first is None or first.ndim != 4 or head is None or head.ndim != 2:
        missing = "conv1.weight" if first is None or first.ndim != 4 else "fc.weight or linear.weight"
        raise ValueError(f"{path} is no ResNet or WideResNet of a robust classifier: no {missing} in it")
    found = {"in_channels": first.shape[1], "num_classes": head.shape[0]}
    wide = [k for k in state if re.match(r"block1\.layer\.\d+\.conv1\.weight$", k)]
    if wide:
        depth, widen = 6 * len(wide) + 4, state[wide[0]].shape[0] // 16
        names = [n for n, sizes in WIDE.items() if sizes == (depth, widen)]
        if not names:
            raise ValueError(f"{path}: a WRN-{depth}-{widen}; read are {', '.join(WIDE)}")
        return {"arch": names[0], **found}
    if "bn1.weight" not in state:
        raise ValueError(f"{path}: a pre-activation ResNet, which is not read (its first layer has no bn1)")
    blocks = tuple(
        sum(bool(re.match(rf"layer{i}\.\d+\.conv1\.weight$", k)) for k in state) for i in range(1, 5)
    )
    basic = "layer1.0.conv3.weight" not in state
    names = [n for n in _RESNETS if BLOCKS[n] == blocks and (n in BASIC) == basic]
    if not names:
        kind = "basic" if basic else "bottleneck"
        raise ValueError(f"{path}: {blocks} {kind} blocks are none of {', '.join(_RESNETS)}")
    return {"arch": names[0], "stem": "cifar" if first.shape[-1] == 3 else "imagenet", **found}
