"""What needs no network: bits per byte of counts and of compressors; how much of a test text was seen."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WINDOW = 50
_MOST = 2**22  # bytes of a test text that is compressed
_CHUNK = 2**22


def byte_counts(texts: Iterable[bytes]) -> tuple[Array, Array]:
    """(how often each byte occurs (256,), how often each follows each (256, 256)), int64, of texts one after
    another."""
    first, counts, last = np.zeros(256, dtype=np.int64), np.zeros(65536, dtype=np.int64), b""
    for text in texts:
        if text and not last:
            first[text[0]] = 1
        for at in range(0, len(text), _CHUNK):
            part = np.frombuffer(last + text[at : at + _CHUNK], dtype=np.uint8).astype(np.int64)
            counts += np.bincount(part[:-1] * 256 + part[1:], minlength=65536)
            last = text[at : at + _CHUNK][-1:]
    pairs = counts.reshape(256, 256)
    return first + pairs.sum(axis=0), pairs


def baselines(train: Iterable[bytes], test: Iterable[bytes]) -> dict[str, float]:
    """Bits per byte of the test text: ``unigram`` and ``bigram`` of bytes, counted in the training text, one
    more of each; ``gzip``, ``xz`` and ``bz2`` at their best, of the first 4 MiB of the test text alone."""
    text = b"".join(test)
    if not text:
        return {}
    (single, known), (alone, seen) = byte_counts(train), byte_counts([text])
    one = (single + 1.0) / (single.sum() + 256)
    two = (known + 1.0) / (known.sum(axis=1, keepdims=True) + 256)
    size, begun = len(text), text[:_MOST]
    return {
        "unigram": -float(alone @ np.log2(one)) / size,
        "bigram": -float(np.log2(one[text[0]]) + (seen * np.log2(two)).sum()) / size,
        "gzip": 8 * len(gzip.compress(begun, 9)) / len(begun),
        "xz": 8 * len(lzma.compress(begun)) / len(begun),
        "bz2": 8 * len(bz2.compress(begun)) / len(begun),
    }


def _hashes(content: bytes, step: int) -> Array:
    """A number for each window of 50 bytes, ``step`` apart, uint64."""
    data = np.frombuffer(content, dtype=np.uint8).astype(np.uint64)
    count = len(data) - WINDOW + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    total = np.zeros(-(-count // step), dtype=np.uint64)
    for place in range(WINDOW):
        total += data[place : place + count : step] + np.uint64(1)
        total *= np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(31)
    return total


def contamination(train: Iterable[bytes], test: Iterable[bytes]) -> float:
    """Share of the test texts' windows of 50 bytes, cut one behind the other, that stand anywhere in a
    training text; NaN where the test has no window."""
    wanted = [part for text in test for part in _hashes(text, WINDOW)]
    if not wanted:
        return float("nan")
    windows = np.array(wanted, dtype=np.uint64)
    known = np.unique(windows)
    found = np.zeros(len(known), dtype=bool)
    for text in train:
        for part in _overlapping(text):
            seen = _hashes(part, 1)
            places = np.minimum(np.searchsorted(known, seen), len(known) - 1)
            found[places[known[places] == seen]] = True
    return float(found[np.searchsorted(known, windows)].mean())


def _overlapping(text: bytes) -> Iterator[bytes]:
    for at in range(0, max(1, len(text)), _CHUNK):
        yield text[at : at + _CHUNK + WINDOW - 1]
