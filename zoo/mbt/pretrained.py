"""ImageNet ViT weights into both streams: transformers, timm and AugReg files, section 3.4 of the paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.hub import foreign
from zoo.hub.foreign import State
from zoo.mbt.network import FusionNetwork

_HEADS = ("head.", "head/", "pre_logits", "pooler.", "classifier.", "fc_norm.", "norm_head.")
_PARTS = {"norm1", "qkv", "proj", "norm2", "fc1", "fc2"}
# suffix of a transformers name -> ours
_TRANSFORMERS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "proj",
    "attention.o_proj": "proj",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_ROWS = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}
_TIMM = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
_AUGREG = {"LayerNorm_0": "norm1", "LayerNorm_2": "norm2", "MlpBlock_3/Dense_0": "fc1"}
_AUGREG |= {"MlpBlock_3/Dense_1": "fc2", "MultiHeadDotProductAttention_1/out": "proj"}


@dataclass
class ViT:
    """A ViT's encoder under our names: ``patch.weight``, ``cls``, ``positions``, ``norm.bias``,
    ``blocks.3.qkv.weight``, ...

    Attributes:
        state: the tensors.
        eps: of the LayerNorms, where the source says.
        activation: ``gelu`` or ``gelu_tanh``, where the source says.
    """

    state: State
    eps: float | None = None
    activation: str | None = None
    skipped: list[str] = field(default_factory=list)

    @property
    def depth(self) -> int:
        return 1 + max(int(k.split(".")[1]) for k in self.state if k.startswith("blocks."))


def resize_grid(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A position table of a grid, (h, w, D) -> (*size, D), bilinear with the corners kept in place.

    The official ``scipy.ndimage.zoom(order=1)`` aligns corners; ``align_corners=False`` differs visibly.
    """
    planes = table.permute(2, 0, 1)[None]
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)


def inflate(kernel: Tensor, frames: int, how: Literal["central", "average"] = "central") -> Tensor:
    """A kernel of images (D, 3, p, p) for tubelets (D, 3, t, p, p): in frame t // 2 alone, or 1/t in each."""
    if how == "average":
        return kernel[:, :, None].repeat(1, 1, frames, 1, 1) / frames
    tube = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    tube[:, :, frames // 2] = kernel
    return tube


def bottleneck_positions(cls: Tensor, grid: Tensor, tokens: int, with_cls: bool) -> Tensor:
    """Official start of the bottleneck: the CLS position, then the grid resized to sqrt(K) x K / sqrt(K).

    Args:
        cls: (D,) position of the CLS token.
        grid: (h, w, D).
        tokens: K of the grid; for 4 these are its corners, row by row.
        with_cls: put the CLS position first (K + 1 tokens).

    Raises:
        ValueError: if int(sqrt K) does not divide K.
    """
    rows = int(tokens**0.5)
    if rows * (tokens // rows) != tokens:
        raise ValueError(f"bottleneck tokens from positions need int(sqrt K) to divide K, got {tokens}")
    flat = resize_grid(grid, (rows, tokens // rows)).flatten(0, 1)
    return torch.cat([cls[None], flat]) if with_cls else flat


@torch.no_grad()
def initialise(
    network: FusionNetwork,
    vit: ViT,
    bottleneck: Literal["normal", "positions"] = "normal",
    tubelet: Literal["central", "average"] = "central",
    official_cls: bool = False,
) -> list[str]:
    """Copy a ViT into every stream: blocks, patch kernels, CLS, positions, the final norm. The head stays.

    Args:
        bottleneck: ``positions`` starts the bottleneck as the official code does from a ViT.
        tubelet: how a 3-D kernel starts.
        official_cls: leave the spectrogram's CLS token at zero, as an oversight in the official code does.

    Returns:
        lines on what was done.

    Raises:
        ValueError: for a ViT of other sizes.
    """
    state = vit.state
    width, depth = state["norm.weight"].shape[0], vit.depth
    if (width, depth) != (network.width, network.depth):
        raise ValueError(
            f"the ViT has width {width} and {depth} layers, model.init_args ask for {network.width} and "
            f"{network.depth}"
        )
    for name, blocks in network.blocks.items():
        layers: Any = blocks
        for layer, block in enumerate(layers):
            own = {k: state[f"blocks.{layer}.{k}"] for k in block.state_dict()}
            _check_shapes(f"blocks.{name}.{layer}", own, block.state_dict())
            block.load_state_dict(own)
    network.norm.load_state_dict({"weight": state["norm.weight"], "bias": state["norm.bias"]})
    side = round((state["positions"].shape[1] - 1) ** 0.5)
    cls_position, grid = state["positions"][0, 0], state["positions"][0, 1:].view(side, side, -1)
    for name in network.modalities:
        kernel = state["patch.weight"]
        target: Any = network.patch[name]
        if name == "rgb" and network.patch_mode == "tubelet":
            kernel = inflate(kernel, target.weight.shape[2], tubelet)
        if name == "spectrogram" and network.spectrogram_channels == 1:
            kernel = kernel.sum(dim=1, keepdim=True)
        own = {"weight": kernel, "bias": state["patch.bias"]}
        _check_shapes(f"patch.{name}", own, target.state_dict())
        target.load_state_dict(own)
        if name in network.cls and not (official_cls and name == "spectrogram"):
            network.cls[name].copy_(state["cls"])
        table = network.positions[name]
        if table.shape == state["positions"].shape:
            table.copy_(state["positions"])
        else:
            table.copy_(_positions(network, name, cls_position, grid))
    lines = [f"a ViT of {depth} layers, width {width}, in {' and '.join(network.modalities)}"]
    if bottleneck == "positions" and network.bottleneck is not None:
        count = network.bottleneck.shape[1]
        with_cls = network.extra_bottleneck
        network.bottleneck.copy_(bottleneck_positions(cls_position, grid, count - with_cls, with_cls)[None])
        lines.append(f"{count} bottleneck tokens from its positions")
    return lines


def _positions(network: FusionNetwork, name: str, cls: Tensor, grid: Tensor) -> Tensor:
    """(1, N, D): the grid resized, for frames repeated over time, the CLS entry kept apart."""
    size = network.grids[name]
    resized = resize_grid(grid, (size[-2], size[-1])).flatten(0, 1)
    if name == "rgb":
        resized = resized.repeat(size[0], 1)
    return (torch.cat([cls[None], resized]) if name in network.cls else resized)[None]


def _check_shapes(where: str, given: State, wanted: State) -> None:
    for key, value in wanted.items():
        if given[key].shape != value.shape:
            raise ValueError(
                f"{where}.{key} of the ViT is {list(given[key].shape)}, the network wants {list(value.shape)}"
            )


def read_vit(source: str) -> ViT:
    """A ViT from an AugReg ``.npz``, a timm or transformers ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``,
    a transformers folder, or a hub id. Of a single file of transformers the config.json beside it is read.

    Raises:
        FileNotFoundError, ValueError: one line; also for a tensor that no stream has a place for.
    """
    path = Path(source)
    if path.is_dir() or not path.suffix or not (path.exists() or path.suffix in _READERS):
        return _from_transformers(source)
    if not path.is_file():
        raise FileNotFoundError(f"model.init_args.pretrained: no file {path}")
    if path.suffix not in _READERS:
        raise ValueError(f"model.init_args.pretrained: {path} must end in {', '.join(_READERS)}")
    state = _READERS[path.suffix](path)
    try:
        if any(k.startswith("Transformer/") for k in state):
            return _mapped(state, _augreg_name, activation="gelu_tanh", eps=1e-6)  # Flax's gelu
        if any(k.startswith("patch_embed.") for k in state):
            return _mapped(state, _timm_name)
        return _mapped(state, _transformers_name, **_told_beside(path))
    except ValueError as error:
        raise ValueError(f"model.init_args.pretrained: {path}: {error}") from None


def read_npz(path: Path) -> State:
    """Arrays of an npz file, without pickles."""
    arrays = foreign.read_arrays(path)
    return foreign.state_dict({k: torch.from_numpy(v).float() for k, v in arrays.items()}, path)


def _read_torch(path: Path) -> State:
    content = foreign.load(path)
    return foreign.state_dict(content.get("model", content) if isinstance(content, dict) else content, path)


_READERS: dict[str, Callable[[Path], State]] = {
    ".npz": read_npz,
    ".safetensors": _read_torch,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}


def _from_transformers(source: str) -> ViT:
    from transformers import ViTModel

    try:
        with foreign.checked_folder(Path(source)):
            model = ViTModel.from_pretrained(source, add_pooling_layer=False)
    except (foreign.Damaged, foreign.TooLarge, foreign.Refused) as error:
        raise ValueError(f"model.init_args.pretrained: {error}") from None
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(f"model.init_args.pretrained: no ViT at {source} ({text})") from None
    foreign.check_finite(model.state_dict(), Path(source))
    return _mapped(model.state_dict(), _transformers_name, **_told(model.config.to_dict(), source))


def _told(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Activation and eps of a transformers config."""
    act = config["hidden_act"]
    if act not in _ACTIVATIONS:
        raise ValueError(f"model.init_args.pretrained: {source} uses {act}, not a GELU")
    return {"activation": _ACTIVATIONS[act], "eps": float(config["layer_norm_eps"])}


def _told_beside(path: Path) -> dict[str, Any]:
    """What the config.json beside a file of transformers tells; nothing where there is none."""
    beside = path.with_name("config.json")
    try:
        config = foreign.read_json(beside)
        return _told(config, beside)
    except (FileNotFoundError, KeyError, TypeError):
        return {}


_Name = tuple[str, int | None]  # our name, and which third of qkv


def _mapped(
    state: State,
    rename: Callable[[str], _Name | None],
    activation: str | None = None,
    eps: float | None = None,
) -> ViT:
    found: State = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    unknown, skipped = [], []
    flax = rename is _augreg_name
    for key, value in state.items():
        if any(key.startswith(h) or f".{h}" in key for h in _HEADS):
            skipped.append(key)
            continue
        name = rename(key)
        if name is None:
            unknown.append(key)
            continue
        value = torch_layout(key, value.float()) if flax else value.float()
        if name[1] is None:
            found[name[0]] = value
        else:
            thirds.setdefault(name[0], {})[name[1]] = value
    if unknown:
        raise ValueError(f"{len(unknown)} tensors have no place in a ViT stream, for example {unknown[0]}")
    for key, parts in thirds.items():
        if len(parts) != 3:
            raise ValueError(f"query, key and value of {key} are not all there")
        found[key] = torch.cat([parts[i] for i in range(3)])
    vit = ViT(found, eps, activation, skipped)
    wanted = ["patch.weight", "patch.bias", "cls", "positions", "norm.weight", "norm.bias"]
    if any(k.startswith("blocks.") for k in found):
        pairs = [(p, w) for p in sorted(_PARTS) for w in ("weight", "bias")]
        wanted += [f"blocks.{i}.{p}.{w}" for i in range(vit.depth) for p, w in pairs]
    missing = [k for k in wanted if k not in found]
    if missing:
        raise ValueError(f"this is no ViT: {len(missing)} tensors are missing, for example {missing[0]}")
    return vit


def torch_layout(key: str, value: Tensor) -> Tensor:
    """A Flax array in torch's layout, told by its path: dense kernels are transposed, attention heads joined,
    (H, W, I, O) and (T, H, W, I, O) convolutions turned to (O, I, ...)."""
    if not key.endswith(("kernel", "bias")):
        return value
    if key.endswith("bias"):
        return value.flatten()
    if value.ndim >= 4:
        return value.permute(-1, -2, *range(value.ndim - 2)).contiguous()
    if "/out/" in key:
        return value.flatten(0, 1).T.contiguous()
    return value.flatten(1).T.contiguous()


def _leaf(word: str) -> str:
    return "bias" if word == "bias" else "weight"


def _augreg_name(key: str) -> _Name | None:
    whole = {"cls": "cls", "Transformer/posembed_input/pos_embedding": "positions"}
    if key in whole:
        return whole[key], None
    module, _, leaf = key.rpartition("/")
    short = {"embedding": "patch", "Transformer/encoder_norm": "norm"}
    if module in short:
        return f"{short[module]}.{_leaf(leaf)}", None
    match = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", module)
    if match is None:
        return None
    layer, part = match.groups()
    if part in _AUGREG:
        return f"blocks.{layer}.{_AUGREG[part]}.{_leaf(leaf)}", None
    attention = re.fullmatch(r"MultiHeadDotProductAttention_1/(query|key|value)", part)
    return (f"blocks.{layer}.qkv.{_leaf(leaf)}", _ROWS[attention[1]]) if attention else None


def _timm_name(key: str) -> _Name | None:
    whole = {"cls_token": "cls", "pos_embed": "positions"}
    if key in whole:
        return whole[key], None
    module, _, leaf = key.rpartition(".")
    short = {"patch_embed.proj": "patch", "norm": "norm"}
    if module in short:
        return f"{short[module]}.{leaf}", None
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
    part = _TIMM.get(match[2], match[2]) if match else ""
    return (f"blocks.{match[1]}.{part}.{leaf}", None) if match and part in _PARTS else None


def _transformers_name(key: str) -> _Name | None:
    """By suffix: versions of transformers differ in the levels before it."""
    ends = {"cls_token": "cls", "position_embeddings": "positions"}
    module, _, leaf = key.rpartition(".")
    if leaf in ends:
        return ends[leaf], None
    if module.endswith("patch_embeddings.projection"):
        return f"patch.{leaf}", None
    match = re.search(r"layers?\.(\d+)\.(.+)$", module)
    if match is None:
        return (f"norm.{leaf}", None) if module.endswith("layernorm") else None
    layer, part = match.groups()
    last = part.rpartition(".")[2]
    if last in _ROWS:
        return f"blocks.{layer}.qkv.{leaf}", _ROWS[last]
    for suffix, ours in _TRANSFORMERS.items():
        if part == suffix or part.endswith("." + suffix):
            return f"blocks.{layer}.{ours}.{leaf}", None
    return None
