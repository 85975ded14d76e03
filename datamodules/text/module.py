"""What text data modules share: one tokenizer, of the weights, of a file, or trained here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from datamodules.loading.loaders import SplitModule
from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.text.tokenizers import Model, document, from_document, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextModule(SplitModule):
    """A data module of token sequences.

    The tokenizer is, in this order: ``tokenizer``, where it is given; that of the weights, where the
    trainer's module has one (``vocabulary``, a :class:`zoo.nn.kept_text.KeptText`); one trained on
    :meth:`training_texts`. Weights are restored after ``setup``, so sets tokenize no earlier than their
    loaders are asked for. The module fills its ``vocabulary`` from the attribute of that name here.

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

    def training_texts(self) -> Iterable[str]:
        """Texts that a tokenizer is trained on."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Made at the first use."""
        if self._tokenizer is None:
            self._tokenizer = self._found()
        return self._tokenizer

    def _found(self) -> PreTrainedTokenizerFast:
        if self.tokenizer_source is not None:
            return load_tokenizer(self.tokenizer_source)
        if text := self._of_weights():
            say("the tokenizer is that of the weights")
            return from_document(text)
        return train_tokenizer(
            self.training_texts(), self._most, self.model, self.specials, self.last_specials, self.lowercase
        )

    def _of_weights(self) -> str:
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        return getattr(getattr(module, "vocabulary", None), "text", "")

    @property
    def vocabulary(self) -> str:
        """The tokenizer as a document."""
        return document(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer, special ones among them."""
        return len(self.tokenizer)
