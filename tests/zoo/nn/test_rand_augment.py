"""RandAugment: each operation against Pillow, timm's magnitudes, draws of one image alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from zoo.nn import pillow_operations as pillow
from zoo.nn.augment import uniform
from zoo.nn.rand_augment import OPERATIONS, RandAugment, value_of

FILL = (124, 116, 104)


def pictures(channels: int = 3, height: int = 45, width: int = 38) -> Tensor:
    """Noise, a smooth picture, a flat one, one of few levels, one of a narrow range."""
    g = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    smooth = (120 + 90 * np.sin(x / 7) * np.cos(y / 9)).astype(np.uint8)
    found = [
        g.integers(0, 256, (height, width, channels), dtype=np.uint8),
        np.stack([np.roll(smooth, 5 * c, axis=1) for c in range(channels)], axis=2),
        np.full((height, width, channels), 77, dtype=np.uint8),
        g.choice(np.array([3, 90, 255], dtype=np.uint8), (height, width, channels)),
        g.integers(100, 140, (height, width, channels), dtype=np.uint8),
    ]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def pil(levels: Tensor) -> Image.Image:
    array = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def back(image: Image.Image) -> Tensor:
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def pil_added(image: Image.Image, value: int) -> Image.Image:
    table = [min(255, i + value) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


PIL: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., Image.Image], list[Any]]] = {
    "autocontrast": (pillow.auto_contrast, lambda i, v: ImageOps.autocontrast(i), [0]),
    "equalize": (pillow.equalize, lambda i, v: ImageOps.equalize(i), [0]),
    "invert": (pillow.invert, lambda i, v: ImageOps.invert(i), [0]),
    "posterize": (pillow.posterize, ImageOps.posterize, [1, 2, 3, 4, 8]),
    "solarize": (pillow.solarize, ImageOps.solarize, [0, 1, 100, 230, 256]),
    "solarize_add": (pillow.solarize_add, pil_added, [0, 99, 110]),
    "color": (pillow.color, lambda i, v: ImageEnhance.Color(i).enhance(v), [0.0, 0.1, 0.73, 1.0, 1.72, 1.9]),
    "contrast": (pillow.contrast, lambda i, v: ImageEnhance.Contrast(i).enhance(v), [0.0, 0.1, 0.73, 1.9]),
    "brightness": (pillow.brightness, lambda i, v: ImageEnhance.Brightness(i).enhance(v), [0.1, 0.73, 1.9]),
    "sharpness": (pillow.sharpness, lambda i, v: ImageEnhance.Sharpness(i).enhance(v), [0.0, 0.1, 0.73, 1.9]),
}


@pytest.mark.parametrize("name", PIL)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_levels_are_pillows(name: str, channels: int) -> None:
    ours, theirs, values = PIL[name]
    levels = pictures(channels)
    for value in values:
        found = ours(levels, torch.full((len(levels),), float(value), dtype=torch.float64))
        expected = torch.stack([back(theirs(pil(p), value)) for p in levels])
        assert torch.equal(found, expected), (value, int((found.int() - expected.int()).abs().max()))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_rotations_shears_and_translations_are_pillows(interpolation: str) -> None:
    method = Image.Resampling[interpolation.upper()]
    levels = pictures()
    height, width = levels.shape[2:]
    augment = RandAugment(interpolation=interpolation)
    assert tuple(augment.fill) == FILL
    values = {
        "Rotate": (-30.0, -13.7, 0.0, 4.2, 27.0),
        "ShearX": (-0.3, -0.111, 0.0, 0.05, 0.27),
        "ShearY": (-0.3, -0.111, 0.0, 0.05, 0.27),
        "TranslateX": (-0.45, -0.2013, 0.0, 0.1, 0.405),
        "TranslateY": (-0.45, -0.2013, 0.0, 0.1, 0.405),
    }

    def theirs(name: str, image: Image.Image, v: float) -> Image.Image:
        if name == "Rotate":
            return image.rotate(v, resample=method, fillcolor=FILL)
        maps = {
            "ShearX": (1, v, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, v, 1, 0),
            "TranslateX": (1, 0, v * width, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, v * height),
        }
        return image.transform(image.size, Image.Transform.AFFINE, maps[name], method, fillcolor=FILL)

    for name, given in values.items():
        for shift in range(len(given)):  # each picture meets each value
            turned = given[shift:] + given[:shift]
            found = augment.operation(name, levels, torch.tensor(turned, dtype=torch.float64))
            expected = torch.stack(
                [back(theirs(name, pil(p), v)) for p, v in zip(levels, turned, strict=True)]
            )
            assert torch.equal(found, expected), (name, (found.int() - expected.int()).abs().max())


def test_magnitudes_are_timms() -> None:
    nine, up, down = (torch.tensor([v], dtype=torch.float64) for v in (9.0, 1.0, -1.0))

    def value(name: str, sign: Tensor = up, increasing: bool = False, level: Tensor = nine) -> float:
        return float(value_of(name, level, sign, increasing))

    assert value("Rotate") == pytest.approx(27)
    assert value("Rotate", down) == pytest.approx(-27)
    assert value("ShearX") == value("ShearY") == pytest.approx(0.27)
    assert value("TranslateX", down) == value("TranslateY", down) == pytest.approx(-0.405)
    assert (value("Posterize"), value("Posterize", increasing=True)) == (3, 1)
    assert (value("Solarize"), value("Solarize", increasing=True)) == (230, 26)
    assert value("SolarizeAdd") == 99
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        assert value(name) == value(name, down) == pytest.approx(1.72)
        assert value(name, increasing=True) == pytest.approx(1.81)
        assert value(name, down, increasing=True) == pytest.approx(0.19)
        assert value(name, down, True, 10 * up) == pytest.approx(0.1)
    assert len(OPERATIONS) == 15


def test_an_image_is_augmented_alone_as_in_a_batch() -> None:
    augment = RandAugment(layers=3)
    images = pictures().repeat(8, 1, 1, 1).float() / 255
    u = uniform(len(images), augment.columns, 1, 2)
    whole = augment(images, u)
    for row in range(len(images)):
        assert torch.equal(augment(images[row : row + 1], u[row : row + 1])[0], whole[row])
    assert torch.equal(whole, augment(images, u))
    assert not torch.equal(whole, augment(images, uniform(len(images), augment.columns, 1, 3)))
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_draws_choose_the_operation_its_chance_and_its_level() -> None:
    """u of invert alone: the third of 15, done below the probability."""
    augment = RandAugment(layers=1)
    images = pictures().float() / 255
    u = torch.tensor([[2.5 / 15, 0.4, 0.5, 0.2]]).repeat(5, 1)
    torch.testing.assert_close(augment(images, u), 1 - images)
    u[:, 1] = 0.6
    assert torch.equal(augment(images, u), images)
    # a level of one deviation above: 9.5 of posterize keeps 3 bits, of rotate turns by 28.5 degrees
    turned = torch.tensor([[3.5 / 15, 0.1, 0.8413447, 0.9]]).repeat(5, 1)
    expected = augment.operation("Rotate", pictures(), torch.full((5,), -28.5, dtype=torch.float64))
    found = (augment(images, turned) * 255).round()
    assert float((found - expected).abs().gt(1).float().mean()) < 1e-3
    counts = torch.bincount((uniform(30_000, 4, 5)[:, 0] * 15).long(), minlength=15)
    assert counts.min() > 1800


def test_zero_bits_make_an_image_black_and_a_tiny_one_is_not_sharpened() -> None:
    """timm asks for 0 bits below a magnitude of 2.5, which Pillow 13 refuses and earlier ones do so."""
    levels = pictures()
    assert not pillow.posterize(levels, torch.zeros(5)).any()
    tiny = levels[:, :, :2, :9]
    assert torch.equal(pillow.sharpness(tiny, torch.full((5,), 0.1)), tiny)


def test_what_is_no_image_is_refused() -> None:
    augment = RandAugment()
    u = uniform(2, augment.columns, 0)
    with pytest.raises(ValueError, match=r"in \[0, 1\], these have -1 to"):
        augment(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8), u)
    with pytest.raises(ValueError, match="nan"):
        augment(torch.full((2, 3, 8, 8), torch.nan), u)
    with pytest.raises(ValueError, match="3 channels, the images have 1"):
        augment(torch.rand(2, 1, 8, 8), u)
    with pytest.raises(ValueError, match="levels end at 10"):
        RandAugment(magnitude=11)
    with pytest.raises(ValueError, match=r"probability is 1\.5"):
        RandAugment(probability=1.5)
    with pytest.raises(ValueError, match="bilinear or bicubic"):
        RandAugment(interpolation="nearest")
