"""Published robust classifiers: a ResNet under the robustness library's names."""

from __future__ import annotations

from pathlib import Path

import torch
from fuzz.forked import Reader

from zoo.caa.weights import read
from zoo.nn.resnet import ResNet


def _library(folder: Path) -> Path:
    torch.manual_seed(0)
    state = ResNet("resnet18", 2, "cifar").half().state_dict()
    renamed = {k.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): v for k, v in state.items()}
    held = {f"module.model.{k}": v for k, v in renamed.items()}
    held["module.normalizer.new_mean"] = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    torch.save({"model": held}, folder / "cifar_linf_8.pt")
    return folder / "cifar_linf_8.pt"


READERS = [
    Reader("robust ResNet, the robustness library's file", _library, lambda path: read(path, {})[0].hparams)
]
