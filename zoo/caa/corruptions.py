"""The 17 common corruptions of ImageNet-C (Hendrycks & Dietterich, ICLR 2019) in NumPy, SciPy and Pillow.

Each takes one picture (H, W, 3) in [0, 1], read from 8 bits, and gives another. They were made for 224
pixels: radii, shifts and lengths are clamped to a picture's own size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.draws import derived
from zoo.caa.victim import Victim

Array = np.ndarray[Any, Any]
Corruption = Callable[[Array, int, np.random.Generator], Array]

_GAUSSIAN_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_SHOT = (60, 25, 12, 5, 3)
_IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)
_SPECKLE = (0.15, 0.2, 0.35, 0.45, 0.6)
_GAUSSIAN_BLUR = (1, 2, 3, 4, 6)
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
_DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
_ZOOM = ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03))
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
_JPEG = (25, 18, 15, 10, 7)
_PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
_FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
# of the picture's side: amplitude and smoothness of the warp, and of the affine part (ImageNet-C's at 244)
_ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
# mean and sd of the drops' field, its smoothness, threshold, strength, and whether it is mud
_SPATTER = (
    (0.65, 0.3, 4, 0.69, 0.6, False),
    (0.65, 0.3, 3, 0.68, 0.6, False),
    (0.65, 0.3, 2, 0.68, 0.5, False),
    (0.65, 0.3, 1, 0.65, 1.5, True),
    (0.67, 0.4, 1, 0.65, 1.5, True),
)
_WATER, _MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


def gaussian_noise(x: Array, severity: int, random: np.random.Generator) -> Array:
    return x + random.normal(scale=_GAUSSIAN_NOISE[severity - 1], size=x.shape)


def shot_noise(x: Array, severity: int, random: np.random.Generator) -> Array:
    photons = _SHOT[severity - 1]
    return random.poisson(x * photons) / photons


def impulse_noise(x: Array, severity: int, random: np.random.Generator) -> Array:
    hit, white = random.random(x.shape), random.random(x.shape)
    return np.where(hit < _IMPULSE[severity - 1], np.where(white < 0.5, 1.0, 0.0), x)


def speckle_noise(x: Array, severity: int, random: np.random.Generator) -> Array:
    return x + x * random.normal(scale=_SPECKLE[severity - 1], size=x.shape)


def _blurred(x: Array, sigma: float) -> Array:
    radius = min(int(4 * sigma + 0.5), *x.shape[:2])
    return ndimage.gaussian_filter(x, sigma=(sigma, sigma, 0), radius=(radius, radius, 0), mode="nearest")


def gaussian_blur(x: Array, severity: int, random: np.random.Generator) -> Array:
    return _blurred(x, _GAUSSIAN_BLUR[severity - 1])


def glass_blur(x: Array, severity: int, random: np.random.Generator) -> Array:
    """Pixels change places with near ones, between two blurs."""
    sigma, shift, rounds = _GLASS[severity - 1]
    x = _blurred(x, sigma).copy()
    height, width = x.shape[:2]
    shift = min(int(shift), (min(height, width) - 1) // 2)
    for _ in range(int(rounds)):
        moves = random.integers(-shift, shift + 1, size=(height, width, 2))
        for h in range(height - shift - 1, shift - 1, -1):
            for w in range(width - shift - 1, shift - 1, -1):
                other = h + moves[h, w, 0], w + moves[h, w, 1]
                x[h, w], x[other] = x[other].copy(), x[h, w].copy()
    return _blurred(x, sigma)


def _filtered(x: Array, kernel: Array) -> Array:
    return np.stack([ndimage.convolve(x[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def defocus_blur(x: Array, severity: int, random: np.random.Generator) -> Array:
    """A disk, its edge smoothed."""
    radius, alias = _DEFOCUS[severity - 1]
    radius = min(radius, min(x.shape[:2]) // 2)
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(float)
    return _filtered(
        x, ndimage.gaussian_filter(disk / disk.sum(), sigma=alias, truncate=2 if alias > 0.2 else 10)
    )


def motion_blur(x: Array, severity: int, random: np.random.Generator) -> Array:
    """A Gaussian weighted line at an angle from -45 to 45 degrees."""
    radius, sigma = _MOTION[severity - 1]
    radius = min(radius, min(x.shape[:2]) // 2)
    angle = np.deg2rad(random.uniform(-45, 45))
    places = np.arange(2 * radius + 1)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    total = np.zeros_like(x)
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        moved = (place * np.sin(angle), place * np.cos(angle), 0)
        total += weight * ndimage.shift(x, moved, order=1, mode="nearest")
    return total


def zoom_blur(x: Array, severity: int, random: np.random.Generator) -> Array:
    """The mean of the picture at zooms from 1 on."""
    last, step = _ZOOM[severity - 1]
    zooms = np.arange(1, last + step / 2, step)
    centre = (np.array([*x.shape[:2], 1]) - 1) / 2
    scaled = [
        ndimage.affine_transform(x, [1 / z, 1 / z, 1], centre - centre / [z, z, 1], order=1, mode="nearest")
        for z in zooms
    ]
    return np.mean(scaled, axis=0)


def contrast(x: Array, severity: int, random: np.random.Generator) -> Array:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * _CONTRAST[severity - 1] + mean


def brightness(x: Array, severity: int, random: np.random.Generator) -> Array:
    hue, saturation, value = _hsv(x)
    return _rgb(hue, saturation, np.clip(value + _BRIGHTNESS[severity - 1], 0, 1))


def saturate(x: Array, severity: int, random: np.random.Generator) -> Array:
    scale, shift = _SATURATE[severity - 1]
    hue, saturation, value = _hsv(x)
    return _rgb(hue, np.clip(saturation * scale + shift, 0, 1), value)


def _hsv(x: Array) -> tuple[Array, Array, Array]:
    value, least = x.max(axis=-1), x.min(axis=-1)
    spread = value - least
    safe = np.where(spread == 0, 1, spread)
    red, green, blue = (x[..., c] for c in range(3))
    hue = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue, np.where(value == 0, 0, spread / np.where(value == 0, 1, value)), value


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    def channel(n: int) -> Array:
        k = (n + hue) % 6
        return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)

    return np.stack([channel(5), channel(3), channel(1)], axis=-1)


def jpeg_compression(x: Array, severity: int, random: np.random.Generator) -> Array:
    from PIL import Image

    buffer = io.BytesIO()
    _image(x).save(buffer, "JPEG", quality=_JPEG[severity - 1])
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"), dtype=float) / 255


def pixelate(x: Array, severity: int, random: np.random.Generator) -> Array:
    from PIL import Image

    height, width = x.shape[:2]
    share = _PIXELATE[severity - 1]
    small = _image(x).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=float) / 255


def _image(x: Array) -> Any:
    from PIL import Image

    return Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))


def plasma(size: int, decay: float, random: np.random.Generator) -> Array:
    """A height map (size, size) in [0, 1] by the diamond-square algorithm, of roughness ``decay``."""
    side = 1 << max(1, (size - 1).bit_length())
    field = np.zeros((side, side))
    step, wibble = side, 100.0

    def wobbled(sums: Array) -> Array:
        return sums / 4 + wibble * random.uniform(-1, 1, sums.shape)

    while step >= 2:
        half = step // 2
        corners = field[0:side:step, 0:side:step]
        squares = corners + np.roll(corners, -1, axis=0)
        squares = squares + np.roll(squares, -1, axis=1)
        field[half:side:step, half:side:step] = wobbled(squares)
        centres = field[half:side:step, half:side:step]
        across = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        field[0:side:step, half:side:step] = wobbled(across)
        along = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        field[half:side:step, 0:side:step] = wobbled(along)
        step, wibble = half, wibble / decay
    field -= field.min()
    return np.asarray((field / max(field.max(), 1e-12))[:size, :size])


def fog(x: Array, severity: int, random: np.random.Generator) -> Array:
    strength, decay = _FOG[severity - 1]
    height, width = x.shape[:2]
    clouds = plasma(max(height, width), decay, random)[:height, :width, None]
    most = x.max()
    return (x + strength * clouds) * most / max(most + strength, 1e-12)


def elastic_transform(x: Array, severity: int, random: np.random.Generator) -> Array:
    """A small affine map, then a smooth random displacement of each pixel."""
    side = min(x.shape[:2])
    amplitude, smoothness, bend = (side * c for c in _ELASTIC[severity - 1])
    centre, third = np.array(x.shape[:2]) // 2, side // 3
    before = np.array([centre + third, [centre[0] + third, centre[1] - third], centre - third], dtype=float)
    after = before + random.uniform(-bend, bend, size=before.shape)
    if third:  # the affine map of three points
        solved = np.linalg.lstsq(np.c_[after, np.ones(3)], before, rcond=None)[0]
    else:
        solved = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    rows, columns = np.meshgrid(*map(np.arange, x.shape[:2]), indexing="ij")
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ solved
    for axis in range(2):
        field = ndimage.gaussian_filter(
            random.uniform(-1, 1, rows.shape), max(smoothness, 0.1), mode="reflect", truncate=3
        )
        places[..., axis] += field * amplitude
    coordinates = (places[..., 0], places[..., 1])
    return np.stack(
        [ndimage.map_coordinates(x[..., c], coordinates, order=1, mode="reflect") for c in range(3)], axis=-1
    )


def spatter(x: Array, severity: int, random: np.random.Generator) -> Array:
    """Drops of water, from severity 4 on of mud. Their rims are Sobel's, where ImageNet-C has Canny's."""
    mean, spread, smooth, threshold, strength, mud = _SPATTER[severity - 1]
    drops = ndimage.gaussian_filter(random.normal(mean, spread, x.shape[:2]), min(smooth, min(x.shape[:2])))
    drops = np.where(drops < threshold, 0, drops)
    if mud:
        mask = ndimage.gaussian_filter((drops > threshold).astype(float), strength)
        mask = np.where(mask < 0.8, 0, mask)[..., None]
        return x * (1 - mask) + np.array(_MUD) * mask
    far = np.minimum(ndimage.distance_transform_edt(drops == 0), 20) if (drops == 0).any() else drops * 0
    shade = ndimage.convolve(far, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]) / 1.0, mode="mirror")
    mask = np.clip(shade, 0, None) * drops
    mask = (mask / max(mask.max(), 1e-12) * strength)[..., None]
    return x + mask * np.array(_WATER)


CORRUPTIONS: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        gaussian_blur, gaussian_noise, contrast, saturate, elastic_transform, jpeg_compression, shot_noise,
        impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, fog, brightness, pixelate,
        speckle_noise, spatter,
    )
}  # fmt: skip
SEVERITIES = 5


def corrupted(images: Tensor, keys: Tensor, name: str, severity: int, mirrored: bool = False) -> Tensor:
    """Images (N, C, H, W) in [0, 1], C 1 or 3, each with draws of its own key.

    A grey image is corrupted as one of three equal channels, of which the mean is taken.
    """
    pixels = (images.detach().cpu().double().numpy() * 255).astype(
        np.uint8
    )  # truncated, as the official code
    found = np.empty(pixels.shape, dtype=np.float32)
    for i, (image, key) in enumerate(zip(pixels, derived(keys, severity).tolist(), strict=True)):
        picture = np.repeat(image, 3 // len(image), axis=0).transpose(1, 2, 0) / 255.0
        if mirrored:
            picture = picture[:, ::-1]
        made = CORRUPTIONS[name](picture, severity, np.random.default_rng(key % 2**64))
        made = np.clip(made, 0, 1).transpose(2, 0, 1)
        found[i] = made if len(image) == 3 else made.mean(axis=0, keepdims=True)
    return torch.from_numpy(found).to(images)


def corrupt(victim: Victim, start: Start, setting: Setting, name: str) -> Outcome:
    """A corruption as an attacker: severity int(magnitude), no gradient, no ball."""
    if start.image.shape[1] not in (1, 3):
        raise ValueError(
            f"corruptions are of images with 1 or 3 channels, these have {start.image.shape[1]}; leave "
            f"{name} out of the policy"
        )
    severity = min(max(int(setting.magnitude), 1), SEVERITIES)
    mirrored = setting.rules.official_mirror_bug
    return Outcome(corrupted(start.image, start.keys, name, severity, mirrored), free=True)


ATTACKERS = {name: partial(corrupt, name=name) for name in CORRUPTIONS}
