"""What text data modules share: one tokenizer, of the weights, of a file, or trained here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.text.same_texts import SameTexts
from datamodules.text.tokenizers import (
    Model,
    document,
    from_document,
    load_tokenizer,
    tokenizer_part,
    train_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextModule(SameTexts):
    """A data module of token sequences.

    The tokenizer is that of the weights, where the trainer's module has one (``vocabulary``, a
    :class:`zoo.nn.kept_text.KeptText`), which must be ``tokenizer``, where that is given; else ``tokenizer``;
    else one trained on :meth:`training_texts`. A plain Trainer restores weights after ``setup``: what sets
    have of a tokenizer they have anew when it changes. The module fills its ``vocabulary`` from the
    attribute of that name here.

    A training that is resumed must have the texts that it was begun with: checkpoints keep a digest of
    :meth:`learned`.

    Attributes:
        specials, last_specials, model, lowercase: of a trained tokenizer, see
            :func:`datamodules.text.tokenizers.train_tokenizer`.

    Args:
        tokenizer: folder, ``tokenizer.json`` or model of the hub.
        vocab_size: entries of a tokenizer that is trained here, at most.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    specials: ClassVar[Sequence[str]] = ("<s>", "<pad>", "</s>", "<unk>")
    last_specials: ClassVar[Sequence[str]] = ()
    model: ClassVar[Model] = "byte_bpe"
    lowercase: ClassVar[bool] = False

    def __init__(
        self,
        tokenizer: str | None,
        vocab_size: Many,
        batch_size: Many,
        eval_batch_size: Many,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(TextModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.tokenizer_source, self._most = tokenizer, vocab_size
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._document = self._seen = ""

    def training_texts(self) -> Iterable[str]:
        """Texts that a tokenizer is trained on."""
        raise NotImplementedError

    def learned(self) -> Iterable[Sequence[str]]:
        """The texts of each training item, in the order of the set."""
        return ((text,) for text in self.training_texts())

    def trained(self) -> PreTrainedTokenizerFast:
        """A tokenizer of the training texts."""
        return train_tokenizer(
            self.training_texts(), self._most, self.model, self.specials, self.last_specials, self.lowercase
        )

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Made at the first use, and anew when weights with another one are restored.

        Raises:
            ValueError: if they were trained with another one than ``tokenizer``.
        """
        text = self._of_weights()
        if self._tokenizer is None or text != self._seen:
            self._seen = text
            self._take(text)
        assert self._tokenizer is not None
        return self._tokenizer

    def _take(self, text: str) -> None:
        if self._tokenizer is None and self.tokenizer_source is not None:
            self._tokenizer = load_tokenizer(self.tokenizer_source)
            self._document = document(self._tokenizer)
        if not text:
            if self._tokenizer is None:
                self._tokenizer = self.trained()
                self._document = document(self._tokenizer)
            return
        theirs = tokenizer_part(text)
        if theirs == self._document:
            return
        if self.tokenizer_source is not None:
            raise ValueError(
                "the weights were trained with another tokenizer than data.init_args.tokenizer "
                f"{self.tokenizer_source}: leave it out, and theirs is taken"
            )
        say("the tokenizer is that of the weights")
        self._tokenizer, self._document = from_document(text), theirs

    @property
    def vocabulary(self) -> str:
        """The tokenizer as a document."""
        assert self.tokenizer is not None
        return self._document

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer, special ones among them."""
        return len(self.tokenizer)
