"""Sequences as batches of ids: masked for a language model, whole with targets for a property."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys, item_generator
from datamodules.proteins.files import Spans
from datamodules.proteins.residues import BLANK, CLS, EOS, FIRST, MASK, PAD, STANDARD, encoded
from datamodules.text.batches import padded
from datamodules.text.masking import IGNORED, chosen, masked

Array = np.ndarray[Any, Any]
_CROP, _MASK, _HELD = 5101, 5102, 5103


@dataclass(frozen=True)
class Masking:
    """How residues are masked.

    Attributes:
        share: of the residues.
        seed: of training masks, the run's; of others those of the data.
    """

    share: float
    seed: int


class ProteinItems(BatchItems):
    """Sequences by position; a crop and a mask are functions of (seed, epoch, position) alone.

    Args:
        sequences: all of the file, which may be read from it one by one.
        places: int64 (N,) of these sequences among all.
        target: float64 (all, T).
        longest: residues; of a longer one training takes a random window, evaluation the first.
        training: whether each epoch has crops and masks of its own.
        seed: of the crops, the run's.
        masking: null leaves sequences whole.
        spans: entities of all sequences; empty without.
        labels: what the file calls each of all sequences.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        places: Array,
        target: Array,
        longest: int,
        training: bool,
        seed: int,
        masking: Masking | None = None,
        spans: Sequence[Spans] = (),
        labels: Sequence[str] = (),
    ) -> None:
        self.all, self.places, self.target = sequences, np.asarray(places, dtype=np.int64), target
        self.longest, self.training, self.seed = longest, training, seed
        self.masking, self.spans, self.labels = masking, spans, labels

    def __len__(self) -> int:
        return len(self.places)

    @property
    def sequences(self) -> list[str]:
        """Of these items, whole."""
        return [self.all[i] for i in self.places.tolist()]

    @property
    def targets(self) -> Array:
        """Of these items, float64 (N, T)."""
        return self.target[self.places]

    @property
    def lengths(self) -> Array:
        """Tokens of each item, both ends included."""
        return np.minimum(self._whole, self.longest) + 2

    @property
    def cut(self) -> int:
        """Sequences of which a window is taken."""
        return int((self._whole > self.longest).sum())

    @property
    def _whole(self) -> Array:
        known = getattr(self.all, "lengths", None)  # of a file that is read item by item
        whole: Array = np.array([len(s) for s in self.all]) if known is None else known
        return whole[self.places]

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        epochs, index = batch_keys(keys)
        inputs: list[Any] = []
        labels: list[Any] = []
        texts, names = [], []
        for epoch, i in zip(epochs.tolist(), index.tolist(), strict=True):
            place = int(self.places[i])
            text = self.all[place]
            start = self._start(len(text), epoch, i)
            text = text[start : start + self.longest]
            ids = np.concatenate([[CLS], encoded(text), [EOS]])
            given = np.full(len(ids), IGNORED)
            if self.masking is not None:
                ids, given = self._masked(ids, text, place, start, epoch, i)
            inputs.append(ids)
            labels.append(given)
            texts.append(text)
            names.append(self.labels[place] if self.labels else f"{i}")
        batch: dict[str, Any] = {"ids": padded(inputs, PAD), "index": torch.from_numpy(index)}
        if self.masking is not None:
            batch["labels"] = padded(labels, IGNORED)
        else:
            batch["target"] = torch.from_numpy(self.target[self.places[index]]).float()
        if not self.training:
            batch |= {"sequence": texts, "name": names}
        return batch

    def _start(self, length: int, epoch: int, index: int) -> int:
        """Where the kept window of a sequence begins."""
        if length <= self.longest or not self.training:
            return 0
        return int(item_generator(_CROP, self.seed, epoch, index).integers(length - self.longest + 1))

    def _masked(
        self, ids: Array, text: str, place: int, start: int, epoch: int, index: int
    ) -> tuple[Array, Array]:
        assert self.masking is not None
        if BLANK in text:  # what the user asks about, and nothing else
            return ids, np.where(ids == MASK, MASK, IGNORED)
        key = (_MASK, epoch) if self.training else (_HELD,)
        generator = item_generator(*key, self.masking.seed, index)
        inside = np.zeros(len(ids), dtype=bool)
        inside[1:-1] = True
        spans = [
            (max(0, a - start) + 1, min(len(text), b - start) + 1)
            for a, b in (self.spans[place] if self.spans else ())
            if a < start + len(text) and b > start
        ]
        where = chosen(inside, self.masking.share, generator, spans)
        return masked(ids, where, generator, MASK, FIRST, STANDARD)
