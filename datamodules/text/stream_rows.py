"""Rows of a fixed number of tokens out of a stream of documents: no token dropped, none scored twice.

Training: row k has the tokens k (T - 1) to k (T - 1) + T - 1 of the stream: it begins with the last token of
the row before, which is scored there and is context here. A document that goes on in the next row goes on at
position 0 with that token as all of its context. There are as many rows as fill whole batches: the last few
have tokens of the first rows, none of which is scored, so that any number of processes has the same batches.

Evaluation: a document is cut at its own start, token 0 to T - 1, s to s + T - 1, ... for a stride s, at most
T - 1; a window after the first scores its last tokens alone, those that no window before has had. Windows
that are short share a row; no token sees another window. What a document gets does not depend on the others.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.text.token_store import TokenStore

Array = np.ndarray[Any, Any]
UNSCORED = -100


def _tensors(**arrays: Array) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for name, a in arrays.items()}


class TrainingRows(BatchItems):
    """The whole stream in rows of ``context`` tokens, each scored once.

    Args:
        store: the stream.
        context: tokens of a row, at least 2.
        pad: id behind the end of the last row.
        across: whether tokens see the documents before theirs in the row.
        name: of the data, in what is refused.
        multiple: the number of rows is a multiple of it.

    Raises:
        ValueError: for a stream of less than two tokens.
    """

    def __init__(
        self, store: TokenStore, context: int, pad: int, across: bool, name: str, multiple: int = 1
    ) -> None:
        if len(store.ids) < 2:
            raise ValueError(f"{name}: {len(store.ids)} tokens, too few to predict one from another")
        self.store, self.context, self.pad, self.across = store, context, pad, across
        self.rows = -(-(len(store.ids) - 1) // (context - 1))
        self.filled = -(-self.rows // multiple) * multiple

    def __len__(self) -> int:
        return self.filled

    @property
    def scored(self) -> int:
        """Tokens that are scored."""
        starts = self.store.starts()
        return len(self.store.ids) - (1 if self.store.start == self.store.end else len(starts))

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        store, width = self.store, self.context
        places = (index % self.rows)[:, None] * (width - 1) + np.arange(width)
        real = places < len(store.ids)
        places = np.minimum(places, len(store.ids) - 1)
        ids = store.at(places)
        begins = real & ((ids == store.start) | (places == 0)) if store.start >= 0 else places == 0
        scored = real & (index < self.rows)[:, None]
        scored[:, 0] = False
        if store.start != store.end:
            scored &= ~begins
        column = np.broadcast_to(np.arange(width), ids.shape)
        if self.across:
            documents, positions = real.astype(np.int64), column
        else:
            first = begins.copy()
            first[:, 0] = True
            documents = np.cumsum(first, axis=1) * real
            positions = column - np.maximum.accumulate(np.where(first, column, 0), axis=1)
        counts = np.where(scored, store.bytes_of(places, ids), 0).sum(axis=1)
        return _tensors(
            input_ids=np.where(real, ids, self.pad),
            labels=np.where(scored, ids, UNSCORED),
            position_ids=positions * real,
            documents=documents,
            bytes=counts,
            index=index,
        )


class EvaluationRows(BatchItems):
    """The texts of the documents, each token scored once; start and end tokens are not.

    Args:
        store: the stream.
        context: tokens of a row, at least 2.
        pad: id behind the windows of a row.
        across: rows are cut out of the stream as a whole, and tokens see the documents before theirs.
        stride: tokens from a window to the next, at most ``context - 1``, which is the default.
        name: of the data, in what is refused.

    Raises:
        ValueError: for a stream without a token to score.
    """

    def __init__(
        self, store: TokenStore, context: int, pad: int, across: bool, stride: int | None, name: str
    ) -> None:
        self.store, self.context, self.pad, self.across = store, context, pad, across
        step = context - 1 if stride is None else stride
        starts = store.starts()
        bounds = [*starts.tolist(), len(store.ids)]
        if across:
            bounds = [0, len(store.ids)]
        windows: list[tuple[int, int, int]] = []  # (begin, end, first scored) in the stream
        for begin, end in itertools.pairwise(bounds):
            if not across and store.start != store.end and end > begin and store.ids[end - 1] == store.end:
                end -= 1  # nothing is read behind the text
            at, done = begin, begin + 1
            while done < end:
                windows.append((at, min(at + context, end), done))
                done = min(at + context, end)
                at += step
        if not windows:
            raise ValueError(f"{name}: no token to score")
        self.windows = np.array(windows, dtype=np.int64)
        sizes = self.windows[:, 1] - self.windows[:, 0]
        firsts, room = [], 0
        for place, size in enumerate(sizes.tolist()):
            if size > room:
                firsts.append(place)
                room = context
            room -= size
            if across:
                room = 0
        self.bounds = [*firsts, len(windows)]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        shape, store = (len(index), self.context), self.store
        places, number = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        positions, scored = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, item in enumerate(index.tolist()):
            at = 0
            for count, (begin, end, first) in enumerate(
                self.windows[self.bounds[item] : self.bounds[item + 1]].tolist(), 1
            ):
                part = slice(at, at + end - begin)
                places[row, part], number[row, part] = np.arange(begin, end), count
                positions[row, part] = np.arange(end - begin)
                scored[row, at + first - begin : part.stop] = True
                at = part.stop
        real = number > 0
        ids = store.at(places)
        if store.start >= 0:
            scored &= (ids != store.start) & (ids != store.end)
        counts = np.where(scored, store.bytes_of(places, ids), 0).sum(axis=1)
        return _tensors(
            input_ids=np.where(real, ids, self.pad),
            labels=np.where(scored, ids, UNSCORED),
            position_ids=positions,
            documents=number,
            bytes=counts,
            index=index,
        )

    @property
    def scored(self) -> int:
        """Tokens that are scored."""
        total = 0
        for begin, end, first in self.windows.tolist():
            ids = self.store.ids[first:end]
            total += end - first
            if self.store.start >= 0:
                total -= int(np.isin(ids, [self.store.start, self.store.end]).sum())
            assert begin < first
        return total
