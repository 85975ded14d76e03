from pathlib import Path

import pytest
from PIL import Image

from zoo.molecules.drawing import molecule_picture, molecule_sheet, molecule_svg


def test_atoms_take_the_colour_of_their_weight() -> None:
    plain, red, blue = (
        molecule_picture("CCC", weights=[w, 0.0, 0.0], size=(200, 160)) for w in (0.0, 1.0, -1.0)
    )

    def share(picture: Image.Image, channel: int) -> float:
        pixels = list(picture.getdata())
        others = [c for c in range(3) if c != channel]
        return sum(p[channel] > 180 and all(p[c] < 130 for c in others) for p in pixels) / len(pixels)

    assert share(red, 0) > 0.01 > share(plain, 0) + share(red, 2)
    assert share(blue, 2) > 0.01 > share(blue, 0)


def test_weights_must_be_one_per_atom() -> None:
    with pytest.raises(ValueError, match="'CCO' has 3 atoms, but 2 weights are given"):
        molecule_svg("CCO", weights=[0.0, 1.0])
    with pytest.raises(ValueError, match="is no SMILES that can be drawn"):
        molecule_svg("c1cccc1")


def test_a_sheet_has_a_place_for_each(tmp_path: Path) -> None:
    molecule_sheet(tmp_path / "sheet.png", ["C", "", "CCO"], ["a", "b", "c"], columns=2, size=(100, 80))
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (200, 160)
    assert sheet.crop((100, 0, 200, 80)).getcolors() == [(8000, (255, 255, 255))]
