"""Published classifiers: files of torchvision's ResNets and of timm's vision transformers, by their keys.

safetensors, ``.pth``, ``.pt`` and ``.bin``; bare state dicts, and those that a trainer wrote beside others.
Nothing is unpickled but tensors and plain values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from zoo.hub import foreign
from zoo.hub.foreign import State
from zoo.nn.resnet import BASIC, BLOCKS, ResNet, ResNetName, Stem
from zoo.nn.vision_transformer import SIZES, VisionTransformer, ViTName

Network = TypeVar("Network", bound=nn.Module)
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PIXELS: dict[str, Statistics] = {
    **dict.fromkeys(get_args(ResNetName), IMAGENET),
    **{name: IMAGENET if name.startswith("deit") else HALF for name in get_args(ViTName)},
}
"""Mean and standard deviation of RGB in [0, 1] that published weights were trained on: torchvision's and
DeiT's ImageNet, timm's ViTs (AugReg) one half. No file tells."""
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_STRANGE_RESNET = (
    (r"^(patch_embed|blocks)\.", "a vision transformer; read_vision_transformer reads it"),
    (r"^conv1\.\d", "a deep stem (resnet50d and others of timm)"),
    (r"\.se\.|\.fc1\.", "squeeze-and-excitation"),
    (r"^resnet\.(embedder|encoder)\.|^embedder\.", "names of transformers; only torchvision's are read"),
    (r"^features\.", "a VGG or DenseNet"),
)
_STRANGE_VIT = (
    (r"^dist_token$|^head_dist\.", "a distilled DeiT, which has a second class token"),
    (r"\.ls\d\.gamma$|\.gamma_\d$", "layer scale"),
    (r"^fc_norm\.", "a mean over tokens in the place of a class token"),
    (r"^reg_token$", "register tokens"),
    (r"\.(q|k)_norm\.", "normed queries and keys"),
    (r"^norm_pre\.", "a norm before the blocks (CLIP)"),
    (r"^pre_logits\.", "a hidden layer before the head (ImageNet-21k)"),
    (r"^layer\d\.\d", "a ResNet; read_resnet reads it"),
    (r"^(vit\.)?embeddings\.", "names of transformers; only timm's are read"),
)


def read_state(path: Path, prefix: str = "") -> State:
    """Tensors of a file of weights, averaged ones where a trainer wrote both, as float32.

    Args:
        path: of the file.
        prefix: what names begin with; others are left out, for example ``module.model.`` of the robustness
            library, ``module.encoder.`` of MoCo. DDP's ``module.`` alone need not be given.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that cannot be read, or has no such names.
    """
    content = foreign.load(path)
    while isinstance(content, dict) and (found := [k for k in _WRAPPERS if isinstance(content.get(k), dict)]):
        content = content[found[0]]
    if prefix and isinstance(content, dict):
        content = {k.removeprefix(prefix): v for k, v in content.items() if str(k).startswith(prefix)}
        if not content:
            raise ValueError(f"{path}: no name begins with {prefix}")
    state = foreign.state_dict(content, path)
    if not state:
        raise ValueError(f"{path} holds no tensors")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def read_resnet(path: Path, prefix: str = "") -> ResNet:
    """The ResNet of a file of torchvision (timm's ``resnet18`` to ``resnet152`` have the same names).

    Which one, its stem, channels and classes are told by the tensors.

    Args:
        path: of the file.
        prefix: see :func:`read_state`.

    Returns:
        on the CPU, in evaluation mode; without ``fc`` if the file has none.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights.
    """
    state = read_state(path, prefix)
    _refuse(state, path, "ResNet", _STRANGE_RESNET)
    first, head = _tensor(state, "conv1.weight", 4, path, "ResNet"), state.get("fc.weight")
    name = _resnet_name(state, path)
    stems: dict[int, Stem] = {7: "imagenet", 3: "cifar"}
    if first.shape[-1] not in stems:
        side = first.shape[-1]
        raise ValueError(f"{path}: the first convolution is {side} x {side}, 7 x 7 and 3 x 3 are read")
    sizes = (_classes(head, path), stems[first.shape[-1]], first.shape[1])
    return _filled(_on_meta(path, lambda: ResNet(name, *sizes)), state, path, name)


def load_resnet(network: ResNet, path: Path, head: bool = True, prefix: str = "") -> None:
    """Load a file of torchvision into a ResNet of the same kind.

    Args:
        network: to fill.
        path: of the file.
        head: false leaves ``fc`` as it is, for other classes than the file's.
        prefix: see :func:`read_state`.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights.
    """
    state = read_state(path, prefix)
    _refuse(state, path, "ResNet", _STRANGE_RESNET)
    _load(network, state, path, "fc." if not head else None)


def read_vision_transformer(path: Path, name: ViTName | None = None, prefix: str = "") -> VisionTransformer:
    """The vision transformer of a file of timm, or of DeiT's release (``{"model": ...}``).

    Args:
        path: of the file.
        name: what no tensor tells, a ``vit`` or a ``deit``; None takes the ``vit`` of the size. It decides
            :data:`PIXELS` alone.
        prefix: see :func:`read_state`.

    Returns:
        on the CPU, in evaluation mode; without ``head`` if the file has none.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights, or of another size
            than ``name``.
    """
    state = read_state(path, prefix)
    _refuse(state, path, "ViT", _STRANGE_VIT)
    kernel = _tensor(state, "patch_embed.proj.weight", 4, path, "ViT")
    table = _tensor(state, "pos_embed", 3, path, "ViT")
    width, patch = kernel.shape[0], kernel.shape[-1]
    size = next((word for word, (w, _, _) in SIZES.items() if w == width), None)
    if size is None:
        widths = ", ".join(str(w) for w, _, _ in SIZES.values())
        raise ValueError(f"{path}: a ViT of width {width}; those of {widths} are read")
    found: Any = name or f"vit_{size}_patch16_224"
    if f"_{size}_" not in found:
        raise ValueError(f"{path} holds a ViT of width {width}, which is no {name}")
    side = round((table.shape[1] - 1) ** 0.5)
    if side < 1 or table.shape[1] != side**2 + 1:
        raise ValueError(f"{path}: {table.shape[1]} positions are no class token and a square of patches")
    sizes = (_classes(state.get("head.weight"), path), side * patch, patch, kernel.shape[1])
    return _filled(_on_meta(path, lambda: VisionTransformer(found, *sizes)), state, path, found)


def load_vision_transformer(
    network: VisionTransformer, path: Path, head: bool = True, prefix: str = ""
) -> None:
    """Load a file of timm into a vision transformer of the same sizes.

    Args:
        network: to fill.
        path: of the file.
        head: false leaves ``head`` as it is, for other classes than the file's.
        prefix: see :func:`read_state`.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights.
    """
    state = read_state(path, prefix)
    _refuse(state, path, "ViT", _STRANGE_VIT)
    _load(network, state, path, "head." if not head else None)


def _refuse(state: State, path: Path, kind: str, strange: tuple[tuple[str, str], ...]) -> None:
    for pattern, what in strange:
        name = next((k for k in state if re.search(pattern, k)), None)
        if name is not None:
            raise ValueError(f"{path} is no plain {kind}: {name} belongs to {what}")


def _tensor(state: State, key: str, axes: int, path: Path, kind: str) -> Tensor:
    value = state.get(key)
    if value is None or value.ndim != axes or not value.numel():
        found = "is missing" if value is None else f"has shape {list(value.shape)}"
        raise ValueError(f"{path} is no {kind}: {key} {found}")
    return value


def _resnet_name(state: State, path: Path) -> ResNetName:
    places = {m.groups() for k in state if (m := re.match(r"layer([1-4])\.(\d{1,3})\.conv1\.weight$", k))}
    blocks = tuple(sum(stage == str(i) for stage, _ in places) for i in range(1, 5))
    basic = "layer1.0.conv3.weight" not in state
    for name in get_args(ResNetName):
        if BLOCKS[name] == blocks and (name in BASIC) == basic:
            return name
    kind = "basic" if basic else "bottleneck"
    raise ValueError(
        f"{path} is none of {', '.join(get_args(ResNetName))}: it has {', '.join(map(str, blocks))} {kind} "
        "blocks"
    )


def _classes(head: Tensor | None, path: Path) -> int | None:
    if head is not None and (head.ndim != 2 or not head.numel()):
        shape = list(head.shape)
        raise ValueError(f"{path}: the last layer's weight has shape {shape}, not (classes, features)")
    return None if head is None else len(head)


def _on_meta(path: Path, make: Callable[[], Network]) -> Network:
    try:
        with torch.device("meta"), foreign.building(path):
            return make()
    except foreign.TooLarge:
        raise
    except ValueError as error:  # a size out of its range
        raise ValueError(f"{path}: {error}") from None


def _filled(network: Network, state: State, path: Path, name: str) -> Network:
    """A network from the meta device with the tensors of a file."""
    network.load_state_dict(foreign.fitted(state, network.state_dict(), path, name), assign=True)
    return network.eval()


def _load(network: nn.Module, state: State, path: Path, but: str | None) -> None:
    own = network.state_dict()
    if but is not None:
        state = {k: v for k, v in state.items() if not k.startswith(but)} | {
            k: v for k, v in own.items() if k.startswith(but)
        }
    network.load_state_dict(foreign.fitted(state, own, path))
