"""What predict leaves of pictures and texts: who finds whom, the five best pictures, a similarity matrix."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.reports import PARTS, writing
from zoo.vision.retrieval import Gallery, ranks, retrieval

_THUMBNAIL = 64
_BEST, _QUERIES, _MATRIX = 5, 10, 24
_BLOCK = 512
Pictures = np.ndarray[Any, Any]


def thumbnails(image: Tensor, most: int = _THUMBNAIL) -> Pictures:
    """uint8 (B, H, W, C), at most so many pixels wide, of pictures (B, C, S, S) in [0, 1]."""
    if image.shape[-1] > most:
        image = torch.nn.functional.interpolate(image.float(), (most, most), mode="area")
    if image.shape[1] not in (1, 3):
        image = image[:, :1]
    return (255 * image.float().clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@dataclass
class PairFeatures:
    """Features of pairs.

    They become ``retrieval.csv``, ``top5.png`` and ``similarity.png``.

    Attributes:
        image: unit features (B, D) of the pictures.
        text: likewise of the captions.
        pictures: small ones, uint8 (B, H, W, C).
        captions: as the network reads them.
        image_id: number of each picture, (B,).
        caption_id: of each caption.
        index: place in the set.
    """

    image: Tensor
    text: Tensor
    pictures: Pictures
    captions: Sequence[str]
    image_id: Tensor
    caption_id: Tensor
    index: Tensor

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        names = ("image", "text", "image_id", "caption_id", "index")
        tensors = {name: getattr(self, name).numpy() for name in names}
        texts = np.frombuffer(json.dumps(list(self.captions)).encode(), dtype=np.uint8)
        with writing(part):
            np.savez(part, pictures=self.pictures, captions=texts, **tensors)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``retrieval.csv`` with a row of each text, ``top5.png``, ``similarity.png``."""
        parts = [np.load(p) for p in sorted((folder / PARTS).glob("*.npz"))]
        names = ("image", "text", "image_id", "caption_id", "index")
        columns = [torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in names]
        order = columns[-1].argsort()
        image, text, image_id, caption_id, index = (column[order] for column in columns)
        captions = [c for p in parts for c in json.loads(p["captions"].tobytes())]
        captions = [captions[i] for i in order.tolist()]
        place = [(n, i) for n, p in enumerate(parts) for i in range(len(p["index"]))]
        place = [place[i] for i in order.tolist()]

        def picture(row: int) -> Pictures:
            part, i = place[row]
            found: Pictures = parts[part]["pictures"][i]
            return found

        gallery = Gallery.of(image, text, image_id, caption_id)
        best, rank, similar = _best(gallery)
        outputs = [folder / "retrieval.csv", folder / "top5.png", folder / "similarity.png"]
        _write(outputs[0], gallery, best, rank, similar, captions, index.tolist())
        shown = retrieval(gallery)
        _draw_best(outputs[1], gallery, best, rank, captions, picture, shown)
        _draw_matrix(outputs[2], gallery, captions, picture)
        return outputs


def _best(gallery: Gallery) -> tuple[Tensor, Tensor, Tensor]:
    """The five best pictures of each text, the rank of its own, and how alike the five are."""
    count = min(_BEST, len(gallery.image))
    best, rank, similar = [], [], []
    for rows in torch.arange(len(gallery.text)).split(_BLOCK):
        similarity, right = gallery.similarity(rows, texts=False), gallery.right(rows, texts=False)
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, :count]
        best.append(order)
        rank.append(ranks(similarity, right))
        similar.append(similarity.gather(1, order))
    return torch.cat(best), torch.cat(rank), torch.cat(similar)


def _write(
    path: Path,
    gallery: Gallery,
    best: Tensor,
    rank: Tensor,
    similar: Tensor,
    captions: Sequence[str],
    index: Sequence[int],
) -> None:
    """A row of each text: the rank of its picture, then the best pictures by one of their captions."""
    columns = [
        f"{name}{i + 1}" for i in range(best.shape[1]) for name in ("picture", "caption", "similarity")
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "caption", "rank", *columns])
        for i, row in enumerate(gallery.first_text.tolist()):
            cells: list[Any] = []
            for place, value in zip(best[i].tolist(), similar[i].tolist(), strict=True):
                first = int(gallery.first_image[place])
                cells += [index[first], captions[first], f"{value:.6f}"]
            writer.writerow([index[row], captions[row], f"{float(rank[i]):g}", *cells])


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` places evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def _draw_best(
    path: Path,
    gallery: Gallery,
    best: Tensor,
    rank: Tensor,
    captions: Sequence[str],
    picture: Any,
    shown: dict[str, float],
) -> None:
    """Texts evenly over the set, each with its own picture and the five best."""
    queries = _spread(len(gallery.text), _QUERIES)
    columns = best.shape[1] + 1
    with drawing(
        path, len(queries), columns, figsize=(1.15 * columns + 3.4, 1.12 * len(queries) + 0.8), dpi=90,
        squeeze=False,
    ) as (figure, axes):  # fmt: skip
        figure.suptitle(
            f"{len(gallery.text):,} texts among {len(gallery.image):,} pictures: recall at 1 / 5 / 10 "
            + " / ".join(f"{shown[f'text_to_image_r{k}']:.3f}" for k in (1, 5, 10)),
            fontsize=10,
        )
        for line, query in zip(axes, queries, strict=True):
            own = gallery.right(torch.tensor([query]), texts=False)[0]
            first = int(own.nonzero()[0, 0])
            for axis, place in zip(line, [first, *best[query].tolist()], strict=True):
                pixels = picture(int(gallery.first_image[place]))
                axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    right = bool(own[place])
                    side.set(color="tab:green" if right else "lightgray", linewidth=3 if right else 1)
            caption = _wrapped(captions[int(gallery.first_text[query])])
            line[0].set_ylabel(
                f"{caption}\nrank {float(rank[query]):g}", rotation=0, ha="right", va="center", fontsize=8
            )
        for axis, title in zip(axes[0], ["its own", *(str(i + 1) for i in range(columns - 1))], strict=True):
            axis.set_title(title, fontsize=8)


def _draw_matrix(path: Path, gallery: Gallery, captions: Sequence[str], picture: Any) -> None:
    """Cosines of pairs evenly over the set, pictures across, texts down; the diagonal belongs together."""
    chosen = _spread(len(gallery.pairs), _MATRIX)
    images, texts = gallery.pairs[chosen].T
    values = (gallery.text[texts] @ gallery.image[images].T).numpy()
    with drawing(path, 1, 1, figsize=(0.4 * len(chosen) + 5, 0.36 * len(chosen) + 2), dpi=90) as (
        figure,
        axis,
    ):
        shown = axis.imshow(values, cmap="viridis", aspect="equal")
        names = [plain(captions[int(gallery.first_text[t])], 44) for t in texts]
        axis.set_yticks(range(len(chosen)), names, fontsize=7)
        axis.set_xticks([])
        for i, place in enumerate(images):
            inset = axis.inset_axes((i - 0.45, -1.7, 0.9, 0.9), transform=axis.transData)
            pixels = picture(int(gallery.first_image[place])).squeeze()
            inset.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            inset.axis("off")
        figure.colorbar(shown, ax=axis, shrink=0.7, label="cosine of picture and text")
        axis.set_title(f"{len(chosen)} of {len(gallery.pairs):,} pairs", pad=34, fontsize=10)


def _wrapped(text: str, width: int = 30, lines: int = 3) -> str:
    import textwrap

    found = textwrap.wrap(plain(text, 120), width)
    return "\n".join(found[:lines]) + (" ..." if len(found) > lines else "")
