"""Tiny official layouts for active generation: CIFAR with names, ImageNet's lists, Stable Diffusion."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.labelled import CIFAR10, fake_cifar
from PIL import Image

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def fake_cifar_with_names(root: Path, fine: bool = False, count: int = 12) -> Path:
    """The python version; ``aquarium_fish`` is among the hundred."""
    if fine:
        fake_cifar(root, ("train", "test"), "fine_labels", count)
        names = ["apple", "aquarium_fish", *(f"thing_{i}" for i in range(98))]
        held, path = {"fine_label_names": names}, root / "meta"
    else:
        fake_cifar(root, CIFAR10, "labels", count)
        held, path = {"label_names": CIFAR10_NAMES}, root / "batches.meta"
    path.write_bytes(pickle.dumps(held, protocol=2))
    return path


def fake_imagenet(root: Path, classes: int = 3, each: int = 8) -> Path:
    """``train/``, ``val/`` and ``meta/`` with lists and names."""
    rng = np.random.default_rng(0)
    (root / "meta").mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        lines = []
        for label in range(classes):
            for i in range(each):
                name = f"n{label:08d}/n{label:08d}_{i}.JPEG"
                path = root / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path, format="JPEG")
                lines.append(f"{name} {label}")
        (root / "meta" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    names = ["great white shark", "tench", *(f"thing {i}" for i in range(classes - 2))]
    (root / "meta" / "classes.txt").write_text("\n".join(names[:classes]) + "\n")
    return root / "meta" / "train.txt"


def fake_stable_diffusion(root: Path, side: int = 16) -> Path:
    """A tiny random pipeline as diffusers saves it: latents of ``side``, pictures twice as large."""
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = root / "words"
    words.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    whole = ["photo", "of", "great", "white", "shark", "tench", *CIFAR10_NAMES]
    vocabulary = [*letters, *(f"{x}</w>" for x in letters)]
    merges: list[str] = []
    for word in whole:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if f"{parts[0]} {parts[1]}" not in merges:
                merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=24, bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=side, in_channels=4, out_channels=4, layers_per_block=1,
            block_out_channels=(8, 16, 16), norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(root / "pipe", safe_serialization=True)
    return root / "pipe"


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    source = config["data"]["init_args"]["source"]
    if source == "imagenet":
        fake_imagenet(root)
    else:
        fake_cifar_with_names(root, source == "cifar100", 24)
    flags: dict[str, Any] = {
        "data.init_args.batch_size": 8,
        "data.init_args.eval_batch_size": 8,
        "data.init_args.num_workers": 0,
        "data.init_args.held_out": 6,
        "model.init_args.generator": fake_stable_diffusion(root.parent / "stable_diffusion"),
        "model.init_args.generator_precision": "float32",
        "model.init_args.steps": 2,
        "model.init_args.gradient_steps": 1,
        "model.init_args.images_per_round": 2,
        "model.init_args.warmup_epochs": 0,
        "model.init_args.warmup_lr": 0,
        "trainer.max_epochs": 4,
        "trainer.val_check_interval": 1.0,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.limit_train_batches": 1,
        "trainer.precision": 32,
    }
    if source == "imagenet":
        flags["data.init_args.size"] = 32
    return flags


TWINS = {"datamodules.ActiveGeneration": _twin}
WITHOUT_FILES = {"datamodules.ActiveGeneration": lambda given: given.get("source", "digits") == "digits"}
