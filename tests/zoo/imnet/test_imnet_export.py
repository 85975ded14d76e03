"""`zoo export` of IM-NET's networks gives what they give, for any number of shapes and points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.hub import export as room

MODULES = {
    "IMAE": {"input_size": 16, "z_dim": 8, "width": 4, "encoder_width": 4, "init": "he"},
    "CNNAE": {"input_size": 16, "z_dim": 8, "encoder_width": 4},
    "IMGAN": {"z_dim": 8, "width": 4, "hidden": 16},
    "IMSVR": {"z_dim": 8, "width": 4, "image_width": 4},
}


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODULES)
def test_exported_networks_give_what_the_network_gives(name: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module: Any = getattr(zoo, name)(**MODULES[name]).eval()
    for layer in module.modules():  # awake: the released initialisations give numbers near zero
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    lines = list(room.write(module, tmp_path / f"x{suffix}"))
    assert any("batch" in line for line in lines)  # it raises for a difference above 1e-5
