"""Crops, flips, erasing, jigsaw: what each number decides, and that a row does not depend on its batch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.nn.augment import (
    Chain,
    HorizontalFlip,
    Jigsaw,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Standardise,
    step_uniform,
    uniform,
)
from zoo.nn.rand_augment import RandAugment


def numbered(count: int, height: int, width: int, channels: int = 1) -> Tensor:
    """Images of which no two pixels are alike."""
    return torch.arange(1.0, count * channels * height * width + 1).view(count, channels, height, width)


def test_a_crop_is_cut_at_the_drawn_place_of_the_padded_picture() -> None:
    images = numbered(3, 6, 6, 2)
    crop = RandomCrop(padding=4)
    u = torch.tensor([[0.0, 0.0], [4.5 / 9, 4.5 / 9], [0.9999, 4.5 / 9]])
    found = crop(images, u)
    assert torch.equal(found[0, :, 4:, 4:], images[0, :, :2, :2])
    assert not found[0, :, :4].any()
    assert not found[0, :, :, :4].any()
    assert torch.equal(found[1], images[1])
    assert torch.equal(found[2, :, :2], images[2, :, 4:])
    assert not found[2, :, 2:].any()
    # all 81 places, evenly
    places = (uniform(81_000, 2, 0) * 9).long()
    counts = torch.bincount(places[:, 0] * 9 + places[:, 1], minlength=81)
    assert 800 < int(counts.min()) <= int(counts.max()) < 1200
    small = RandomCrop(padding=0, size=3)(images, torch.tensor([[0.99, 0.0]]).repeat(3, 1))
    assert torch.equal(small, images[:, :, 3:, :3])
    with pytest.raises(ValueError, match="have no crop of 9 x 9 with 1 pixels"):
        RandomCrop(padding=1, size=9)(images, u)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_resized_crop_is_pillows_of_the_drawn_rectangle(interpolation: str) -> None:
    g = np.random.default_rng(0)
    array = g.integers(80, 176, (60, 80, 3), dtype=np.uint8)  # Pillow cuts an overshoot twice
    images = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    crop = RandomResizedCrop(32, interpolation=interpolation)
    u = torch.zeros(1, crop.columns)
    # share .08 + .5 x .92 of 4,800 pixels, ratio 4/3: 59 wide, 44 high; middle of what is free
    u[0, :4] = torch.tensor([0.5, 1.0, 0.5, 0.5])
    top, left, height, width = crop.rectangle(u[0].tolist(), 60, 80)
    assert (top, left, height, width) == (8, 11, 44, 59)
    box = (left, top, left + width, top + height)
    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(array).crop(box).resize((32, 32), method))
    found = (crop(images, u)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(found - expected).max() <= 1  # Pillow rounds between its two passes
    # a picture too wide for any try: the middle, as wide as the ratio allows
    assert crop.rectangle([1.0, 0.0, 0.0, 0.0] * 10, 30, 90) == (0, 25, 30, 40)
    assert crop.rectangle([1.0, 1.0, 0.0, 0.0] * 10, 90, 30) == (25, 0, 40, 30)
    with pytest.raises(ValueError, match=r"least is 0\.5, more than most"):
        RandomResizedCrop(least=0.5, most=0.4)


def test_a_flip_mirrors_those_below_its_probability() -> None:
    images = numbered(2, 2, 3)
    found = HorizontalFlip(0.3)(images, torch.tensor([[0.29], [0.31]]))
    assert torch.equal(found[0], images[0].flip(2))
    assert torch.equal(found[1], images[1])


def test_erasing_takes_the_drawn_rectangle_or_none() -> None:
    images = torch.zeros(4, 3, 40, 50) + 7
    u = torch.zeros(4, RandomErasing.columns)
    # share .02 + .5 (1/3 - .02), ratio 1: a square of 18.8; then top and left of what is free
    u[:, 2:6] = torch.tensor([0.5, 0.5, 0.5, 0.999])
    u[3, 0] = 0.25  # not below the probability
    erased = RandomErasing(mode="constant")(images, u)
    side = round(math.sqrt((0.02 + 0.5 * (1 / 3 - 0.02)) * 2000))
    assert side == 19
    for row in range(3):
        zero = (erased[row] == 0).nonzero()
        assert zero.amin(dim=0).tolist() == [0, 11, 31]
        assert zero.amax(dim=0).tolist() == [2, 11 + 18, 31 + 18]
        assert int((erased[row] == 0).sum()) == 3 * side**2
    assert torch.equal(erased[3], images[3])
    # a tall first try does not fit; the second does
    u[0, 2:10] = torch.tensor([1.0, 1.0, 0, 0, 0.5, 0.5, 0, 0])
    assert RandomErasing().rectangle(u[0, 2:].tolist(), 40, 50) == (0, 0, 19, 19)
    assert RandomErasing().rectangle([1.0, 1.0, 0, 0] * 10, 40, 50) is None


def test_erased_pixels_are_normal_numbers_of_the_rows_own() -> None:
    images = torch.zeros(64, 3, 64, 64)
    u = uniform(64, RandomErasing.columns, 5)
    erase = RandomErasing(probability=1.0)
    whole = erase(images, u)
    values = whole[whole != 0]
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    share = (whole != 0).float().mean(dim=(1, 2, 3))
    assert 0.018 < float(share.min()) < float(share.max()) < 0.34
    assert float(share.mean()) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
    for row in (0, 17, 63):
        assert torch.equal(erase(images[row : row + 1], u[row : row + 1])[0], whole[row])
    colour = RandomErasing(probability=1.0, mode="colour")(images, u)[0]
    assert [len(c[c != 0].unique()) for c in colour] == [1, 1, 1]
    assert not images.any()  # the given ones stay


def test_jigsaw_cuts_one_crop_from_each_cell_in_a_random_order() -> None:
    images = numbered(20, 255, 255)
    jigsaw = Jigsaw()
    found = jigsaw(images, uniform(20, jigsaw.columns, 3))
    assert found.shape == (20, 9, 1, 64, 64)
    offset = (found - images.flatten(1).amin(dim=1).view(-1, 1, 1, 1, 1)).long()
    top, left = offset[:, :, 0, 0, 0] // 255, offset[:, :, 0, 0, 0] % 255
    cell = top // 85 * 3 + left // 85
    assert torch.equal(cell.sort(dim=1).values, torch.arange(9).expand(20, 9))
    assert len({tuple(row) for row in cell.tolist()}) == 20
    assert int((top % 85).max()) <= 21
    assert int((top % 85).max()) > 15
    assert torch.equal(offset[:, :, 0, 63, 63], offset[:, :, 0, 0, 0] + 63 * 255 + 63)
    with pytest.raises(ValueError, match="no crops of 64; 192 pixels are the least"):
        jigsaw(images[:, :, :190], uniform(20, 27, 3))


def _module(rank: int, world: int) -> Any:
    trainer = SimpleNamespace(global_step=7, world_size=world)
    return SimpleNamespace(trainer=trainer, global_rank=rank)


def test_two_processes_augment_the_rows_that_one_does() -> None:
    parts = [RandomCrop(), HorizontalFlip(), RandAugment(), Standardise([0.5] * 3, [0.25] * 3)]
    chain = Chain([*parts, RandomErasing(0.5)])
    assert chain.columns == 2 + 1 + 8 + 0 + 42
    images = (numbered(8, 12, 14, 3) % 256) / 255
    whole = chain(images, step_uniform(_module(0, 1), 2, 8, chain.columns))
    for rank in range(2):
        own = chain(images[rank::2], step_uniform(_module(rank, 2), 2, 4, chain.columns))
        assert torch.equal(own, whole[rank::2])
    others = [step_uniform(_module(0, 1), 3, 8, 4), step_uniform(_module(0, 1), 2, 8, 4, stream=1)]
    assert not any(torch.equal(o, step_uniform(_module(0, 1), 2, 8, 4)) for o in others)


def test_what_makes_no_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"RandomErasing\.probability is nan"):
        RandomErasing(probability=math.nan)
    with pytest.raises(ValueError, match=r"least is 0\.5, more than most"):
        RandomErasing(least=0.5)
    with pytest.raises(ValueError, match="pixel, colour, constant"):
        RandomErasing(mode="rand")
    with pytest.raises(ValueError, match="std"):
        Standardise([0.5], [0.0])
    with pytest.raises(ValueError, match="images of 3 channels meet 1 means"):
        Standardise([0.5], [0.5])(torch.rand(1, 3, 2, 2))
