"""Masks of objects, however a set stores them, as grey pictures: 0 is background, 255 the object.

Sets store {0, 1}, {0, 255}, soft grey, class numbers in grey, 16 bits or a palette, colours of classes, or
the transparency of a cut-out. A file that may be read in two ways is refused; one that is read in another way
than pixel by pixel is told of, once per way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from datamodules.loading.pictures import read_picture

Array = np.ndarray[Any, Any]
MaskValues = Literal["auto", "grey", "classes"]
VOID = 255
"""Class number of what PASCAL VOC and its successors leave out."""
_CODE = np.array([1 << 16, 1 << 8, 1])
_VOID_CODE = int(np.array((224, 224, 192)) @ _CODE)  # the colour of void in VOC
_MOST_CLASSES = 64  # values of a mask of class numbers or colours; more are a picture
_MOST_GREY_NOISE = 24  # between channels of a grey mask that went through JPEG in colour
_LOSSY = ("JPEG", "MPO", "WEBP")
_HALF = 128  # the last value that counts as background in the metrics
_SAY = "class numbers or grey? set data.init_args.mask_values to classes or grey"
_GREY = "save it grey, 0 for background and 255 for the object"


class UnclearMask(ValueError):
    """A mask that may be read in two ways, or in none."""


def read_mask(path: Path, values: MaskValues = "auto", upright: bool = True) -> Image.Image:
    """A mask as a grey picture, 0 to 255; what is above 128 is object.

    Args:
        path: of the file.
        values: ``grey`` takes grey values as they are ({0, 1} is {0, 255}), ``classes`` takes them for class
            numbers: 0 and 255 are background, others object; ``auto`` tells by the values and refuses
            doubtful files. Palettes and colours are classes in any case.
        upright: as in :func:`datamodules.loading.pictures.read_picture`.

    Raises:
        FileNotFoundError, ValueError: one line with the path.
    """
    image = read_picture(path, upright)
    try:
        mask = _Reading(values, image.info["format"] in _LOSSY).grey(image)
    except UnclearMask as error:
        raise UnclearMask(f"the mask {path} {error}") from None
    found = Image.fromarray(mask)
    found.info = image.info
    return found


@dataclass(frozen=True)
class _Reading:
    """How the values of a file are taken.

    Args:
        values: see :func:`read_mask`.
        lossy: whether the file blurs values: then there are no class numbers in it.
    """

    values: MaskValues
    lossy: bool

    def grey(self, image: Image.Image) -> Array:
        """uint8 (H, W)."""
        if image.mode == "1":
            return _white(np.asarray(image))
        if image.mode in ("P", "PA"):
            return self._of_palette(image)
        if image.mode in ("LA", "RGBA"):
            return self._of_alpha(image)
        if image.mode[0] == "F":
            return _of_floats(np.asarray(image))
        if image.mode == "L" or image.mode[0] == "I":
            return self._of_numbers(np.asarray(image))
        return self._of_colours(np.asarray(image.convert("RGB")))

    def _of_numbers(self, pixels: Array) -> Array:
        """Grey values of 8, 16 or 32 bits, (H, W)."""
        if pixels.dtype == np.uint8:
            found = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
        else:
            found = np.unique(pixels)
        low, high = int(found[0]), int(found[-1])
        if low < 0:
            raise UnclearMask(f"has values from {low:,} on: {_GREY}")
        if high <= 1:
            return _white(pixels > 0)
        if self.values == "classes":
            return _objects(pixels, found)
        if self.values == "grey":
            return _to_8_bits(pixels, high)
        if low == 0 and len(found) == 2:
            if high not in (255, 65535):
                _tell(f"masks of the two values 0 and {high:,} are read as 0 and 255")
            return _white(pixels > 0)
        if high > 255 and high != 65535:
            raise UnclearMask(f"has {len(found):,} values up to {high:,}: {_SAY}")
        if high <= _HALF:  # as grey, nothing in it would be an object
            if low > 0 or self.lossy or len(found) > _MOST_CLASSES:
                raise UnclearMask(f"has values from {low} to {high}, none above {_HALF}: {_SAY}")
            return _objects(pixels, found)
        if _as_classes(found) and not self.lossy:
            raise UnclearMask(f"has the values {_few(found)}: {_SAY}")
        return _to_8_bits(pixels, high)

    def _of_palette(self, image: Image.Image) -> Array:
        """Indices are class numbers, unless the palette is grey: then its colours are what is meant."""
        indices = np.asarray(image.getchannel(0) if image.mode == "PA" else image)
        palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
        if used[-1] >= len(palette):
            raise UnclearMask(f"has the index {used[-1]}, but a palette of {len(palette)} colours")
        if (np.ptp(palette[used].astype(int), axis=1) == 0).all():
            return self._of_numbers(palette[:, 0][indices])
        if palette[0].any() or len(used) > _MOST_CLASSES:
            raise UnclearMask(f"has a palette whose first colour is not black: {_GREY}")
        return _objects(indices, used)

    def _of_colours(self, pixels: Array) -> Array:
        """Three alike channels are grey; else few colours with black among them are classes."""
        spread = int(np.ptp(pixels.astype(np.int16), axis=2).max())
        if spread == 0:
            return self._of_numbers(np.ascontiguousarray(pixels[..., 0]))
        if self.lossy and spread <= _MOST_GREY_NOISE:
            return self._of_numbers(np.asarray(Image.fromarray(pixels).convert("L")))
        codes = pixels.astype(np.int64) @ _CODE
        found = np.unique(codes)
        if self.lossy or len(found) > _MOST_CLASSES or found[0] != 0:
            raise UnclearMask(f"has {len(found):,} colours, as a photograph: {_GREY}")
        _tell("masks of colours: all but black and the void of VOC are object")
        return _white((codes != 0) & ((codes != _VOID_CODE) | (len(found) == 2)))

    def _of_alpha(self, image: Image.Image) -> Array:
        """Of colour and transparency the one that varies; where both do, they must say the same."""
        alpha = np.asarray(image.getchannel("A"))
        colour = np.asarray(image.convert("RGBA"))[..., :3]
        if alpha.min() == 255:
            return self._of_colours(colour)
        on_black = np.rint(colour.max(axis=2) * (alpha / 255))
        if alpha.max() > 0 and ((colour == colour[0, 0]).all() or np.abs(on_black - alpha).max() <= 1):
            return self._of_numbers(alpha)
        raise UnclearMask(f"has colours and a transparency that say different things: {_GREY}")


def _white(is_object: Array) -> Array:
    return is_object.astype(np.uint8) * 255


def _as_classes(found: Array) -> bool:
    """Whether 8-bit values may be class numbers, of which grey would make another mask."""
    if found[0] != 0 or len(found) > _MOST_CLASSES:
        return False
    return bool(found[-1] < 192 or (found[-1] == VOID and 0 < found[-2] <= _MOST_CLASSES))


def _objects(pixels: Array, found: Array) -> Array:
    """Class numbers: all but 0 and void are object; where there is nothing but void, it is the object."""
    if not set(found.tolist()) - {0, VOID}:
        return _white(pixels > 0)
    _tell("masks of class numbers: all but 0 and 255 (void) are object")
    return _white((pixels != 0) & (pixels != VOID))


def _to_8_bits(pixels: Array, high: int) -> Array:
    if high > 65535:
        raise UnclearMask(f"has values up to {high:,}: {_GREY}")
    return pixels.astype(np.uint8) if high <= 255 else (pixels // 257).astype(np.uint8)


def _of_floats(pixels: Array) -> Array:
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise UnclearMask(f"has floats outside [0, 1]: {_GREY}")
    return np.rint(255 * pixels).astype(np.uint8)


def _few(found: Array) -> str:
    shown = [*map(str, found[:4]), *(["..."] if len(found) > 5 else []), *map(str, found[4:][-1:])]
    return ", ".join(shown)


def _tell(text: str) -> None:
    """A warning without a file's name, so that Python shows it once."""
    rank_zero_warn(text)
