"""The log-mel front end: mono sound to T x M features, 100 frames a second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_PIECE = 6000  # frames, a minute


@dataclass(frozen=True)
class LogMel:
    """log(mel(|STFT|^2) + offset) with a Hamming window, centred frames and HTK triangles.

    ``frames`` of a sound are its samples / hop: centred framing gives one more, which is left out. The log's
    offset is ours; MBT's own was never published.

    Args:
        sample_rate: in Hz.
        window: samples of the window, 25 ms.
        hop: samples from frame to frame, 10 ms.
        n_fft: length of the transform.
        bins: mel bands M.
        offset: added before the logarithm.
    """

    sample_rate: int = 16000
    window: int = 400
    hop: int = 160
    n_fft: int = 512
    bins: int = 128
    offset: float = 1e-6

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop

    def __call__(self, wave: Tensor) -> Tensor:
        """(..., samples) -> (..., samples // hop, M), float32."""
        flat = wave.float().reshape(-1, wave.shape[-1])
        half = self.n_fft // 2
        padded = torch.nn.functional.pad(flat[:, None], (half, half), mode="reflect")[:, 0]
        count = wave.shape[-1] // self.hop
        # a spectrum is some ten times as large as its sound, so that a long one is taken in pieces
        pieces = [
            self._frames(padded[:, a * self.hop : (min(a + _PIECE, count) - 1) * self.hop + self.n_fft])
            for a in range(0, count, _PIECE)
        ]
        found = torch.cat(pieces, dim=1) if pieces else flat.new_zeros(len(flat), 0, self.bins)
        return found.view(*wave.shape[:-1], -1, self.bins)

    def _frames(self, padded: Tensor) -> Tensor:
        """(N, samples) -> (N, T, M) of the frames that lie in it whole."""
        spectrum = torch.stft(
            padded,
            self.n_fft,
            self.hop,
            self.window,
            torch.hamming_window(self.window),
            center=False,
            return_complex=True,
        )
        power = spectrum.abs().square()  # (N, n_fft / 2 + 1, T)
        mel = power.transpose(1, 2) @ mel_filters(self.bins, self.n_fft, self.sample_rate)
        return (mel + self.offset).log()


@lru_cache(maxsize=8)
def mel_filters(bins: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangles of height 1, equally wide in HTK mels 2595 log10(1 + f / 700), from 0 to half the rate.

    (n_fft / 2 + 1, bins). With 128 bands and 512 points the lowest triangles are narrower than the distance
    of two frequencies, and a few are empty: as in the paper.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)  # Hz
    f = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)[:, None]
    rising = (f - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - f) / (corners[2:] - corners[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()
