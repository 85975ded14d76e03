"""Pairs of a source and a target, as batches for a forward and a backward network.

A batch has int64 ids, padded on the right: ``source`` (B, S) without ends; ``target`` (B, T) from BOS to EOS;
``context`` (B, C), what stands before T in the source of the backward network; ``recover`` (B, R) from BOS to
EOS, what that has to recover. Evaluation adds the texts ``history`` and ``reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from datamodules.loading.loaders import BatchItems, TrainLoader, as_is, place, train_loader
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses
from datamodules.text.batches import TokenBatchSampler, padded
from datamodules.text.module import TextModule
from datamodules.text.tokenizers import Model, token_ids

SPECIALS = ("<unk>", "<pad>", "<s>", "</s>", "<a>", "<b>", "<mask>")
"""Ids 0 to 6."""
Ids = list[int]


@dataclass(frozen=True)
class Exchange:
    """A history and its reply; of a translation the history is one sentence.

    Attributes:
        history: utterances, oldest first; the last is what the backward network recovers.
        reply: the target; "" where there is none, in a prediction.
        persona: sentences that lead a dialogue.
        candidates: replies among which the gold one is to be found.
    """

    history: tuple[str, ...]
    reply: str = ""
    persona: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()


@dataclass
class Row:
    """Ids of an exchange.

    Attributes:
        source: of the forward network.
        target: without ends.
        context: of the backward network.
        recover: without ends.
    """

    source: Ids
    target: Ids
    context: Ids
    recover: Ids


@dataclass(frozen=True)
class PairTemplate:
    """Translation: source S, target T; the backward network recovers S from T.

    Attributes:
        longest: tokens of a source or target that are kept.
        history: utterances that are kept, the latest.
    """

    longest: int
    history: int = 1

    def row(self, history: Sequence[Ids], reply: Ids, persona: Sequence[Ids]) -> Row:
        """Ids of an exchange."""
        source = history[-1][: self.longest]
        return Row(source, reply[: self.longest], [], source)


@dataclass(frozen=True)
class DialogueTemplate:
    """Dialogue: persona ... ``<a>`` a1 ``<b>`` b1 ... ``<b>`` b2 ``<a> <mask>`` gives a3, and persona ...
    ``<a>`` a1 ``<b>`` b1 ... ``<b> <mask> <a>`` a3 gives b2.

    The last utterance is always ``<b>``'s. The preprocessing script has ``<mask>`` and then the tag.

    Attributes:
        longest: tokens of an utterance that are kept.
        history: utterances that are kept, the latest.
        tags: ids of ``<a>``, ``<b>``, ``<mask>``.
    """

    longest: int
    history: int
    tags: tuple[int, int, int]

    def row(self, history: Sequence[Ids], reply: Ids, persona: Sequence[Ids]) -> Row:
        """Ids of an exchange."""
        a, b, mask = self.tags
        kept = [ids[: self.longest] for ids in history[-self.history :]]
        before = [token for ids in persona for token in ids[: self.longest]]
        for number, ids in enumerate(kept[:-1]):
            # the last but one is <a>'s, the one before it <b>'s
            before += [(a, b)[(len(kept) - 2 - number) % 2], *ids]
        last = kept[-1]
        return Row([*before, b, *last, a, mask], reply[: self.longest], [*before, b, mask, a], last)


Template = PairTemplate | DialogueTemplate
_CHUNK = 20_000


class _Column:
    """Rows of ids in one array: a list of lists takes ten times the memory."""

    def __init__(self, rows: Iterable[Ids]) -> None:
        lengths, parts = [], []
        for row in rows:
            lengths.append(len(row))
            parts.append(np.asarray(row, dtype=np.int32))
        self.ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        self.ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __getitem__(self, index: int) -> Ids:
        found: Ids = self.ids[self.ends[index] : self.ends[index + 1]].tolist()
        return found

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        return np.diff(self.ends)


class PairItems(BatchItems):
    """Exchanges as batches. They are tokenized when the first batch, or their lengths, are asked for.

    Args:
        exchanges: of a split.
        made: gives tokenizer and template, which the weights may decide.
        texts: batches have ``history`` and ``reference``, and ``candidates`` (B, N, L) with ``gold`` (B,)
            where all exchanges have some.
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
        self.exchanges, self._made, self.texts, self.name = exchanges, made, texts, name
        self.extra = extra or {}
        self._rows: dict[str, _Column] | None = None
        self._rows_by: Any = None
        self._candidates = texts and all(e.candidates for e in exchanges)

    def __len__(self) -> int:
        return len(self.exchanges)

    @property
    def rows(self) -> dict[str, _Column]:
        """``source``, ``target``, ``context``, ``recover``."""
        tokenizer = self._made()[0]
        if self._rows is None or self._rows_by is not tokenizer:
            self._rows_by = tokenizer
            rows = list(self._tokenized())
            names = ("source", "target", "context", "recover")
            self._rows = {n: _Column(getattr(row, n) for row in rows) for n in names}
        return self._rows

    def _tokenized(self) -> Iterator[Row]:
        tokenizer, template = self._made()
        cut = 0
        for start in range(0, len(self.exchanges), _CHUNK):
            some = self.exchanges[start : start + _CHUNK]
            # a long dialogue's last pair has all its turns as history: those alone that are read
            read = [e.history[-template.history :] for e in some]
            texts = [t for e, h in zip(some, read, strict=True) for t in (*h, e.reply, *e.persona)]
            ids = iter(token_ids(tokenizer, texts))
            for exchange, turns in zip(some, read, strict=True):
                history = [next(ids) for _ in turns]
                reply = next(ids)
                persona = [next(ids) for _ in exchange.persona]
                cut += any(len(x) > template.longest for x in (*history, reply, *persona))
                yield template.row(history, reply, persona)
        if cut:
            say(
                f"{cut:,} of {len(self.exchanges):,} pairs{f' of {self.name}' if self.name else ''} have a "
                "text of "
                f"more than {template.longest} tokens, of which so many are kept"
            )

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of the longer side of each pair, ends included: what a batch by tokens is padded to."""
        return np.maximum(self.rows["source"].lengths, self.rows["target"].lengths + 2)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        batch: Any = self.__getitems__([key])
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = batch_keys(keys)[1].tolist()
        tokenizer, template = self._made()
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        bos = pad if bos is None else bos  # Marian and T5 begin with their pad
        batch: dict[str, Any] = {}
        for name, column in self.rows.items():
            rows = [column[i] for i in index]
            ended = name in ("target", "recover")
            batch[name] = padded([[bos, *row, eos] if ended else row for row in rows], pad, name == "source")
        batch["index"] = torch.tensor(index)
        if self.texts:
            chosen = [self.exchanges[i] for i in index]
            batch["history"] = ["\n".join(e.history[-template.history :]) for e in chosen]
            if any(e.reply for e in chosen):
                batch["reference"] = [e.reply for e in chosen]
            if self._candidates:
                batch |= self._with_candidates(chosen, tokenizer, (bos, eos, pad))
        for name, values in self.extra.items():
            column_values = [values[i] for i in index]
            batch[name] = column_values if isinstance(column_values[0], str) else torch.tensor(column_values)
        return batch

    def _with_candidates(
        self, chosen: Sequence[Exchange], tokenizer: Any, ends: Sequence[int]
    ) -> dict[str, Any]:
        bos, eos, pad = ends
        most = max(len(e.candidates) for e in chosen)
        longest = self._made()[1].longest
        rows = []
        for exchange in chosen:
            ids = token_ids(tokenizer, exchange.candidates)
            own = [[bos, *row[:longest], eos] for row in ids]
            rows += own + [[bos]] * (most - len(own))
        gold = [e.candidates.index(e.reply) if e.reply in e.candidates else -1 for e in chosen]
        return {"candidates": padded(rows, pad).unflatten(0, (-1, most)), "gold": torch.tensor(gold)}


@dataclass
class Splits:
    """Exchanges of each split.

    Attributes:
        train: of the training.
        val: of the validation.
        test: of the test; empty is the validation's.
        facts: what weights keep of the data.
    """

    train: Sequence[Exchange]
    val: Sequence[Exchange]
    test: Sequence[Exchange] = ()
    facts: dict[str, Any] = field(default_factory=dict)


OF_A_TRAINED_ONE: dict[str, Uses] = {
    "tokenizer": dict.fromkeys(("vocab_size", "model"), (None,)),
    "batch_tokens": {"batch_size": (None,)},
}
"""Options that a given tokenizer, and batches by tokens, do not use."""


class PairModule(TextModule):
    """What data modules of pairs share: splits, tokenizer, batches of like lengths, what weights expect.

    Attributes:
        bleu: how replies are scored: ``translation``, ``dialogue``, or null without BLEU.
        template_name: ``dialogue`` or ``pair``, which the weights keep.
        source_entropy: H(S) in nats, where it is known.

    Args:
        tokenizer: folder, ``tokenizer.json`` or hub id; null takes that of the weights, or trains one.
        vocab_size: entries of a trained one, at most.
        model: of a trained one: ``byte_bpe``, ``bpe``, ``words``.
        lowercase: texts are lower-cased by a trained one, and by BLEU.
        longest: tokens of a text that are kept.
        batch_size: global training batch in pairs.
        batch_tokens: global training batch in padded tokens of the longer side, of pairs of like lengths, in
            the place of ``batch_size``.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    specials = SPECIALS
    of_weights: ClassVar[tuple[str, ...]] = ("longest", "lowercase")
    bleu: str | None = None
    template_name = "pair"
    source_entropy: float | None = None

    def __init__(
        self,
        tokenizer: str | None,
        vocab_size: Many,
        model: Model,
        lowercase: bool,
        longest: Size,
        batch_size: Many,
        batch_tokens: Many | None,
        eval_batch_size: Many,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(PairModule, locals())
        super().__init__(tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        self.model, self.lowercase = model, lowercase  # type: ignore[misc]
        self.longest, self.batch_tokens = longest, batch_tokens
        self._splits: Splits | None = None
        self._template: Template | None = None
        self._template_of: Any = None
        self.facts: dict[str, Any] = {}
        if batch_tokens is not None:
            self.batch_size = None  # type: ignore[assignment]

    def read(self) -> Splits:
        """All pairs, without a tokenizer."""
        raise NotImplementedError

    def template(self, tokenizer: Any) -> Template:
        """How an exchange becomes ids."""
        return PairTemplate(self.longest)

    @property
    def splits(self) -> Splits:
        """Read once."""
        if self._splits is None:
            self._splits = self.read()
            self.facts = dict(self._splits.facts)
        return self._splits

    def made(self) -> tuple[Any, Template]:
        """Tokenizer and template."""
        tokenizer = self.tokenizer
        if self._template is None or self._template_of is not tokenizer:
            self._template, self._template_of = self.template(tokenizer), tokenizer
        return tokenizer, self._template

    def training_texts(self) -> Iterator[str]:
        """Both sides of the training split."""
        for exchange in self.splits.train:
            yield from exchange.history[-1:]
            yield exchange.reply
            yield from exchange.persona

    def training_pairs(self) -> list[tuple[str, str]]:
        """(history, reply) texts of the training split, for baselines; of a history what a network reads."""
        read = self.made()[1].history
        return [("\n".join(e.history[-read:]), e.reply) for e in self.splits.train]

    @property
    def vocabulary(self) -> str:
        """The tokenizer as a document, with the template of the pairs."""
        import json

        content = json.loads(super().vocabulary)
        own = {"template": self.template_name, "longest": self.longest}
        return json.dumps({**content, **own}, ensure_ascii=False, sort_keys=True)

    def _special(self, token: str, role: str) -> int | None:
        """Id of a special token; of a tokenizer that is trained here it is known before."""
        if self._tokenizer is None and self.tokenizer_source is None and not self._of_weights():
            return SPECIALS.index(token)
        found: int | None = getattr(self.tokenizer, f"{role}_token_id")
        return found

    @property
    def pad_id(self) -> int:
        """Of the tokenizer.

        Raises:
            ValueError: for a tokenizer that has none, as for :attr:`eos_id`.
        """
        return self._needed("<pad>", "pad")

    @property
    def bos_id(self) -> int:
        """Of the tokenizer; its pad where it has none, with which Marian and T5 begin."""
        found = self._special("<s>", "bos")
        return self.pad_id if found is None else found

    @property
    def eos_id(self) -> int:
        """Of the tokenizer."""
        return self._needed("</s>", "eos")

    def _needed(self, token: str, role: str) -> int:
        found = self._special(token, role)
        if found is None:
            raise ValueError(f"the tokenizer {self.tokenizer_source} has no {role} token, which pairs need")
        return found

    def items(self, exchanges: Sequence[Exchange], name: str, texts: bool = True) -> PairItems:
        """A data set of exchanges."""
        return PairItems(exchanges, self.made, texts, name=name)

    def setup(self, stage: str) -> None:
        splits = self.splits
        if stage == "fit":
            self.train_set = self.items(splits.train, "the training split", texts=False)
        if stage in ("fit", "validate"):
            self.val_set = self.items(splits.val, "the validation split")
        if stage in ("test", "predict"):
            self.test_set = self.items(splits.test or splits.val, "the test split")

    def train_dataloader(self) -> Any:
        if self.batch_tokens is None:
            return train_loader(self, self.train_set, self.batch_size, self.num_workers)
        rank, world = place(self)
        trained = None
        if self.trainer is not None:
            trained = partial(getattr, self.trainer.fit_loop.epoch_loop.batch_progress.total, "ready")
        sampler: Any = TokenBatchSampler(
            self.train_set.lengths, self.batch_tokens, rank, world, global_seed(), trained
        )
        return TrainLoader(
            self.train_set,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )


Split = Literal["train", "val", "test"]
