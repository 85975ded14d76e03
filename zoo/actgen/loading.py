"""Generators, judges and classifiers out of files and of the registry, checked against the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

import zoo
from zoo.actgen.generator import EmbeddedGenerator, Generator
from zoo.actgen.pipeline import PipelineGenerator, load_pipeline
from zoo.nn.resnet import ResNet
from zoo.nn.vision_files import load_resnet, load_vision_transformer, read_state
from zoo.nn.vision_transformer import VisionTransformer


def load_generator(h: Mapping[str, Any], class_names: Sequence[str], named: bool = True) -> Generator:
    """What ``generator`` names.

    A folder, and a name with one slash that is no file, is Stable Diffusion; all others are the zoo's own.

    Args:
        h: hyperparameters.
        class_names: for prompts.
        named: whether they are names, not numbers.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or does not fit.
    """
    name: str = h["generator"]
    hub = not name.startswith("hf://") and name.count("/") == 1 and not os.path.isfile(name)
    if os.path.isdir(name) or (hub and not name.endswith((".safetensors", ".ckpt"))):
        if not named:
            raise ValueError(
                "Stable Diffusion needs names for its prompts: the data have numbers alone; list them in "
                "meta/classes.txt, a name a line"
            )
        pipe = load_pipeline(name, h["generator_precision"])
        return PipelineGenerator(
            pipe, class_names, h["prompt"], Path(name).name or name, h["generator_checkpointing"]
        )
    module = zoo.load(name)
    if type(module).__name__ != "DigitGenerator":
        raise ValueError(
            f"model.init_args.generator: {name!r} holds a {type(module).__name__}, not a DigitGenerator"
        )
    own = module.hparams
    for key in ("num_classes", "image_size", "channels"):
        if own[key] != h[key]:
            raise ValueError(
                f"model.init_args.{key} is {h[key]}, but the generator {name!r} has {own[key]}: train one on "
                "these data (zoo fit --config actgen_generator_digits), or give a Stable Diffusion folder"
            )
    return EmbeddedGenerator(module, name)


def load_judge(h: Mapping[str, Any]) -> LightningModule:
    """The independent classifier that ``judge`` names.

    Raises:
        ValueError: for weights of another class, or of other images.
    """
    judge = zoo.load(h["judge"])
    if type(judge).__name__ != "ActGen":
        raise ValueError(
            f"model.init_args.judge: {h['judge']!r} holds a {type(judge).__name__}, not an ActGen"
        )
    for key in ("num_classes", "image_size", "channels"):
        if judge.hparams[key] != h[key]:
            raise ValueError(
                f"model.init_args.{key} is {h[key]}, but the judge {h['judge']!r} has {judge.hparams[key]}"
            )
    return judge.eval().requires_grad_(False)


def load_classifier(body: nn.Module, path: Path) -> None:
    """Weights of torchvision (ResNets) or timm (transformers); the last layer starts anew where the file has
    other classes.

    Raises:
        FileNotFoundError, ValueError: one line with the file.
    """
    last = "fc.weight" if isinstance(body, ResNet) else "head.weight"
    held = read_state(path).get(last)
    head = held is not None and held.shape == body.state_dict()[last].shape
    if isinstance(body, ResNet):
        load_resnet(body, path, head)
    elif isinstance(body, VisionTransformer):
        load_vision_transformer(body, path, head)
