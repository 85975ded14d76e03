"""What an evaluation leaves: adversarial images as npz and as a sheet, RobustBench's JSON, a curve."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.drawing import drawing
from zoo.reports import PARTS, replace_file

_SHOWN = 8
_ARRAYS = ("image", "adversarial", "label", "predicted", "adversarial_predicted", "linf", "l2", "index")


@dataclass
class AdversarialImages:
    """Clean images and what the attack made of them.

    They become ``adversarial.npz`` and ``adversarial.png``, a sheet of those that were fooled first: clean,
    perturbation, adversarial, with the predicted classes.

    Attributes:
        image: clean (B, C, H, W) in [0, 1].
        adversarial: likewise.
        label: (B,).
        predicted: class of the clean image (B,).
        adversarial_predicted: of the adversarial one (B,).
        linf: largest change of a pixel (B,).
        l2: length of the change (B,).
        index: (B,) position of each in the whole set.
        class_names: of the classes.
        policy: the attack, as JSON.
        goal: class that each was to be taken for (B,); None: any but its own.
    """

    image: Tensor
    adversarial: Tensor
    label: Tensor
    predicted: Tensor
    adversarial_predicted: Tensor
    linf: Tensor
    l2: Tensor
    index: Tensor
    class_names: list[str]
    policy: str
    goal: Tensor | None = None

    def write(self, folder: Path) -> list[Path]:
        """A part of what :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        arrays = {name: getattr(self, name).numpy() for name in _ARRAYS}
        if self.goal is not None:
            arrays["goal"] = self.goal.numpy()
        np.savez(part, class_names=np.array(self.class_names), policy=np.array(self.policy), **arrays)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``adversarial.npz``, ``adversarial.png`` and ``policy.json``."""
        parts = []
        for path in sorted((folder / PARTS).glob("*.npz")):
            with np.load(path) as data:
                parts.append({name: data[name] for name in data.files})
        if not parts:
            return []
        arrays = [name for name in (*_ARRAYS, "goal") if name in parts[0]]
        merged = {name: np.concatenate([p[name] for p in parts]) for name in arrays}
        order = merged["index"].argsort()
        merged = {name: values[order] for name, values in merged.items()}
        names = [str(n) for n in parts[0]["class_names"]]
        made = merged["adversarial_predicted"]
        merged["success"] = made != merged["label"]
        if "goal" in merged:
            merged["success"] &= made == merged["goal"]
        paths = [folder / name for name in ("adversarial.npz", "adversarial.png", "policy.json")]
        np.savez_compressed(paths[0], **merged)
        draw_sheet(paths[1], merged, names)
        replace_file(paths[2], str(parts[0]["policy"]))
        return paths


def draw_sheet(path: Path, found: Mapping[str, Any], names: Sequence[str]) -> None:
    """The first images that were right before and wrong after; others where there are none such."""
    fooled = (found["predicted"] == found["label"]) & found["success"]
    chosen = np.concatenate([fooled.nonzero()[0], (~fooled).nonzero()[0]])[:_SHOWN]
    with drawing(path, len(chosen), 3, dpi=80, figsize=(5.4, 1.8 * len(chosen)), squeeze=False) as (_, axes):
        for row, i in zip(axes, chosen, strict=True):
            change = found["adversarial"][i] - found["image"][i]
            most = max(abs(change).max(), 1e-12)
            panels = (found["image"][i], change / most / 2 + 0.5, found["adversarial"][i])
            titles = (
                f"{names[found['predicted'][i]]} (is {names[found['label'][i]]})",
                f"x {0.5 / most:.2g}, linf {found['linf'][i]:.3f}, l2 {found['l2'][i]:.2f}",
                names[found["adversarial_predicted"][i]],
            )
            for axis, panel, title in zip(row, panels, titles, strict=True):
                picture = np.moveaxis(panel, 0, -1)
                picture = picture[..., 0] if picture.shape[-1] not in (3, 4) else picture
                axis.imshow(picture, vmin=0, vmax=1, cmap="gray")
                axis.set_title(title, fontsize=8)
                axis.axis("off")


def robustbench(
    clean: float,
    robust: float,
    eps: float,
    threat: str,
    settings: Mapping[str, Any],
    found: Mapping[str, Any],
) -> str:
    """RobustBench's model info as JSON; accuracies in percent, as there.

    Args:
        clean: accuracy in [0, 1].
        robust: likewise.
        eps: radius.
        threat: ``linf``, ``l2``, ``unrestricted``.
        settings: ``name``, ``dataset``, ``additional_data``, ``number_forward_passes``, ``reported``.
        found: what this evaluation adds: ``warnings``, ``policy``, costs.
    """
    info = {
        "name": settings["name"],
        "dataset": settings["dataset"],
        "threat": {"linf": "Linf", "l2": "L2"}.get(threat, threat),
        "eps": None if threat == "unrestricted" else f"{eps:g}",
        "additional_data": settings["additional_data"],
        "number_forward_passes": settings["number_forward_passes"],
        "clean_acc": f"{100 * clean:.2f}",
        "reported": None if settings["reported"] is None else f"{settings['reported']:.2f}",
        "robust_acc": f"{100 * robust:.2f}",
        "unreliable": bool(found["warnings"]),
        **found,
    }
    return json.dumps(info, indent=2) + "\n"


def draw_curve(path: Path, points: Mapping[float, float], eps: float, robust: float, threat: str) -> None:
    """Robust accuracy over eps; the evaluated eps is marked."""
    radii = sorted(points)
    with drawing(path, 1, 1, dpi=110, figsize=(5, 3.4)) as (_, axis):
        axis.plot(radii, [points[r] for r in radii], marker="o", markersize=3)
        axis.plot([eps], [robust], marker="x", color="black")
        axis.annotate(f"{robust:.3f}", (eps, robust), textcoords="offset points", xytext=(6, 6), fontsize=8)
        axis.set(xlabel=f"eps ({threat})", ylabel="robust accuracy", ylim=(0, 1))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
