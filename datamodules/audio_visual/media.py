"""Sound and frames out of media files: wav by the standard library, flac by soundfile, PyAV for the rest."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg")
SOUND = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac")
_SOUNDFILE = (".wav", ".flac", ".ogg")
_EXTRA = "install the extra: pip install 'lightning-zoo[media]'"


class MediaError(ValueError):
    """A file that cannot be decoded, in one line."""


def read_audio(path: Path, sample_rate: int, start: float = 0.0, stop: float | None = None) -> Tensor:
    """Mono float32 sound of [start, stop) seconds in ``sample_rate``.

    Raises:
        FileNotFoundError: no such file.
        MediaError: not decodable, no sound stream, or no samples in the interval.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    samples, rate = _decoded(path, sample_rate, start, stop)
    if rate != sample_rate:
        from scipy.signal import resample_poly

        common = int(np.gcd(rate, sample_rate))
        samples = resample_poly(samples, sample_rate // common, rate // common)
    if not len(samples):
        raise MediaError(
            f"{path} holds no sound between {start:g} s and {'its end' if stop is None else f'{stop:g} s'}"
        )
    return torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))


def _decoded(path: Path, sample_rate: int, start: float, stop: float | None) -> tuple[Array, int]:
    if path.suffix.lower() == ".wav":
        pcm = _read_wave(path, start, stop)
        if pcm is not None:
            return pcm
    if path.suffix.lower() in _SOUNDFILE:
        try:
            import soundfile
        except ImportError:
            pass
        else:
            return _read_soundfile(soundfile, path, start, stop)
    return _read_av_sound(path, sample_rate, start, stop), sample_rate


def _read_wave(path: Path, start: float, stop: float | None) -> tuple[Array, int] | None:
    """PCM wav files; None for other encodings, which soundfile or PyAV read."""
    try:
        with wave.open(str(path)) as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            first = min(int(start * rate), file.getnframes())
            last = file.getnframes() if stop is None else min(int(stop * rate), file.getnframes())
            file.setpos(first)
            raw = file.readframes(max(0, last - first))
    except wave.Error as error:
        if "unknown format" in str(error):
            return None
        raise MediaError(f"{path} is no readable wav file ({error})") from None
    except EOFError:
        raise MediaError(f"{path} is no readable wav file (it ends early)") from None
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        samples = np.frombuffer(raw, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        bytes3 = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        samples = ((bytes3[:, 0] << 8 | bytes3[:, 1] << 16 | bytes3[:, 2] << 24) / 2**31).astype(np.float32)
    else:
        kind = {2: "<i2", 4: "<i4"}[width]
        samples = np.frombuffer(raw, kind).astype(np.float32) / 2 ** (8 * width - 1)
    return samples.reshape(-1, channels).mean(axis=1), rate


def _read_soundfile(soundfile: Any, path: Path, start: float, stop: float | None) -> tuple[Array, int]:
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            first = min(int(start * rate), file.frames)
            last = file.frames if stop is None else min(int(stop * rate), file.frames)
            file.seek(first)
            return file.read(max(0, last - first), dtype="float32", always_2d=True).mean(axis=1), rate
    except (RuntimeError, OSError) as error:
        raise MediaError(f"{path} is no readable sound file ({_short(error)})") from None


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MediaError(f"decoding video needs PyAV; {_EXTRA}") from None
    return av


def _open(path: Path, kind: str) -> tuple[Any, Any, Any]:
    av = _av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be decoded ({_short(error)})") from None
    streams = getattr(container.streams, kind)
    if not streams:
        container.close()
        raise MediaError(f"{path} has no {kind} stream")
    return av, container, streams[0]


def has_stream(path: Path, kind: str) -> bool:
    """Whether a media file has an ``audio`` or ``video`` stream."""
    if path.suffix.lower() in (".wav", ".flac", ".ogg"):
        return kind == "audio"
    av = _av()
    try:
        with av.open(str(path)) as container:
            return bool(getattr(container.streams, kind))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be decoded ({_short(error)})") from None


def _read_av_sound(path: Path, sample_rate: int, start: float, stop: float | None) -> Array:
    av, container, stream = _open(path, "audio")
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    parts: list[Array] = []
    offset: float | None = None
    try:
        if start > 1:
            container.seek(int((start - 1) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if offset is None:
                offset = float(frame.time or 0.0)
            if stop is not None and frame.time is not None and frame.time >= stop:
                break
            parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
        parts += [f.to_ndarray()[0] for f in resampler.resample(None)]
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"the sound of {path} cannot be decoded ({_short(error)})") from None
    finally:
        container.close()
    whole = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    first = max(0, round((start - (offset or 0.0)) * sample_rate))
    last = None if stop is None else max(0, round((stop - (offset or 0.0)) * sample_rate))
    return whole[first:last]


def read_video(
    path: Path, fps: float, shorter: int, start: float = 0.0, stop: float | None = None
) -> Iterator[Array]:
    """Frames uint8 (h, w, 3) at start, start + 1 / fps, ... up to ``stop``, the shorter side resized.

    At each time the latest frame that has begun is shown, as a player does.

    Raises:
        FileNotFoundError: no such file.
        MediaError: not decodable, no video stream, or no frames in the interval.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    av, container, stream = _open(path, "video")
    stream.thread_type = "AUTO"
    given, latest, began = 0, None, None
    try:
        if start > 1:
            container.seek(int((start - 1) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if began is None:
                began = 0.0 if start > 1 or frame.time is None else float(frame.time)
            time = float(frame.time or 0.0) - began
            while (
                latest is not None and start + given / fps < time - 1e-4 and _inside(start, given, fps, stop)
            ):
                yield _pixels(latest, shorter)
                given += 1
            latest = frame
            if not _inside(start, given, fps, stop):
                break
        rate = float(stream.average_rate or fps)
        end = None if latest is None else float(latest.time or 0.0) - (began or 0.0) + 1 / rate
        while (
            latest is not None
            and end is not None
            and start + given / fps < end - 1e-4
            and _inside(start, given, fps, stop)
        ):
            yield _pixels(latest, shorter)
            given += 1
    except (av.FFmpegError, OSError) as error:
        if not given:
            raise MediaError(f"the video of {path} cannot be decoded ({_short(error)})") from None
    finally:
        container.close()
    if not given:
        raise MediaError(f"{path} holds no frames from {start:g} s on")


def _inside(start: float, given: int, fps: float, stop: float | None) -> bool:
    return stop is None or start + given / fps < stop - 1e-4


def _pixels(frame: Any, shorter: int) -> Array:
    scale = shorter / min(frame.width, frame.height)
    width, height = max(shorter, round(frame.width * scale)), max(shorter, round(frame.height * scale))
    pixels: Array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
    return pixels


def to_jpeg(pixels: Array, quality: int = 92) -> bytes:
    """A frame as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def from_picture(source: bytes | Path) -> Array:
    """uint8 (h, w, 3) of a JPEG in memory or a picture file.

    Raises:
        MediaError: no readable picture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        name = "a cached frame" if isinstance(source, bytes) else source
        raise MediaError(f"{name} is no readable picture ({_short(error)})") from None


def _short(error: object) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
