"""Beginnings for a language model to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.text.records import numbered_jsonl, read_lines
from datamodules.text.stream_rows import UNSCORED
from datamodules.text.token_store import TokenStore

Array = np.ndarray[Any, Any]


def asked_texts(predict: str | Sequence[str], field: str) -> list[str]:
    """A typed text, several, or those of a file: ``.txt`` with one a line, ``.jsonl`` with ``field``.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged or empty.
    """
    if not isinstance(predict, str):
        return list(predict)
    path = Path(predict)
    if predict.endswith(".txt"):
        found = [line for line in read_lines(path) if line.strip()]
    elif predict.endswith(".jsonl"):
        found = [record[field] for _, record in numbered_jsonl(path, {field: str})]
    else:
        return [predict]
    if not found:
        raise ValueError(f"{path} holds no text to go on from")
    return found


def left_padded(rows: Sequence[Array], pad: int) -> dict[str, torch.Tensor]:
    """Rows that end together: ``input_ids``, ``documents`` (1, 0 in front), ``position_ids``, ``labels``."""
    width = max([1, *map(len, rows)])
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    documents = torch.zeros(len(rows), width, dtype=torch.int64)
    for place, row in enumerate(rows):
        if len(row):
            ids[place, -len(row) :] = torch.from_numpy(np.asarray(row, dtype=np.int64))
            documents[place, -len(row) :] = 1
    return {
        "input_ids": ids,
        "documents": documents,
        "position_ids": (documents.cumsum(1) - 1).clamp(min=0),
        "labels": torch.full_like(ids, UNSCORED),
        "bytes": torch.zeros(len(rows), dtype=torch.int64),
    }


class PromptRows(BatchItems):
    """Beginnings, padded on the left so that all end together, with their texts.

    A batch has ``input_ids``, ``documents`` (0 in front of a row), ``position_ids``, ``labels`` (all -100),
    int64 (B, P), ``bytes`` and ``index`` (B,), the lists of texts ``prompt`` and ``reference``, which is ""
    where nobody knows how it goes on, and ``reference_ids`` (B, R), -100 behind the end.

    Args:
        rows: ids.
        prompts: texts of them.
        references: ids of what follows.
        texts: of these.
        pad: id in front of a row.
    """

    def __init__(
        self,
        rows: Sequence[Array],
        prompts: Sequence[str],
        references: Sequence[Array],
        texts: Sequence[str],
        pad: int,
    ) -> None:
        self.rows, self.prompts, self.references, self.texts = rows, prompts, references, texts
        self.pad = pad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = batch_keys(keys)[1]
        places = index.tolist()
        known = [self.references[i] for i in places]
        ends = torch.full((len(places), max(map(len, known), default=0)), UNSCORED, dtype=torch.int64)
        for place, row in enumerate(known):
            ends[place, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
        return {
            **left_padded([self.rows[i] for i in places], self.pad),
            "reference_ids": ends,
            "index": torch.from_numpy(index),
            "prompt": [self.prompts[i] for i in places],
            "reference": [self.texts[i] for i in places],
        }


def windows_of(store: TokenStore, count: int, tokens: int, after: int) -> list[tuple[Array, Array]]:
    """(prompt, what follows) at ``count`` evenly spaced places of a stream, within one document each.

    A place where a document ends within is moved on to the next one that has room; there may be fewer.
    """
    width, size = tokens + after, len(store.ids)
    specials = [i for i in (store.start, store.end) if i >= 0]
    found, least = [], 0
    for number in range(count):
        at = max(least, number * size // count)
        while at + width <= size:
            ids = np.asarray(store.ids[at : at + width], dtype=np.int64)
            inside = np.flatnonzero(np.isin(ids, specials))
            if not len(inside):
                found.append((ids[:tokens], ids[tokens:]))
                break
            at += int(inside[-1]) + 1
        least = at + width
    return found
