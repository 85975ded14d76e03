"""What a prediction leaves: a table, frames that force fields' tools read, and pictures."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, span
from zoo.molecules.space.dynamics import covalent_bonds
from zoo.molecules.space.elements import IN_EV, SYMBOLS, formula
from zoo.reports import PARTS, replace_file, say, writing

Array = np.ndarray[Any, Any]
_COLOURS = {
    1: "#e8e8e8",
    6: "#505050",
    7: "#4060e0",
    8: "#e03030",
    9: "#60c060",
    16: "#e0c020",
    17: "#30c030",
}
_LENGTH = 1.6  # Angstrom of the longest arrow


@dataclass
class MoleculePredictions:
    """Predictions of B molecules with N atoms.

    They become ``predictions.csv``, a row for each molecule; ``predictions.xyz``, extended xyz with
    ``energy`` and ``forces`` in eV as ASE reads them, true ones as ``REF_energy`` and ``REF_forces``;
    ``parity.png``, and with forces ``forces.png``, arrows on a molecule.

    Attributes:
        index: rows of the data (B,).
        z: (N,).
        pos: Angstrom (N, 3).
        batch: (N,).
        found: (B,), in ``unit``.
        target: (B,), NaN where unknown.
        what: name of the target.
        unit: of it.
        names: of the molecules.
        forces: (N, 3), in ``unit`` / Angstrom, or None.
        true_forces: likewise.
        cell: (B, 3, 3), or None.
        tensor: dipoles (B, 3) or polarisabilities (B, 3, 3), or None.
    """

    index: Tensor
    z: Tensor
    pos: Tensor
    batch: Tensor
    found: Tensor
    target: Tensor
    what: str
    unit: str
    names: Sequence[str]
    forces: Tensor | None = None
    true_forces: Tensor | None = None
    cell: Tensor | None = None
    tensor: Tensor | None = None

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        arrays: dict[str, Any] = {
            k: getattr(self, k).numpy()
            for k in ("index", "z", "pos", "found", "target", "forces", "true_forces", "cell", "tensor")
            if getattr(self, k) is not None
        }
        sizes = torch.bincount(self.batch, minlength=len(self.index)).numpy()
        texts: dict[str, Any] = {
            "names": np.array(list(self.names), dtype=str),
            "what": self.what,
            "unit": self.unit,
        }
        with writing(part):
            np.savez(part, sizes=sizes, **texts, **arrays)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """Table, frames and pictures of all parts."""
        parts = []
        for path in sorted((folder / PARTS).glob("*.npz")):
            with np.load(path) as content:
                parts.append({k: content[k] for k in content.files})
        if not parts:
            return []
        molecules = sorted((m for part in parts for m in _molecules(part)), key=lambda m: int(m["index"]))
        what, unit = str(parts[0]["what"]), str(parts[0]["unit"])
        outputs = [folder / "predictions.csv", folder / "predictions.xyz"]
        _write_table(outputs[0], molecules, what, unit)
        replace_file(outputs[1], "".join(_frame(m, what, unit) for m in molecules))
        if unit in IN_EV:
            say(f"predictions.csv is in {unit}, predictions.xyz in eV and eV/Angstrom")
        if any(np.isfinite(m["target"]) for m in molecules):
            outputs.append(folder / "parity.png")
            _parity(outputs[-1], molecules, what, unit)
        shown = next((m for m in molecules if "forces" in m and len(m["z"]) > 1), None)
        if shown is not None:
            outputs.append(folder / "forces.png")
            draw_forces(outputs[-1], shown, unit)
        return outputs


def _molecules(part: dict[str, Any]) -> list[dict[str, Any]]:
    ends = np.cumsum(part["sizes"])
    found = []
    for i, end in enumerate(ends.tolist()):
        atoms = slice(end - int(part["sizes"][i]), end)
        molecule: dict[str, Any] = {
            k: part[k][atoms] for k in ("z", "pos", "forces", "true_forces") if k in part
        }
        molecule |= {
            k: part[k][i] for k in ("index", "found", "target", "names", "cell", "tensor") if k in part
        }
        found.append(molecule)
    return found


def _write_table(path: Path, molecules: Sequence[dict[str, Any]], what: str, unit: str) -> None:
    head = ["index", "name", "formula", "atoms", f"{what} ({unit})", "true", "error"]
    forces = "forces" in molecules[0] and "true_forces" in molecules[0]
    tensor = np.size(molecules[0].get("tensor", ()))
    parts = {3: ["x", "y", "z"], 9: [a + b for a in "xyz" for b in "xyz"]}.get(tensor, [])
    with writing(path), path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*head, *(f"{what}_{p}" for p in parts), *(["force_rmse"] if forces else [])])
        for m in molecules:
            known = np.isfinite(m["target"])
            truth = [f"{m['target']:.6f}", f"{m['found'] - m['target']:.6f}"] if known else ["", ""]
            cells = [f"{v:.6f}" for v in np.ravel(m.get("tensor", ()))]
            if forces:
                cells.append(f"{np.sqrt(np.square(m['forces'] - m['true_forces']).mean()):.6f}")
            start = [int(m["index"]), m["names"], formula(m["z"].tolist()), len(m["z"]), f"{m['found']:.6f}"]
            rows.writerow([*start, *truth, *cells])


def _frame(m: dict[str, Any], what: str, unit: str) -> str:
    """A frame of extended xyz."""
    energy, factor = unit in IN_EV, IN_EV.get(unit, 1.0)
    columns = ["species:S:1:pos:R:3"]
    values = [m["pos"]]
    for key, name in (("forces", "forces"), ("true_forces", "REF_forces")):
        if key in m:
            columns.append(f"{name}:R:3")
            values.append(m[key] * factor)
    said = [f"Properties={':'.join(columns)}"]
    name = "energy" if energy and what == "energy" else what
    said.append(f"{name}={m['found'] * factor:.8f}")
    if np.isfinite(m["target"]):
        said.append(f"REF_{name}={m['target'] * factor:.8f}")
    if "cell" in m and m["cell"].any():
        said += [f'Lattice="{" ".join(f"{x:.8f}" for x in m["cell"].ravel())}"', 'pbc="T T T"']
    else:
        said.append('pbc="F F F"')
    rows = np.concatenate(values, axis=1)
    lines = [
        f"{SYMBOLS[int(z)]:<2} " + " ".join(f"{x:14.8f}" for x in row)
        for z, row in zip(m["z"], rows, strict=True)
    ]
    return "\n".join([str(len(lines)), " ".join(said), *lines]) + "\n"


def _parity(path: Path, molecules: Sequence[dict[str, Any]], what: str, unit: str) -> None:
    """Predicted against true, and the histogram of errors; of the forces too where there are any."""
    pairs = [(what, unit, *_pair(molecules, "target", "found"))]
    if "forces" in molecules[0] and "true_forces" in molecules[0]:
        pairs.append(("force components", f"{unit}/Angstrom", *_pair(molecules, "true_forces", "forces")))
    with drawing(path, len(pairs), 2, dpi=110, figsize=(9, 3.6 * len(pairs)), squeeze=False) as (_, axes):
        for (left, right), (name, of, true, found) in zip(axes, pairs, strict=True):
            low, high = float(min(true.min(), found.min())), float(max(true.max(), found.max()))
            left.plot([low, high], [low, high], color="grey", lw=0.8)
            left.scatter(true, found, s=4 if len(true) > 200 else 12, alpha=0.4, linewidths=0)
            left.set(xlabel=f"true {name} ({of})", ylabel="predicted")
            left.locator_params(nbins=5)
            error = found - true
            right.hist(error, bins=50, range=span(float(error.min()), float(error.max())))
            right.axvline(0, color="grey", lw=0.8)
            mae, rmse = np.abs(error).mean(), np.sqrt(np.square(error).mean())
            right.set(xlabel=f"error ({of})", ylabel="number", title=f"MAE {mae:.4g}, RMSE {rmse:.4g} {of}")


def _pair(molecules: Sequence[dict[str, Any]], true: str, found: str) -> tuple[Array, Array]:
    a = np.concatenate([np.ravel(m[true]) for m in molecules])
    b = np.concatenate([np.ravel(m[found]) for m in molecules])
    known = np.isfinite(a)
    return a[known], b[known]


def draw_forces(path: Path, m: dict[str, Any], unit: str) -> None:
    """A molecule seen along its thinnest direction, with arrows of predicted and true forces."""
    z, pos = m["z"], m["pos"] - m["pos"].mean(axis=0)
    axes = np.linalg.svd(pos, full_matrices=True)[2]
    flat = pos @ axes[:2].T
    bonds = covalent_bonds(torch.from_numpy(z), torch.from_numpy(pos)).numpy()
    longest = max(np.linalg.norm(m[k], axis=1).max() for k in ("forces", "true_forces") if k in m)
    scale = _LENGTH / longest if longest > 0 else 1.0
    with drawing(path, dpi=120, figsize=(6, 5)) as (_, axis):
        for a, b in bonds.T:
            axis.plot(*flat[[a, b]].T, color="#909090", lw=3, zorder=1)
        for number in np.unique(z):
            own = flat[z == number]
            colour = _COLOURS.get(int(number), "#c080c0")
            axis.scatter(*own.T, s=60 if number == 1 else 180, color=colour, edgecolors="black", zorder=2,
                         label=SYMBOLS[int(number)])  # fmt: skip
        arrows = (
            ("true_forces", "black", 0.004, "true forces"),
            ("forces", "#e08000", 0.008, "predicted forces"),
        )
        for key, colour, width, words in sorted(arrows, key=lambda a: -a[2]):
            if key in m:
                u, v = (m[key] @ axes[:2].T * scale).T
                axis.quiver(*flat.T, u, v, angles="xy", scale_units="xy", scale=1, color=colour, width=width,
                            zorder=3, label=words)  # fmt: skip
        tips = [flat + m[k] @ axes[:2].T * scale for k in ("forces", "true_forces") if k in m]
        every = np.concatenate([flat, *tips])
        low, high = every.min(axis=0) - 0.4, every.max(axis=0) + 0.4
        limits = {"xlim": (low[0], high[0]), "ylim": (low[1], high[1])}
        axis.set(aspect="equal", xticks=[], yticks=[], **limits)
        axis.set_title(f"{m['names']}: longest force {longest:.3g} {unit}/Angstrom", fontsize=9)
        axis.legend(fontsize=7, loc="best", markerscale=0.5)
