"""``zoo convert FOLDER --method latents --to LAYOUT --out FOLDER``: latents from one layout into another."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.latents.layouts import LAYOUTS, SCALE, Array, LatentItems, detect_layout, normal_noise
from datamodules.latents.lightningdit import write_shards
from datamodules.latents.module import open_latents
from datamodules.latents.packed import PackedLatents, write_packed
from datamodules.loading.sampling import global_seed, item_seeds

_CHUNK = 250  # items at a time: 16 MB of float32 moments of two views
_SECONDS_BETWEEN_LINES = 20.0

Say = Callable[[str], None]


def convert_latents(
    source: Path, out: Path, to: str, given: Sequence[str] = (), force: bool = False, say: Say = print
) -> None:
    """Write the latents of ``source`` to ``out`` in another layout.

    What a layout cannot hold is said: ``fast-dit`` and ``lightningdit`` hold one posterior draw per image
    (that of epoch 0 and ``PL_GLOBAL_SEED``), ``fast-dit`` and ``repa`` no mirror image. The folder appears
    when it is complete.

    Args:
        source: folder of any layout, told by the names in it.
        out: folder to write.
        to: layout; ``zoo`` is ``packed``.
        given: ``KEY=VALUE`` settings: ``layout`` of the source, ``dtype`` (float16 or float32) of packed
            latents, ``num_classes``, ``latent_norm`` and ``latent_multiplier`` of the source.
        force: replace ``out``.
        say: takes the lines for the user.

    Raises:
        FileNotFoundError, ValueError: one line on what does not work.
    """
    to = "packed" if to == "zoo" else to
    if to not in LAYOUTS:
        raise ValueError(f"--to {to}: latents can be written as {', '.join(LAYOUTS)}")
    settings = _settings(given)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder of latents")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; choose another --out or add --force")
    if source.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"--out {out} is the source, or holds it")
    if out.exists():
        _check_replaceable(out)
    dtype = settings.pop("dtype", "float16")
    layout = settings.pop("layout", None) or detect_layout(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = open_latents(source, layout, **settings)
    for warning in caught:
        say(f"warning: {warning.message}")
    kind = "moments" if data.moments else "draws"
    say(f"{source}: layout {layout}, {len(data):,} items, {data.views} x {kind} {data.shape}")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(data, partial, to, layout, dtype, say)
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"wrote {out}; use it as --data.init_args.root {out} --data.init_args.layout {to}")


def _check_replaceable(out: Path) -> None:
    """``--force`` replaces latents and nothing else."""
    try:
        empty = out.is_dir() and not any(out.iterdir())
        if not empty:
            detect_layout(out)
    except FileNotFoundError:
        raise ValueError(f"{out} holds no latents and is not replaced; choose another --out") from None


def _write(data: LatentItems, out: Path, to: str, layout: str, dtype: str, say: Say) -> None:
    chunks = _progress(len(data), say)
    if to == "packed":
        meta = {**_meta(data), "converted_from": layout}
        batches = (data.stored(index) for index in chunks)
        options: dict[str, Any] = {"moments": data.moments, "scale": data.scale, "dtype": np.dtype(dtype)}
        write_packed(out, batches, len(data), **options, **meta)
    elif data.statistics is not None and to in ("fast-dit", "repa"):
        raise ValueError(
            f"layout {to!r} cannot hold the statistics that the source is normalised with, so samples could "
            "not be decoded; convert to packed"
        )
    elif to == "fast-dit":
        say("fast-dit holds one draw of one view per image: those of epoch 0")
        _write_fast_dit(data, out, chunks)
    elif to == "repa":
        _write_repa(data, out, chunks, say)
    else:
        if data.views != 2:
            raise ValueError(
                "layout 'lightningdit' needs the mirror images' latents, which the source does not hold; "
                "extract with both flips: zoo predict --config latents_imagenet256"
            )
        say("lightningdit is trained in its own scale: its channel statistics replace the factor 0.18215")

        def read(index: Array) -> tuple[Array, Array, Array]:
            next(chunks, None)  # says how far it is
            return _draws(data, index)

        write_shards(out, len(data), read, chunk=_CHUNK)


def _write_fast_dit(data: LatentItems, out: Path, chunks: Iterator[Array]) -> None:
    folders = [out / "imagenet256_features", out / "imagenet256_labels"]
    for folder in folders:
        folder.mkdir()
    for index in chunks:
        batch = data.__getitems__(index.tolist())
        for i, latent, label in zip(index, batch["latent"].numpy(), batch["label"].numpy(), strict=True):
            np.save(folders[0] / f"{i}.npy", latent[None])
            np.save(folders[1] / f"{i}.npy", label[None])


def _write_repa(data: LatentItems, out: Path, chunks: Iterator[Array], say: Say) -> None:
    if data.views == 2:
        say("repa holds the plain view alone")
    if not data.moments:
        say("the source holds draws, so the standard deviations are 0")
    root = out / "vae-sd"
    labels: list[list[Any]] = []
    for index in chunks:
        values, batch_labels = data.stored(index)
        plain = values[:, 0].astype(np.float32)
        if data.scale != SCALE:  # repa has no scale of its own
            plain = plain * np.float32(data.scale / SCALE)
        if not data.moments:
            plain = np.concatenate([plain, np.zeros_like(plain)], axis=1)
        for i, moments, label in zip(index, plain, batch_labels, strict=True):
            name = f"{i:08d}"[:5] + f"/img-mean-std-{i:08d}.npy"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(root / name, moments)
            labels.append([name, int(label)])
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def _draws(data: LatentItems, index: Array) -> tuple[Array, Array, Array]:
    """One posterior draw of both views in the VAE's own scale, and the labels."""
    values, labels = data.stored(index)
    values = values.astype(np.float32)
    if data.statistics is not None:  # undone: the target has statistics of its own
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in data.statistics)
        values = values * std + mean
    if not data.moments:
        return values[:, 0], values[:, 1], labels
    channels = data.shape[0]
    # Epochs 0 and 1 only tell the noise of the two views apart.
    noise = [
        normal_noise(item_seeds(global_seed(), np.full_like(index, view), index), data.shape).numpy()
        for view in (0, 1)
    ]
    plain, flipped = (values[:, v, :channels] + values[:, v, channels:] * noise[v] for v in (0, 1))
    return plain, flipped, labels


def _meta(data: LatentItems) -> dict[str, Any]:
    """What a packed source says of itself, beside what is written anew; of others, statistics."""
    if data.statistics is not None and not isinstance(data, PackedLatents):
        return dict(zip(("latent_mean", "latent_std"), data.statistics, strict=True))
    if not isinstance(data, PackedLatents):
        return {}
    return {k: v for k, v in data.meta.items() if k not in ("scale", "moments", "converted_from", "dtype")}


def _progress(count: int, say: Say) -> Iterator[Array]:
    """Indices in chunks; says every now and then how far they are and how long the rest will take."""
    started = said = time.monotonic()
    for start in range(0, count, _CHUNK):
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES:
            said, left = now, (now - started) / start * (count - start)
            say(f"{start:,} of {count:,} ({100 * start // count} %), {left / 60:.0f} min left")
        yield np.arange(start, min(start + _CHUNK, count))


_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "layout": (f"one of {', '.join(LAYOUTS)}", lambda t: {k: k for k in LAYOUTS}[t]),
    "dtype": ("float16 or float32", lambda t: {"float16": "float16", "float32": "float32"}[t]),
    "num_classes": ("a whole number", int),
    "latent_norm": ("true or false", lambda t: {"true": True, "false": False}[t.lower()]),
    "latent_multiplier": ("a number", float),
}


def _settings(given: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for item in given:
        key, _, text = item.partition("=")
        if key not in _SETTINGS:
            near = difflib.get_close_matches(key, _SETTINGS, n=2, cutoff=0.5) or list(_SETTINGS)
            raise ValueError(
                f"--set {item}: latents have no setting {key!r}; did you mean {' or '.join(near)}?"
            )
        takes, read = _SETTINGS[key]
        try:
            settings[key] = read(text)
        except (KeyError, ValueError):
            raise ValueError(f"--set {item}: {key} takes {takes}, got {text!r}") from None
    return settings
