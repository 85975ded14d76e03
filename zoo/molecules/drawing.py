"""Molecules drawn from their SMILES, alone or as a sheet, atoms coloured by what they contribute."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.molecules.chemistry import chem

Weights = Sequence[float] | None
"""A number per atom, in the order of the SMILES, in -1..1: blue below 0, red above."""
_BELOW, _ABOVE = (0.23, 0.44, 0.85), (0.86, 0.28, 0.24)


def _colour(weight: float) -> tuple[float, float, float]:
    """White at 0, full at 1."""
    end, strength = (_ABOVE if weight > 0 else _BELOW), min(1.0, abs(weight))
    return tuple(1 - strength * (1 - channel) for channel in end)  # type: ignore[return-value]


def _drawn(canvas: Any, smiles: str, legend: str, weights: Weights) -> None:
    draw = chem("rdkit.Chem.Draw.rdMolDraw2D")
    found = chem().MolFromSmiles(smiles)
    if found is None:
        raise ValueError(f"{smiles!r} is no SMILES that can be drawn")
    if weights is not None and len(weights) != found.GetNumAtoms():
        raise ValueError(f"{smiles!r} has {found.GetNumAtoms()} atoms, but {len(weights)} weights are given")
    colours = {} if weights is None else {i: _colour(float(w)) for i, w in enumerate(weights)}
    options = canvas.drawOptions()
    options.legendFontSize, options.legendFraction = 15, 0.14
    if colours:
        options.useBWAtomPalette()
    draw.PrepareAndDrawMolecule(
        canvas,
        found,
        legend=legend,
        highlightAtoms=list(colours),
        highlightAtomColors=colours,
        highlightBonds=[],
    )
    canvas.FinishDrawing()


def molecule_png(
    smiles: str, legend: str = "", weights: Weights = None, size: tuple[int, int] = (300, 260)
) -> bytes:
    """A PNG of one molecule.

    Args:
        smiles: of the molecule.
        legend: below it.
        weights: colours of its atoms.
        size: width and height in pixels.

    Raises:
        ValueError: for a SMILES that cannot be read, or weights of another number than its atoms.
    """
    canvas = chem("rdkit.Chem.Draw.rdMolDraw2D").MolDraw2DCairo(*size)
    _drawn(canvas, smiles, legend, weights)
    return bytes(canvas.GetDrawingText())


def molecule_svg(
    smiles: str, legend: str = "", weights: Weights = None, size: tuple[int, int] = (300, 260)
) -> str:
    """An SVG of one molecule; for the arguments see :func:`molecule_png`."""
    canvas = chem("rdkit.Chem.Draw.rdMolDraw2D").MolDraw2DSVG(*size)
    _drawn(canvas, smiles, legend, weights)
    return str(canvas.GetDrawingText())


def molecule_picture(
    smiles: str, legend: str = "", weights: Weights = None, size: tuple[int, int] = (300, 260)
) -> Any:
    """A PIL image of one molecule; for the arguments see :func:`molecule_png`."""
    from PIL import Image

    return Image.open(io.BytesIO(molecule_png(smiles, legend, weights, size))).convert("RGB")


def molecule_sheet(
    path: Path,
    smiles: Sequence[str],
    legends: Sequence[str] | None = None,
    weights: Sequence[Weights] | None = None,
    columns: int = 4,
    size: tuple[int, int] = (300, 260),
) -> None:
    """A PNG with the molecules row by row.

    Args:
        path: of the file.
        smiles: of the molecules; an empty one leaves its place white.
        legends: below each.
        weights: colours of the atoms of each.
        columns: molecules in a row.
        size: width and height of each in pixels.
    """
    from PIL import Image

    rows = -(-len(smiles) // columns)
    sheet = Image.new("RGB", (size[0] * min(columns, len(smiles)), size[1] * rows), "white")
    for i, text in enumerate(smiles):
        if text:
            legend, colours = (legends[i] if legends else ""), (weights[i] if weights else None)
            picture = molecule_picture(text, legend, colours, size)
            sheet.paste(picture, (size[0] * (i % columns), size[1] * (i // columns)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
