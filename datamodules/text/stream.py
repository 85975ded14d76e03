"""Documents as a stream of tokens for a causal language model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Many, Part, Size, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.corpus import Corpus, Deduplicate
from datamodules.text.language_module import LanguageModule
from datamodules.text.stream_files import (
    Document,
    Unit,
    documents_of,
    files_of,
    hub_documents,
    standard_library,
)
from datamodules.text.stream_rows import EvaluationRows, TrainingRows
from datamodules.text.token_store import TokenStore, in_memory, read_bin

Layout = Literal["stdlib", "files", "bin", "hub"]


class TextStream(LanguageModule):
    """Documents as rows of tokens, for :class:`zoo.CausalLM`.

    A batch has ``input_ids`` int64 (B, T); ``labels`` (B, T), the same tokens at the same places, -100 where
    none is scored; ``position_ids`` (B, T), from 0 at each document; ``documents`` (B, T), the number of the
    document within the row from 1, 0 behind the end: a token sees those of its own number alone; ``bytes``
    (B,), bytes in UTF-8 of the scored tokens; ``index`` (B,). T is ``context``.

    Each token of a split but the first of a document is scored exactly once, see
    :mod:`datamodules.text.stream_rows`; in evaluation that is the text alone: end tokens are no text.

    Layouts:
        ``stdlib``: the modules of the interpreter's own library, real texts that need no file. Their number
        and size differ between versions of Python: ``facts`` have a digest.
        ``files``: a folder of ``.txt``, ``.jsonl``, ``.jsonl.zst`` or ``.parquet``, or one such file.
        Folders or files called train, val and test are these splits; what no name tells is drawn by the
        digest of the text, and fewer than ten documents are each divided by place.
        ``bin``: ``train.bin`` and ``val.bin`` as nanoGPT writes them, mapped; ``test.bin`` where it is there,
        else val.bin. ``meta.pkl`` is not read: ``tokenizer`` (``openai-community/gpt2``) says what ids are.
        ``hub``: a data set of the hub, through ``datasets``.

    Args:
        layout: of the files.
        root: folder or file; null is ``$ZOO_DATA/texts``.
        name: of the hub's data set, its config after a colon.
        field: of a JSON line, a table or the hub's records that holds the text.
        unit: what is a document in a ``.txt``: the file, a paragraph (between empty lines), a line.
        context: tokens of a row; of a longer document see :mod:`datamodules.text.stream_rows`.
        across_documents: tokens see the documents before theirs in the row, and positions run on.
        stride: tokens from one window of an evaluation to the next; null is ``context - 1``. A smaller one
            gives each token more context and takes as much longer; the tokens scored are the same.
        clean: see :func:`datamodules.text.corpus.cleaned`.
        deduplicate: leave out documents that are there before: ``exact``, ``near`` (MinHash) or ``none``.
        val_share: of documents without a split.
        test_share: likewise.
        tokenizer: ``bytes``, or a folder, ``tokenizer.json`` or model of the hub; for null see
            :class:`datamodules.text.language_module.LanguageModule`.
        vocab_size: entries of one that is trained, at most; null takes bytes.
        batch_size: global training batch, in rows.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    drop_last = False
    of_weights: ClassVar[tuple[str, ...]] = ("context", "across_documents")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "name", "field", "unit", "clean", "deduplicate", "val_share", "test_share",
    )  # fmt: skip
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("files", "bin"),
            "name": ("hub",),
            "field": ("files", "hub"),
            "unit": ("files",),
            **dict.fromkeys(("clean", "deduplicate"), ("stdlib", "files", "hub")),
            **dict.fromkeys(("val_share", "test_share"), ("files", "hub")),
        },
        "tokenizer": {"vocab_size": (None,)},
    }

    def __init__(
        self,
        layout: Layout = "stdlib",
        root: str | None = None,
        name: str = "wikitext:wikitext-103-raw-v1",
        field: str = "text",
        unit: Unit = "file",
        context: Size = 256,
        across_documents: bool = False,
        stride: Size | None = None,
        clean: bool = False,
        deduplicate: Deduplicate = "exact",
        val_share: Part = 0.05,
        test_share: Part = 0.05,
        tokenizer: str | None = None,
        vocab_size: Many | None = None,
        batch_size: Many = 16,
        eval_batch_size: Many = 32,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(TextStream, locals())
        check_variants(TextStream, locals())
        check_choice("layout", layout, Layout)
        check_choice("unit", unit, Unit)
        check_choice("deduplicate", deduplicate, Deduplicate)
        super().__init__(context, tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        if stride is not None and stride >= context:
            raise ValueError(
                f"data.init_args.stride is {stride}, but windows of {context} tokens must overlap by one: at "
                f"most {context - 1}"
            )
        if val_share + test_share >= 1:
            raise ValueError("data.init_args.val_share and test_share leave nothing to train")
        self.layout, self.folder, self.hub_name = layout, data_folder(root, "texts"), name
        self.field, self.unit, self.across, self.stride = field, unit, across_documents, stride
        self.cleans, self.deduplicate, self.shares = clean, deduplicate, (val_share, test_share)
        self._corpus: Corpus | None = None
        self._stores: tuple[str, dict[str, TokenStore]] | None = None

    @property
    def origin(self) -> str:
        """Where the texts are from, in what is told."""
        named = {"stdlib": "the standard library", "hub": self.hub_name}
        return named.get(self.layout, str(self.folder))

    # --- texts ----------------------------------------------------------------------------------------------

    def _documents(self) -> Iterable[Document]:
        if self.layout == "stdlib":
            return standard_library()
        if self.layout == "hub":
            return hub_documents(self.hub_name, self.field)
        return (
            document
            for path, split in files_of(self.folder)
            for document in documents_of(path, self.field, self.unit, split)
        )

    @property
    def corpus(self) -> Corpus:
        """The documents, read and divided at the first use.

        Raises:
            ValueError: of ``bin``, which has no texts.
        """
        if self.layout == "bin":
            raise ValueError(f"{self.folder} holds ids, no texts")
        if self._corpus is None:
            self._corpus = Corpus(self._documents, *self.shares, self.cleans, self.deduplicate, self.origin)
            if told := self._corpus.counts.told():
                say(f"{self.origin}: left out of {len(self._corpus.codes):,} documents: {told}")
        return self._corpus

    def training_texts(self) -> Iterable[str]:
        """The documents to train on."""
        return self.corpus.texts("train")

    # --- tokens ---------------------------------------------------------------------------------------------

    @property
    def stores(self) -> dict[str, TokenStore]:
        """The streams of ``train``, ``val`` and ``test``, with the tokenizer now."""
        known = "" if self._is_bare else self.vocabulary
        if self._stores is None or self._stores[0] != known:
            self._stores = known, self._bins() if self.layout == "bin" else self._tokenised()
        return self._stores[1]

    def _tokenised(self) -> dict[str, TokenStore]:
        ends, entries = (self.bos_token_id, self.eos_token_id), len(self.tokenizer)
        return {
            split: in_memory(self.corpus.texts(split), self.encoder, *ends, entries)
            for split in ("train", "val", "test")
        }

    @property
    def _is_bare(self) -> bool:
        """Whether these are ids of a tokenizer that nobody has named."""
        return self.layout == "bin" and self.tokenizer_source is None and not (
            self.bytes_asked or self._of_weights()
        )  # fmt: skip

    def _bins(self) -> dict[str, TokenStore]:
        paths = [self.folder / f"{split}.bin" for split in ("train", "val", "test")]
        if not paths[2].is_file():
            paths[2] = paths[1]
        if self._is_bare:
            found = read_bin(paths, None, -1, None)
        else:
            found = read_bin(paths, len(self.tokenizer), self.eos_token_id, self.encoder.table)
        return dict(zip(("train", "val", "test"), found, strict=True))

    @property
    def vocabulary(self) -> str:
        return "" if self._is_bare else super().vocabulary

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer; of ``bin`` without one the largest id and one more."""
        if not self._is_bare:
            return len(self.tokenizer)
        return 1 + max(int(store.ids.max()) for store in self.stores.values())

    @property
    def eos_token_id(self) -> int:
        """End of a document; -1 of ``bin`` without a tokenizer."""
        return -1 if self._is_bare else super().eos_token_id

    @property
    def pad_token_id(self) -> int:
        """Behind the end of a row; 0 of ``bin`` without a tokenizer."""
        return 0 if self._is_bare else super().pad_token_id

    def learned(self) -> Iterator[Sequence[str]]:
        """A digest of the training stream."""
        yield (self.stores["train"].digest(),)

    @property
    def facts(self) -> dict[str, Any]:
        """What weights keep of the texts: their name, and a digest of all splits."""
        name = {"stdlib": "stdlib", "hub": self.hub_name}.get(self.layout, self.folder.name)
        digest = hashlib.blake2b(digest_size=8)
        for split in ("train", "val", "test"):
            digest.update(self.stores[split].digest().encode())
        return {"set": name, "corpus": digest.hexdigest()}

    # --- sets -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        stores, pad = self.stores, self.pad_token_id
        self.train_set = TrainingRows(
            stores["train"], self.context, pad, self.across, f"{self.origin}, train"
        )
        for split in ("val", "test"):
            made = EvaluationRows(
                stores[split], self.context, pad, self.across, self.stride, f"{self.origin}, {split}"
            )
            setattr(self, f"{split}_set", made)
