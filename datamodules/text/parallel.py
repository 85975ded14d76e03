"""Sentence pairs of two languages: aligned files, JSON lines, the hub's, and gettext catalogues."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.catalogues import catalogue_pairs
from datamodules.text.exchanges import Exchange
from datamodules.text.pair_files import asked, read_splits
from datamodules.text.pairs import OF_A_TRAINED_ONE, PairModule, Splits
from datamodules.text.records import hub_records, package_folder, read_side_by_side
from datamodules.text.tokenizers import Model

Layout = Literal["gettext", "lines", "jsonl", "hub"]
_SPLITS = ("train", "val", "test")


class ParallelText(PairModule):
    """Pairs of a sentence and its translation, for :class:`zoo.AMI`. For batches see
    :mod:`datamodules.text.pairs`.

    Layouts:
        ``gettext``: the catalogues ``*/locale/<language>/LC_MESSAGES/*.mo`` of an installed package, real
        human translations of short English texts; names to fill in, shortcuts, HTML and line ends are taken
        out, pairs are unique, and split 80 : 10 : 10 by their English text.
        ``lines``: ``train.<source>`` and ``train.<target>``, ``val.``, and, where they are there, ``test.``
        under ``root``, one sentence a line (``train.de`` and ``train.en``; ``train.src`` and ``train.tgt``
        with ``source: src``, ``target: tgt``). WMT14 lies so: train, newstest2013 as val, newstest2014 as
        test. ``jsonl``: ``train.jsonl``, ``val.jsonl``, ``test.jsonl``, lines ``{"source": "...", "target":
        "..."}``. ``hub``: a data set whose records have ``translation: {"de": ..., "en": ...}``,
        ``wmt/wmt14`` for instance.

    Args:
        layout: of the files.
        root: folder; null is ``$ZOO_DATA/parallel``.
        name: of the hub's data set and its config after a colon.
        package: of ``gettext``.
        source: language, or suffix of its files.
        target: likewise.
        predict: what ``zoo predict`` translates: a typed sentence, or a file (``.txt`` with one a line,
            ``.jsonl``); null translates the test split.
        longest: tokens of a sentence that are kept.
        most_pairs: training pairs, the first of a fixed shuffle; null takes all.
        most_evaluated: pairs of validation and of test, the first; null takes all.
        embeddings: file of word vectors, see :class:`datamodules.text.pairs.PairModule`, as all below.
        tokenizer: likewise.
        vocab_size: likewise.
        model: likewise.
        lowercase: likewise.
        batch_size: likewise.
        batch_tokens: likewise.
        eval_batch_size: likewise.
        num_workers: likewise.

    Raises:
        ImportError: for ``gettext`` without the package.
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("longest", "lowercase", "source", "target")
    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "package", "most_pairs")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("lines", "jsonl"),
            "name": ("hub",),
            "package": ("gettext",),
            **dict.fromkeys(("source", "target"), ("gettext", "lines", "hub")),
        },
        **OF_A_TRAINED_ONE,
    }
    bleu = "translation"
    split_key = 16_02

    def __init__(
        self,
        layout: Layout = "gettext",
        root: str | None = None,
        name: str = "wmt/wmt14:de-en",
        package: str = "django",
        source: str = "en",
        target: str = "de",
        predict: str | list[str] | None = None,
        longest: Size = 100,
        most_pairs: Many | None = None,
        most_evaluated: Many | None = None,
        embeddings: str | None = None,
        tokenizer: str | None = None,
        vocab_size: Many = 32000,
        model: Model = "byte_bpe",
        lowercase: bool = False,
        batch_size: Many = 64,
        batch_tokens: Many | None = None,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(ParallelText, locals())
        check_variants(ParallelText, locals())
        check_choice("layout", layout, Layout)
        check_choice("model", model, Model)
        super().__init__(
            tokenizer,
            vocab_size,
            model,
            lowercase,
            longest,
            batch_size,
            batch_tokens,
            eval_batch_size,
            num_workers,
            most_pairs,
            most_evaluated,
            embeddings,
        )
        self.layout, self.folder, self.hub_name, self.package = (
            layout,
            data_folder(root, "parallel"),
            name,
            package,
        )
        self.source, self.target, self.predict = source, target, predict

    @property
    def origin(self) -> str:
        named = {"gettext": f"the package {self.package}", "hub": self.hub_name}
        where = named.get(self.layout, str(self.folder))
        return where if self.layout == "jsonl" else f"{where}, {self.source} and {self.target}"

    def read(self) -> Splits:
        if self.layout == "jsonl":
            found = read_splits(self.folder)
        else:
            found = {"gettext": self._gettext, "lines": self._lines, "hub": self._hub}[self.layout]()
        name = {"gettext": self.package, "hub": self.hub_name}.get(self.layout, self.layout)
        train, val, test = found
        return Splits(train, val, test, {"set": name})

    def _gettext(self) -> list[list[Exchange]]:
        found = catalogue_pairs(package_folder(self.package), self.source, self.target)
        order = item_generator(self.split_key, 0).permutation(len(found))
        held = len(found) // 10
        parts = (order[2 * held :], order[:held], order[held : 2 * held])
        return [[found[i] for i in sorted(part)] for part in parts]

    def _lines(self) -> list[list[Exchange]]:
        splits: list[list[Exchange]] = []
        for split in _SPLITS:
            paths = [self.folder / f"{split}.{end}" for end in (self.source, self.target)]
            if split == "test" and not paths[0].is_file():
                splits.append([])
                continue
            if missing := [p for p in paths if not p.is_file()]:
                raise FileNotFoundError(
                    f"no {missing[0]}; expected are train and val, each .{self.source} and .{self.target} "
                    "with a sentence "
                    "a line (WMT14: statmt.org/wmt14/translation-task.html), or set data.init_args.root"
                )
            splits.append([Exchange((a,), b) for a, b in read_side_by_side(*paths)])
        return splits

    def _hub(self) -> list[list[Exchange]]:
        name, _, config = self.hub_name.partition(":")
        splits = []
        for split in ("train", "validation", "test"):
            records = hub_records(name, config or None, split, {"translation": dict})
            splits.append(
                [
                    self._of_hub(r["translation"], f"{name}, {split}, record {i}")
                    for i, r in enumerate(records)
                ]
            )
        return splits

    def _of_hub(self, pair: dict[str, Any], where: str) -> Exchange:
        texts = [pair.get(language) for language in (self.source, self.target)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{where}: no texts {self.source!r} and {self.target!r}, only {', '.join(map(repr, pair))}"
            )
        return Exchange((str(texts[0]),), str(texts[1]))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "predict" and self.predict is not None:
            self.predict_set = self.items(asked(self.predict), "the prediction")
            self.tell_unread(self.predict_set)
