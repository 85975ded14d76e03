"""Documents and their summaries: CNN/DailyMail, XSum, NYT, your own files, ACLSum, a procedural set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import BatchItems
from datamodules.loading.ranges import Many, Seed, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.terminal import say
from datamodules.loading.variants import Users, Uses, check_variants
from datamodules.text import summary_files as files
from datamodules.text.batches import padded
from datamodules.text.module import TextModule
from datamodules.text.procedural import WORDS, procedural
from datamodules.text.records import Record, every_text
from datamodules.text.summary_files import Format
from datamodules.text.tokenizers import token_ids, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Parts = Literal["abstract", "all"]


class SummaryItems(BatchItems):
    """Documents with summaries as token ids, and their texts where they are evaluated.

    Args:
        records: ``document``, ``id``; ``summary``, ``yhat`` and ``prompt`` where they have them.
        module: whose tokenizer and lengths they are read with.
        texts: give the texts, too.
    """

    def __init__(self, records: list[Record], module: Summaries, texts: bool) -> None:
        self.records, self.texts = records, texts
        self.max_source, self.max_target = module.max_source, module.max_target
        self._module: Summaries | None = module
        self._tokenizer: Any = None

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:  # for a spawned loader process
        return {**self.__dict__, "_tokenizer": self.tokenizer, "_module": None}

    @property
    def tokenizer(self) -> Any:
        """That of the module now; its weights may bring theirs after the sets were made."""
        if self._module is not None:
            self._tokenizer = self._module.tokenizer
        return self._tokenizer

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        index = batch_keys(keys)[1]
        rows = [self.records[i] for i in index.tolist()]
        tokenizer = self.tokenizer
        sources = token_ids(tokenizer, [row.get("prompt", "") + row["document"] for row in rows])
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        end, pad = [tokenizer.eos_token_id], tokenizer.pad_token_id
        room = self.max_source - len(begin) - 1
        batch: dict[str, Any] = {
            "index": torch.from_numpy(index),
            "truncated": torch.tensor([len(ids) > room for ids in sources]),
        }
        batch |= _padded("source", [[*begin, *ids[:room], *end] for ids in sources], pad)
        for key, field in (("target", "summary"), ("yhat", "yhat")):
            if all(field in row for row in rows):
                ids = token_ids(tokenizer, [row[field] for row in rows])
                limit = self.max_target - len(begin) - 1
                batch |= _padded(key, [[*begin, *each[:limit], *end] for each in ids], pad)
        if self.texts:
            batch |= {"document": [row["document"] for row in rows], "name": [row["id"] for row in rows]}
            if all("row" in row for row in rows):
                batch["row"] = [row["row"] for row in rows]
            if all("summary" in row for row in rows):
                batch["summary"] = [row["summary"] for row in rows]
        return batch


def _padded(name: str, rows: list[list[int]], pad: int) -> dict[str, Any]:
    ids = padded(rows, pad)
    lengths = torch.tensor([len(row) for row in rows])
    return {name: ids, f"{name}_mask": torch.arange(ids.shape[1]) < lengths[:, None]}


_NAMED: dict[str, Users] = {"format": ("jsonl", "hub"), "predict": "a file"}


class Summaries(TextModule):
    """Documents and summaries as token ids.

    A batch has ``source`` and ``target``, int64 (B, S) and (B, T) as ``<s> tokens </s>`` (as far as the
    tokenizer has these), padded on the right, ``source_mask`` and ``target_mask``, bool, true on real tokens,
    ``index`` int64 (B,) and ``truncated`` bool (B,); ``yhat`` and ``yhat_mask`` where summaries are cached;
    outside of training the texts ``document``, ``summary`` and ``name`` too, lists of B, and ``row``, their
    lines in an input file.

    Documents without text are left out, with a count. A tokenizer is trained on the training split
    (byte-level BPE; whole words for ``procedural``), unless one is given or the weights bring theirs.

    Args:
        format: ``jsonl`` (``train.jsonl``, ``val.jsonl``, ``test.jsonl``), ``lines`` (``train.source``,
            ``train.target``, ...), ``hub``, ``nyt`` (LDC2008T19 unpacked), ``aclsum`` (300 / 150 / 300 expert
            sentences in the wheel ``aclsum``) or ``procedural`` (generated).
        root: folder of the files; null is ``$ZOO_DATA/summaries/<name>``.
        name: of that folder, and of the set in what weights know of their data.
        hub: id of a set of the hub, ``abisee/cnn_dailymail``.
        hub_config: of it, ``3.0.0``.
        document_field: of ``jsonl`` and ``hub``: ``article`` in CNN/DailyMail.
        summary_field: ``highlights`` there.
        id_field: names a document.
        yhat_field: a generated summary of each document; null where there are none.
        aclsum_parts: ``abstract`` or ``all``: with introduction and conclusion.
        predict: a file of documents to summarise: ``.jsonl``, or a text with one a line.
        tokenizer: hub id, folder or ``tokenizer.json``; null trains one.
        vocab_size: of a trained one, at most.
        max_source: tokens of a document, the special ones included; the rest is cut off and counted.
        max_target: tokens of a summary that is learned.
        seed: of ``procedural``.
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_variants: ClassVar[dict[str, Uses]] = {
        "format": {
            "root": ("jsonl", "lines", "nyt"),
            **dict.fromkeys(("hub", "hub_config"), ("hub",)),
            # a file of documents to summarise has fields, too
            **{f"{name}_field": _NAMED for name in ("document", "summary", "id")},
            "yhat_field": ("jsonl", "hub"),
            "aclsum_parts": ("aclsum",),
            "seed": ("procedural",),
        },
        "tokenizer": {"vocab_size": (None,)},
    }
    last_specials = ("<mask>",)
    of_weights: ClassVar[tuple[str, ...]] = ("max_source", "aclsum_parts")
    split_of_weights: ClassVar[tuple[str, ...]] = ("format", "name", "hub", "hub_config", "seed")

    def __init__(
        self,
        format: Format = "jsonl",
        root: str | None = None,
        name: str = "own",
        hub: str | None = None,
        hub_config: str | None = None,
        document_field: str = "document",
        summary_field: str = "summary",
        id_field: str = "id",
        yhat_field: str | None = None,
        aclsum_parts: Parts = "abstract",
        predict: str | None = None,
        tokenizer: str | None = None,
        vocab_size: Size = 2000,
        max_source: Size = 1024,
        max_target: Size = 142,
        seed: Seed = 0,
        batch_size: Many = 16,
        eval_batch_size: Many = 32,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Summaries, locals())
        check_variants(Summaries, locals())
        super().__init__(tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        check_choice("format", format, Format)
        check_choice("aclsum_parts", aclsum_parts, Parts)
        if min(max_source, max_target) < 3:
            raise ValueError(
                "data.init_args.max_source and max_target must be at least 3: <s>, a token, </s>"
            )
        if format == "hub" and hub is None:
            raise ValueError(
                "data.init_args.format hub needs data.init_args.hub, abisee/cnn_dailymail for instance"
            )
        self.format, self.root, self.name = format, data_folder(root, f"summaries/{name}"), name
        self.hub, self.hub_config = hub, hub_config
        self.fields = {"document": document_field, "summary": summary_field, "id": id_field}
        if yhat_field is not None:
            self.fields["yhat"] = yhat_field
        self.aclsum_parts, self.predict = aclsum_parts, predict
        self.max_source, self.max_target, self.seed = max_source, max_target, seed
        self._trained_on: list[Record] | None = None
        self._told: set[str] = set()
        self._is_set_up = False

    # --- tokenizer ------------------------------------------------------------------------------------------

    def training_texts(self) -> Iterator[str]:
        """Documents, with what is put before them, and summaries of the training split."""
        return every_text([{"prompt": "", **r} for r in self._training()], "prompt", "document", "summary")

    def learned(self) -> Iterator[tuple[str, ...]]:
        fields = ("prompt", "document", "summary", "yhat")
        return (tuple(record.get(field, "") for field in fields) for record in self._training())

    def trained(self) -> PreTrainedTokenizerFast:
        """Byte-level BPE; the procedural set is of words, all of which are known."""
        if self.format != "procedural":
            return super().trained()
        room = len(WORDS) + len(self.specials) + len(self.last_specials)
        texts = [*self.training_texts(), *WORDS]
        return train_tokenizer(texts, room, "words", self.specials, self.last_specials, min_frequency=1)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See :class:`TextModule`.

        Raises:
            ValueError: for one without an end or a pad.
        """
        found = super().tokenizer
        if found.eos_token_id is None or found.pad_token_id is None:
            raise ValueError(f"data.init_args.tokenizer {self.tokenizer_source} has no </s> or no <pad>")
        return found

    # before the sets are set up, nothing is told: the files may be missing, which is the line to say then

    @property
    def vocab_size(self) -> int | None:  # type: ignore[override]
        """Entries of the tokenizer."""
        return len(self.tokenizer) if self._is_set_up else None

    @property
    def pad_token_id(self) -> int | None:
        """Of ``<pad>``."""
        return self._id_of("pad")

    @property
    def eos_token_id(self) -> int | None:
        """Of ``</s>``."""
        return self._id_of("eos")

    @property
    def bos_token_id(self) -> int | None:
        """Of ``<s>``; -1 for a tokenizer without."""
        return self._id_of("bos")

    def _id_of(self, role: str) -> int | None:
        if not self._is_set_up:
            return None
        found = getattr(self.tokenizer, f"{role}_token_id")
        return -1 if found is None else int(found)

    @property
    def special_ids(self) -> list[int] | None:
        """Of the other tokens that are no text."""
        if not self._is_set_up:
            return None
        known = {self.pad_token_id, self.eos_token_id, self.bos_token_id}
        return sorted(set(map(int, self.tokenizer.all_special_ids)) - known)

    @property
    def facts(self) -> dict[str, Any]:
        """What weights keep of the files."""
        return {
            "set": {"hub": self.hub, "aclsum": "aclsum", "procedural": "procedural"}.get(self.format)
            or self.name
        }

    # --- sets -----------------------------------------------------------------------------------------------

    def _read(self, split: str) -> list[Record]:
        if self.format == "aclsum":
            found = files.aclsum(split, self.aclsum_parts)
        elif self.format == "procedural":
            found = procedural(split, self.seed)
        elif self.format == "hub":
            assert self.hub is not None
            found = files.of_hub(self.hub, self.hub_config, split, self.fields)
        elif self.format == "nyt":
            found = files.nyt(self.root, split)
        elif self.format == "lines":
            found = files.side_by_side(self.root, split)
        else:
            found = files.json_lines(self.root, split, self.fields)
        return self._whole(found, f"{self.facts['set']}, {split}")

    def _training(self) -> list[Record]:
        if self._trained_on is None:
            self._trained_on = self._read("train")
        return self._trained_on

    def _whole(self, records: list[Record], what: str, summaries: bool = True) -> list[Record]:
        kept, left_out = files.whole(records)
        if not kept:
            raise ValueError(
                f"{what}: none of the {len(records):,} documents has a text" + " and a summary" * summaries
            )
        if left_out and what not in self._told:
            self._told.add(what)
            lacking = " or lack a summary" * summaries
            say(f"{what}: {left_out:,} of {len(records):,} documents are empty{lacking}, left out")
        return kept

    def _items(self, records: list[Record], texts: bool = True) -> SummaryItems:
        return SummaryItems(records, self, texts)

    def setup(self, stage: str) -> None:
        self._set(stage)
        self._is_set_up = True

    def _set(self, stage: str) -> None:
        if stage == "predict" and self.predict is not None:
            found = files.documents_of(Path(self.predict), self.fields)
            self.predict_set = self._items(self._whole(found, self.predict, summaries=False))
            return
        self.train_set = self._items(self._training(), texts=False)
        if stage in ("fit", "validate"):
            self.val_set = self._items(self._read("val"))
        if stage in ("test", "predict"):
            self.test_set = self._items(self._read("test"))
