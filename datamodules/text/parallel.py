"""Sentence pairs of two languages: aligned files, JSON lines, the hub's, and gettext catalogues."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import check_claim
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.dialogues import asked, read_pairs
from datamodules.text.pairs import OF_A_TRAINED_ONE, Exchange, PairModule, Splits
from datamodules.text.records import hub_records, package_folder, read_side_by_side
from datamodules.text.tokenizers import Model

Layout = Literal["gettext", "lines", "jsonl", "hub"]
_SPLITS = ("train", "val", "test")
_SPLIT_KEY = 16_02
_MAGIC = {0x950412DE: "<", 0xDE120495: ">"}
# names that a program fills in, marks of keyboard shortcuts, HTML
_NOISE = re.compile(r"%(?:\(\w+\))?[-#0 +]*\d*(?:\.\d+)?[a-zA-Z%]|\{\w*\}|<[^<>]*>|&\w+;|&")


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
        tokenizer: see :class:`datamodules.text.pairs.PairModule`, as all below.
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
        )
        self.layout, self.folder, self.hub_name, self.package = (
            layout,
            data_folder(root, "parallel"),
            name,
            package,
        )
        self.source, self.target, self.predict = source, target, predict
        self.most_pairs, self.most_evaluated = most_pairs, most_evaluated

    def read(self) -> Splits:
        splits = {"gettext": self._gettext, "lines": self._lines, "jsonl": self._jsonl, "hub": self._hub}[
            self.layout
        ]()
        splits = [[e for e in s if e.history[0].strip() and e.reply.strip()] for s in splits]
        for name, found in zip(("train", "val"), splits, strict=False):
            if not found:
                raise ValueError(f"{self.layout}: no pairs of {self.source} and {self.target} to {name}")
        train, val, test = splits
        if self.most_pairs is not None and self.most_pairs < len(train):
            train = [
                train[i] for i in item_generator(_SPLIT_KEY, 1).permutation(len(train))[: self.most_pairs]
            ]
        name = {"gettext": self.package, "hub": self.hub_name}.get(self.layout, self.layout)
        most = self.most_evaluated
        return Splits(train, val[:most], test[:most], {"set": name})

    def _gettext(self) -> list[list[Exchange]]:
        found = catalogue_pairs(package_folder(self.package), self.source, self.target)
        order = item_generator(_SPLIT_KEY, 0).permutation(len(found))
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

    def _jsonl(self) -> list[list[Exchange]]:
        paths = [self.folder / f"{split}.jsonl" for split in _SPLITS]
        if missing := [p for p in paths[:2] if not p.is_file()]:
            raise FileNotFoundError(
                f"no {missing[0]}; expected are train.jsonl and val.jsonl with lines "
                f'{{"source": "...", "target": '
                '"..."}, or set data.init_args.root'
            )
        return [read_pairs(p) if p.is_file() else [] for p in paths]

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


def catalogue_pairs(folder: Path, source: str, target: str) -> list[Exchange]:
    """Pairs of the catalogues under a package's folder, unique by their cleaned source text.

    The keys are English. Of two other languages, texts with one key are a pair.

    Raises:
        ValueError: for a package without catalogues of a language.
    """
    columns = []
    for language in (source, target):
        paths = sorted(folder.rglob(f"locale/{language}/LC_MESSAGES/*.mo"))
        if not paths and language != "en":
            known = sorted({p.parts[-3] for p in folder.rglob("locale/*/LC_MESSAGES/*.mo")})
            raise ValueError(
                f"{folder} has no catalogues locale/{language}/LC_MESSAGES/*.mo, only of "
                f"{', '.join(known) or 'none'}"
            )
        found: dict[tuple[str, str, int], str] = {}
        for path in paths if language != "en" else ():
            module = path.relative_to(folder).parts[:-4]
            for key, texts in read_catalogue(path).items():
                for number, text in enumerate(texts):
                    found["/".join((*module, path.stem)), key, number] = text
        columns.append(found)
    keyed = columns[0] or columns[1]
    pairs: dict[str, str] = {}
    for place in keyed:
        texts = [c.get(place, "") if c else _english(place[1], place[2]) for c in columns]
        first, second = map(clean, texts)
        if first and second:
            pairs.setdefault(first, second)
    return [Exchange((a,), b) for a, b in pairs.items()]


def _english(key: str, number: int) -> str:
    forms = key.split("\x04", 1)[-1].split("\0")
    return forms[min(number, len(forms) - 1)]


def clean(text: str) -> str:
    """Without names to fill in, HTML, marks of shortcuts, line ends."""
    text = " ".join(_NOISE.sub(" ", text).split())
    return re.sub(r" ([.,:;])", r"\1", text)


def read_catalogue(path: Path) -> dict[str, list[str]]:
    """The texts of a compiled gettext catalogue: key -> its plural forms, one where it has none.

    A key with a message context reads ``context\\x04text``, one with a plural ``one\\0many``. The header,
    whose key is empty, is left out. The plural rule, a program, is not looked at.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no catalogue {path}")
    check_claim(path, "the file", path.stat().st_size)
    content = path.read_bytes()
    order = _MAGIC.get(int.from_bytes(content[:4], "little"))
    if order is None or len(content) < 20:
        raise ValueError(f"{path} is no gettext catalogue (.mo)")
    _, count, keys, values = struct.unpack(f"{order}4I", content[4:20])
    if max(keys, values) + 8 * count > len(content):
        raise ValueError(f"{path} is damaged: it claims {count:,} texts, which do not fit into it")
    found = {}
    for number in range(count):
        both = []
        for table in (keys, values):
            size, start = struct.unpack(f"{order}2I", content[table + 8 * number : table + 8 * number + 8])
            if start + size > len(content):
                raise ValueError(f"{path} is damaged: text {number} ends behind the file")
            try:
                both.append(content[start : start + size].decode("utf-8"))
            except UnicodeDecodeError:
                raise ValueError(f"{path}: text {number} is not in UTF-8") from None
        if both[0]:
            found[both[0]] = both[1].split("\0")
    return found
