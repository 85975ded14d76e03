"""Proteins and peptides for masked language models and properties: modlamp's set, FASTA, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import place, progress_of, resumable_loader
from datamodules.loading.ranges import Many, Part, Seed, Share, Size, Workers, check_ranges
from datamodules.loading.sampling import global_seed, item_generator
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.molecules.smiles_files import is_table, text_lines
from datamodules.molecules.splits import PARTS, balanced_split, random_split
from datamodules.proteins.clusters import clusters
from datamodules.proteins.files import PEPTIDES, Records, read_fasta, read_peptides, read_table
from datamodules.proteins.items import Masking, ProteinItems
from datamodules.proteins.residues import ALPHABET, cleaned
from datamodules.text.batches import LikeLengths
from datamodules.text.same_texts import SameTexts

Layout = Literal["peptides", "fasta", "csv"]
Task = Literal["masked", "classification", "regression"]
_PROPERTIES = ("classification", "regression")
_SUBSET = 5100
_UNIREF = ("uniref50.fasta", "uniref50.fasta.gz")


class Proteins(SameTexts):
    """Sequences of residues, for :class:`zoo.MaskedLM` and :class:`zoo.CompositionBaseline`.

    A batch has ``ids`` int64 (B, T) of ESM-2's alphabet, ``<cls>`` first, ``<eos>`` behind the last residue,
    pads on the right; ``index`` (B,); of ``task: masked`` the ``labels`` (B, T), -100 at what is not to be
    found; else ``target`` float32 (B, T'), NaN where nothing was measured. Evaluation adds the texts
    ``sequence`` and ``name``.

    Masks: each residue is chosen with probability ``mask_share``; of the chosen 80 % become ``<mask>``, 10 %
    a random standard residue, 10 % stay. Special tokens never are. In training masks are a function of (seed,
    epoch, item), in validation and test of ``mask_seed`` and the item.

    Sequences are read in capitals, blanks and a final ``*`` taken off, J as X; any other letter that ESM-2
    lacks stops with file and line. Before anything is split a sequence that stands twice is one: class labels
    that agree stay, sequences whose labels disagree are left out, numbers are averaged; all of it is told.

    Layouts:
        ``peptides``: modlamp's AMPvsUniProt, 5,200 antimicrobial and other peptides of 7 to 174 residues, of
            which 4,620 stay; column ``antimicrobial``.
        ``fasta``: records of ``file``, or UniRef50 as UniProt gives it, ``uniref50.fasta`` under ``root``;
            beyond 256 MiB it is read item by item.
        ``csv``: a table with a column of sequences, columns of ``targets``, and maybe a column ``id``.

    Args:
        layout: of the files.
        root: folder of UniRef50; null is ``$ZOO_DATA/proteins``.
        file: of ``fasta`` and ``csv``, plain or gzipped.
        task: ``masked``, or what is predicted: ``classification`` into 0 and 1, ``regression``.
        sequence: column of a ``csv``.
        targets: columns of a ``csv``; null is the only one beside ``sequence``, ``id`` and ``entities``.
        entities: column of a ``csv`` with spans (``3-9;15-20``) that are masked as a whole or not at all.
        longest: residues; of a longer sequence training sees a random window, evaluation the first.
        mask_share: see above.
        mask_seed: see above.
        split: ``random``, or by ``clusters`` of sequences that share 4-mers, which stay in one part.
        split_seed: of both.
        fractions: of train, val and test.
        shared: two sequences are of one cluster if so many of the 4-mers of the one with fewer are common.
        most_train: training items, drawn by ``subset_seed``; null takes all.
        subset_seed: see there.
        most_evaluated: items of validation and of test, the first; null takes all.
        predict: what ``zoo predict`` is asked: a sequence, a FASTA file, a ``.csv``, a ``.txt`` of one a
            line; null is the test set. ``_`` in a sequence is a residue to be found, and then the only ones.
        batch_size: global training batch.
        like_lengths: sequences of a batch have like lengths, which spares padding.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        ImportError: without the extra ``language``, for ``peptides``.
        FileNotFoundError, ValueError: for impossible settings or files, one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("task", "targets", "longest", "mask_share")
    split_of_weights: ClassVar[tuple[str, ...]] = (
        *("split", "split_seed", "fractions", "shared", "most_train", "subset_seed"),
    )
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("fasta",),
            "file": ("fasta", "csv"),
            **dict.fromkeys(("sequence", "targets", "entities"), ("csv",)),
        },
        "task": {
            **dict.fromkeys(("mask_share", "mask_seed", "entities"), ("masked",)),
            "targets": _PROPERTIES,
        },
        "split": {"shared": ("clusters",)},
        "most_train": {"subset_seed": "a number"},
    }
    vocab_size = len(ALPHABET)

    def __init__(
        self,
        layout: Layout = "peptides",
        root: str | None = None,
        file: str | None = None,
        task: Task = "masked",
        sequence: str = "sequence",
        targets: list[str] | None = None,
        entities: str | None = None,
        longest: Size = 1022,
        mask_share: Share = 0.15,
        mask_seed: Seed = 0,
        split: Literal["random", "clusters"] = "random",
        split_seed: Seed = 0,
        fractions: tuple[Part, Part, Part] = (0.7, 0.1, 0.2),
        shared: Share = 0.5,
        most_train: Many | None = None,
        subset_seed: Seed = 0,
        most_evaluated: Many | None = None,
        predict: str | None = None,
        batch_size: Many = 64,
        like_lengths: bool = True,
        eval_batch_size: Many = 128,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Proteins, locals())
        check_variants(Proteins, locals())
        for key, value, choices in (("layout", layout, Layout), ("task", task, Task)):
            check_choice(key, value, choices)
        check_choice("split", split, Literal["random", "clusters"])
        super().__init__(batch_size, eval_batch_size, num_workers)
        if len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"data.init_args.fractions must be three numbers that sum to 1, got {list(fractions)}"
            )
        if layout == "csv" and file is None:
            raise ValueError("data.init_args.layout is csv: set data.init_args.file")
        if layout == "fasta" and task != "masked":
            raise ValueError(
                f"data.init_args.layout is fasta, which has no targets, but task is {task}: write sequences "
                "and targets as a table (layout: csv)"
            )
        self.layout, self.folder, self.file, self.task = layout, data_folder(root, "proteins"), file, task
        self.sequence, self.asked_targets, self.entities = sequence, targets, entities
        self.longest, self.mask_share, self.mask_seed = longest, mask_share, mask_seed
        self.split, self.split_seed, self.fractions, self.shared = split, split_seed, tuple(fractions), shared
        self.most_train, self.subset_seed, self.most_evaluated = most_train, subset_seed, most_evaluated
        self.predict, self.like_lengths = predict, like_lengths
        self._read: Records | None = None
        self._remarks: list[str] = []
        self.facts: dict[str, Any] = {}

    # --- what the files hold ----------------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """All sequences, each once; read once."""
        if self._read is None:
            self._read = {"peptides": self._peptides, "fasta": self._fasta, "csv": self._csv}[self.layout]()
        return self._read

    @property
    def targets(self) -> list[str]:
        """Names of what is predicted; none where residues are masked."""
        return [] if self.task == "masked" else self.records.names

    def _peptides(self) -> Records:
        _, found = read_peptides()
        return self._unique(found, PEPTIDES, True)

    def _fasta(self) -> Records:
        paths = [self.folder / name for name in _UNIREF] if self.file is None else [Path(self.file)]
        path = next((p for p in paths if p.is_file()), paths[0])
        sequences, names, repeated = read_fasta(path)
        if repeated:
            self._remarks.append(
                f"{path.name}: {repeated:,} records repeat a sequence: {len(sequences):,} stay"
            )
        return Records(sequences, np.empty((len(sequences), 0)), [], labels=names)

    def _csv(self) -> Records:
        path, masked = Path(str(self.file)), self.task == "masked"
        classes = self.task == "classification"
        targets = [] if masked else self.asked_targets
        found = read_table(path, self.sequence, targets, classes, self.entities)
        return self._unique(found, path.name, classes)

    def _unique(self, found: Records, where: str, classes: bool) -> Records:
        """Each sequence once; without those whose labels disagree."""
        groups: dict[str, list[int]] = {}
        for i, text in enumerate(found.sequences):
            groups.setdefault(text, []).append(i)
        first: list[int] = []
        target, conflicts, empty = [], [], 0
        for group in groups.values():
            values = found.target[group]
            known = ~np.isnan(values)
            total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
            mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            if classes and ((mean > 0) & (mean < 1)).any():
                conflicts.append(group)
            elif found.names and not (count > 0).any() and self.task != "masked":
                empty += 1
            else:
                first.append(group[0])
                target.append(mean)
        count, twice = len(found.sequences), len(found.sequences) - len(groups)
        if twice or conflicts or empty:
            told = [f"{where}: {count:,} rows, {len(groups):,} sequences"]
            if conflicts:
                told.append(
                    f"{len(conflicts):,} under both labels left out "
                    f"(first line {found.lines[conflicts[0][0]]})"
                )
            if empty:
                told.append(f"{empty:,} without a target left out")
            told.append(f"{len(first):,} stay")
            self._remarks.append(", ".join(told))
        if not first:
            raise ValueError(f"{where}: no sequence is left")
        return Records(
            [found.sequences[i] for i in first],
            np.array(target).reshape(len(first), len(found.names)),
            found.names,
            [found.spans[i] for i in first] if found.spans else [],
            [found.labels[i] for i in first] if found.labels else [],
        )

    # --- sets -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        records = self.records
        parts = self._parts(records.sequences)
        for name in PARTS:
            if not len(parts[name]):
                raise ValueError(
                    f"split {self.split} leaves none of {len(records.sequences):,} sequences for {name}: "
                    "choose other data.init_args.fractions"
                )
        held = [len(parts[name]) for name in PARTS[1:]]
        if self.most_train is not None and self.most_train < len(parts["train"]):
            order = item_generator(_SUBSET, self.subset_seed).permutation(len(parts["train"]))
            parts["train"] = np.asarray(parts["train"])[order[: self.most_train]]
        for remark in self._remarks:
            say(remark)
        self._remarks = []
        say(
            f"{len(records.sequences):,} sequences, split {self.split}: {len(parts['train']):,} train, "
            f"{held[0]:,} val, {held[1]:,} test"
        )
        self.facts = {"task": self.task, "targets": self.targets}
        most = self.most_evaluated
        self.train_set = self._items(records, parts["train"], True)
        self.val_set = self._items(records, parts["val"][:most], False)
        self.test_set = self._items(records, parts["test"][:most], False)
        if cut := sum(s.cut for s in (self.train_set, self.val_set, self.test_set)):
            say(f"of {cut:,} sequences that are longer a window of {self.longest:,} residues is taken")
        if stage == "predict" and self.predict is not None:
            asked = self._asked(self.predict)
            self.predict_set = self._items(asked, np.arange(len(asked.sequences)), False)

    def _parts(self, sequences: Sequence[str]) -> dict[str, Any]:
        if self.split == "random":
            if len(sequences) < 1_000_000:
                return dict(random_split(len(sequences), self.fractions, self.split_seed))
            order = item_generator(_SUBSET, 1, self.split_seed).permutation(len(sequences))
            ends = np.cumsum(np.array(self.fractions[:2]) * len(sequences)).astype(np.int64)
            return dict(zip(PARTS, np.split(order, ends), strict=True))
        return dict(balanced_split(clusters(sequences, self.shared), self.fractions, self.split_seed))

    def _items(self, records: Records, places: Any, training: bool) -> ProteinItems:
        seed = global_seed()
        masking = (
            Masking(self.mask_share, seed if training else self.mask_seed) if self.task == "masked" else None
        )
        return ProteinItems(
            records.sequences, places, records.target, self.longest, training, seed, masking, records.spans,
            records.labels,
        )  # fmt: skip

    def _asked(self, given: str) -> Records:
        """What a prediction is asked."""
        path, blanks = Path(given), self.task == "masked"
        if not path.suffix:
            try:
                sequences, names = [cleaned(given, blanks)], ["asked"]
            except ValueError as error:
                raise ValueError(f"data.init_args.predict: {error}, and it is no name of a file") from None
        elif is_table(path):
            found = read_table(path, self.sequence, [], False, None, blanks)
            sequences, names = list(found.sequences), found.labels
        elif path.suffix == ".txt":
            lines = [(n, text) for n, text in text_lines(path) if text.strip()]
            sequences, names = [], [str(n) for n, _ in lines]
            for n, text in lines:
                try:
                    sequences.append(cleaned(text, blanks))
                except ValueError as error:
                    raise ValueError(f"{path}, line {n}: {error}") from None
        else:
            read, names, _ = read_fasta(path, blanks, unique=False)
            sequences = list(read)
        if not any(sequences):
            raise ValueError(f"data.init_args.predict: {given!r} has no sequence")
        return Records(
            sequences, np.full((len(sequences), len(self.targets)), np.nan), self.targets, labels=names
        )

    # --- loaders ----------------------------------------------------------------------------------------

    def learned(self) -> Iterable[Sequence[str]]:
        if isinstance(self.records.sequences, list):
            return ((text,) for text in self.train_set.sequences)
        return ((str(n),) for n in (len(self.train_set), int(self.train_set.lengths.sum())))

    def train_dataloader(self) -> Any:
        if not self.like_lengths:
            return super().train_dataloader()
        limit, trained = progress_of(self)
        rank, world = place(self)
        sampler = LikeLengths(
            self.train_set.lengths, self.batch_size, rank=rank, world_size=world, seed=global_seed(),
            batches_per_epoch=limit, trained_batches=trained,
        )  # fmt: skip
        return resumable_loader(self.train_set, sampler, self.num_workers)
