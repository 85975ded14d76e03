"""Classifiers' files, lists of ImageNet's pictures, class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from fuzz.forked import Reader
from safetensors.torch import save_file

from datamodules.images.imagenet_meta import read_class_names, read_meta
from zoo.nn.resnet import ResNet
from zoo.nn.vision_files import read_resnet, read_vision_transformer
from zoo.nn.vision_transformer import VisionTransformer


def _resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    save_file(ResNet("resnet18", 2).half().state_dict(), folder / "resnet18.safetensors")
    return folder / "resnet18.safetensors"


def _vit(folder: Path) -> Path:
    torch.manual_seed(0)
    state = VisionTransformer("vit_tiny_patch16_224", 2, image_size=16).half().state_dict()
    torch.save({"model": state}, folder / "deit_tiny.pth")
    return folder / "deit_tiny.pth"


def _meta(folder: Path) -> Path:
    lines = [f"n{i:08}/n{i:08}_{k}.JPEG {i}" for i in range(4) for k in range(9)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder / "train.txt"


def _labels(path: Path) -> Any:
    names, labels = read_meta(path)
    return [len(names), labels]


def _names(folder: Path) -> Path:
    (folder / "names.json").write_text(json.dumps({str(i): [f"n{i:08}", f"thing {i}"] for i in range(12)}))
    return folder / "names.json"


def _lines(folder: Path) -> Path:
    (folder / "synsets.txt").write_text("".join(f"n{i:08} thing {i}, matter\n" for i in range(12)))
    return folder / "synsets.txt"


READERS = [
    Reader("ResNet, torchvision's names", _resnet, lambda path: read_resnet(path).state_dict()),
    Reader("vision transformer, timm's names", _vit, lambda path: read_vision_transformer(path).state_dict()),
    Reader("ImageNet, list of pictures", _meta, _labels),
    Reader("class names, JSON", _names, lambda path: len(read_class_names(path))),
    Reader("class names, lines", _lines, lambda path: len(read_class_names(path))),
]
