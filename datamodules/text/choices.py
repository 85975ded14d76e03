"""Questions whose answer is the choice that a language model finds likeliest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import BatchItems
from datamodules.loading.ranges import DepthOrZero, Many, Part, Seed, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, item_generator
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text import choice_files as files
from datamodules.text.choice_files import Question
from datamodules.text.corpus import digest_of
from datamodules.text.language_module import LanguageModule
from datamodules.text.packed_rows import CONTEXT, SCORED, PackedRows, Piece, joined
from datamodules.text.prompts import PromptRows

Layout = Literal["stdlib", "hellaswag", "piqa", "commonsenseqa", "crows_pairs", "files"]
SPLITS = ("train", "val", "test")
Reader = Callable[[Path], list[Question]]
_FILES: dict[str, tuple[Reader, dict[str, str], str]] = {
    "hellaswag": (
        files.hellaswag,
        {s: f"hellaswag_{s}.jsonl" for s in SPLITS},
        "github.com/rowanz/hellaswag",
    ),
    "piqa": (
        files.piqa,
        {"train": "train.jsonl", "val": "valid.jsonl", "test": "tests.jsonl"},
        "yonatanbisk.com/piqa",
    ),
    "commonsenseqa": (
        files.commonsense,
        {
            "train": "train_rand_split.jsonl",
            "val": "dev_rand_split.jsonl",
            "test": "test_rand_split_no_answers.jsonl",
        },
        "www.tau-nlp.org/commonsenseqa",
    ),
    "crows_pairs": (
        files.crows_pairs,
        {"test": "crows_pairs_anonymized.csv"},
        "github.com/nyu-mll/crows-pairs",
    ),
}
_SHOTS = 19_03


class ChoiceRows(BatchItems):
    """A row for each choice of each question; see :class:`MultipleChoice`.

    Args:
        rows: (question, choice, is it the right one, its characters, text of the question, its own text).
        pieces: of each.
        pad: id behind the end of a row.
    """

    def __init__(
        self, rows: Sequence[tuple[int, int, bool, int, str, str]], pieces: Sequence[Piece], pad: int
    ) -> None:
        self.rows = rows
        self.packed = PackedRows(pieces, 0, pad, pack=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = [self.rows[i] for i in batch_keys(keys)[1].tolist()]
        question, choice, gold, characters, texts, choices = zip(*rows, strict=True)
        return {
            **self.packed.__getitems__(keys),
            "question": torch.tensor(question),
            "choice": torch.tensor(choice),
            "gold": torch.tensor(gold),
            "characters": torch.tensor(characters),
            "question_text": list(texts),
            "choice_text": list(choices),
        }


class MultipleChoice(LanguageModule):
    """Questions with choices, of which a causal language model takes the likeliest (:class:`zoo.CausalLM`).

    A batch of an evaluation has a row for each choice of each question: ``input_ids``, ``labels`` (-100 but
    on the choice), ``position_ids`` and ``documents`` (0 behind the end), int64 (B, T), T the longest of the
    batch; ``bytes`` of the scored tokens, ``index``, ``question``, ``choice`` (numbers) and ``characters`` of
    the choice, int64 (B,), ``gold`` bool (B,), whether it is the right one, and the lists ``question_text``
    and ``choice_text``. The rows of a question follow each other. A training batch has the right choices
    alone, packed as :class:`datamodules.text.stream.TextStream` says.

    A question too long loses its front; a choice that is longer than the context cannot be read.

    Layouts:
        ``stdlib``: generated of real texts: which line comes next in a module of the interpreter's own
        library, the real one or three others of the same file? The modules are split as those of
        :class:`datamodules.text.stream.TextStream`.
        ``hellaswag``: ``hellaswag_train.jsonl``, ``hellaswag_val.jsonl``, ``hellaswag_test.jsonl``.
        ``piqa``: ``train.jsonl`` with ``train-labels.lst``, ``valid.jsonl`` with ``valid-labels.lst``.
        ``commonsenseqa``: ``train_rand_split.jsonl``, ``dev_rand_split.jsonl``; the choices' texts are
        compared, not their letters.
        ``crows_pairs``: ``crows_pairs_anonymized.csv``: the "right" one of two sentences is the stereotype,
        which an unbiased model takes half of the time. It has a test alone.
        ``files``: ``train``, ``val`` and ``test`` as ``.jsonl`` (``{"question", "choices": [...],
        "answer": 0}``) or ``.csv`` (columns question, A, B, ..., answer), or one such file, which is split by
        the digests of its questions. An answer is a number from 0 or a letter from A.
        A test without answers is not tested: val stands in for it, which is told.

    Args:
        layout: of the files.
        root: folder, or of ``files`` a file; null is ``$ZOO_DATA/choices``.
        choices: of a generated question.
        shots: solved questions of the training split that stand before each, drawn by its number.
        seed: of the draw.
        context: tokens of a row.
        val_share: of questions of one file.
        test_share: likewise.
        most_evaluated: questions of validation and of test, the first; null takes all.
        predict: a file of questions, ``.jsonl`` or ``.csv`` as of ``files``; null takes the test split. A
            prediction has the questions alone, and the network goes on from them.
        tokenizer: see :class:`datamodules.text.language_module.LanguageModule`.
        vocab_size: likewise.
        batch_size: global training batch, in rows.
        eval_batch_size: global batch of validation, test and prediction, in rows.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("context",)
    split_of_weights: ClassVar[tuple[str, ...]] = ("choices", "seed", "val_share", "test_share")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("hellaswag", "piqa", "commonsenseqa", "crows_pairs", "files"),
            "choices": ("stdlib",),
            **dict.fromkeys(("val_share", "test_share"), ("files",)),
            "shots": ("stdlib", "hellaswag", "piqa", "commonsenseqa", "files"),
        },
        "shots": {"seed": "at least 1"},
        "tokenizer": {"vocab_size": (None,)},
    }

    def __init__(
        self,
        layout: Layout = "stdlib",
        root: str | None = None,
        choices: Size = 4,
        shots: DepthOrZero = 0,
        seed: Seed = 0,
        context: Size = 512,
        val_share: Part = 0.1,
        test_share: Part = 0.1,
        most_evaluated: Many | None = None,
        predict: str | None = None,
        tokenizer: str | None = None,
        vocab_size: Many | None = None,
        batch_size: Many = 16,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(MultipleChoice, locals())
        check_variants(MultipleChoice, locals())
        check_choice("layout", layout, Layout)
        super().__init__(context, tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        if choices < 2:
            raise ValueError("data.init_args.choices must be at least 2")
        if val_share + test_share >= 1:
            raise ValueError("data.init_args.val_share and test_share leave nothing to train")
        self.layout, self.folder, self.choices = layout, data_folder(root, "choices"), choices
        self.shots, self.seed, self.shares = shots, seed, {"test": test_share, "val": val_share}
        self.most_evaluated, self.predict = most_evaluated, predict
        self._splits: dict[str, list[Question]] | None = None

    @property
    def origin(self) -> str:
        """Where the questions are from, in what is told."""
        return "the standard library" if self.layout == "stdlib" else str(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """What weights keep of the files."""
        return {"set": self.folder.stem if self.layout == "files" else self.layout}

    # --- questions ------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, list[Question]]:
        if self.layout == "stdlib":
            return files.of_standard_library(self.choices)
        if self.layout == "files":
            return self._own()
        reader, names, where = _FILES[self.layout]
        paths = {split: self.folder / name for split, name in names.items()}
        needed = [split for split in paths if split != "test" or len(paths) == 1]
        if missing := [paths[split] for split in needed if not paths[split].is_file()]:
            raise FileNotFoundError(
                f"no {missing[0]}; {self.layout} is at {where}; or set data.init_args.root"
            )
        return {split: reader(path) for split, path in paths.items() if path.is_file()}

    def _own(self) -> dict[str, list[Question]]:
        if self.folder.is_file():
            return {"train": of_file(self.folder)}
        found = {}
        for split in SPLITS:
            paths = [p for end in (".jsonl", ".csv") if (p := self.folder / f"{split}{end}").is_file()]
            if len(paths) > 1:
                raise ValueError(f"{paths[0]} and {paths[1]} are both there: which one is {split}?")
            if paths:
                found[split] = of_file(paths[0])
        if not found:
            raise FileNotFoundError(
                f"no {self.folder / 'test.jsonl'} nor .csv, train and val beside it at will; expected are "
                'lines {"question", "choices", "answer"} or columns question, A, B, ..., answer; or set '
                "data.init_args.root to a folder or a file"
            )
        return found

    @property
    def splits(self) -> dict[str, list[Question]]:
        """The questions of ``train``, ``val`` and ``test``, read once; some may have none."""
        if self._splits is None:
            found = self._read()
            if set(found) == {"train"}:
                found = self._drawn(found["train"])
            answered = {split: [q for q in questions if q.gold >= 0] for split, questions in found.items()}
            for split, questions in found.items():
                if count := len(questions) - len(answered[split]):
                    say(f"{self.origin}: {count:,} of {len(questions):,} questions of {split} have no answer")
            if not answered.get("test") and answered.get("val"):
                say(f"{self.origin}: the test has no answers: val stands in for it")
                answered["test"] = answered["val"]
            self._splits = {
                split: answered.get(split, [])[: None if split == "train" else self.most_evaluated]
                for split in SPLITS
            }
        return self._splits

    def _drawn(self, questions: list[Question]) -> dict[str, list[Question]]:
        """Split by the digests of the questions: the smallest ones are the test's, the next ones val's."""
        keys = [digest_of(q.text + "\n".join(q.choices) * (not q.text)) for q in questions]
        order, at = sorted({*keys}), 0
        names: dict[bytes, str] = {}
        for split, share in self.shares.items():
            count = -(-round(share * len(order) * 1e6) // 10**6)
            names |= dict.fromkeys(order[at : at + count], split)
            at += count
        found: dict[str, list[Question]] = {split: [] for split in SPLITS}
        for key, question in zip(keys, questions, strict=True):
            found[names.get(key, "train")].append(question)
        return found

    def training_texts(self) -> Iterable[str]:
        """Questions to train with their right choices."""
        if not self.splits["train"]:
            raise ValueError(
                f"{self.origin} has no questions to train, which a tokenizer is made of: give "
                "data.init_args.tokenizer, or weights"
            )
        return (_solved(question) for question in self.splits["train"])

    def learned(self) -> Iterator[Sequence[str]]:
        return ((q.text, *q.choices, str(q.gold)) for q in self.splits["train"])

    # --- tokens ---------------------------------------------------------------------------------------------

    def before(self, number: int) -> str:
        """The solved questions before one, by its number."""
        if not self.shots:
            return ""
        known = self.splits["train"]
        if len(known) < self.shots:
            raise ValueError(
                f"data.init_args.shots is {self.shots}, but {self.origin} has {len(known):,} to train"
            )
        drawn = item_generator(_SHOTS, self.seed, number).choice(len(known), self.shots, replace=False)
        return "".join(_solved(known[i]) + "\n\n" for i in drawn)

    def piece(self, before: str, choice: str, between: str, where: str) -> Piece:
        """A question and a choice as the tokens of both together, of which the question's are not scored."""
        (context,) = self.encoder.ids([before])
        (ids,), (counts,) = self.encoder.counted([before + between + choice])
        scored = len(ids) - len(context)
        if scored + 1 > self.context or not scored:
            raise ValueError(
                f"{where}: the choice {choice[:40]!r} has {scored:,} tokens, a row has {self.context} with "
                "the start; raise data.init_args.context"
            )
        keep = min(len(context), self.context - 1 - scored)
        cut, end = len(context) - keep, len(context)
        start = np.array([self.bos_token_id])
        return joined(
            [
                (start, CONTEXT, np.zeros(1, dtype=np.int64)),
                (ids[cut:end], CONTEXT, counts[cut:end]),
                (ids[end:], SCORED, counts[end:]),
            ]
        )

    def rows(self, questions: Sequence[Question], split: str) -> ChoiceRows:
        """All choices of these questions."""
        rows, pieces = [], []
        for number, question in enumerate(questions):
            before = self.before(number) + question.text
            for place, choice in enumerate(question.choices):
                where = f"{self.origin}, {split}, question {number + 1}"
                pieces.append(self.piece(before, choice, question.between, where))
                right = place == question.gold
                rows.append((number, place, right, len(choice), question.text, choice))
        return ChoiceRows(rows, pieces, self.pad_token_id)

    def setup(self, stage: str) -> None:
        if stage == "predict" and self.predict is not None:
            self.predict_set = self._prompts(of_file(Path(self.predict)))
            return
        pad = self.pad_token_id
        if stage == "fit":
            if not self.splits["train"]:
                raise ValueError(f"{self.origin} has no questions to train")
            where = f"{self.origin}, train"
            pieces = [self.piece(q.text, q.choices[q.gold], q.between, where) for q in self.splits["train"]]
            self.train_set = PackedRows(pieces, self.context, pad, True, False, self.batch_size)
        for split in ("val", "test"):
            found = self.splits[split]
            setattr(self, f"{split}_set", self.rows(found, split) if found else None)
        if stage in ("test", "predict") and self.test_set is None:
            raise ValueError(f"{self.origin} has no questions with answers to test")
        if stage == "predict":
            self.predict_set = self._prompts(self.splits["test"])

    def _prompts(self, questions: Sequence[Question]) -> PromptRows:
        """The questions alone, which a network goes on from, with the right choice as what follows."""
        asked = [self.before(number) + question.text for number, question in enumerate(questions)]
        half = self.context // 2
        rows = [np.concatenate([[self.bos_token_id], ids[-half:]]) for ids in self.encoder.ids(asked)]
        right = [q.choices[q.gold] if q.gold >= 0 else "" for q in questions]
        known = [ids[:half] for ids in self.encoder.ids(right)]
        return PromptRows(rows, asked, known, right, self.pad_token_id)


def _solved(question: Question) -> str:
    return f"{question.text}{question.between}{question.choices[question.gold]}"


def of_file(path: Path) -> list[Question]:
    """The questions of a file of one's own.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged or of another kind.
    """
    if path.suffix == ".csv":
        return files.own_table(path)
    if path.suffix == ".jsonl":
        return files.own_lines(path)
    raise ValueError(f"{path} is no .jsonl nor .csv of questions")
