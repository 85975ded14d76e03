"""Molecules as strings for language models: MOSES, GuacaMol, any file of SMILES, and a bundled small set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import TensorItems
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.molecules.building_blocks import building_blocks
from datamodules.molecules.chemistry import chem
from datamodules.molecules.smiles import read_smiles
from datamodules.molecules.smiles_files import check_column, smiles_of
from datamodules.molecules.string_module import StringItems, StringModule, tell_repeated
from datamodules.molecules.tokens import Representation, tokenised

Layout = Literal["blocks", "moses", "guacamol", "file"]
_KEY = 18_03
_HELD = 100  # of MOSES, which has no validation set: one in so many is held out
_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "moses": {
        "train": ("train.csv.gz", "train.csv", "moses_train.smi.gz"),
        "test": ("test.csv.gz", "test.csv", "moses_test.smi.gz"),
    },
    "guacamol": {
        split: tuple(f"guacamol_v1_{split}.smiles{end}" for end in ("", ".gz"))
        for split in ("train", "valid", "test")
    },
}
Splits = dict[str, list[str]]


class SmilesData(StringModule):
    """Molecules as token sequences, for :class:`zoo.SmilesLM`.

    A batch has ``ids`` int64 (B, T) from BOS to EOS, pads on the right, and ``index`` (B,). A prediction's
    ``index`` are the positions of molecules to draw.

    Layouts:
        ``blocks``: 6,035 small molecules of public sets, bundled, 80 : 10 : 10.
        ``moses``: ``train.csv.gz`` and ``test.csv.gz`` (column SMILES) as in the molsets package, or samples
            ``moses_train.smi.gz``, ``moses_test.smi.gz``; one in a hundred to train is held out to validate.
        ``guacamol``: ``guacamol_v1_train.smiles``, ``_valid``, ``_test`` (ChEMBL), plain or gzipped.
        ``file``: SMILES of your own, one a line, or a column of a CSV, plain or gzipped: canonical, unique,
            80 : 10 : 10. What is no molecule is left out and counted.

    Args:
        layout: of the files.
        root: folder of ``moses`` and ``guacamol``; null is ``$ZOO_DATA/molecules``.
        file: of ``file``.
        column: of a CSV.
        representation: ``smiles`` or ``selfies``; a molecule that SELFIES cannot write is left out.
        longest: molecules of more tokens are left out, which is told.
        most_train: molecules to train, the first of a fixed shuffle; null takes all.
        most_evaluated: molecules to validate and to test, the first; null takes all.
        predict_samples: molecules that ``zoo predict`` draws.
        batch_size: global training batch.
        like_lengths: molecules of a batch have like lengths, which spares padding.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        ImportError: without the extra ``chem``.
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("representation",)
    split_of_weights: ClassVar[tuple[str, ...]] = ("file", "column", "longest", "most_train")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {"root": ("moses", "guacamol"), "file": ("file",), "column": ("file", "moses")}
    }

    def __init__(
        self,
        layout: Layout = "blocks",
        root: str | None = None,
        file: str | None = None,
        column: str = "smiles",
        representation: Representation = "smiles",
        longest: Size = 100,
        most_train: Many | None = None,
        most_evaluated: Many | None = None,
        predict_samples: Many = 1000,
        batch_size: Many = 64,
        like_lengths: bool = True,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(SmilesData, locals())
        check_variants(SmilesData, locals())
        check_choice("layout", layout, Layout)
        check_choice("representation", representation, Representation)
        super().__init__(batch_size, eval_batch_size, num_workers, representation, like_lengths=like_lengths)
        if layout == "file" and file is None:
            raise ValueError(
                "data.init_args.layout is file: set data.init_args.file to one of SMILES or a CSV"
            )
        check_column(file, column, "smiles")
        self.layout, self.folder = layout, data_folder(root, "molecules")
        self.file, self.column = file, column
        self.longest, self.most_train, self.most_evaluated = longest, most_train, most_evaluated
        self.predict_samples = predict_samples
        self._splits: Splits | None = None
        self._smiles: Splits = {}

    @property
    def splits(self) -> Splits:
        """Strings of ``train``, ``val`` and ``test``, read once."""
        if self._splits is None:
            found = self._read()
            if self.most_train is not None and self.most_train < len(found["train"]):
                order = item_generator(_KEY, 1).permutation(len(found["train"]))[: self.most_train]
                found["train"] = [found["train"][i] for i in order]
            for split in ("val", "test"):
                found[split] = found[split][: self.most_evaluated]
            kept = {split: self._strings(split, smiles) for split, smiles in found.items()}
            if empty := [split for split, (strings, _) in kept.items() if not strings]:
                raise ValueError(f"{self.origin}: no molecules to {empty[0]}")
            self._splits = {split: strings for split, (strings, _) in kept.items()}
            self._smiles = {split: smiles for split, (_, smiles) in kept.items()}
            self.facts = {"set": self.layout if self.file is None else Path(self.file).name}
        return self._splits

    @property
    def origin(self) -> str:
        """Where the molecules are from, in what is told."""
        named = {"blocks": "the bundled molecules", "file": str(self.file)}
        return named.get(self.layout, str(self.folder))

    def _read(self) -> Splits:
        if self.layout in _FILES:
            found = {split: self._listed(names) for split, names in _FILES[self.layout].items()}
            if "valid" in found:
                found["val"] = found.pop("valid")
            else:
                train, count = found["train"], -(-len(found["train"]) // _HELD)
                held = {*item_generator(_KEY, 0).permutation(len(train))[:count].tolist()}
                found["val"] = [s for i, s in enumerate(train) if i in held]
                found["train"] = [s for i, s in enumerate(train) if i not in held]
            tell_repeated(found["train"], val=found["val"], test=found["test"])
            return found
        if self.layout == "file":
            assert self.file is not None
            read = read_smiles(smiles_of(Path(self.file), self.column))
            read.tell(self.file)
            unique = [*dict.fromkeys(read.smiles)]
            if count := len(read.smiles) - len(unique):
                say(f"{self.file}: {count:,} repeated molecules are left out")
        else:
            unique = building_blocks()
        if len(unique) < 10:
            raise ValueError(
                f"{self.origin}: {len(unique)} molecules are too few to train, validate and test"
            )
        order = [unique[i] for i in item_generator(_KEY, 2).permutation(len(unique))]
        tenth = len(order) // 10
        return {"train": order[2 * tenth :], "val": order[:tenth], "test": order[tenth : 2 * tenth]}

    def _listed(self, names: Sequence[str]) -> list[str]:
        path = next((p for n in names if (p := self.folder / n).is_file()), None)
        if path is None:
            where = {"moses": "package molsets, moses/dataset/data", "guacamol": "figshare, GuacaMol v1"}
            raise FileNotFoundError(
                f"no {self.folder / names[0]} ({where[self.layout]}); or set data.init_args.root"
            )
        return [text for _, text in smiles_of(path, self.column)]

    def _strings(self, split: str, smiles: Sequence[str]) -> tuple[list[str], list[str]]:
        """(strings, their SMILES) that can be written and are no longer than ``longest``."""
        kept: list[tuple[str, str]] = []
        unwritten = long = 0
        encode = chem("selfies") if self.representation == "selfies" else None
        for text in smiles:
            string = text
            if encode is not None:
                try:
                    string = encode.encoder(text)
                except encode.EncoderError:
                    unwritten += 1
                    continue
            # no token is shorter than a character: most texts need no count
            if len(string) > self.longest and len(tokenised(string, self.representation)) > self.longest:
                long += 1
                continue
            kept.append((string, text))
        where = f"{self.origin}, {split}"
        if unwritten:
            say(f"{where}: {unwritten:,} of {len(smiles):,} molecules cannot be written as SELFIES: left out")
        if long:
            say(
                f"{where}: {long:,} of {len(smiles):,} molecules have more than {self.longest} tokens: "
                "left out"
            )
        return [string for string, _ in kept], [text for _, text in kept]

    def training_strings(self) -> Iterable[str]:
        return self.splits["train"]

    def learned(self) -> Iterable[tuple[str, ...]]:
        return ((text,) for text in self.splits["train"])

    @property
    def known(self) -> list[str]:
        """SMILES of the training set, for novelty."""
        return self._smiles["train"] if self.splits else []

    def setup(self, stage: str) -> None:
        splits = self.splits
        made = {
            split: StringItems({"ids": strings}, self.tokens, name=f"the molecules to {split}")
            for split, strings in splits.items()
        }
        self.train_set, self.val_set, self.test_set = made["train"], made["val"], made["test"]
        self.predict_set: Any = TensorItems(ids=torch.zeros(self.predict_samples, 0, dtype=torch.int64))
