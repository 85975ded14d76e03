"""Where an extraction keeps what is done, so that it can be killed at any moment and lose one shard.

A shard holds consecutive pictures and appears whole, by renaming. When all are there they become the packed
layout, whose ``meta.json`` comes last; the shards go after it:

    extraction.json            what is encoded by what; another extraction may not go on here
    shards/00000.safetensors   latents float16 (n, V, C or 2 C, S, S), labels int64 (n,)
    latents.npy, labels.npy, meta.json

``datamodules.PackedLatents`` reads the result. The two share the files and no code, since the zoo knows no
data modules; a test holds them together.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo.hub.foreign import read_json

Array = np.ndarray[Any, Any]


class ShardStore:
    """The folder of an extraction.

    Args:
        folder: where the packed layout will be.
        facts: what the latents depend on: pictures, VAE, sizes, seed. JSON values.
        count: number of pictures.
        shard_size: pictures per shard; the last one may have fewer.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], count: int, shard_size: int) -> None:
        self.folder, self.facts, self.count, self.shard_size = folder, facts, count, shard_size
        self.shards = -(-count // shard_size)
        self._parts = folder / "shards"

    @property
    def complete(self) -> bool:
        """Whether the packed layout is there."""
        return (self.folder / "meta.json").is_file()

    def check(self) -> None:
        """Refuse a folder that holds anything but this extraction.

        Raises:
            ValueError: naming what differs.
        """
        for name in ("meta.json", "extraction.json"):
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                found = read_json(path)
            except ValueError:
                found = {}
            found = found if isinstance(found, dict) else {}
            different = [k for k, v in self.facts.items() if found.get(k) != v]
            if different:
                key = different[0]
                raise ValueError(
                    f"{self.folder} holds latents of other settings: {key} was {found.get(key)!r}, now "
                    f"{self.facts[key]!r}; choose another model.init_args.out, or take the folder away"
                )
            return
        if (self.folder / "latents.npy").exists():
            raise ValueError(f"{self.folder} holds latents.npy of unknown origin; choose another out")
        if self._parts.exists():  # it goes when the extraction is complete
            raise ValueError(f"{self._parts} is of unknown origin; choose another model.init_args.out")

    def begin(self) -> None:
        """Make the folder and say in it what is extracted."""
        self._parts.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "extraction.json").is_file():
            _write_whole(self.folder / "extraction.json", _json_bytes(self.facts))

    def size(self, number: int) -> int:
        """Pictures in a shard."""
        return min(self.shard_size, self.count - number * self.shard_size)

    def finished(self) -> list[int]:
        """Numbers of the shards that need no more work."""
        if self.complete:
            return list(range(self.shards))
        return [n for n in range(self.shards) if self._path(n).is_file()]

    def write(self, number: int, latents: Array, labels: Array) -> None:
        """Add a shard: float16 (n, V, C, S, S), int64 (n,).

        Raises:
            ValueError: for values that float16 cannot hold.
        """
        from safetensors.numpy import save

        bad = ~np.isfinite(latents).reshape(len(latents), -1).all(axis=1)
        if bad.any():
            first = number * self.shard_size + int(bad.argmax())
            raise ValueError(
                f"{int(bad.sum())} pictures, the first of them number {first}, have moments that float16 "
                "cannot hold"
            )
        # safetensors writes the memory as it lies: what is not in C order would come back permuted
        tensors = {"latents": latents, "labels": labels.astype(np.int64)}
        content = save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
        _write_whole(self._path(number), content)

    def merge(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """All shards -> latents.npy, labels.npy, meta.json; then the shards are deleted."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        temporary = self.folder / ".latents.npy.tmp"
        stored: np.memmap[Any, Any] | None = None
        labels = np.empty(self.count, dtype=np.int64)
        for number in range(self.shards):
            path = self._path(number)
            try:
                part = load(path.read_bytes())
                latents, part_labels = part["latents"], part["labels"]
            except (SafetensorError, KeyError, OSError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); delete it and run the command again"
                ) from None
            if len(latents) != self.size(number) or len(part_labels) != len(latents):
                raise ValueError(
                    f"{path} holds {len(latents)} pictures, expected {self.size(number)}; delete it and run "
                    "the command again"
                )
            if stored is None:
                shape = (self.count, *latents.shape[1:])
                stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            start = number * self.shard_size
            stored[start : start + len(latents)] = latents
            labels[start : start + len(latents)] = part_labels
            progress(number + 1)
        assert stored is not None
        stored.flush()
        del stored
        _sync(temporary)
        os.replace(temporary, self.folder / "latents.npy")
        with (self.folder / ".labels.npy.tmp").open("wb") as file:
            np.save(file, labels)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.folder / ".labels.npy.tmp", self.folder / "labels.npy")
        _write_whole(self.folder / "meta.json", _json_bytes(self.facts))

    def clean(self) -> None:
        """Take away what a complete extraction does not need."""
        shutil.rmtree(self._parts, ignore_errors=True)
        for name in ("extraction.json", ".latents.npy.tmp", ".labels.npy.tmp"):
            (self.folder / name).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._parts / f"{number:05d}.safetensors"


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_whole(path: Path, content: bytes) -> None:
    """The file is there as a whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
