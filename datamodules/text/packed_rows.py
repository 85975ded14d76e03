"""Pieces of text of which some tokens are scored, whole in rows of a fixed length."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.text.stream_rows import UNSCORED

Array = np.ndarray[Any, Any]
CONTEXT, SCORED, END = 0, 1, 2
"""What a token is: read alone, scored, an end that training scores and evaluation does not."""


@dataclass(frozen=True)
class Piece:
    """Token ids that see each other and no others.

    Attributes:
        ids: with the start token.
        kinds: of each, ``CONTEXT``, ``SCORED`` or ``END``.
        counts: bytes of each.
    """

    ids: Array
    kinds: Array
    counts: Array


def joined(parts: Iterable[tuple[Array, int, Array]]) -> Piece:
    """A piece of (ids, their kind, their bytes), one after the other."""
    found = [(np.asarray(i), np.full(len(i), kind), np.asarray(c)) for i, kind, c in parts]
    ids, kinds, counts = (np.concatenate([part[n] for part in found]) for n in range(3))
    return Piece(ids.astype(np.int64), kinds.astype(np.uint8), counts.astype(np.int64))


def packed(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Pieces of these sizes into as few rows of ``room`` as best fit decreasing finds; none is cut.

    The longest first, each into the fullest row that still has room for it.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    rooms: list[int] = []  # sorted, of the rows that are open
    for piece in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[piece]
        place = bisect.bisect_left(rooms, size)
        if place < len(rooms):
            left = rooms[place]
            row = open_rows[left].pop()
            if not open_rows[left]:
                del open_rows[left], rooms[place]
            rows[row].append(piece)
        else:
            left, row = room, len(rows)
            rows.append([piece])
        left -= size
        if left:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(rooms, left)
            open_rows[left].append(row)
    return [sorted(row) for row in rows]


class PackedRows(BatchItems):
    """Rows of whole pieces; for the batches see :class:`datamodules.text.stream.TextStream`.

    Args:
        pieces: none longer than ``context``.
        context: tokens of a row.
        pad: id behind the last piece of a row.
        pack: several pieces share a row; else each has its own, and a batch is as wide as its longest.
        ends: whether end tokens are scored.
        multiple: the number of rows is a multiple of it: the last few repeat the first rows, unscored.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        context: int,
        pad: int,
        pack: bool = True,
        ends: bool = False,
        multiple: int = 1,
    ) -> None:
        self.pieces, self.context, self.pad = pieces, context, pad
        self.pack, self.most = pack, END if ends else SCORED
        sizes = [len(piece.ids) for piece in pieces]
        self.rows = packed(sizes, context) if pack else [[i] for i in range(len(pieces))]
        self.filled = -(-len(self.rows) // multiple) * multiple

    def __len__(self) -> int:
        return self.filled

    @property
    def scored(self) -> int:
        """Tokens that are scored."""
        return sum(int(self._is_scored(piece).sum()) for piece in self.pieces)

    def _is_scored(self, piece: Piece) -> Array:
        return (piece.kinds > CONTEXT) & (piece.kinds <= self.most)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        rows = [[self.pieces[i] for i in self.rows[item % len(self.rows)]] for item in index.tolist()]
        width = self.context
        if not self.pack:
            width = max(sum(len(piece.ids) for piece in row) for row in rows)
        shape = (len(rows), width)
        ids, labels = np.full(shape, self.pad), np.full(shape, UNSCORED)
        positions, documents = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        counts = np.zeros(len(rows), dtype=np.int64)
        for place, row in enumerate(rows):
            at, unscored = 0, index[place] >= len(self.rows)
            for number, piece in enumerate(row, 1):
                part = slice(at, at + len(piece.ids))
                ids[place, part], documents[place, part] = piece.ids, number
                positions[place, part] = np.arange(len(piece.ids))
                if not unscored:
                    wanted = self._is_scored(piece)
                    labels[place, part] = np.where(wanted, piece.ids, UNSCORED)
                    counts[place] += int(piece.counts[wanted].sum())
                at = part.stop
        found: dict[str, Array] = {
            "input_ids": ids,
            "labels": labels,
            "position_ids": positions,
            "documents": documents,
        }
        found |= {"bytes": counts, "index": index}
        return {name: torch.from_numpy(np.ascontiguousarray(a, np.int64)) for name, a in found.items()}
