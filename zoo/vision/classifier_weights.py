"""Folders of transformers' ViTForImageClassification <-> ours: ``zoo convert FOLDER --method vit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.hub.foreign import State, Weights, checked_folder, fitted
from zoo.reports import writing
from zoo.vision.classifier import ViTClassifier
from zoo.vision.encoder import sizes_of
from zoo.vision.encoder_weights import (
    STEM,
    config_entries,
    kind_of,
    layers_from,
    layers_to,
    pixels_from,
    processor,
    sizes_from,
)

FORMATS: dict[str, tuple[str, ...]] = {"transformers": ()}


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder with ``config.json`` and ``model.safetensors``.

    Args:
        path: of the folder.
        given: constructor arguments.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that is no such model.
    """
    if (kind := kind_of(path)) != "vit":
        raise ValueError(f"{path}: config.json says model_type {kind!r}, and vit is read")
    from transformers import ViTConfig, ViTForImageClassification

    with checked_folder(path):
        config: Any = ViTConfig.from_pretrained(path)
        hparams = {**sizes_from(config, path), **pixels_from(path), "num_classes": config.num_labels, **given}
        try:
            model = ViTForImageClassification.from_pretrained(path, use_safetensors=True)
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"{path} holds no ViT that can be read ({why})") from None
    theirs: State = dict(model.state_dict())
    state = layers_from(theirs, "vit.layers", "blocks")
    state |= {ours: theirs[f"vit.{name}"] for name, ours in STEM.items()}
    state |= {f"head.{kind}": theirs[f"classifier.{kind}"] for kind in ("weight", "bias")}
    module = ViTClassifier(**hparams)
    module.network.load_state_dict(fitted(state, module.network.state_dict(), path))
    lines = [f"{path}: a ViT of {sum(v.numel() for v in state.values()):,} numbers"]
    return Weights(path, "zoo.ViTClassifier", dict(module.hparams), module.state_dict()), lines


def write(module: ViTClassifier, out: Path, to: str) -> list[str]:
    """A folder that ViTForImageClassification is loaded from.

    Raises:
        ValueError: for what it has no place for.
    """
    h = module.hparams
    if h["pool"] != "cls" or h["linear_probe"]:
        raise ValueError(
            "transformers' ViTForImageClassification has the class token alone, without batch norm: pool: "
            "mean and linear_probe have no place in it"
        )
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**config_entries(module, sizes_of(h)))
    config.num_labels = h["num_classes"]
    model = ViTForImageClassification(config)
    own: State = dict(module.network.state_dict())
    state = layers_to(own, "blocks", "vit.layers")
    state |= {f"vit.{name}": own[ours] for name, ours in STEM.items()}
    state |= {f"classifier.{kind}": own[f"head.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(state)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        (out / "preprocessor_config.json").write_text(json.dumps(processor(module), indent=1) + "\n")
    return [f"wrote {out}; ViTForImageClassification.from_pretrained({str(out)!r}) reads it"]
