"""Files of a round: pictures, latents, and the rows that say what they are; a kill loses none."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.actgen import manifest
from zoo.actgen.manifest import Row
from zoo.actgen.mining import Planned
from zoo.actgen.report import to_pixels
from zoo.hub.foreign import safetensors_in, written_whole
from zoo.reports import writing

GENERATED = "generated"


def round_key(network: nn.Module, words: Sequence[object], memory: int) -> str:
    """What decides the images of a round besides its plan: weights, settings, latents so far."""
    digest = hashlib.sha256(repr([*map(str, words), memory]).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class RoundFiles:
    """Files of one round in the folder of the run.

    Args:
        folder: ``generated`` of the run.
        epoch: after which the round is.
        key: of :func:`round_key`.
        rank: of this process, which has a table of its own until the round is over.
        size: side that pictures are kept at.
        earlier: rows of this round that a killed run has left in the table of all.
    """

    def __init__(
        self, folder: Path, epoch: int, key: str, rank: int, size: int, earlier: Sequence[Row] = ()
    ) -> None:
        self.folder, self.epoch, self.key, self.size = folder, epoch, key, size
        self.home = folder / f"epoch_{epoch:04d}"
        self.part = self.home / f".part_{rank}.csv"
        with writing(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
        self._known = {row.position: row for row in [*earlier, *self._parts()]}

    def _parts(self) -> list[Row]:
        """Rows of a killed round, of all processes."""
        found: list[Row] = []
        for path in sorted(self.home.glob(".part_*.csv")):
            try:
                found += manifest.read(path, torn=True)
            except ValueError:  # a kill in the first line
                continue
        return found

    def again(self, items: Sequence[Planned]) -> list[Row] | None:
        """The rows of images that were made together, if a killed run has made all of them."""
        rows = [self._known.get(item.position) for item in items]
        found = [r for r, i in zip(rows, items, strict=True) if r is not None and self._fits(r, i)]
        return found if len(found) == len(items) else None

    def _fits(self, row: Row, item: Planned) -> bool:
        same = (row.round_key, row.epoch, row.guide, row.label, row.kind, row.adversarial, row.seed) == (
            self.key,
            self.epoch,
            item.guide,
            item.label,
            item.kind,
            int(item.adversarial),
            item.seed,
        )
        return same and self._whole(row)

    def _whole(self, row: Row) -> bool:
        path, latent = self.folder / row.path, row.stored()
        if row.status == "nan":
            return True
        if latent is not None and row.used and not (self.folder / latent).is_file():
            return False
        return path.is_file() and manifest.sha256_of(path) == row.sha256

    def name(self, item: Planned) -> str:
        """Of a picture, relative to the folder."""
        return f"{self.home.name}/{item.position:05d}_{item.label}.png"

    def write(self, item: Planned, image: Tensor, guide: Tensor, latent: Tensor | None) -> str:
        """Picture, its guide, and the latent of a guided one; returns the picture's SHA-256.

        Args:
            item: of the plan.
            image: (C, S, S) in [0, 1].
            guide: likewise.
            latent: (C, h, h).
        """
        path = self.folder / self.name(item)
        save_picture(path, image, self.size)
        if item.kind != "random":
            save_picture(path.with_name(f"{path.stem}_ori.png"), guide, guide.shape[-1])
        if latent is not None:
            from safetensors.torch import save_file

            with written_whole(path.with_suffix(".safetensors")) as temporary:
                save_file({"latent": latent.contiguous()}, str(temporary))
        return manifest.sha256_of(path)

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of images that were made together, on the disk before the next are begun."""
        fresh = not self.part.is_file()
        with writing(self.part), self.part.open("a") as file:
            file.write(manifest.text_of(rows, head=fresh))
            file.flush()
            os.fsync(file.fileno())

    def start(self) -> None:
        """Begin a table of this process's own: what a killed run left is in memory."""
        self.part.unlink(missing_ok=True)

    def finish(self) -> None:
        """The rows are in the table of all."""
        for path in self.home.glob(".part_*.csv"):
            path.unlink(missing_ok=True)


def save_picture(path: Path, image: Tensor, size: int) -> None:
    """(C, S, S) in [0, 1] as PNG of ``size`` pixels, by Pillow's bicubic where it is another."""
    from PIL import Image

    pixels = to_pixels(image[None])[0]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    with written_whole(path) as temporary:
        picture.save(temporary, format="PNG")


def read_latent(path: Path) -> Tensor:
    """A stored latent (C, h, h), float32.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, or holds no latent.
    """
    found = safetensors_in(path)[1].get("latent")
    if found is None or found.ndim != 3 or not found.is_floating_point():
        raise ValueError(f"{path} is no latent: it was not written by this run")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{path} holds NaN or infinity")
    return found.float()


def restored(folder: Path, rows: Sequence[Row]) -> None:
    """See that the pictures of a resumed run are there as they were written.

    Raises:
        FileNotFoundError, ValueError: for the first that is not.
    """
    for row in rows:
        if row.used:
            path = folder / row.path
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing, which the run has trained on: put it back")
            if manifest.sha256_of(path) != row.sha256:
                raise ValueError(f"{path} is not the picture that the run has trained on: put it back")


def copied(source: Path, target: Path, rows: Sequence[Row]) -> None:
    """Take the files of rows along to the folder of another run."""
    for row in rows:
        for name in (row.path, f"{row.path.removesuffix('.png')}_ori.png", row.stored()):
            if name is not None and (source / name).is_file():
                with writing(target / name):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source / name, target / name)
    manifest.write(target / manifest.NAME, rows)
