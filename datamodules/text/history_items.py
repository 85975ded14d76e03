"""Histories and responses as batches of ids; for the keys see :mod:`datamodules.text.histories`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_generator
from datamodules.loading.terminal import say
from datamodules.text.batches import padded
from datamodules.text.exchanges import Exchange
from datamodules.text.tokenizers import token_ids

Array = np.ndarray[Any, Any]
_CHUNK, _DISTRACTORS = 20_000, 17_02


class HistoryItems(BatchItems):
    """Exchanges as batches, tokenized once.

    A loader process that is spawned gets ids, and texts where batches have some, not the data module that
    ``made`` is of.

    Args:
        exchanges: of a split.
        made: gives the tokenizer, which the weights may decide, and its ids of EOS and PAD.
        longest: tokens of a turn that are kept.
        history_tokens: of a history with an EOS behind each turn: the latest whole turns that fit.
        texts: batches have ``context`` and ``reference``.
        answers: what a right response must name, one for each exchange; none where nobody knows.
        distractors: batches have ``distractor``, the response of another exchange.
        name: of the split, in what is told.
    """

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        made: Callable[[], tuple[Any, int, int]],
        longest: int,
        history_tokens: int,
        texts: bool,
        answers: Sequence[str] = (),
        distractors: bool = False,
        name: str = "",
    ) -> None:
        self.exchanges, self.texts, self.answers, self.name = exchanges, texts, answers, name
        self.longest, self.history_tokens, self.distractors = longest, history_tokens, distractors
        self._made: Callable[[], tuple[Any, int, int]] | None = made
        self._size = len(exchanges)
        self._by: Any = None
        self._rows: list[tuple[Array, Array, Array]] = []
        self._ends = (0, 0)

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        self.tokenize()
        state = {**self.__dict__, "_made": None, "_by": None}
        return state if self.texts else {**state, "exchanges": ()}

    def tokenize(self) -> None:
        """Ids of all exchanges; again only if the weights have brought another tokenizer."""
        if self._made is None:
            return
        tokenizer, eos, pad = self._made()
        if self._by is not tokenizer:
            self._rows = list(self._tokenized(tokenizer, eos))
            self._by, self._ends = tokenizer, (eos, pad)

    def _tokenized(self, tokenizer: Any, eos: int) -> Iterator[tuple[Array, Array, Array]]:
        """History, its last turn, and response, each turn with its EOS."""
        every = list(dict.fromkeys(t for e in self.exchanges for t in (*e.history, e.reply)))
        turns: dict[str, Array] = {}
        cut = short = 0
        for start in range(0, len(every), _CHUNK):
            some = every[start : start + _CHUNK]
            for text, ids in zip(some, token_ids(tokenizer, some), strict=True):
                cut += len(ids) > self.longest
                turns[text] = np.array([*ids[: self.longest], eos], dtype=np.int32)
        for exchange in self.exchanges:
            said = [turns[text] for text in exchange.history]
            room, kept = self.history_tokens, 0
            for turn in reversed(said):
                if len(turn) > room:
                    break
                room, kept = room - len(turn), kept + 1
            short += kept < len(said)
            yield np.concatenate(said[-kept:]), said[-1], turns[exchange.reply]
        of = f" of {self.name}" if self.name else ""
        if cut:
            say(f"{cut:,} of {len(every):,} turns{of} have more than {self.longest} tokens; so many are kept")
        if short:
            say(
                f"{short:,} of {self._size:,} histories{of} have more than {self.history_tokens} tokens, of "
                "which the latest whole turns are kept"
            )

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        batch: Any = self.__getitems__([key])
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        epochs, places = batch_keys(keys)
        index = places.tolist()
        self.tokenize()
        batch: dict[str, Any] = {}
        for name, part in zip(("history", "recent", "response"), range(3), strict=True):
            batch |= self._column(name, [self._rows[i][part] for i in index])
        if self.distractors:
            others = [self._other(int(epoch), i) for epoch, i in zip(epochs, index, strict=True)]
            batch |= self._column("distractor", [self._rows[i][2] for i in others])
        batch["index"] = torch.tensor(index)
        if self.texts:
            chosen = [self.exchanges[i] for i in index]
            batch["context"] = ["\n".join(e.history) for e in chosen]
            if any(e.reply for e in chosen):
                batch["reference"] = [e.reply for e in chosen]
            if self.answers:
                batch["answer"] = [self.answers[i] for i in index]
        return batch

    def _column(self, name: str, rows: Sequence[Array]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(row) for row in rows])
        return {name: padded([row.tolist() for row in rows], self._ends[1]), f"{name}_length": lengths}

    def _other(self, epoch: int, item: int) -> int:
        """An exchange other than ``item``, a function of (seed, epoch, item)."""
        draw = item_generator(_DISTRACTORS, global_seed(), epoch, item)
        step = 1 + int(draw.integers(max(1, self._size - 1)))
        return (item + step) % self._size
