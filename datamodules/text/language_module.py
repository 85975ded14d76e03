"""What data of a causal language model share: their tokenizer and its special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.text.byte_tokens import SPECIALS, Encoder, byte_tokenizer
from datamodules.text.module import TextModule
from datamodules.text.tokenizers import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OF_A_TRAINED_ONE = {"tokenizer": {"vocab_size": (None,)}}


class LanguageModule(TextModule):
    """Data for a causal language model.

    The tokenizer is that of the weights, where they have one; else ``tokenizer``: a folder, a
    ``tokenizer.json``, a model of the hub, or ``bytes``; else byte-level BPE of at most ``vocab_size``
    entries, trained on the training split; else that of bytes: id = byte + 3, pad 0, bos 1, eos 2.

    A document begins with its start token, bos, and ends with eos; a tokenizer without bos has eos for both,
    one between two documents. Without a pad, rows are filled up with eos; ``documents`` is 0 there.
    """

    specials: ClassVar[tuple[str, ...]] = SPECIALS

    def __init__(
        self,
        context: Size,
        tokenizer: str | None,
        vocab_size: Many | None,
        batch_size: Many,
        eval_batch_size: Many,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(LanguageModule, locals())
        source = None if tokenizer == "bytes" else tokenizer
        super().__init__(source, vocab_size or 259, batch_size, eval_batch_size, num_workers)
        self.bytes_asked, self.is_trained = tokenizer == "bytes", vocab_size is not None
        if context < 2:
            raise ValueError("data.init_args.context must be at least 2: a token and one that it predicts")
        self.context = context
        self._encoder: tuple[str, Encoder] | None = None

    def _take(self, text: str) -> None:
        super()._take(text)
        assert self._tokenizer is not None
        if self.bytes_asked and not Encoder(self._tokenizer).is_of_bytes:
            raise ValueError(
                "the weights were trained with another tokenizer than data.init_args.tokenizer bytes: leave "
                "it out, and theirs is taken"
            )
        if self._tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer {self.tokenizer_source or 'of the weights'} has no end token, which stands "
                "between two documents; add one as its eos_token"
            )

    def trained(self) -> PreTrainedTokenizerFast:
        if not self.is_trained:
            return byte_tokenizer()
        return train_tokenizer(self.training_texts(), self._most, "byte_bpe", self.specials, normalised=False)

    @property
    def encoder(self) -> Encoder:
        """Of the tokenizer now."""
        tokenizer = self.tokenizer
        if self._encoder is None or self._encoder[0] != self._document:
            self._encoder = self._document, Encoder(tokenizer)
        return self._encoder[1]

    @property
    def eos_token_id(self) -> int:
        """End of a document."""
        return int(self.tokenizer.eos_token_id)

    @property
    def bos_token_id(self) -> int:
        """Start of a document: that of the end, of a tokenizer without one of its own."""
        found = self.tokenizer.bos_token_id
        return self.eos_token_id if found is None else int(found)

    @property
    def pad_token_id(self) -> int:
        """Behind the end of a row."""
        found = self.tokenizer.pad_token_id
        return self.eos_token_id if found is None else int(found)
