"""Pictures, masks, sound, video, and what lists and keeps them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from fakes.clips import frame, write_mp4, write_wav
from fuzz.forked import Reader
from PIL import Image

from datamodules.audio_visual.clips import ClipStore
from datamodules.audio_visual.layouts import Clip, read_layout
from datamodules.audio_visual.log_mel import LogMel
from datamodules.audio_visual.media import Video, read_audio
from datamodules.images.masks import read_mask
from datamodules.loading.pictures import read_rgb

RATE = 16000


def picture(name: str) -> Any:
    def write(folder: Path) -> Path:
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, **({} if name.endswith("ppm") else {"exif": exif}))
        return folder / name

    return write


def mask(folder: Path) -> Path:
    """Classes 0, 1 and 2 in a palette."""
    image = Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24) % 3)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(folder / "a.png")
    return folder / "a.png"


def soft_mask(folder: Path) -> Path:
    Image.fromarray(np.linspace(0, 255, 16 * 24).reshape(16, 24).astype(np.uint8)).save(folder / "b.png")
    return folder / "b.png"


def sound(name: str, **options: str) -> Any:
    def write(folder: Path) -> Path:
        import soundfile

        tone = (0.3 * np.sin(np.arange(2000) / 10)).astype(np.float32)
        soundfile.write(folder / name, np.stack([tone, tone]).T, RATE, **options)
        return folder / name

    return write


def video(suffix: str) -> Any:
    return lambda folder: write_mp4(folder / f"a{suffix}", 0.2)


def read_media(path: Path) -> dict[str, Any]:
    """Sound, then frames, as a clip's are."""
    found = Video(path, 25, 16)
    count = found.count()
    wanted = {0, count // 2, count - 1} if count else {0}
    return {"sound": read_audio(path, RATE), "frames": list(found.pixels(wanted).values())}


def list_of_clips(folder: Path) -> Path:
    write_wav(folder / "a.wav", 0.02)
    rows = ["video,audio,label,split", *(f",a.wav,{name},train" for name in ("cat", "dog", "cat"))]
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


def read_list(path: Path) -> list[Any]:
    found = read_layout("csv", path, "train")
    return [(c.name, c.label, c.start, c.stop) for c in found.clips]


STORE = (LogMel(), 25.0, 16)


def cached(folder: Path) -> Path:
    """A cache file of three frames and a tenth of a second."""
    from datamodules.audio_visual.cache import write_cache

    path = folder / "a.npz"
    write_cache(
        path, STORE[0](read_audio(write_wav(folder / "a.wav", 0.1), RATE)), [frame(i, 3) for i in range(3)]
    )
    return path


def read_cached(path: Path) -> dict[str, Any]:
    store = ClipStore(*STORE, path.parent, True, True)
    store.path = lambda clip: path  # type: ignore[method-assign]
    found = store.load(Clip("a", (0,), None, None))
    return {"log_mel": found.log_mel, "frames": found.frames.pixels(range(len(found.frames)))}


def pixels(path: Path) -> Any:
    return np.asarray(read_rgb(path))


READERS = [
    *(
        Reader(f"{name[2:]} picture", picture(name), pixels)
        for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.ppm")
    ),
    Reader("png mask with a palette", mask, lambda path: np.asarray(read_mask(path))),
    Reader("png mask in grey", soft_mask, lambda path: np.asarray(read_mask(path))),
    Reader("wav of integers", lambda f: write_wav(f / "a.wav", 0.1), lambda path: read_audio(path, RATE)),
    Reader("csv of clips", list_of_clips, read_list),
    Reader("cache of clips", cached, read_cached),
]
if importlib.util.find_spec("soundfile"):
    READERS += [
        Reader("wav of floats", sound("a.wav", subtype="FLOAT"), lambda path: read_audio(path, RATE)),
        Reader("flac", sound("a.flac"), lambda path: read_audio(path, RATE)),
    ]
if importlib.util.find_spec("av"):
    READERS += [Reader(f"{s[1:]} through PyAV", video(s), read_media) for s in (".mp4", ".mkv", ".avi")]
