"""Exchanges as batches of ids; for the keys of a batch see :mod:`datamodules.text.pairs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.terminal import say
from datamodules.text.batches import IdRows, padded
from datamodules.text.exchanges import Exchange, Row, Template
from datamodules.text.tokenizers import token_ids

_CHUNK = 20_000


@dataclass
class _Tokenized:
    """What batches are made of.

    Attributes:
        by: the tokenizer; none in a loader process.
        ends: ids of BOS, EOS and PAD.
        turns: utterances of a history that are read.
        cut: whether a text of an exchange is longer than what is kept of it, (N,).
        columns: ``source``, ``target``, ``context``, ``recover``.
        candidates: of all exchanges, one after the other.
        starts: where those of an exchange begin, (N + 1,).
    """

    by: Any
    ends: tuple[int, int, int]
    turns: int
    cut: np.ndarray[Any, Any]
    columns: dict[str, IdRows]
    candidates: IdRows
    starts: np.ndarray[Any, Any]


class PairItems(BatchItems):
    """Exchanges as batches. They are tokenized once, by :meth:`tokenize` or when the first batch, or their
    lengths, are asked for.

    A loader process that is spawned gets ids, and texts where batches have some: neither the tokenizer nor
    the data module that ``made`` is of.

    Args:
        exchanges: of a split.
        made: gives tokenizer and template, which the weights may decide.
        texts: batches have ``history``, the utterances that are read, ``unread``, how many stand before
            them, ``cut``, whether one of an item's texts is kept in part alone, and ``reference``;
            ``persona`` and ``row``, the line of an input file, where there are some; ``candidates`` (B, N, L)
            with ``gold`` (B,) where all exchanges have some.
        extra: further columns of a batch, by name: a value for each exchange.
        name: of the split, in what is told.
    """

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        made: Callable[[], tuple[Any, Template]],
        texts: bool,
        extra: dict[str, Sequence[Any]] | None = None,
        name: str = "",
    ) -> None:
        self.exchanges, self.texts, self.name = exchanges, texts, name
        self._made: Callable[[], tuple[Any, Template]] | None = made
        self._size = len(exchanges)
        self.extra = extra or {}
        self._tokenized: _Tokenized | None = None
        self._candidates = texts and all(e.candidates for e in exchanges)

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        made = self.tokenize()
        state = {**self.__dict__, "_made": None, "_tokenized": replace(made, by=None)}
        return state if self.texts else {**state, "exchanges": ()}

    def tokenize(self) -> _Tokenized:
        """Ids of all exchanges; again only if the weights have brought another tokenizer."""
        if self._made is None:
            assert self._tokenized is not None
            return self._tokenized
        tokenizer, template = self._made()
        if self._tokenized is None or self._tokenized.by is not tokenizer:
            cut = np.zeros(len(self.exchanges), dtype=bool)
            rows = list(self._rows(tokenizer, template, cut))
            names = ("source", "target", "context", "recover")
            columns = {n: IdRows(getattr(row, n) for row in rows) for n in names}
            bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
            bos = pad if bos is None else bos  # Marian and T5 begin with their pad
            candidates = [e.candidates if self._candidates else () for e in self.exchanges]
            ids = token_ids(tokenizer, [text for texts in candidates for text in texts])
            self._tokenized = _Tokenized(
                tokenizer,
                (bos, eos, pad),
                template.history,
                cut,
                columns,
                IdRows(row[: template.longest] for row in ids),
                np.cumsum([0, *map(len, candidates)]),
            )
        return self._tokenized

    def _rows(self, tokenizer: Any, template: Template, cut: np.ndarray[Any, Any]) -> Iterator[Row]:
        """Rows of ids; notes in ``cut`` whose texts are longer than what is kept."""
        for start in range(0, len(self.exchanges), _CHUNK):
            some = self.exchanges[start : start + _CHUNK]
            # a long dialogue's last pair has all its turns as history: those alone that are read
            read = [e.history[-template.history :] for e in some]
            texts = [t for e, h in zip(some, read, strict=True) for t in (*h, e.reply, *e.persona)]
            ids = iter(token_ids(tokenizer, texts))
            for number, (exchange, turns) in enumerate(zip(some, read, strict=True), start):
                history = [next(ids) for _ in turns]
                reply = next(ids)
                persona = [next(ids) for _ in exchange.persona]
                cut[number] = any(len(x) > template.longest for x in (*history, reply, *persona))
                yield template.row(history, reply, persona)
        if count := int(cut.sum()):
            of = f" of {self.name}" if self.name else ""
            say(
                f"{count:,} of {len(self.exchanges):,} pairs{of} have a text of more than {template.longest} "
                "tokens, of which so many are kept"
            )

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of the longer side of each pair, ends included: what a batch by tokens is padded to."""
        columns = self.tokenize().columns
        return np.maximum(columns["source"].lengths, columns["target"].lengths + 2)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        batch: Any = self.__getitems__([key])
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = batch_keys(keys)[1].tolist()
        made = self.tokenize()
        bos, eos, pad = made.ends
        batch: dict[str, Any] = {}
        for name, column in made.columns.items():
            rows = [column[i] for i in index]
            ended = name in ("target", "recover")
            batch[name] = padded([[bos, *row, eos] if ended else row for row in rows], pad, name == "source")
        batch["index"] = torch.tensor(index)
        if self.texts:
            chosen = [self.exchanges[i] for i in index]
            batch["history"] = ["\n".join(e.history[-made.turns :]) for e in chosen]
            batch["unread"] = [max(0, len(e.history) - made.turns) for e in chosen]
            batch["cut"] = made.cut[index].tolist()
            if any(e.persona for e in chosen):
                batch["persona"] = ["\n".join(e.persona) for e in chosen]
            if all(e.row for e in chosen):
                batch["row"] = [e.row for e in chosen]
            if any(e.reply for e in chosen):
                batch["reference"] = [e.reply for e in chosen]
            if self._candidates:
                batch |= self._with_candidates(index, made)
        for name, values in self.extra.items():
            column_values = [values[i] for i in index]
            batch[name] = column_values if isinstance(column_values[0], str) else torch.tensor(column_values)
        return batch

    def _with_candidates(self, index: Sequence[int], made: _Tokenized) -> dict[str, Any]:
        bos, eos, pad = made.ends
        chosen = [self.exchanges[i] for i in index]
        most = max(len(e.candidates) for e in chosen)
        rows = []
        for i in index:
            own = [[bos, *made.candidates[j], eos] for j in range(made.starts[i], made.starts[i + 1])]
            rows += own + [[bos]] * (most - len(own))
        gold = [e.candidates.index(e.reply) if e.reply in e.candidates else -1 for e in chosen]
        return {"candidates": padded(rows, pad).unflatten(0, (-1, most)), "gold": torch.tensor(gold)}
