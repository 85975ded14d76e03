"""Clips of media files as items: decoded once into a cache, then windows, crops and augmentation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.audio_visual import cache
from datamodules.audio_visual.augment import augment_frames, centre_frames, spec_augment
from datamodules.audio_visual.layouts import Clip
from datamodules.audio_visual.log_mel import LogMel
from datamodules.audio_visual.media import MediaError, Video, from_picture, has_stream, read_audio
from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import global_seed, item_generator

Array = np.ndarray[Any, Any]
_READING = 2  # of the way in which media are read: caches of another one are made anew
_AUGMENTATION = 7  # word of the keys of augmentation


@dataclass
class Windows:
    """What is taken of a clip.

    Args:
        seconds: t of sound.
        frames: number of frames.
        stride: frames from one to the next at ``fps``; 0 is fps t / frames, spread over the t seconds.
        fps: of the frames.
        async_sampling: training windows of sound and frames start apart.
    """

    seconds: float = 8.0
    frames: int = 8
    stride: int = 0
    fps: float = 25.0
    async_sampling: bool = False

    @property
    def step(self) -> float:
        return self.stride or self.fps * self.seconds / self.frames

    def frame_numbers(self, place: float, available: int) -> list[int]:
        """Numbers of the frames of a window at ``place`` (0 first, 1 last) of a clip; the last repeats."""
        span = self.step * self.frames
        first = place * max(0.0, available - span)
        return [min(int(first + k * self.step), available - 1) for k in range(self.frames)]

    def sound_start(self, place: float, available: int, wanted: int) -> int:
        """First spectrogram frame of the window at ``place``."""
        return int(place * max(0, available - wanted) + 0.5)


@dataclass
class Augmentation:
    """Training augmentation; see :mod:`datamodules.audio_visual.augment`."""

    flip: bool = True
    colour: bool = True
    time_masks: int = 1
    time_width: int = 192
    frequency_masks: int = 1
    frequency_width: int = 48


class Frames(Protocol):
    """Frames of a clip that are read when they are asked for: a window of a long clip is all that is held."""

    def __len__(self) -> int: ...

    def pixels(self, numbers: Collection[int]) -> dict[int, Array]:
        """uint8 (h, w, 3) of the frames of these numbers."""
        ...


class PictureFiles(list[Path]):
    """Frames in picture files."""

    def pixels(self, numbers: Collection[int]) -> dict[int, Array]:
        return {n: from_picture(self[n]) for n in numbers}


class VideoFrames:
    """Frames of a video, decoded anew each time, in one pass and no further than needed."""

    def __init__(self, video: Video) -> None:
        self.video, self.available = video, video.count()
        if not self.available:
            raise MediaError(f"{video.path} holds no frames from {video.start:g} s on")

    def __len__(self) -> int:
        return self.available

    def pixels(self, numbers: Collection[int]) -> dict[int, Array]:
        return self.video.pixels(numbers)


@dataclass
class Decoded:
    """A clip: features (T, M) of all of it or None, and its frames, which may be none."""

    log_mel: Tensor | None
    frames: Frames = field(default_factory=PictureFiles)


class ClipStore:
    """Decodes clips, through a cache where there is one.

    A cache file holds the whole clip's log-mel features and its frames at ``fps`` as JPEGs of shorter side
    ``side``. Its name depends on the clip and on all settings.

    Args:
        log_mel: front end.
        fps: of the frames.
        side: the shorter one of the frames.
        cache: folder, or None to decode each time.
        sound: is wanted.
        pictures: are wanted.
    """

    def __init__(
        self, log_mel: LogMel, fps: float, side: int, cache: Path | None, sound: bool, pictures: bool
    ) -> None:
        self.log_mel, self.fps, self.side, self.cache = log_mel, fps, side, cache
        self.sound, self.pictures = sound, pictures
        self.settings = json.dumps([asdict(log_mel), fps, side, sound, pictures, _READING])

    def path(self, clip: Clip) -> Path:
        """Where the cache has the clip."""
        assert self.cache is not None
        files = [str(p) for p in (clip.video, clip.audio)]
        sizes = [p.stat().st_size if p and p.is_file() else 0 for p in (clip.video, clip.audio)]
        key = json.dumps([self.settings, clip.name, *files, *sizes, clip.start, clip.stop])
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        return self.cache / digest[:2] / f"{digest}.npz"

    def load(self, clip: Clip) -> Decoded:
        """The clip, from the cache if it is there."""
        if self.cache is None:
            return self.decode(clip)
        try:
            log_mel, frames = cache.read_cache(self.path(clip))
        except FileNotFoundError:
            return self.decode(clip)
        return Decoded(log_mel, frames if len(frames) else self._pictures_of(clip))

    def decode(self, clip: Clip) -> Decoded:
        """The clip from its files. Frames of a video are decoded when they are asked for.

        Raises:
            MediaError: if a wanted modality that the clip lists cannot be decoded, or it has none at all.
        """
        log_mel, video, frames = self._sound_of(clip), self._video_of(clip), self._pictures_of(clip)
        if log_mel is None and video is None and not frames:
            raise self._nothing_in(clip)
        return Decoded(log_mel, frames if video is None else VideoFrames(video))

    def check(self, clip: Clip) -> None:
        """Open a clip's files without decoding them.

        Raises:
            MediaError: for those that cannot be opened, or without a wanted stream.
        """
        sound = self.sound and clip.audio is not None and has_stream(clip.audio, "audio")
        if not sound and self._video_of(clip) is None and not self._pictures_of(clip):
            raise self._nothing_in(clip)

    def _nothing_in(self, clip: Clip) -> MediaError:
        return MediaError(f"{clip.video or clip.audio} has neither frames nor sound of clip {clip.name}")

    def _sound_of(self, clip: Clip) -> Tensor | None:
        if not self.sound or clip.audio is None or not has_stream(clip.audio, "audio"):
            return None
        wave = read_audio(clip.audio, self.log_mel.sample_rate, clip.start, clip.stop)
        least = self.log_mel.n_fft  # centred framing reflects half a window at both ends
        return self.log_mel(torch.nn.functional.pad(wave, (0, max(0, least - len(wave)))))

    def _video_of(self, clip: Clip) -> Video | None:
        if not self.pictures or clip.video is None or clip.frames is not None:
            return None
        if not has_stream(clip.video, "video"):
            return None
        return Video(clip.video, self.fps, self.side, clip.start, clip.stop)

    def _pictures_of(self, clip: Clip) -> PictureFiles:
        """The numbered JPEGs of a clip whose video is a folder of them, at ``fps``: the list's numbers and
        seconds tell the rate of the extraction."""
        if clip.frames is None or clip.video is None or not self.pictures:
            return PictureFiles()
        first, last = clip.frames
        numbers: Sequence[int] = range(first, last + 1)
        if clip.stop is not None and clip.stop > clip.start and last > first:
            step = (last - first) / (clip.stop - clip.start) / self.fps
            # a shade more, for 5 steps of 2.4 are 12
            numbers = [first + int(k * step + 1e-6) for k in range(int((last - first) / step + 1e-6) + 1)]
        paths = [clip.video / f"frame_{n:010d}.jpg" for n in numbers]
        there = PictureFiles(p for p in paths if p.is_file())
        if not there:
            raise MediaError(f"no frames {paths[0]} .. {paths[-1].name}")
        return there

    def store(self, clip: Clip) -> str | None:
        """Put a clip into the cache; the reason if it cannot be decoded."""
        path = self.path(clip)
        if path.is_file():
            return None
        try:
            log_mel, video = self._sound_of(clip), self._video_of(clip)
            if log_mel is None and video is None and not self._pictures_of(clip):
                raise self._nothing_in(clip)
            frames: Iterable[Array] = () if video is None else video.frames()
            cache.write_cache(path, log_mel, frames)
        except (MediaError, FileNotFoundError) as error:
            return str(error)
        return None

    def build(self, clips: Sequence[Clip], threads: int, what: str) -> dict[str, str]:
        """Cache all clips with a progress bar; the reasons of those that cannot be decoded, by name."""
        from tqdm import tqdm

        left = [c for c in clips if not self.path(c).is_file()]
        reasons: dict[str, str] = {}
        if not left:
            return reasons
        with ThreadPoolExecutor(max(1, threads)) as pool:
            results = pool.map(self.store, left)
            bar = tqdm(zip(left, results, strict=True), total=len(left), desc=f"decoding {what}", leave=False)
            for clip, reason in bar:
                if reason is not None:
                    reasons[clip.name] = reason
        return reasons

    def statistics(self, clips: Sequence[Clip]) -> tuple[float, float]:
        """Mean and standard deviation of the cached log-mel features of ``clips``."""
        count, total, squares = 0, 0.0, 0.0
        for clip in clips:
            features = self.load(clip).log_mel
            if features is not None:
                x = features.double()
                count, total = count + x.numel(), total + float(x.sum())
                squares += float(x.square().sum())
        if not count:
            return 0.0, 1.0
        mean = total / count
        return mean, max(squares / count - mean**2, 1e-12) ** 0.5


def skip_bad(clips: list[Clip], reasons: dict[str, str], split: str) -> list[Clip]:
    """The clips that can be decoded, with one counted warning on the others.

    Raises:
        ValueError: if none is left.
    """
    bad = [c.name for c in clips if c.name in reasons]
    if not bad:
        return clips
    if len(bad) == len(clips):
        raise MediaError(f"none of the {len(bad):,} {split} clips can be decoded: {reasons[bad[0]]}")
    rank_zero_warn(
        f"{len(bad):,} of {len(clips):,} {split} clips cannot be decoded and are skipped: {reasons[bad[0]]}"
    )
    return [c for c in clips if c.name not in reasons]


class ClipItems(BatchItems):
    """Windows of clips, a batch at a time. Training items are asked for as (epoch, index) and augmented.

    Args:
        clips: of the split.
        store: decodes them.
        windows: what is taken.
        size: side of the frames.
        spectrogram_frames: T_a.
        normalisation: mean and deviation of log-mel features.
        task: of the labels, with ``num_classes``; ``none`` leaves labels out.
        crops: windows of an evaluation item, spread linearly; 1 is the centre without a dimension of crops.
        augmentation: of training items, or None.
        skip: leave out clips that cannot be decoded, with the reasons in ``skipped`` of the batch.
    """

    def __init__(
        self,
        clips: list[Clip],
        store: ClipStore,
        windows: Windows,
        size: int,
        spectrogram_frames: int,
        normalisation: tuple[float, float],
        task: str,
        num_classes: int,
        crops: int = 1,
        augmentation: Augmentation | None = None,
        skip: bool = False,
    ) -> None:
        self.skip = skip
        self.clips, self.store, self.windows, self.size = clips, store, windows, size
        self.spectrogram_frames, self.normalisation = spectrogram_frames, normalisation
        self.task, self.num_classes, self.crops, self.augmentation = task, num_classes, crops, augmentation

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Any]:
        items: list[dict[str, Tensor]] = []
        skipped: list[str] = []
        for key in keys:
            epoch, index = key if isinstance(key, tuple) else (-1, key)
            try:
                items.append(self._item(epoch, index))
            except (MediaError, FileNotFoundError) as error:
                if not self.skip:
                    raise
                skipped.append(str(error))
        # a batch of which nothing is left has the shapes of one clip without frames and sound
        shown = items or [self._windowed(Decoded(None), self.clips[0], -1, 0)]
        batch: dict[str, Any] = {name: torch.stack([item[name] for item in shown]) for name in shown[0]}
        batch = {name: values[: len(items)] for name, values in batch.items()}
        if bool(batch["present"].all()) or not (self.store.sound and self.store.pictures):
            del batch["present"]
        return {**batch, "skipped": skipped} if skipped else batch

    def _item(self, epoch: int, index: int) -> dict[str, Tensor]:
        clip = self.clips[index]
        return self._windowed(self.store.load(clip), clip, epoch, index)

    def _windowed(self, decoded: Decoded, clip: Clip, epoch: int, index: int) -> dict[str, Tensor]:
        training = epoch >= 0 and self.augmentation is not None
        rng = item_generator(_AUGMENTATION, global_seed(), max(epoch, 0), index)
        item = {"index": torch.tensor(index)}
        places = [0.5] if self.crops == 1 else np.linspace(0, 1, self.crops).tolist()
        sound_places = places
        if training:
            drawn = rng.random(2)
            places = [float(drawn[0])]
            sound_places = [float(drawn[1])] if self.windows.async_sampling else places
        if self.store.pictures:
            item["rgb"] = self._frames(decoded.frames, places, rng, training)
        if self.store.sound:
            item["spectrogram"] = self._stacked(
                [self._sound(decoded.log_mel, p, rng, training) for p in sound_places]
            )
        item["present"] = torch.tensor([len(decoded.frames) > 0, decoded.log_mel is not None])
        if self.task != "none":
            item["label"] = self._label(clip)
        return item

    def _stacked(self, crops: list[Tensor]) -> Tensor:
        return crops[0] if self.crops == 1 or len(crops) == 1 else torch.stack(crops)

    def _frames(
        self, frames: Frames, places: Sequence[float], rng: np.random.Generator, training: bool
    ) -> Tensor:
        """(3, T, S, S) in [-1, 1], of several places stacked; zeros of a clip without frames."""
        if not len(frames):
            return self._stacked([torch.zeros(3, self.windows.frames, self.size, self.size)] * len(places))
        windows = [self.windows.frame_numbers(place, len(frames)) for place in places]
        pixels = frames.pixels({n for numbers in windows for n in numbers})
        return self._stacked(
            [
                self._window(torch.from_numpy(np.stack([pixels[n] for n in numbers])), rng, training)
                for numbers in windows
            ]
        )

    def _window(self, stack: Tensor, rng: np.random.Generator, training: bool) -> Tensor:
        if training and self.augmentation is not None:
            return augment_frames(stack, rng, self.size, self.augmentation.flip, self.augmentation.colour)
        return centre_frames(stack, self.size)

    def _sound(
        self, log_mel: Tensor | None, place: float, rng: np.random.Generator, training: bool
    ) -> Tensor:
        """(1, T_a, M), normalised; a short clip is padded with silence, one without sound is zeros."""
        wanted, bins = self.spectrogram_frames, self.store.log_mel.bins
        if log_mel is None:
            return torch.zeros(1, wanted, bins)
        start = self.windows.sound_start(place, len(log_mel), wanted)
        x = log_mel[start : start + wanted].float()
        silence = float(np.log(self.store.log_mel.offset))
        x = torch.nn.functional.pad(x, (0, 0, 0, wanted - len(x)), value=silence)
        mean, deviation = self.normalisation
        x = (x - mean) / deviation
        if training and self.augmentation is not None:
            a = self.augmentation
            x = spec_augment(x, rng, a.time_masks, a.time_width, a.frequency_masks, a.frequency_width)
        return x[None]

    def _label(self, clip: Clip) -> Tensor:
        if self.task == "multi_label":
            return torch.zeros(self.num_classes).index_fill_(
                0, torch.tensor(clip.label, dtype=torch.int64), 1.0
            )
        return torch.tensor(clip.label if self.task == "verb_noun" else clip.label[0])
