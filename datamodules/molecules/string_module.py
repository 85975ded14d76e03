"""What data modules of molecules as strings share: one vocabulary, of the weights or of the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from datamodules.loading.loaders import BatchItems, place, progress_of, resumable_loader
from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed
from datamodules.loading.terminal import say
from datamodules.molecules.tokens import BOS, EOS, PAD, UNK, Representation, TokenVocabulary, tokenised
from datamodules.text.batches import IdRows, LikeLengths, TokenBatchSampler, padded
from datamodules.text.same_texts import SameTexts


class StringItems(BatchItems):
    """Columns of strings as batches of ids, padded on the right; tokenised once.

    Args:
        columns: name -> a string for each item; ``target`` and ``ids`` get BOS and EOS.
        vocabulary: gives that of the moment: weights that are restored may bring another.
        texts: batches have the strings too, as ``source_text`` of ``source``.
        name: of the split, in what is told.
        extra: further columns: a text for each item.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[str]],
        vocabulary: Callable[[], TokenVocabulary],
        texts: bool = False,
        name: str = "",
        extra: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.columns, self.texts, self.name, self.extra = dict(columns), texts, name, dict(extra or {})
        self._vocabulary: Callable[[], TokenVocabulary] | None = vocabulary
        self._size = len(next(iter(self.columns.values())))
        self._encoded: tuple[TokenVocabulary, dict[str, IdRows]] | None = None

    def __len__(self) -> int:
        return self._size

    def __getstate__(self) -> dict[str, Any]:
        """A loader process gets ids, and texts where batches have some."""
        self.tokenize()
        return {**self.__dict__, "_vocabulary": None, "columns": self.columns if self.texts else {}}

    def tokenize(self) -> dict[str, IdRows]:
        """Ids of all items, without ends; anew where the weights have brought another vocabulary.

        Raises:
            ValueError: naming a molecule that has what belongs to no token.
        """
        if self._vocabulary is None:
            assert self._encoded is not None
            return self._encoded[1]
        vocabulary = self._vocabulary()
        if self._encoded is None or self._encoded[0] != vocabulary:
            how = vocabulary.representation
            rows = {
                name: IdRows(vocabulary.encoded(tokenised(text, how)) for text in texts)
                for name, texts in self.columns.items()
            }
            self._encoded = vocabulary, rows
            self._tell_unknown(rows)
        return self._encoded[1]

    def _tell_unknown(self, rows: Mapping[str, IdRows]) -> None:
        for name, column in rows.items():
            places = (column.ids == UNK).nonzero()[0]
            if len(places):
                first = int((column.ends > places[0]).argmax()) - 1
                items = len({int((column.ends > p).argmax()) for p in places[:10_000]})
                say(
                    f"{items:,} of {self._size:,} items of {self.name} have tokens that the "
                    f"vocabulary lacks, read as <unk>: first {self.columns[name][first][:60]}"
                )

    @property
    def lengths(self) -> Any:
        """Tokens of the longest string of each item, both ends included."""
        found = [column.lengths for column in self.tokenize().values()]
        longest = found[0]
        for each in found[1:]:
            longest = longest.clip(min=each)
        return longest + 2

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = batch_keys(keys)[1].tolist()
        batch: dict[str, Any] = {}
        for name, column in self.tokenize().items():
            ended = name != "source"
            batch[name] = padded([[BOS, *column[i], EOS] if ended else column[i] for i in index], PAD, 1)
            if self.texts:
                batch[f"{name}_text"] = [self.columns[name][i] for i in index]
        batch["index"] = torch.tensor(index)
        for name, values in self.extra.items():
            batch[name] = [values[i] for i in index]
        return batch


class StringModule(SameTexts):
    """A data module of molecules as strings.

    The vocabulary is that of the weights, where the trainer's module has one (``vocabulary``, a
    :class:`zoo.nn.kept_text.KeptText`); else the tokens of the training set, of which no other split has a
    say: what it lacks is ``<unk>`` there, which is told.

    Args:
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
        representation: of the strings.
        batch_tokens: global training batch in padded tokens of the longest string, in the place of
            ``batch_size``.
        like_lengths: whether the items of a batch of ``batch_size`` have like lengths.
    """

    train_set: StringItems

    def __init__(
        self,
        batch_size: Many,
        eval_batch_size: Many,
        num_workers: Workers = 0,
        representation: Representation = "smiles",
        batch_tokens: Many | None = None,
        like_lengths: bool = False,
    ) -> None:
        check_ranges(StringModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.representation: Representation = representation
        self.batch_tokens, self.like_lengths = batch_tokens, like_lengths
        self._made: tuple[str, TokenVocabulary] | None = None
        self.facts: dict[str, Any] = {}
        if batch_tokens is not None:
            self.batch_size = None  # type: ignore[assignment]

    def training_strings(self) -> Iterable[str]:
        """All strings of the training set."""
        raise NotImplementedError

    def tokens(self) -> TokenVocabulary:
        """The vocabulary of the moment.

        Raises:
            ValueError: for weights of another representation.
        """
        text = self._of_weights()
        if self._made is None or self._made[0] != text:
            how = self.representation
            found = (
                TokenVocabulary.of_document(text)
                if text
                else TokenVocabulary.of_texts((tokenised(s, how) for s in self.training_strings()), how)
            )
            if found.representation != how:
                raise ValueError(
                    f"the weights read {found.representation}, but data.init_args.representation is {how}: "
                    "leave it out, and theirs is taken"
                )
            self._made = text, found
        return self._made[1]

    @property
    def vocabulary(self) -> str:
        """The vocabulary as a document."""
        return self.tokens().document

    @property
    def vocab_size(self) -> int:
        """Tokens, special ones among them."""
        return len(self.tokens())

    def train_dataloader(self) -> Any:
        self.train_set.tokenize()  # before loader processes begin, each of which would do it anew
        limit, trained = progress_of(self)
        rank, world = place(self)
        if self.batch_tokens is not None:
            sampler: Any = TokenBatchSampler(
                self.train_set.lengths, self.batch_tokens, rank, world, global_seed(), trained, limit
            )
        elif self.like_lengths:
            sampler = LikeLengths(
                self.train_set.lengths, self.batch_size, rank=rank, world_size=world, seed=global_seed(),
                batches_per_epoch=limit, trained_batches=trained,
            )  # fmt: skip
        else:
            return super().train_dataloader()
        return resumable_loader(self.train_set, sampler, self.num_workers)

    def _evaluated(self, found: Any) -> Any:
        if isinstance(found, StringItems):
            found.tokenize()
        return super()._evaluated(found)


def tell_repeated(known: Iterable[str], **held: Sequence[str]) -> None:
    """Say how many items of a held-out split are among those to train: their scores tell little of others."""
    trained = {*known}
    for name, split in held.items():
        if count := sum(item in trained for item in split):
            say(f"{count:,} of {len(split):,} items to {name} are among those to train")
