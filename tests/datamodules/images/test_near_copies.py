"""Near copies among files: none is missed, and few files are decoded to find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.pictures import fake_pictures
from PIL import Image

import datamodules
from datamodules.images import growing
from datamodules.images.near_copies import cell_means, least_possible_distance


@pytest.mark.parametrize("size", [5, 8, 24, 27, 40])
def test_means_of_cells_never_say_farther_than_it_is(size: int) -> None:
    g = torch.Generator().manual_seed(size)
    base = torch.rand(1, 3, size, size, generator=g)
    steps = torch.linspace(0.001, 0.3, 40).view(-1, 1, 1, 1)
    smooth = torch.rand(40, 3, 1, 1, generator=g) - 0.5  # the same everywhere: nothing is averaged away
    for change in (smooth, torch.rand(40, 3, size, size, generator=g) - 0.5):
        others = base + steps * change
        real = (others - base).pow(2).flatten(1).mean(dim=1).sqrt()
        bound = least_possible_distance(cell_means(base), cell_means(others), size)
        assert bool((bound <= real + 1e-6).all())
        assert float((bound / real).mean()) > (0.95 if change is smooth else 0.05)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    original = growing.read_rgb

    def read(path: Path) -> Any:
        found.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(growing, "read_rgb", read)
    return found


def test_each_file_of_a_class_is_decoded_once_and_again_only_when_near(
    tmp_path: Path, decoded: list[str]
) -> None:
    for part in ("train", "val"):
        fake_pictures(tmp_path / part, 3, 8)
    data = datamodules.ActiveGeneration("folder", str(tmp_path), held_out=6, size=27, batch_size=4)
    data.setup("fit")
    own = [i for i in range(24) if int(data.images.labels[i]) == 1]
    pictures = data.images.evaluated(own)
    decoded.clear()
    noise = 0.02 * torch.rand(3, 27, 27, generator=torch.Generator().manual_seed(0)) - 0.01
    for i, picture in enumerate(pictures):  # held out or trained on, each is found
        near = data.near_pixels(1, picture + noise, 0.02)
        assert near.shape == (1, 3, 27, 27)
        assert torch.equal(near[0], pictures[i])
    assert len(decoded) == 8 + 8
    assert {name.split("_")[0] for name in decoded} == {"n00000001"}
    assert not len(data.near_pixels(2, pictures[0], 0.02))  # other classes are not asked
    assert len(decoded) == 8 + 8 + 8
    made = tmp_path / "made.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (31, 31, 3), dtype=np.uint8)).save(made)
    data.append([made], [1])
    shown = data.images.held([made], None)[0]
    decoded.clear()
    for _ in range(2):  # earlier generated images are training images too
        assert torch.equal(data.near_pixels(1, shown, 0.02)[0], shown)
    assert decoded == ["made.png"] * 3
