"""Documents that are all but the same: MinHash of word 5-grams, found without comparing all pairs.

A document is the set of its runs of five words. Under each of 128 hash functions the least hash of a set is
kept; two sets agree there with the probability of their Jaccard similarity (Broder 1997). Those that agree in
all of some band of six places are compared: 21 bands: at a similarity of .8 a pair is missed with
probability (1 - .8^6)^21 = .0017, at .5 it is compared with probability .28. It counts as similar where at
least .8 of the 128 places agree. One of each connected component is kept (Lee et al. 2022, section 4.2).
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WORDS, PLACES, SIMILAR = 5, 128, 0.8
_ROWS, _BANDS = 6, 21
_MOST = 64
"""Documents of one band that are compared pair by pair; of more each is compared with the first and with the
one before it."""
_draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([19, 1])))
_FACTORS = _draw.integers(0, 2**63, (2, PLACES), dtype=np.uint64)
_FACTORS[0] = _FACTORS[0] * np.uint64(2) + np.uint64(1)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def shingles(text: str, words: int = WORDS) -> Array:
    """A number for each different run of so many words, uint64; of a shorter text for the whole."""
    parts = text.split()
    known = {word: _word(word) for word in set(parts)}
    hashes = np.array([known[word] for word in parts], dtype=np.uint64)
    width = max(1, min(words, len(hashes)))
    total = np.zeros(len(hashes) - width + 1 if len(hashes) else 0, dtype=np.uint64)
    for place in range(width):
        total = (total ^ hashes[place : place + len(total)]) * _STEP
        total ^= total >> np.uint64(29)
    return np.unique(total)


def signature(text: str) -> Array:
    """The least of each of 128 hash functions over the word 5-grams of a text, uint32 (128,).

    Multiply-shift hashing (Dietzfelbinger et al. 1997) of 64 to 32 bits.
    """
    found = np.full(PLACES, 2**32 - 1, dtype=np.uint32)
    every = shingles(text)
    for at in range(0, len(every), 4096):
        hashed = every[at : at + 4096, None] * _FACTORS[0] + _FACTORS[1]
        found = np.minimum(found, (hashed >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return found


def similar_pairs(signatures: Array) -> list[tuple[int, int]]:
    """(i, j), i < j, of the rows of (N, 128) that share a band and at least .8 of their places."""
    seen: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        part = np.ascontiguousarray(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * _ROWS))).reshape(-1)
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        for group in np.split(order, ends):
            if len(group) < 2:
                continue
            rows = group.tolist()
            if len(rows) <= _MOST:
                seen.update(itertools.combinations(rows, 2))
            else:
                seen.update((rows[0], row) for row in rows[1:])
                seen.update(itertools.pairwise(rows))
    if not seen:
        return []
    pairs = np.array(sorted(seen))
    agree = np.concatenate(
        [
            (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
            for some in np.array_split(pairs, max(1, len(pairs) // 2**14))
        ]
    )
    return [(int(a), int(b)) for a, b in pairs[agree >= SIMILAR]]


def components(signatures: Array) -> Array:
    """For each row of (N, 128) the first row of its connected component of similar ones, (N,)."""
    leader = list(range(len(signatures)))

    def found(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    for a, b in similar_pairs(signatures):
        first, second = sorted((found(a), found(b)))
        leader[second] = first
    return np.array([found(row) for row in range(len(leader))], dtype=np.int64)
