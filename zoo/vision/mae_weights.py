"""MAE's own files and folders of transformers' ViTMAE <-> ours: ``zoo convert F --method mae``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from zoo.hub.foreign import State, Weights, building, checked_folder, fitted, load, state_dict, written_whole
from zoo.reports import writing
from zoo.vision.encoder import sizes_of
from zoo.vision.encoder_weights import (
    STEM,
    config_entries,
    kind_of,
    layers_from,
    layers_to,
    named_shape,
    pixels_from,
    processor,
    sizes_from,
)
from zoo.vision.mae import MAE

FORMATS: dict[str, tuple[str, ...]] = {"official": (".pth",), "transformers": ()}
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_DECODER = {
    f"decoder.{name}": ours
    for name, ours in {
        "mask_token": "mask_token", "decoder_pos_embed": "decoder_pos_embed",
        **{f"{n}.{k}": f"{n}.{k}" for n in ("decoder_embed", "decoder_norm", "decoder_pred")
           for k in ("weight", "bias")},
    }.items()
}  # fmt: skip
_OF_DECODER = ("decoder_", "mask_token")
_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of transformers, or a ``.pth`` of the authors (``{"model": ...}``).

    ``mae_pretrain_vit_base.pth`` has no decoder: ours is at random then, for a fine-tuning alone. Whether
    targets were normalised, no file of theirs tells: published ones were, and so is the default.

    Args:
        path: of the file or folder.
        given: constructor arguments; of a file ``heads`` and ``decoder_heads`` may need to be told.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on what is no such weights.
    """
    state, found = _of_folder(path) if path.is_dir() else _of_file(path)
    hparams = {**found, **given}
    without = not any(k.startswith(_OF_DECODER) for k in state)
    size = None if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
    with building(path, size), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MAE(**hparams)
    own = module.network.state_dict()
    if without:
        state |= {k: v for k, v in own.items() if k.startswith(_OF_DECODER)}
    module.network.load_state_dict(fitted(state, own, path))
    lines = [f"{path}: MAE of {sum(v.numel() for v in state.values()):,} numbers"]
    if without:
        lines.append("it has no decoder: ours is at random, for a fine-tuning by pretrained")
    return Weights(path, "zoo.MAE", dict(module.hparams), module.state_dict()), lines


def _of_file(path: Path) -> tuple[State, dict[str, Any]]:
    content = load(path, admitted=(argparse.Namespace,))
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    state = state_dict(content, path)
    for key, axes in (("patch_embed.proj.weight", 4), ("pos_embed", 3)):
        if key not in state or state[key].ndim != axes or not state[key].numel():
            raise ValueError(f"{path} is no MAE: it has no {key} of {axes} axes")
    kernel, table = state["patch_embed.proj.weight"], state["pos_embed"]
    width, channels, patch, _ = kernel.shape
    side = round((table.shape[1] - 1) ** 0.5)
    if side < 1 or side**2 + 1 != table.shape[1]:
        raise ValueError(f"{path}: {table.shape[1]} positions are no class token and a square of patches")
    depth = _count(state, "blocks")
    sizes = {
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "heads": _HEADS.get(width, max(1, width // 64)),
    }
    found = {**named_shape(sizes), "image_size": side * patch, "channels": channels}
    if channels == 3:
        found |= _IMAGENET
    if "decoder_embed.weight" in state:
        decoder = len(state["decoder_embed.weight"])
        found |= {"decoder_width": decoder, "decoder_depth": _count(state, "decoder_blocks")}
        found["decoder_heads"] = 16 if decoder % 16 == 0 else max(1, decoder // 32)
    return state, found


def _count(state: State, blocks: str) -> int:
    return len({m[1] for k in state if (m := re.match(rf"{blocks}\.(\d+)\.", k))})


def _of_folder(path: Path) -> tuple[State, dict[str, Any]]:
    if (kind := kind_of(path)) != "vit_mae":
        raise ValueError(f"{path}: config.json says model_type {kind!r}, and vit_mae is read")
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    with checked_folder(path):
        config: Any = ViTMAEConfig.from_pretrained(path)
        found = {**sizes_from(config, path), **pixels_from(path)}
        if config.decoder_intermediate_size != 4 * config.decoder_hidden_size:
            raise ValueError(f"{path}: decoder_intermediate_size is not four times decoder_hidden_size")
        found |= {
            "decoder_width": config.decoder_hidden_size, "decoder_depth": config.decoder_num_hidden_layers,
            "decoder_heads": config.decoder_num_attention_heads, "mask_ratio": float(config.mask_ratio),
            "normalise": bool(config.norm_pix_loss),
        }  # fmt: skip
        try:
            model = ViTMAEForPreTraining.from_pretrained(path, use_safetensors=True)
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"{path} holds no MAE that can be read ({why})") from None
    theirs: State = dict(model.state_dict())
    state = layers_from(theirs, "vit.layers", "blocks")
    state |= layers_from(theirs, "decoder.decoder_layers", "decoder_blocks")
    state |= {ours: theirs[f"vit.{name}"] for name, ours in STEM.items()}
    return state | {ours: theirs[name] for name, ours in _DECODER.items()}, found


def write(module: MAE, out: Path, to: str) -> list[str]:
    """A ``.pth`` under the authors' names, or a folder that ViTMAEForPreTraining is loaded from."""
    own: State = dict(module.network.state_dict())
    if to == "official":
        with written_whole(out) as temporary:
            torch.save({"model": own}, temporary)
        return [f"wrote {out}: MAE's own names"]
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    h = module.hparams
    config = ViTMAEConfig(
        **config_entries(module, sizes_of(h)), decoder_hidden_size=h["decoder_width"],
        decoder_num_hidden_layers=h["decoder_depth"], decoder_num_attention_heads=h["decoder_heads"],
        decoder_intermediate_size=4 * h["decoder_width"], mask_ratio=h["mask_ratio"],
        norm_pix_loss=h["normalise"],
    )  # fmt: skip
    model = ViTMAEForPreTraining(config)
    state = layers_to(own, "blocks", "vit.layers")
    state |= layers_to(own, "decoder_blocks", "decoder.decoder_layers")
    state |= {f"vit.{name}": own[ours] for name, ours in STEM.items()}
    state |= {name: own[ours] for name, ours in _DECODER.items()}
    model.load_state_dict(state)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        (out / "preprocessor_config.json").write_text(json.dumps(processor(module), indent=1) + "\n")
    return [f"wrote {out}; ViTMAEForPreTraining.from_pretrained({str(out)!r}) reads it"]
