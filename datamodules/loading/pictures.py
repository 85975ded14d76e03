"""Pictures in files, for all data: bounded in pixels and shape, turned as the file says, or one line.

Pillow may take a file for what its content says, whatever its name: only the formats of :data:`FORMATS` are
tried, since others run further programs (PostScript) or are never used for data.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from datamodules.loading.files import one_line
from datamodules.loading.limits import LIFT, lifted, limit

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
MAX_PIXELS = 2**26
"""Of one picture, 8192 x 8192; ``ZOO_LIMITS=off`` lifts it. The largest of ImageNet has 61 million."""
MAX_ASPECT = 100
"""Of the longer side to the shorter one: resizing the shorter side makes a thin picture a huge one."""

_IN_MEMORY = "a picture in memory"
_ORIENTATION = 0x0112  # the tag of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's decoders are known to raise for damaged files; MemoryError is its word for a failed decoder
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def check_size(width: int, height: int, pixels: int = MAX_PIXELS) -> None:
    """Refuse sizes beyond the bounds.

    Raises:
        ValueError: naming the size and what lifts the bound.
    """
    most = limit(pixels)
    if min(width, height) < 1:
        raise ValueError(f"it is {width} x {height}")
    if width * height > most:
        raise ValueError(
            f"it is {width:,} x {height:,}, more than {most:,} pixels; {LIFT}=off in the "
            "environment lifts that"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"it is {width:,} x {height:,}, thinner than {MAX_ASPECT} to 1")


def read_picture(source: Path | bytes, upright: bool = True) -> Image.Image:
    """A whole picture in its own mode. Of several frames or pages the first.

    ``info`` of what is returned holds the EXIF ``orientation`` that the file has, 1 to 8, its ``format``, and
    whether it has ``transparent`` parts.

    Args:
        source: a file, or its content.
        upright: turn the picture as its EXIF orientation says, as any viewer does; false leaves it as it is
            stored.

    Raises:
        FileNotFoundError, ValueError: one line with the path.
    """
    name, content = (str(source), source) if isinstance(source, Path) else (_IN_MEMORY, io.BytesIO(source))
    if lifted():
        Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on metadata
            with Image.open(content, formats=FORMATS) as image:
                check_size(*image.size)
                image.load()
                orientation, kind = _orientation(image), image.format
                see_through = _see_through(image)
                turned = image.copy()
        if upright and orientation in UPRIGHT:
            turned = turned.transpose(UPRIGHT[orientation])
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} was there when the folder was listed and is gone") from None
    except _DAMAGE as error:
        text = " ".join(str(error).split()).replace(f" '{name}'", "")
        reason = one_line(text, 200) if text else type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            reason += f"; {LIFT}=off in the environment lifts that"
        raise ValueError(f"{name} cannot be read as a picture ({reason})") from None
    turned.info = {"orientation": orientation, "format": kind, "transparent": see_through}
    return turned


def _see_through(image: Image.Image) -> bool:
    """Whether any pixel is transparent, or the file has a colour that means it."""
    if "A" in image.getbands():
        return int(image.getchannel("A").getextrema()[0]) < 255  # type: ignore[arg-type]
    return "transparency" in image.info


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:  # broken metadata of a whole picture
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def read_rgb(source: Path | bytes, upright: bool = True) -> Image.Image:
    """A picture in RGB, as ``convert("RGB")`` gives it: transparency is dropped, not blended.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_picture`, and for more than 8 bits per channel, whose
            range no file tells.
    """
    image = read_picture(source, upright)
    if image.mode.startswith(("I", "F")):
        name = str(source) if isinstance(source, Path) else _IN_MEMORY
        raise ValueError(
            f"{name} cannot be read as a picture (mode {image.mode} has more than 8 bits per channel; "
            "save it with 8)"
        )
    if image.info["transparent"]:
        rank_zero_warn("transparent pictures are read without their transparency: hidden colours are seen")
    return image.convert("RGB")
