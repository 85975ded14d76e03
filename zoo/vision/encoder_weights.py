"""Vision transformers of transformers under the names of timm, and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from zoo.hub.foreign import State, read_json
from zoo.vision.encoder import SHAPES, SIZES

_PARTS = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.o_proj.": "attn.proj.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
_THIRDS = ("q_proj", "k_proj", "v_proj")
STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}


def layers_from(state: State, theirs: str, ours: str) -> State:
    """Blocks ``theirs.N.`` of transformers' state in memory as ``ours.N.``; q, k and v become one layer."""
    found: State = {}
    for number in sorted({int(m[1]) for k in state if (m := re.match(rf"{re.escape(theirs)}\.(\d+)\.", k))}):
        old, new = f"{theirs}.{number}.", f"{ours}.{number}."
        for kind in ("weight", "bias"):
            for part, name in _PARTS.items():
                found[f"{new}{name}{kind}"] = state[f"{old}{part}{kind}"]
            found[f"{new}attn.qkv.{kind}"] = torch.cat([state[f"{old}attention.{t}.{kind}"] for t in _THIRDS])
    return found


def layers_to(state: State, ours: str, theirs: str) -> State:
    """The reverse of :func:`layers_from`."""
    found: State = {}
    for number in sorted({int(m[1]) for k in state if (m := re.match(rf"{re.escape(ours)}\.(\d+)\.", k))}):
        old, new = f"{ours}.{number}.", f"{theirs}.{number}."
        for kind in ("weight", "bias"):
            for part, name in _PARTS.items():
                found[f"{new}{part}{kind}"] = state[f"{old}{name}{kind}"]
            thirds = state[f"{old}attn.qkv.{kind}"].chunk(3)
            for third, value in zip(_THIRDS, thirds, strict=True):
                found[f"{new}attention.{third}.{kind}"] = value.clone()
    return found


def kind_of(path: Path) -> str:
    """``model_type`` of a folder's config.

    Raises:
        FileNotFoundError, ValueError: for no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path} with config.json and model.safetensors")
    content = read_json(path / "config.json")
    return str(content.get("model_type") if isinstance(content, dict) else None)


def sizes_from(config: Any, path: Path) -> dict[str, Any]:
    """Hyperparameters of an encoder from a config of transformers.

    Raises:
        ValueError: for what ours does not have.
    """
    for key, wanted in (("hidden_act", "gelu"), ("qkv_bias", True)):
        if getattr(config, key) != wanted:
            raise ValueError(f"{path}: {key} is {getattr(config, key)!r}, and {wanted!r} is read")
    if config.intermediate_size != 4 * config.hidden_size:
        raise ValueError(
            f"{path}: intermediate_size is {config.intermediate_size}, four times hidden_size "
            f"{config.hidden_size} is read"
        )
    for key in ("image_size", "patch_size"):
        if not isinstance(getattr(config, key), int):
            raise ValueError(f"{path}: {key} is {getattr(config, key)!r}, and squares are read")
    numbers = (
        config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
    )  # fmt: skip
    return {
        **named_shape(dict(zip(SIZES, numbers, strict=True))),
        "image_size": config.image_size,
        "channels": config.num_channels,
        "norm_eps": float(config.layer_norm_eps),
    }


def named_shape(sizes: dict[str, int]) -> dict[str, Any]:
    """``shape``, and the sizes themselves where none has that name."""
    shape = next((name for name, known in SHAPES.items() if known == sizes), "free")
    return {"shape": shape, **(sizes if shape == "free" else {})}


def pixels_from(path: Path) -> dict[str, Any]:
    """Mean and deviation that the weights read, where they are not .5."""
    file = path / "preprocessor_config.json"
    content = read_json(file) if file.is_file() else {}
    found: Any = [content.get(k) if isinstance(content, dict) else None for k in ("image_mean", "image_std")]
    if None in found or all(set(values) == {0.5} for values in found):
        return {}
    return {"mean": list(found[0]), "std": list(found[1])}


def config_entries(module: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """What transformers' configs call our sizes."""
    h = module.hparams
    return {
        "hidden_size": sizes["width"], "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"], "intermediate_size": 4 * sizes["width"],
        "patch_size": sizes["patch_size"], "image_size": h["image_size"], "num_channels": h["channels"],
        "layer_norm_eps": h["norm_eps"],
    }  # fmt: skip


def processor(module: Any) -> dict[str, Any]:
    """A ``preprocessor_config.json``."""
    side, (mean, std) = module.hparams["image_size"], module.pixels
    return {
        "image_processor_type": "ViTImageProcessor", "image_mean": mean, "image_std": std,
        "do_resize": True, "do_rescale": True, "do_normalize": True, "size": {"height": side, "width": side},
    }  # fmt: skip
