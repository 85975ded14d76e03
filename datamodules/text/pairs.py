"""Pairs of a source and a target, as batches for a forward and a backward network.

A batch has int64 ids, padded on the right: ``source`` (B, S) without ends; ``target`` (B, T) from BOS to EOS;
``context`` (B, C), what stands before T in the source of the backward network; ``recover`` (B, R) from BOS to
EOS, what that has to recover. Evaluation adds the texts ``history`` and ``reference``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from datamodules.loading.loaders import place, progress_of, resumable_loader
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import global_seed, item_generator
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses
from datamodules.text.batches import TokenBatchSampler
from datamodules.text.exchanges import SPECIALS, Exchange, PairTemplate, Template
from datamodules.text.module import TextModule
from datamodules.text.pair_items import PairItems
from datamodules.text.tokenizers import Model
from datamodules.text.vectors import WordVectors


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


def texts_of(exchange: Exchange) -> tuple[str, ...]:
    """What a reply may be likened to."""
    return (*exchange.history[-1:], exchange.reply)


class PairModule(TextModule):
    """What data modules of pairs share: splits, tokenizer, batches of like lengths, what weights expect.

    Attributes:
        bleu: how replies are scored: ``translation``, ``dialogue``, or null without BLEU.
        template_name: ``dialogue`` or ``pair``, which the weights keep.
        source_entropy: H(S) in nats, where it is known.
        split_key: of the draws that choose training pairs.
        tells_repeated: whether pairs of several splits are worth a word; a made task has few others.

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
        most_pairs: training pairs, the first of a fixed shuffle; null takes all.
        most_evaluated: pairs of validation and of test, the first; null takes all.
        embeddings: file of word vectors, GloVe's or word2vec's text, for the embedding metrics; null takes
            the word embeddings of the evaluated network.
    """

    specials = SPECIALS
    of_weights: ClassVar[tuple[str, ...]] = ("longest", "lowercase")
    bleu: str | None = None
    template_name = "pair"
    source_entropy: float | None = None
    split_key: ClassVar[int] = 16_00
    tells_repeated: ClassVar[bool] = True

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
        most_pairs: Many | None = None,
        most_evaluated: Many | None = None,
        embeddings: str | None = None,
    ) -> None:
        check_ranges(PairModule, locals())
        super().__init__(tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        self.model, self.lowercase = model, lowercase  # type: ignore[misc]
        self.longest, self.batch_tokens = longest, batch_tokens
        self.most_pairs, self.most_evaluated = most_pairs, most_evaluated
        self.embeddings = embeddings
        self.word_vectors: WordVectors | None = None
        self._splits: Splits | None = None
        self._remarks: list[str] = []  # told in ``setup``: sizes are asked of a data module of their own
        self._template: Template | None = None
        self._template_of: Any = None
        self.facts: dict[str, Any] = {}
        if batch_tokens is not None:
            self.batch_size = None  # type: ignore[assignment]

    def read(self) -> Splits:
        """All pairs, without a tokenizer."""
        raise NotImplementedError

    @property
    def origin(self) -> str:
        """Where the pairs are from, in what is told."""
        return type(self).__name__

    def template(self, tokenizer: Any) -> Template:
        """How an exchange becomes ids."""
        return PairTemplate(self.longest)

    @property
    def splits(self) -> Splits:
        """Read once.

        Raises:
            ValueError: for a split without pairs.
        """
        if self._splits is None:
            self._splits = self._chosen(self.read())
            self.facts = dict(self._splits.facts)
        return self._splits

    def _chosen(self, found: Splits) -> Splits:
        """Pairs with a word on both sides, and as many of those as are asked for."""
        train, val, test = (self._whole(s, getattr(found, s)) for s in ("train", "val", "test"))
        if self.most_pairs is not None and self.most_pairs < len(train):
            order = item_generator(self.split_key, 1).permutation(len(train))[: self.most_pairs]
            train = [train[i] for i in order]
        most = self.most_evaluated
        val, test = val[:most], test[:most]
        self._tell_repeated(train, val, test)
        return replace(found, train=train, val=val, test=test)

    def _tell_repeated(self, train: Sequence[Exchange], *held: Sequence[Exchange]) -> None:
        """Scores of pairs that were trained on tell little of others."""
        asked = {(e.history, e.reply) for split in held for e in split}
        known = (
            {pair for e in train if (pair := (e.history, e.reply)) in asked} if self.tells_repeated else ()
        )
        for name, split in zip(("val", "test"), held, strict=True):
            if count := sum((e.history, e.reply) in known for e in split):
                self._remarks.append(f"{count:,} of {len(split):,} pairs to {name} are among those to train")

    def _whole(self, split: str, pairs: Sequence[Exchange]) -> Sequence[Exchange]:
        kept = [e for e in pairs if e.history and e.history[-1].strip() and e.reply.strip()]
        if not kept and split != "test":
            raise ValueError(f"{self.origin}: {'no' if not pairs else 'only empty'} pairs to {split}")
        if len(kept) < len(pairs):
            gone = len(pairs) - len(kept)
            some = f"{gone:,} of {len(pairs):,} pairs to {split}"
            self._remarks.append(f"{some} lack a word on one side and are left out")
        return kept

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

    def learned(self) -> Iterator[tuple[str, ...]]:
        return (("\0".join(e.history), e.reply, "\0".join(e.persona)) for e in self.splits.train)

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

    def tell_unread(self, items: PairItems) -> None:
        """Say what of the histories that are asked about is not read."""
        read = self.made()[1].history
        if count := sum(len(e.history) > read for e in items.exchanges):
            say(
                f"{count:,} of {len(items):,} histories have earlier utterances than the last {read}, which "
                "alone are read"
            )

    def setup(self, stage: str) -> None:
        splits = self.splits
        if self.embeddings is not None and self.word_vectors is None and stage != "predict":
            every = [*splits.train, *splits.val, *splits.test]
            self.word_vectors = WordVectors(Path(self.embeddings), (t for e in every for t in texts_of(e)))
            say(f"word vectors {self.word_vectors.name}")
        while self._remarks:
            say(self._remarks.pop(0))
        if stage == "fit":
            self.train_set = self.items(splits.train, "the training split", texts=False)
        if stage in ("fit", "validate"):
            self.val_set = self.items(splits.val, "the validation split")
        if stage in ("test", "predict"):
            self.test_set = self.items(splits.test or splits.val, "the test split")

    def train_dataloader(self) -> Any:
        # before loader processes begin, each of which would do it anew
        self.train_set.tokenize()
        if self.batch_tokens is None:
            return super().train_dataloader()
        limit, trained = progress_of(self)
        sampler = TokenBatchSampler(
            self.train_set.lengths, self.batch_tokens, *place(self), global_seed(), trained, limit
        )
        return resumable_loader(self.train_set, sampler, self.num_workers)

    def _evaluated(self, found: Any) -> Any:
        if isinstance(found, PairItems):
            found.tokenize()
        return super()._evaluated(found)
