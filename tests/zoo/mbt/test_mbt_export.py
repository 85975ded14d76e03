"""``zoo export`` of both streams: the file computes what the network does, for any batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cli
import zoo
from zoo.hub import export


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["bottleneck", "cross_attention", "shared_self_attention"])
def test_an_exported_network_gives_the_same_logits(fusion: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = zoo.MBT(
        num_classes=3, task="single_label", width=16, depth=2, heads=2, mlp=16, fusion=fusion,  # type: ignore[arg-type]
        fusion_layer=0, image_size=8, patch_size=4, frames=2, spectrogram_frames=12, mel_bins=8,
        spectrogram_patch=4,
    )  # fmt: skip
    torch.nn.init.normal_(module.network.head.weight)
    source = zoo.save(module, tmp_path / "module.safetensors")
    out = tmp_path / "mbt.pt2"
    assert cli.main(["export", str(source), "--out", str(out)]) == 0
    inputs = module.eval().example_inputs(7)
    with torch.no_grad():
        expected = module.network(**inputs)
        (found,) = export.load(out)(inputs)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
