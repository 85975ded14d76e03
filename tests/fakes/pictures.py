"""A tiny folder of pictures and a tiny random VAE: the files of the real ones, never called data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def fake_pictures(root: Path, classes: int = 3, per_class: int = 5, side: int = 40) -> Path:
    """Class folders of small random pictures of several shapes and suffixes; returns ``root``."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"n{label:08d}"
        folder.mkdir(parents=True)
        for i in range(per_class):
            height, width = side + int(rng.integers(0, 30)), side + int(rng.integers(0, 30))
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            suffix = (".JPEG", ".png", ".jpg")[i % 3]
            coarse.resize((width, height)).save(folder / f"{folder.name}_{i}{suffix}")
    return root


def tiny_vae(folder: Path, levels: int = 4, **config: Any) -> Path:
    """A random ``AutoencoderKL`` with 4 latent channels that halves the side ``levels - 1`` times."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }
    AutoencoderKL(**settings | config).save_pretrained(folder)
    return folder


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    one = config["data"]["init_args"].get("num_classes") == 1
    fake_pictures(root, 3, 4)
    flags: dict[str, Any] = {"data.init_args.num_classes": 1 if one else 3, "data.init_args.num_workers": 0}
    if "vae" in config["model"]["init_args"]:
        tiny_vae(root.parent / "vae")
        flags |= {f"model.init_args.{k}": root.parent / k for k in ("vae", "out")}
        return {**flags, "data.init_args.size": 32, "data.init_args.predict_batch_size": 2}
    small = {"channels": 32, "multipliers": [1, 2], "attention": [8], "res_blocks": 1, "head_channels": 32}
    flags |= {f"model.init_args.unet_{k}": v for k, v in small.items()}
    flags |= {"model.init_args.num_classes": flags["data.init_args.num_classes"]}
    sizes = {"model.init_args.input_size": 16, "data.init_args.size": 16, "data.init_args.batch_size": 8}
    return flags | sizes


TWINS = {"datamodules.ImageFolder": _twin}
