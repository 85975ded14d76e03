"""What ``zoo predict`` leaves of audio-visual clips: scores as CSV and attention over frame and sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.reports import write_scores

DRAWN = 6  # clips in a picture
PICTURES = 4  # batches with a picture


@dataclass
class ClipScores:
    """Classified clips.

    Attributes:
        scores: probabilities (B, C) of all clips.
        names: of the clips.
        truth: names of the labels, empty where unknown.
        class_names: C names.
        rgb: (b, 3, H, W) middle frames in [-1, 1] of the first clips, or None.
        spectrogram: (b, T_a, mel) of the first clips, or None.
        rgb_map: (b, h, w) attention over the frame.
        spectrogram_map: (b, t, f) attention over the spectrogram.
        number: of the batch on this process.
        rank: of the process.
        labels: of the clips as in the batch, or None.
        several: whether a clip may have several labels.
        groups: sizes of groups of classes, of ``verb_noun``.
        extra: further columns of the CSV.
    """

    scores: Tensor
    names: list[str]
    truth: list[str]
    class_names: list[str]
    rgb: Tensor | None = None
    spectrogram: Tensor | None = None
    rgb_map: Tensor | None = None
    spectrogram_map: Tensor | None = None
    number: int = 0
    rank: int = 0
    labels: Tensor | None = None
    several: bool = False
    groups: list[int] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """``scores.csv`` and, of the first batches, ``attention.png`` in ``folder``."""
        end = f"_rank{self.rank}" if self.rank else ""
        paths = [folder / f"scores{end}.csv"]
        write_scores(
            paths[0],
            self.scores,
            self.class_names,
            self.names,
            self.labels,
            several=self.several,
            groups=self.groups,
            extra=self.extra,
            append=self.number > 0,
        )
        if self.number < PICTURES and (self.rgb is not None or self.spectrogram is not None):
            paths.append(folder / f"attention{end}{f'_{self.number}' if self.number else ''}.png")
            self.draw(paths[1])
        return paths if self.number == 0 else paths[1:]

    def draw(self, path: Path) -> None:
        """A row per clip: the frame, attention over it, the spectrogram, attention over it, the scores."""
        kinds = [k for k in ("rgb", "spectrogram") if getattr(self, k) is not None]
        rows = min(DRAWN, len(self.names))
        columns = 2 * len(kinds) + 1
        with drawing(path, rows, columns, figsize=(2.6 * columns, 2.3 * rows), squeeze=False, dpi=80) as (
            _,
            axes,
        ):
            for i in range(rows):
                place = iter(axes[i])
                if self.rgb is not None:
                    self._draw_frame(next(place), next(place), i)
                if self.spectrogram is not None:
                    self._draw_sound(next(place), next(place), i)
                self._draw_scores(next(place), i)
            words = {"rgb": "middle frame", "spectrogram": "log-mel (time, band)"}
            titles = [title for k in kinds for title in (words[k], "attention")]
            for axis, title in zip(axes[0], titles, strict=False):
                axis.set_title(title, fontsize=9)

    def _draw_frame(self, plain: Any, overlaid: Any, i: int) -> None:
        assert self.rgb is not None
        pixels = ((self.rgb[i].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy()
        for axis in (plain, overlaid):
            axis.imshow(pixels)
            axis.axis("off")
        if self.rgb_map is not None:
            _overlay(overlaid, self.rgb_map[i], pixels.shape[:2], "upper")

    def _draw_sound(self, plain: Any, overlaid: Any, i: int) -> None:
        assert self.spectrogram is not None
        sound = self.spectrogram[i].T.numpy()  # bands upwards, time to the right
        for axis in (plain, overlaid):
            axis.imshow(sound, origin="lower", aspect="auto", cmap="gray")
            axis.set_xticks([])
            axis.set_yticks([])
        if self.spectrogram_map is not None:
            _overlay(overlaid, self.spectrogram_map[i].T, sound.shape, "lower")

    def _draw_scores(self, axis: Any, i: int) -> None:
        count = min(5, self.scores.shape[1])
        best = self.scores[i].topk(count)
        names = [plain(self.class_names[c], 24) for c in best.indices.tolist()]
        right = [self.class_names[c] in self.truth[i].split(";") for c in best.indices.tolist()]
        known = bool(self.truth[i])
        colours = ["tab:gray" if not known else "tab:green" if r else "tab:red" for r in right]
        axis.barh(range(count)[::-1], best.values.numpy(), color=colours)
        axis.set_yticks(range(count)[::-1], names, fontsize=8)
        axis.set_xlim(0, 1)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(
            plain(self.names[i][-24:]) + (f": {plain(self.truth[i], 24)}" if known else ""), fontsize=8
        )


def _overlay(axis: Any, values: Tensor, size: tuple[int, ...], origin: str) -> None:
    smooth = F.interpolate(values[None, None].float(), size=size[:2], mode="bilinear", align_corners=False)
    heat = smooth[0, 0].numpy()
    span = float(np.ptp(heat)) or 1.0
    axis.imshow(
        (heat - heat.min()) / span, cmap="inferno", alpha=0.55, origin=origin, aspect=axis.get_aspect()
    )


def label_names(label: Tensor, task: str, class_names: list[str], groups: list[int]) -> list[str]:
    """Names of each clip's labels, joined by ';'."""
    if task == "multi_label":
        return [";".join(class_names[c] for c in torch.nonzero(row)[:, 0].tolist()) for row in label]
    if task == "verb_noun":
        offsets = [sum(groups[:i]) for i in range(len(groups))]
        return [
            ";".join(class_names[o + c] for o, c in zip(offsets, row.tolist(), strict=True)) for row in label
        ]
    return [class_names[c] for c in label.tolist()]
