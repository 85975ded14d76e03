"""``zoo export`` of networks over strings: the file computes what the network does, for any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.hub import export

SMALL: dict[str, Any] = {"width": 8, "layers": 1, "vocab_size": 12}
CASES = {
    "lstm": lambda: zoo.SmilesLM(**SMALL),
    "gpt": lambda: zoo.SmilesLM(arch="gpt", heads=2, **SMALL),
    "reactions": lambda: zoo.ReactionTransformer(heads=2, hidden=8, **SMALL),
}


@pytest.mark.parametrize("name", CASES)
def test_an_exported_network_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = CASES[name]().eval()
    out = tmp_path / "x.pt2"
    list(export.write(module, out))
    inputs = module.example_inputs(7)
    with torch.no_grad():
        expected = module.network(**inputs)
    (found,) = export.load(out)(inputs)
    assert expected.shape == (7, 8, 12)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_copy_baseline_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arch: copy computes nothing: there is no network to export"):
        list(export.write(zoo.ReactionTransformer(arch="copy"), tmp_path / "x.pt2"))
