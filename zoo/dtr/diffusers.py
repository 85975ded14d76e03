"""DiT in diffusers' names (``DiTTransformer2DModel``) <-> the official ones.

diffusers splits attn.qkv into three and copies the time and label embedders into every block. Its LayerNorms
have eps 1e-5 unless told otherwise, and its time frequencies are 10000^(-i/127), DiT has 128 there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.dtr.network import DiT
from zoo.hub.foreign import read_json

WEIGHTS = "diffusion_pytorch_model"
EPS = 1e-6

_TOP = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_EMBEDDERS = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}


def _pairs(names: dict[str, str], theirs: str = "", ours: str = "") -> Iterator[tuple[str, str]]:
    """(their key, our key) of the weights and biases of ``names`` below two prefixes."""
    for a, b in names.items():
        for part in ("weight",) if b.endswith("embedding_table") else ("weight", "bias"):
            yield f"{theirs}{a}.{part}", f"{ours}{b}.{part}"


def config_of(network: DiT) -> dict[str, Any]:
    """What ``config.json`` says of a network."""
    heads = int(network.blocks[0].attn.heads)  # type: ignore[arg-type, union-attr]
    return {
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": version("diffusers"),
        "num_attention_heads": heads,
        "attention_head_dim": network.pos_embed.shape[-1] // heads,
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
        "num_layers": len(network.blocks),
        "sample_size": network.input_size,
        "patch_size": network.patch_size,
        "num_embeds_ada_norm": network.num_classes,
        "norm_eps": EPS,
        **_FIXED,
    }


def to_diffusers(official: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The official state dict in diffusers' names; ``pos_embed`` is left out, since diffusers rebuilds it."""
    state = {theirs: official[ours] for theirs, ours in _pairs(_TOP)}
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}.", f"blocks.{i}."
        state |= {a: official[b] for a, b in _pairs(_BLOCK, theirs, ours)}
        state |= {a: official[b].clone() for a, b in _pairs(_EMBEDDERS, theirs)}
        for part in ("weight", "bias"):
            thirds = official[f"{ours}attn.qkv.{part}"].chunk(3, dim=0)
            state |= {f"{theirs}{n}.{part}": x.clone() for n, x in zip(_QKV, thirds, strict=True)}
    return state


def from_diffusers(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename, join q, k and v, and take one of the equal copies of the embedders.

    Raises:
        ValueError: for missing or unknown keys, and for copies that differ.
    """
    theirs = {k: v for k, v in theirs.items() if k != "pos_embed.pos_embed"}  # a fixed table, rebuilt by us

    def take(key: str) -> Tensor:
        if key not in theirs:
            raise ValueError(f"the weights lack {key}, so they are no DiT of diffusers")
        return theirs.pop(key)

    depth = len({m[1] for k in theirs if (m := re.match(r"transformer_blocks\.(\d+)\.", k))})
    state = {ours: take(key) for key, ours in _pairs(_TOP)}
    for i in range(depth):
        prefix, block = f"transformer_blocks.{i}.", f"blocks.{i}."
        state |= {ours: take(key) for key, ours in _pairs(_BLOCK, prefix, block)}
        for part in ("weight", "bias"):
            state[f"{block}attn.qkv.{part}"] = torch.cat([take(f"{prefix}{n}.{part}") for n in _QKV])
        for key, ours in _pairs(_EMBEDDERS, prefix):
            copy = take(key)
            if not torch.equal(state.setdefault(ours, copy), copy):
                raise ValueError(f"{key} differs from the copy in block 0, but DiT has one for all blocks")
    if theirs:
        raise ValueError(f"{len(theirs)} weights are not DiT's, for example {min(theirs)}")
    return state


def read_config(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """``heads`` and ``input_size`` of a folder's config.json, and lines to print.

    Raises:
        ValueError: if it is not the config of a DiT.
    """
    path = folder / "config.json"
    config = read_json(path)
    name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
    if name not in ("DiTTransformer2DModel", "Transformer2DModel"):
        raise ValueError(f"{path} is of class {name}, expected DiTTransformer2DModel")
    for key, expected in _FIXED.items():
        if config.get(key, expected) != expected:
            raise ValueError(f"{path}: {key} is {config[key]!r}, DiT has {expected!r}")
    heads, size = config.get("num_attention_heads", 16), config.get("sample_size", 32)
    if type(heads) is not int or type(size) is not int or heads < 1 or size < 1:
        raise ValueError(f"{path}: num_attention_heads and sample_size must be integers of at least 1")
    eps = config.get("norm_eps", 1e-5)
    lines = [] if eps == EPS else [f"{path} says norm_eps {eps}; DiT's own {EPS} is used"]
    return {"heads": heads, "input_size": size}, lines
