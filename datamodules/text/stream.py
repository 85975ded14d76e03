"""Documents as a stream of tokens for a causal language model."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import written_whole
from datamodules.loading.ranges import Many, Part, Size, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.corpus import IN_MEMORY, Corpus, Deduplicate
from datamodules.text.language_module import LanguageModule
from datamodules.text.prompts import PromptRows, asked_texts, windows_of
from datamodules.text.stream_files import (
    Document,
    Unit,
    documents_of,
    files_of,
    hub_documents,
    standard_library,
)
from datamodules.text.stream_rows import EvaluationRows, TrainingRows
from datamodules.text.text_baselines import WINDOW, baselines, contamination
from datamodules.text.token_store import TokenStore, from_disk, in_memory, on_disk, read_bin
from datamodules.text.tokenizers import document, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Layout = Literal["stdlib", "files", "bin", "hub"]
SPLITS = ("train", "val", "test")


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
        predict: what ``zoo predict`` goes on from: a text, several, or a file, ``.txt`` with one a line or
            ``.jsonl`` with ``field``; null takes ``predict_samples`` places of the test split, evenly spaced.
        predict_samples: how many.
        prompt_tokens: tokens of each, at most half of a row; as many more are its ``reference``.
        stride: tokens from one window of an evaluation to the next; null is ``context - 1``. A smaller one
            gives each token more context and takes as much longer; the tokens scored are the same.
        cache: folder where the tokens of each split are kept in a file, which is mapped; null keeps them in
            memory, and those of more than 256 MiB of files, or of the hub, in ``$ZOO_DATA/tokens``.
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

    of_weights: ClassVar[tuple[str, ...]] = ("context", "across_documents")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "name", "field", "unit", "clean", "deduplicate", "val_share", "test_share",
    )  # fmt: skip
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("files", "bin"),
            "name": ("hub",),
            "field": {"layout": ("files", "hub"), "predict": "a file"},
            "unit": ("files",),
            "cache": ("stdlib", "files", "hub"),
            **dict.fromkeys(("clean", "deduplicate"), ("stdlib", "files", "hub")),
            **dict.fromkeys(("val_share", "test_share"), ("files", "hub")),
        },
        "tokenizer": {"vocab_size": (None,)},
        "predict": {"predict_samples": (None,), "prompt_tokens": (None,)},
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
        predict: str | list[str] | None = None,
        predict_samples: Many = 8,
        prompt_tokens: Size = 50,
        cache: str | None = None,
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
        self.predict, self.predict_samples, self.prompt_tokens = predict, predict_samples, prompt_tokens
        self.cache = None if cache is None else Path(cache)
        self._corpus: Corpus | None = None
        self._stores: tuple[str, dict[str, TokenStore]] | None = None
        self._largest: int | None = None

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

    def baselines(self) -> dict[str, float]:
        """Bits per byte of the test split without a network, see :func:`text_baselines.baselines`."""
        return baselines(self._encoded("train"), self._encoded("test"))

    def contamination(self) -> float:
        """Share of the test split's windows of 50 bytes that stand in a training document."""
        return contamination(self._encoded("train"), self._encoded("test"))

    def fertility(self) -> float:
        """Tokens for a word of the test split, words between blanks; NaN of a text without one."""
        store = self.stores["test"]
        words = sum(len(text.split()) for text in self.corpus.texts("test"))
        tokens = len(store.ids) - int(np.isin(store.ids, [store.start, store.end]).sum())
        return tokens / words if words else float("nan")

    def _encoded(self, split: str) -> Iterator[bytes]:
        return (text.encode() for text in self.corpus.texts(split))

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
        folder = self._cache_folder()
        found = {}
        for split in SPLITS:
            if folder is None:
                found[split] = in_memory(self.corpus.texts(split), self.encoder, *ends, entries)
                continue
            name = f"{self._key(self.vocabulary)}_{split}"
            kept = from_disk(folder, name, self.encoder, *ends)
            if kept is None:
                say(f"{self.origin}: the tokens to {split} go to {folder / name}.bin, once")
                kept = on_disk(folder, name, self.corpus.texts(split), self.encoder, *ends, entries)
            found[split] = kept
        return found

    def _cache_folder(self) -> Path | None:
        """Where tokens are kept, None in memory."""
        if self.cache is not None or self.layout == "stdlib":
            return self.cache
        if self.layout == "files":
            size = sum(path.stat().st_size for path, _ in files_of(self.folder))
            if size <= IN_MEMORY:
                return None
        return data_folder(None, "tokens")

    def _key(self, more: str = "") -> str:
        """Of what the tokens follow from: the files' names, sizes and times, and the settings."""
        if self.layout == "files":
            files = [(str(path), split, path.stat()) for path, split in files_of(self.folder)]
            source: list[Any] = [(p, split, told.st_size, told.st_mtime_ns) for p, split, told in files]
        elif self.layout == "stdlib":
            source = [[d.where, len(d.text)] for d in standard_library()] + [sys.version]
        else:
            source = [self.hub_name]
        settings = [self.layout, self.field, self.unit, self.cleans, self.deduplicate, self.shares]
        text = json.dumps([1, source, settings, more])
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()

    def trained(self) -> PreTrainedTokenizerFast:
        folder = self._cache_folder() if self.is_trained else None
        if folder is None:
            return super().trained()
        path = folder / f"{self._key(f'{self._most} entries')}_tokenizer.json"
        if path.is_file():
            return load_tokenizer(str(path))
        made = super().trained()
        with written_whole(path) as written:
            written.write_text(document(made), encoding="utf-8")
        return made

    def prepare_data(self) -> None:
        """Write the tokens that are kept in files, in one process of a machine."""
        if self.layout != "bin" and self._cache_folder() is not None:
            assert self.stores

    @property
    def _is_bare(self) -> bool:
        """Whether these are ids of a tokenizer that nobody has named."""
        return self.layout == "bin" and self.tokenizer_source is None and not (
            self.bytes_asked or self._of_weights()
        )  # fmt: skip

    def _bins(self) -> dict[str, TokenStore]:
        paths = [self.folder / f"{split}.bin" for split in SPLITS]
        if not paths[2].is_file():
            paths[2] = paths[1]
        if self._is_bare:
            found = read_bin(paths, None, -1, None)
        else:
            found = read_bin(paths, len(self.tokenizer), self.eos_token_id, self.encoder.table)
        return dict(zip(SPLITS, found, strict=True))

    @property
    def vocabulary(self) -> str:
        return "" if self._is_bare else super().vocabulary

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer; of ``bin`` without one the largest id and one more."""
        if not self._is_bare:
            return len(self.tokenizer)
        if self._largest is None:
            self._largest = max(int(store.ids.max()) for store in self.stores.values())
        return self._largest + 1

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
        """What weights keep of the texts: their name, and, once they are read, a digest of all splits."""
        name = {"stdlib": "stdlib", "hub": self.hub_name}.get(self.layout, self.folder.name)
        if self._stores is None:
            return {"set": name}
        digest = hashlib.blake2b(digest_size=8)
        for split in SPLITS:
            digest.update(self.stores[split].digest().encode())
        return {"set": name, "corpus": digest.hexdigest()}

    # --- sets -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "predict":
            self.predict_set = self.prompts("test", self.predict_samples, self.prompt_tokens)
            return
        stores, pad = self.stores, self.pad_token_id
        self.train_set = TrainingRows(
            stores["train"], self.context, pad, self.across, f"{self.origin}, train", self.batch_size
        )
        for split in ("val", "test"):
            made = EvaluationRows(
                stores[split], self.context, pad, self.across, self.stride, f"{self.origin}, {split}"
            )
            setattr(self, f"{split}_set", made)
        if stage == "test" and self.layout == "stdlib":
            told = ", ".join(f"{name} {value:.3f}" for name, value in self.baselines().items())
            say(
                f"{self.origin}: bits per byte of the test text by {told}; "
                f"{self.contamination():.1%} of its windows of {WINDOW} bytes stand in the training text"
            )

    def prompts(self, split: str, count: int, tokens: int = 50) -> PromptRows:
        """Places of a split to go on from, with what follows; those of ``predict``, where it is given.

        Args:
            split: ``train``, ``val`` or ``test``.
            count: how many, evenly spaced.
            tokens: of each, and of what follows.

        Raises:
            ValueError: where no document has room for one.
        """
        decode: Any = (lambda ids: "") if self._is_bare else self.tokenizer.decode
        if split == "test" and self.predict is not None:
            texts = asked_texts(self.predict, self.field)
            if self._is_bare:
                raise ValueError(
                    f"{self.folder} holds ids of an unknown tokenizer: data.init_args.tokenizer names it"
                )
            rows = [np.concatenate([[self.bos_token_id], ids]) for ids in self.encoder.ids(texts)]
            nothing: list[Any] = [np.zeros(0, dtype=np.int64)] * len(rows)
            return PromptRows(rows, texts, nothing, [""] * len(rows), self.pad_token_id)
        tokens = min(tokens, self.context // 2)
        found = windows_of(self.stores[split], count, tokens, tokens)
        if not found:
            raise ValueError(
                f"{self.origin}, {split}: no document has {2 * tokens} tokens, a prompt and what follows; "
                "lower data.init_args.prompt_tokens, or give data.init_args.predict"
            )
        rows, references = [a for a, _ in found], [b for _, b in found]
        return PromptRows(
            rows, [decode(r) for r in rows], references, [decode(r) for r in references], self.pad_token_id
        )
