"""Sound and frames out of media files: wav by the standard library, flac by soundfile, PyAV for the rest.

Seconds are those of a player: 0 is where the first stream of the file begins, and a stream that begins
later, or has a gap, keeps its place. A file is read with bounds on its rate, its seconds and its pixels;
whatever is wrong with it is a :class:`MediaError`.
"""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.loading.files import one_line
from datamodules.loading.limits import LIFT, limit
from datamodules.loading.pictures import check_size, read_rgb

Array = np.ndarray[Any, Any]
VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg")
SOUND = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac")
MAX_SECONDS = 1800
"""Of the piece that is read of one file; ``ZOO_LIMITS=off`` lifts it."""
MIN_RATE, MAX_RATE = 1000, 768_000
"""Hz of sound; beyond it a file is damaged, and resampling would make it a huge one."""
MAX_FRAME = 2**24
"""Pixels of a video, beyond 5K; ``ZOO_LIMITS=off`` lifts it. A decoder holds some twenty frames."""
MAX_AMPLITUDE = 100.0
"""Of float samples, where full scale is 1: integers that were stored as floats are refused."""

_SOUNDFILE = (".wav", ".flac", ".ogg")
_EXTRA = "install the extra: pip install 'lightning-zoo[media]'"
# Demuxers that open no other file, as playlists do, whatever a file is called.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,mp3,aac,flac,wav,w64,asf,flv"
_BLOCK = 1 << 18  # samples that are read at once
_JITTER = 0.05  # seconds: time stamps are rounded, and packets of sound lie one after another
_MOST_RATE = 96_000  # Hz, at which MAX_SECONDS are what is held in memory at most
_FINEST_RATIO = 100_000  # terms of a resampling: its filter has 20 times as many taps
_DECODING = (OSError, ValueError, MemoryError, OverflowError, EOFError)

# One piece of sound: seconds since the file begins (None: right after the one before), mono float32.
Blocks = Iterator[tuple[float | None, Array]]


class MediaError(ValueError):
    """A file that cannot be decoded, in one line."""


# --- sound ---------------------------------------------------------------------------------------------


def read_audio(path: Path, sample_rate: int, start: float = 0.0, stop: float | None = None) -> Tensor:
    """Mono float32 sound of [start, stop) seconds in ``sample_rate``: the mean of all channels.

    Where a file has no sound (before its sound begins, in a gap) there is silence.

    Raises:
        FileNotFoundError: no such file.
        MediaError: not decodable, no sound stream, no samples in the interval, or beyond the bounds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    rate, blocks = _blocks_of(path, start)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(f"{path} has {rate:,} samples a second; needed are {MIN_RATE:,} to {MAX_RATE:,}")
    samples = _assembled(path, rate, blocks, start, stop)
    if not len(samples):
        raise MediaError(
            f"{path} holds no sound between {start:g} s and {'its end' if stop is None else f'{stop:g} s'}"
        )
    return torch.from_numpy(np.ascontiguousarray(_resampled(samples, rate, sample_rate), dtype=np.float32))


def _blocks_of(path: Path, start: float) -> tuple[int, Blocks]:
    """Rate and blocks of a file, from about ``start`` seconds on."""
    suffix = path.suffix.lower()
    if suffix == ".wav":
        pcm = _wave_blocks(path, start)
        if pcm is not None:
            return pcm
    if suffix in _SOUNDFILE:
        try:
            import soundfile
        except ImportError:
            pass
        else:
            return _soundfile_blocks(soundfile, path, start)
    return _av_blocks(path, start)


def _assembled(path: Path, rate: int, blocks: Blocks, start: float, stop: float | None) -> Array:
    """Samples of [start, stop), each block at its time."""
    most = limit(MAX_SECONDS)
    first = round(start * rate)
    last = None if stop is None else round(stop * rate)
    longest = first + int(most * min(rate, _MOST_RATE))
    parts: list[Array] = []
    end = first  # of what is kept
    following = first  # where a block lies that comes right after the one before
    for time, block in blocks:
        begin = following if time is None else round(time * rate)
        if parts and abs(begin - following) <= _JITTER * rate:
            begin = following
        following = begin + len(block)
        if last is not None and begin >= last:
            break
        kept = block[max(0, end - begin) : None if last is None else max(0, last - begin)]
        if not len(kept):
            continue
        begin = max(begin, end)
        if begin + len(kept) > longest:
            raise MediaError(
                f"{path} has more than {most:,} s of sound from {start:g} s on; cut it into clips, or lift "
                f"the limit with {LIFT}=off in the environment"
            )
        if not np.isfinite(kept).all() or np.abs(kept).max() > MAX_AMPLITUDE:
            raise MediaError(
                f"{path} has samples that are NaN, infinite or above {MAX_AMPLITUDE:g} times full scale"
            )
        if begin > end:
            parts.append(np.zeros(begin - end, np.float32))
        parts.append(kept)
        end = begin + len(kept)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _resampled(samples: Array, rate: int, wanted: int) -> Array:
    """At another rate. Odd rates above 100 kHz are rounded, by less than 1e-5."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(wanted, rate)
    if max(ratio.numerator, ratio.denominator) > _FINEST_RATIO:
        ratio = ratio.limit_denominator(_FINEST_RATIO)
    found: Array = resample_poly(samples, ratio.numerator, ratio.denominator)
    return found


def _wave_blocks(path: Path, start: float) -> tuple[int, Blocks] | None:
    """PCM wav files; None for other encodings, which soundfile or PyAV read."""
    try:
        with wave.open(str(path)) as file:
            rate, width = file.getframerate(), file.getsampwidth()
    except wave.Error as error:
        if "unknown format" in str(error):
            return None
        raise MediaError(f"{path} is no readable wav file ({error})") from None
    except (EOFError, RuntimeError, OSError):
        raise MediaError(f"{path} is no readable wav file (it ends early)") from None
    if width not in (1, 2, 3, 4):
        raise MediaError(f"{path} has {8 * width} bits a sample; needed are 8, 16, 24 or 32")

    def blocks() -> Blocks:
        try:
            with wave.open(str(path)) as file:
                channels, first = file.getnchannels(), min(round(start * rate), file.getnframes())
                file.setpos(first)
                yield first / max(rate, 1), np.zeros(0, np.float32)
                step = max(1, _BLOCK // channels)
                while raw := file.readframes(step):
                    whole = raw[: len(raw) // (width * channels) * width * channels]
                    yield None, _pcm(whole, width).reshape(-1, channels).mean(axis=1)
        except (wave.Error, EOFError, RuntimeError, OSError):
            raise MediaError(f"{path} is no readable wav file (it ends early)") from None

    return rate, blocks()


def _pcm(raw: bytes, width: int) -> Array:
    """Little-endian integers of ``width`` bytes, float32 in [-1, 1); bytes are unsigned."""
    if width == 1:
        return np.frombuffer(raw, np.uint8).astype(np.float32) / 128 - 1
    if width == 3:
        bytes3 = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        return ((bytes3[:, 0] << 8 | bytes3[:, 1] << 16 | bytes3[:, 2] << 24) / 2**31).astype(np.float32)
    return np.frombuffer(raw, {2: "<i2", 4: "<i4"}[width]).astype(np.float32) / 2 ** (8 * width - 1)


def _soundfile_blocks(soundfile: Any, path: Path, start: float) -> tuple[int, Blocks]:
    def failed(error: Exception) -> MediaError:
        return MediaError(f"{path} is no readable sound file ({_short(error)})")

    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
    except (RuntimeError, *_DECODING) as error:
        raise failed(error) from None

    def blocks() -> Blocks:
        try:
            with soundfile.SoundFile(path) as file:
                first = min(round(start * rate), file.frames)
                file.seek(first)
                yield first / max(rate, 1), np.zeros(0, np.float32)
                step = max(1, _BLOCK // file.channels)  # never what the header claims
                while len(block := file.read(step, dtype="float32", always_2d=True)):
                    yield None, block.mean(axis=1)
        except (RuntimeError, *_DECODING) as error:
            raise failed(error) from None

    return rate, blocks()


def _av_blocks(path: Path, start: float) -> tuple[int, Blocks]:
    opened = _open(path, "audio")
    rate = int(opened.stream.codec_context.sample_rate or 0)

    def blocks() -> Blocks:
        # planes of floats at the file's own rate and channels: the mean is ours, as for other files
        to_float = opened.av.AudioResampler(format="fltp")
        try:
            opened.seek(start)
            for frame in opened.frames():
                time = opened.time_of(frame)
                for converted in to_float.resample(frame):
                    yield time, converted.to_ndarray().mean(axis=0)
                    time = None
        except (opened.av.FFmpegError, *_DECODING) as error:
            raise MediaError(f"the sound of {path} cannot be decoded ({_short(error)})") from None
        finally:
            opened.close()

    return rate, blocks()


# --- containers ----------------------------------------------------------------------------------------


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MediaError(f"decoding video needs PyAV; {_EXTRA}") from None
    return av


@dataclass
class _Opened:
    """An open container and one of its streams, which must not be touched when it is closed: PyAV would read
    memory that is freed. What is known of it is kept here.

    Attributes:
        kind: ``audio`` or ``video``.
        origin: seconds of the container's clock at which its first stream begins.
        time_base: seconds of a tick of the stream's clock.
        pixel_aspect: width of a pixel by its height.
    """

    av: Any
    path: Path
    container: Any
    stream: Any
    kind: str
    origin: float
    time_base: Fraction
    pixel_aspect: float = 1.0
    bad_packets: int = 0

    def close(self) -> None:
        self.stream = None
        self.container.close()
        if self.bad_packets:
            rank_zero_warn(
                f"{self.path}: {self.bad_packets:,} packets of {self.kind} cannot be decoded and are skipped"
            )
            self.bad_packets = 0

    def seek(self, start: float) -> None:
        """To a second before ``start``, where that is not the beginning."""
        if start > 1:
            self.container.seek(int((start - 1 + self.origin) / self.time_base), stream=self.stream)

    def time_of(self, frame: Any) -> float | None:
        return None if frame.time is None else float(frame.time) - self.origin

    def frames(self) -> Iterator[Any]:
        """Decoded frames. A damaged packet is passed over, as players do; the first error is raised if no
        packet can be decoded."""
        decoded, first_error = 0, None
        for packet in self.container.demux(self.stream):
            try:
                found = packet.decode()
            except self.av.error.InvalidDataError as error:
                first_error, self.bad_packets = first_error or error, self.bad_packets + 1
                continue
            decoded += len(found)
            yield from found
        if not decoded and first_error is not None:
            self.bad_packets = 0  # said by the error
            raise first_error


def _container(path: Path) -> tuple[Any, Any]:
    av = _av()
    try:
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
        return av, av.open(str(path), options=options, metadata_errors="replace")
    except (av.FFmpegError, *_DECODING) as error:
        raise MediaError(f"{path} cannot be decoded ({_short(error)})") from None


def _streams(av: Any, container: Any, kind: str) -> list[Any]:
    """Streams of a kind; a cover is no video."""
    cover = av.stream.Disposition.attached_pic
    return [s for s in getattr(container.streams, kind) if not s.disposition & cover]


def _open(path: Path, kind: str) -> _Opened:
    av, container = _container(path)
    streams = _streams(av, container, kind)
    if not streams:
        container.close()
        raise MediaError(f"{path} has no {kind} stream")
    stream = streams[0]
    if stream.codec_context is None or not stream.time_base:
        del streams, stream
        container.close()
        raise MediaError(f"the {kind} of {path} is of an unknown codec")
    origin = 0.0 if container.start_time is None else container.start_time / 1e6
    return _Opened(av, path, container, stream, kind, origin, stream.time_base)


def has_stream(path: Path, kind: str) -> bool:
    """Whether a media file has an ``audio`` or ``video`` stream."""
    if path.suffix.lower() in _SOUNDFILE:
        return kind == "audio"
    av, container = _container(path)
    with container:
        return bool(_streams(av, container, kind))


# --- video ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """Frames of [start, stop) seconds of a file, at start, start + 1 / fps, ..., as a player shows them.

    At each time that is the latest frame that has begun, before the first one the first. It is turned as the
    file says, its pixels are made square, and its shorter side is resized. Nothing is held between calls.

    Args:
        path: of the file.
        fps: frames a second.
        shorter: side.
        start: seconds.
        stop: seconds, None is the end.
    """

    path: Path
    fps: float
    shorter: int
    start: float = 0.0
    stop: float | None = None

    def count(self) -> int:
        """Number of frames by the time stamps; nothing is decoded.

        Raises:
            FileNotFoundError, MediaError: as :meth:`frames`.
        """
        opened = self._opened()
        last, packets, step = None, 0, self._frame_seconds(opened)
        try:
            for packet in opened.container.demux(opened.stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                packets += packet.size > 0
                if stamp is not None and packet.size:
                    last = stamp if last is None else max(last, stamp)
        except (opened.av.FFmpegError, *_DECODING) as error:
            raise MediaError(f"the video of {self.path} cannot be decoded ({_short(error)})") from None
        finally:
            opened.close()
        end = packets * step if last is None else float(last * opened.time_base) - opened.origin + step
        return self._until(end)

    def frames(self) -> Iterator[Array]:
        """All frames in order, uint8 (h, w, 3).

        Raises:
            FileNotFoundError: no such file.
            MediaError: not decodable, no video stream, no frames in the interval, or beyond the bounds.
        """
        pixels = None
        for _, convert in self._shown():
            pixels = convert() if convert is not None else pixels
            assert pixels is not None
            yield pixels

    def pixels(self, numbers: Collection[int]) -> dict[int, Array]:
        """Frames of these numbers; in the place of those that a damaged file lacks, the last one.

        Raises:
            FileNotFoundError, MediaError: as :meth:`frames`.
        """
        found: dict[int, Array] = {}
        latest: Callable[[], Array] | None = None
        pixels: Array | None = None
        shown, most = self._shown(), max(numbers)
        for number, convert in shown:
            if convert is not None:
                latest, pixels = convert, None
            if number in numbers and latest is not None:
                pixels = latest() if pixels is None else pixels
                found[number] = pixels
            if number >= most:
                break
        shown.close()
        if latest is not None and len(found) < len(numbers):
            pixels = latest() if pixels is None else pixels
        return {n: found.get(n, pixels) for n in numbers}  # type: ignore[misc]

    def _opened(self) -> _Opened:
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")
        opened = _open(self.path, "video")
        try:
            self._check_size(opened.stream.codec_context.width, opened.stream.codec_context.height)
        except MediaError:
            opened.close()
            raise
        opened.stream.codec_context.options = {"max_pixels": str(min(limit(MAX_FRAME), 2**31 - 1))}
        aspect = opened.stream.sample_aspect_ratio
        if aspect and Fraction(1, 4) <= aspect <= 4:  # others are mistakes
            opened.pixel_aspect = float(aspect)
        opened.stream.thread_type = "AUTO"
        opened.stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
        if opened.stream.start_time is not None:
            # a start less than a frame later is how a container rounds, and would shift all frames by one
            begin = float(opened.stream.start_time * opened.time_base)
            if 0 <= begin - opened.origin < self._frame_seconds(opened):
                opened.origin = begin
        return opened

    def _check_size(self, width: int, height: int) -> None:
        try:
            check_size(width, height, MAX_FRAME)
        except ValueError as error:
            raise MediaError(f"the video of {self.path} cannot be decoded ({error})") from None

    def _frame_seconds(self, opened: _Opened) -> float:
        return 1 / float(opened.stream.average_rate or self.fps)

    def _until(self, end: float) -> int:
        """Number of frames that begin before ``end`` and before ``stop``."""
        until = end if self.stop is None else min(end, self.stop)
        seconds, most = until - self.start, limit(MAX_SECONDS)
        if seconds > most:
            raise MediaError(
                f"{self.path} has more than {most:,} s of video from {self.start:g} s on; cut it into clips, "
                f"or lift the limit with {LIFT}=off in the environment"
            )
        return max(0, int(np.ceil((seconds - 1e-4) * self.fps)))

    def _shown(self) -> Generator[tuple[int, Callable[[], Array] | None], None, None]:
        """(number, how to get its pixels) of each frame; None for the one before once more."""
        opened = self._opened()
        given, latest, time, fresh = 0, None, 0.0, True
        step, aspect = self._frame_seconds(opened), opened.pixel_aspect
        try:
            opened.seek(self.start)
            for frame in opened.frames():
                stamp = opened.time_of(frame)
                latest, before = latest or frame, latest
                time = time + step * (before is not None) if stamp is None else stamp
                for number in range(given, self._until(time)):
                    yield number, self._converter(latest, aspect) if fresh else None
                    given, fresh = number + 1, False
                latest, fresh = frame, True
                if self.stop is not None and self.start + given / self.fps >= self.stop - 1e-4:
                    break
            for number in range(given, self._until(time + step) if latest is not None else 0):
                yield number, self._converter(latest, aspect) if fresh else None
                given, fresh = number + 1, False
        except MediaError:
            raise
        except (opened.av.FFmpegError, *_DECODING) as error:
            raise MediaError(f"the video of {self.path} cannot be decoded ({_short(error)})") from None
        finally:
            opened.close()
        if not given:
            raise MediaError(f"{self.path} holds no frames from {self.start:g} s on")

    def _converter(self, frame: Any, pixel_aspect: float) -> Callable[[], Array]:
        return lambda: self._pixels(frame, pixel_aspect)

    def _pixels(self, frame: Any, pixel_aspect: float) -> Array:
        self._check_size(frame.width, frame.height)
        width, height = frame.width * pixel_aspect, frame.height
        scale = self.shorter / min(width, height)
        width, height = (max(self.shorter, round(x * scale)) for x in (width, height))
        self._check_size(width, height)
        pixels: Array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def read_video(
    path: Path, fps: float, shorter: int, start: float = 0.0, stop: float | None = None
) -> Iterator[Array]:
    """All frames of a :class:`Video`, in order."""
    return Video(path, fps, shorter, start, stop).frames()


# --- pictures ------------------------------------------------------------------------------------------


def to_jpeg(pixels: Array, quality: int = 92) -> bytes:
    """A frame as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def from_picture(source: bytes | Path) -> Array:
    """uint8 (h, w, 3) of a JPEG in memory or a picture file.

    Raises:
        FileNotFoundError: no such file.
        MediaError: no readable picture.
    """
    try:
        return np.asarray(read_rgb(source))
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise MediaError(str(error)) from None


def _short(error: object) -> str:
    return one_line(error, 80)
