"""Pictures of characters and their names: matplotlib's DejaVu Sans, which each environment of the zoo has."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.loading.files import Array


@dataclass(frozen=True)
class Glyphs:
    """Drawn characters.

    Attributes:
        characters: in the order of their code points.
        names: of Unicode, in lower case.
        pixels: uint8 (N, S, S), ink is 255.
        blank: characters of the font that have no ink, which are left out.
    """

    characters: list[str]
    names: list[str]
    pixels: Array
    blank: int


def dejavu_sans(size: int) -> Glyphs:
    """Every character of DejaVu Sans that has a name and ink, on its baseline in the middle of a square.

    Args:
        size: side of the square; the letters are 5/8 of it high.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # without complex layout, which would draw other forms of Arabic letters where a library for it is there
    font = ImageFont.truetype(str(path), 5 * size / 8, layout_engine=ImageFont.Layout.BASIC)
    named = [
        (chr(code), name.lower())
        for code in sorted(FT2Font(str(path)).get_charmap())
        if (name := unicodedata.name(chr(code), ""))
    ]
    drawn = []
    for character, _ in named:
        image = Image.new("L", (size, size))
        place = (size / 2, 3 * size / 4)
        ImageDraw.Draw(image).text(place, character, font=font, fill=255, anchor="ms")
        drawn.append(np.asarray(image))
    inked = [i for i, picture in enumerate(drawn) if picture.any()]
    return Glyphs(
        [named[i][0] for i in inked],
        [named[i][1] for i in inked],
        np.stack([drawn[i] for i in inked]),
        len(named) - len(inked),
    )
