"""Reactions as pairs of strings: USPTO in its layouts, tables of your own, and a generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Count, Many, Part, Size, Workers, check_ranges
from datamodules.loading.sampling import item_seeds
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.molecules.building_blocks import building_blocks
from datamodules.molecules.reaction_files import (
    COLUMN,
    kept,
    mixture,
    randomised,
    read_reactions,
    read_token_lines,
)
from datamodules.molecules.reaction_templates import TEMPLATES, Reaction, generated, part_of
from datamodules.molecules.smiles import Unreadable
from datamodules.molecules.smiles_files import check_column, is_table, text_lines
from datamodules.molecules.string_module import StringItems, StringModule, tell_repeated
from datamodules.molecules.tokens import tokenised

Layout = Literal["templates", "tokens", "raw", "csv", "file"]
_SPLITS = ("train", "val", "test")
_NAMES = {
    "raw": {"train": "train.txt", "val": "valid.txt", "test": "test.txt"},
    "csv": {split: f"raw_{split}.csv" for split in _SPLITS},
}


class ReactionData(StringModule):
    """Reactions as token sequences, for :class:`zoo.ReactionTransformer`.

    A batch has ``source`` int64 (B, S) and ``target`` (B, T) from BOS to EOS, pads on the right, ``index``
    (B,); evaluation adds the texts ``source_text``, ``target_text`` and ``kind``. Forward, a source is
    reactants (and reagents) and a target the product; in retrosynthesis a source is the product and a target
    the reactants.

    Layouts:
        ``templates``: reactions that ten templates make of 6,035 bundled building blocks, see
            :mod:`datamodules.molecules.reaction_templates`. Generated, not measured.
        ``tokens``: ``src-train.txt``, ``tgt-train.txt``, and so for ``val`` and ``test``: USPTO-MIT and
            USPTO-STEREO as the Molecular Transformer has them. Reagents behind ``>`` (separated) or among the
            reactants (mixed), as the files have it.
        ``raw``: ``train.txt``, ``valid.txt``, ``test.txt``, lines ``rxn_smiles edits`` (USPTO-MIT raw).
        ``csv``: ``raw_train.csv``, ``raw_val.csv``, ``raw_test.csv`` with a column
            ``reactants>reagents>production`` and perhaps ``class`` (USPTO-50K).
        ``file``: one such table, or lines, of your own, split 90 : 5 : 5 by product.

    Atom maps of ``raw``, ``csv`` and ``file`` are taken off, all molecules are made canonical before
    anything is tokenised. What is no reaction is left out and counted.

    Args:
        layout: of the files.
        root: folder of ``tokens``, ``raw`` and ``csv``; null is ``$ZOO_DATA/molecules``.
        file: of ``file``.
        column: of a table.
        direction: ``forward`` or ``retro``.
        reagents: forward sources of ``raw``, ``csv`` and ``file``: ``mixed`` among the reactants,
            ``separated`` behind ``>``, or ``none``.
        draws: of ``templates``; about five of six give a reaction, some of them the same.
        largest_block: of ``templates``: heavy atoms of a building block.
        split: of ``templates``: held out are reactions of held-out products, or of held-out building blocks.
        held: share of products, or of blocks, to validate, and as many to test.
        augment: each training reaction once more with a randomised source; its target stays canonical.
        longest: reactions with a longer side in tokens are left out, which is told.
        most_train: training reactions; null takes all.
        most_evaluated: reactions to validate and to test; null takes all.
        predict: what ``zoo predict`` answers: a typed source, or a file (``.txt``, ``.smi``) with one a
            line; null answers the test split.
        batch_size: global training batch in reactions.
        batch_tokens: global training batch in padded tokens of the longer side, in the place of
            ``batch_size``.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        ImportError: without the extra ``chem``.
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("direction",)
    split_of_weights: ClassVar[tuple[str, ...]] = (
        "file", "column", "reagents", "draws", "largest_block", "split", "held", "augment", "longest",
        "most_train",
    )  # fmt: skip
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("tokens", "raw", "csv"),
            "file": ("file",),
            "column": ("csv", "file"),
            "reagents": ("raw", "csv", "file"),
            **dict.fromkeys(("draws", "largest_block", "split"), ("templates",)),
            "held": ("templates", "file"),
        },
        "batch_tokens": {"batch_size": (None,)},
    }

    def __init__(
        self,
        layout: Layout = "templates",
        root: str | None = None,
        file: str | None = None,
        column: str = COLUMN,
        direction: Literal["forward", "retro"] = "forward",
        reagents: Literal["mixed", "separated", "none"] = "mixed",
        draws: Count = 60_000,
        largest_block: Size = 18,
        split: Literal["product", "block"] = "product",
        held: Part = 0.05,
        augment: bool = False,
        longest: Size = 250,
        most_train: Many | None = None,
        most_evaluated: Many | None = None,
        predict: str | None = None,
        batch_size: Many = 64,
        batch_tokens: Many | None = None,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(ReactionData, locals())
        check_variants(ReactionData, locals())
        check_choice("layout", layout, Layout)
        super().__init__(batch_size, eval_batch_size, num_workers, batch_tokens=batch_tokens)
        if layout == "file" and file is None:
            raise ValueError("data.init_args.layout is file: set data.init_args.file to one of reactions")
        check_column(file, column, COLUMN)
        self.layout, self.folder = layout, data_folder(root, "molecules")
        self.file, self.column, self.direction, self.reagents = file, column, direction, reagents
        self.draws, self.largest_block, self.split, self.held = draws, largest_block, split, held
        self.augment, self.longest, self.predict = augment, longest, predict
        self.most_train, self.most_evaluated = most_train, most_evaluated
        self._splits: dict[str, list[Reaction]] | None = None
        self._augmented: list[str] | None = None

    # --- reading ----------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """Where the reactions are from, in what is told."""
        named = {"templates": "the generated reactions", "file": str(self.file)}
        return named.get(self.layout, str(self.folder))

    @property
    def splits(self) -> dict[str, list[Reaction]]:
        """Reactions of ``train``, ``val`` and ``test``, read once.

        Raises:
            ValueError: for a split without reactions.
        """
        if self._splits is None:
            found = {split: self._short(split, rows) for split, rows in self._read().items()}
            found["train"] = found["train"][: self.most_train]
            for split in ("val", "test"):
                found[split] = found[split][: self.most_evaluated]
            if empty := [split for split in _SPLITS if not found[split]]:
                raise ValueError(f"{self.origin}: no reactions to {empty[0]}")
            pairs = {split: [">>".join(self._sides(r)) for r in rows] for split, rows in found.items()}
            tell_repeated(pairs["train"], val=pairs["val"], test=pairs["test"])
            self._splits, self.facts = found, {"set": self.layout}
        return self._splits

    def _read(self) -> dict[str, list[Reaction]]:
        if self.layout == "templates":
            rows = kept(self._name(), lambda: generated(building_blocks(), self.draws, self.largest_block))
            return self._parted(rows, by_block=self.split == "block")
        if self.layout == "file":
            assert self.file is not None
            return self._parted([*dict.fromkeys(read_reactions(Path(self.file), self.column))])
        if self.layout == "tokens":
            return {
                split: read_token_lines(*self._paths(f"src-{split}.txt", f"tgt-{split}.txt"))
                for split in _SPLITS
            }
        names = _NAMES[self.layout]
        return {split: self._converted(*self._paths(names[split])) for split in _SPLITS}

    def _name(self) -> str:
        """Of generated reactions: what they are a function of."""
        content = repr((TEMPLATES, building_blocks(), self.draws, self.largest_block))
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def _converted(self, path: Path) -> list[Reaction]:
        stat = path.stat()
        content = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, self.column))
        name = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        return kept(name, lambda: read_reactions(path, self.column))

    def _paths(self, *names: str) -> list[Path]:
        paths = [self.folder / name for name in names]
        if missing := [p for p in paths if not p.is_file()]:
            where = {
                "tokens": "the Molecular Transformer's data, github.com/pschwllr/MolecularTransformer",
                "raw": "USPTO-MIT, github.com/wengong-jin/nips17-rexgen",
                "csv": "USPTO-50K as in github.com/Hanjun-Dai/GLN",
            }[self.layout]
            raise FileNotFoundError(f"no {missing[0]} ({where}); or set data.init_args.root")
        return paths

    def _parted(self, rows: Sequence[Reaction], by_block: bool = False) -> dict[str, list[Reaction]]:
        found: dict[str, list[Reaction]] = {split: [] for split in _SPLITS}
        for row in rows:
            parts = {part_of(name, self.held) for name in (row.blocks if by_block else (row.product,))}
            found[min(parts, key=("test", "val", "train").index)].append(row)
        return found

    def _short(self, split: str, rows: Sequence[Reaction]) -> list[Reaction]:
        def fits(text: str) -> bool:
            return len(text) <= self.longest or len(tokenised(text)) <= self.longest

        short = [r for r in rows if all(map(fits, self._sides(r)))]
        if count := len(rows) - len(short):
            say(f"{self.origin}, {split}: {count:,} of {len(rows):,} reactions have a side of more than "
                f"{self.longest} tokens: left out")  # fmt: skip
        return short

    def _sides(self, row: Reaction) -> tuple[str, str]:
        """(source, target)."""
        if self.direction == "retro":
            return row.product, row.reactants
        if not row.reagents or self.reagents == "none":
            return row.reactants, row.product
        separated = self.layout == "tokens" or self.reagents == "separated"
        if separated:
            return f"{row.reactants}>{row.reagents}", row.product
        return ".".join(sorted(f"{row.reactants}.{row.reagents}".split("."))), row.product

    # --- sets -------------------------------------------------------------------------------------------

    def training_pairs(self) -> tuple[list[str], list[str]]:
        """Sources and targets to train on, those with randomised sources behind the others."""
        pairs = [self._sides(r) for r in self.splits["train"]]
        sources, targets = [s for s, _ in pairs], [t for _, t in pairs]
        if not self.augment:
            return sources, targets
        if self._augmented is None:
            import numpy as np

            index = np.arange(len(sources))
            seeds = item_seeds(18_05, np.zeros_like(index), index).tolist()
            self._augmented = [randomised(s, seed) for s, seed in zip(sources, seeds, strict=True)]
        return sources + self._augmented, targets * 2

    def training_strings(self) -> Iterable[str]:
        for column in self.training_pairs():
            yield from column

    def learned(self) -> Iterable[tuple[str, ...]]:
        return zip(*self.training_pairs(), strict=True)

    def setup(self, stage: str) -> None:
        splits = self.splits
        if stage == "fit":
            sources, targets = self.training_pairs()
            self.train_set = StringItems(
                {"source": sources, "target": targets}, self.tokens, name="the training"
            )
        if stage in ("fit", "validate"):
            self.val_set = self._evaluation(splits["val"], "the reactions to val")
        if stage in ("test", "predict"):
            self.test_set = self._evaluation(splits["test"], "the reactions to test")
        if stage == "predict" and self.predict is not None:
            self.predict_set = StringItems(
                {"source": self._asked(self.predict)}, self.tokens, True, "the prediction"
            )

    def _evaluation(self, rows: Sequence[Reaction], name: str) -> StringItems:
        pairs = [self._sides(r) for r in rows]
        columns = {"source": [s for s, _ in pairs], "target": [t for _, t in pairs]}
        return StringItems(columns, self.tokens, True, name, {"kind": [r.kind for r in rows]})

    def _asked(self, given: str) -> list[str]:
        path = Path(given)
        if path.suffix in (".txt", ".smi", ".csv") or path.is_file():
            if is_table(path):
                raise ValueError(
                    f"data.init_args.predict: {given} is a table; read are .txt and .smi, a source a line"
                )
            texts = [(n, text.split(maxsplit=1)[0]) for n, text in text_lines(path) if text.strip()]
        else:
            texts = [(1, given.strip())]
        found = []
        for number, text in texts:
            try:
                sides = [mixture(side) for side in text.split(">")]
            except Unreadable as error:
                raise ValueError(f"data.init_args.predict, {given}, line {number}: {error}") from None
            found.append(">".join(side for side in sides if side))
        if not any(found):
            raise ValueError(f"data.init_args.predict: {given or 'an empty text'} asks nothing")
        return found
