"""Dialogues as a whole history, its last turn and the response: what a decomposition of information reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text import facts
from datamodules.text.exchanges import Exchange
from datamodules.text.history_items import HistoryItems
from datamodules.text.module import TextModule
from datamodules.text.pair_files import asked, read_splits
from datamodules.text.tokenizers import Model
from datamodules.text.wizard import FILES, read_wizard

Layout = Literal["facts", "wizard", "jsonl"]


@dataclass
class _Splits:
    train: Sequence[Exchange]
    val: Sequence[Exchange]
    test: Sequence[Exchange]
    answers: dict[str, Sequence[str]] = field(default_factory=dict)


class DialogueHistories(TextModule):
    """Histories of dialogues with the response to each, for :class:`zoo.DialogueDEMI`.

    A batch has int64 ids, padded on the right, with their numbers of tokens: ``history`` (B, H), all turns
    with an EOS behind each, ``history_length`` (B,); ``recent`` (B, R), its last turn alone, and
    ``response`` (B, Y), each with its EOS and its ``_length``; ``index`` (B,). With ``distractors`` the
    training adds ``distractor``, another exchange's response. Evaluation adds the texts ``context`` (turns by
    lines), ``reference`` and, of ``facts``, ``answer``, the word that the first turn decides.

    Layouts:
        ``facts``: made, not real; the answer needs a fact of the first turn. ln 3 nats of it stand in the
        last turn, ln 16 in the history alone (:mod:`datamodules.text.facts`).
        ``wizard``: Wizard of Wikipedia's ``train.json``, ``valid_random_split.json``,
        ``test_random_split.json`` (or ``_topic_``) under ``root``; every turn of the wizard with two or more
        before it.
        ``jsonl``: ``train.jsonl``, ``val.jsonl`` and, where it is there, ``test.jsonl`` under ``root``, lines
        ``{"history": ["...", "..."], "source": "the last turn", "target": "the response"}``.

    Args:
        layout: of the files.
        root: folder; null is ``$ZOO_DATA/wizard_of_wikipedia`` or ``$ZOO_DATA/dialogues``.
        topics: of the held-out dialogues of ``wizard``: ``random`` ones, or ``topic`` for those that training
            never saw.
        dialogues: of the training of ``facts``.
        held_dialogues: of the validation and of the test of ``facts``.
        predict: what ``zoo predict`` answers: a typed utterance, several (a list, oldest first), or a file,
            ``.txt`` with an utterance a line or ``.jsonl`` as above; null answers the test split.
        longest: tokens of a turn that are kept.
        history_tokens: of a history, EOS behind each turn included: the latest whole turns that fit.
        distractors: whether the training has ``distractor``.
        most_exchanges: of the training, the first; null takes all.
        most_evaluated: of validation and of test, the first; null takes all.
        tokenizer: folder, ``tokenizer.json`` or hub id; null takes that of the weights, or trains one.
        vocab_size: entries of a trained one, at most.
        model: of a trained one: ``byte_bpe``, ``bpe``, ``words``.
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: for files that are missing or damaged, in one line.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("longest", "history_tokens")
    split_of_weights: ClassVar[tuple[str, ...]] = ("topics", "dialogues", "most_exchanges")
    of_variants: ClassVar[dict[str, Uses]] = {
        "layout": {
            "root": ("wizard", "jsonl"),
            "topics": ("wizard",),
            "dialogues": ("facts",),
            "held_dialogues": ("facts",),
        },
        "tokenizer": dict.fromkeys(("vocab_size", "model"), (None,)),
    }

    def __init__(
        self,
        layout: Layout = "facts",
        root: str | None = None,
        topics: Literal["random", "topic"] = "random",
        dialogues: Many = 12_000,
        held_dialogues: Many = 400,
        predict: str | list[str] | None = None,
        longest: Size = 64,
        history_tokens: Size = 384,
        distractors: bool = False,
        most_exchanges: Many | None = None,
        most_evaluated: Many | None = None,
        tokenizer: str | None = None,
        vocab_size: Many = 8000,
        model: Model = "byte_bpe",
        batch_size: Many = 64,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(DialogueHistories, locals())
        check_variants(DialogueHistories, locals())
        for key, value, choices in (
            ("layout", layout, Layout),
            ("topics", topics, Literal["random", "topic"]),
            ("model", model, Model),
        ):
            check_choice(key, value, choices)
        if history_tokens <= longest:
            raise ValueError(
                f"data.init_args.history_tokens is {history_tokens}, which has no room for one turn of "
                f"data.init_args.longest: {longest} tokens and its end"
            )
        super().__init__(tokenizer, vocab_size, batch_size, eval_batch_size, num_workers)
        self.model = model  # type: ignore[misc]
        self.layout, self.topics, self.predict = layout, topics, predict
        self.folder = data_folder(root, "wizard_of_wikipedia" if layout == "wizard" else "dialogues")
        self.counts: Any = {"train": dialogues, "val": held_dialogues, "test": held_dialogues}
        self.longest, self.history_tokens, self.distractors = longest, history_tokens, distractors
        self.most = {"train": most_exchanges, "val": most_evaluated, "test": most_evaluated}
        self.facts: dict[str, Any] = {"set": layout}
        self._splits: _Splits | None = None

    @property
    def truth(self) -> tuple[float, float] | None:
        """I(last turn; response) and I(history; response | last turn) in nats, where they are known."""
        return (facts.FIRST, facts.CONDITIONAL) if self.layout == "facts" else None

    @property
    def splits(self) -> _Splits:
        """Read once.

        Raises:
            ValueError: for a split without exchanges.
        """
        if self._splits is None:
            answers: dict[str, Sequence[str]] = {}
            found = {}
            for split, (rows, known) in self._read().items():
                most = self.most[split]
                found[split], answers[split] = self._whole(split, rows, known)[:most], known[:most]
            self._splits = _Splits(**found, answers=answers)
        return self._splits

    def _read(self) -> dict[str, tuple[Sequence[Exchange], Sequence[str]]]:
        """Exchanges of each split, and the words that their first turns decide."""
        if self.layout == "facts":
            return {split: facts.fact_dialogues(split, count) for split, count in self.counts.items()}
        if self.layout == "jsonl":
            return {k: (v, ()) for k, v in zip(FILES, read_splits(self.folder), strict=True)}
        paths = {split: self.folder / name.format(topics=self.topics) for split, name in FILES.items()}
        if missing := [p for split, p in paths.items() if split != "test" and not p.is_file()]:
            raise FileNotFoundError(
                f"no {missing[0]}; Wizard of Wikipedia is parl.ai/downloads/wizard_of_wikipedia/"
                "wizard_of_wikipedia.tgz, whose files belong there, or set data.init_args.root"
            )
        return {split: (read_wizard(p) if p.is_file() else (), ()) for split, p in paths.items()}

    def _whole(self, split: str, rows: Sequence[Exchange], known: Sequence[str]) -> Sequence[Exchange]:
        if known:
            return rows
        kept = [e for e in rows if e.reply.strip() and e.history and e.history[-1].strip()]
        if not kept and split != "test":
            raise ValueError(f"{self.folder}: no exchange with words on both sides in the split {split}")
        if len(kept) < len(rows):
            gone = len(rows) - len(kept)
            say(f"{gone:,} of {len(rows):,} exchanges to {split} lack words on one side and are left out")
        return kept

    def training_texts(self) -> Iterator[str]:
        """Every turn of the training split once, or, where words are counted, twice."""
        every = dict.fromkeys(t for e in self.splits.train for t in (*e.history, e.reply))
        yield from every
        if self.layout == "facts":  # words that stand once have no place in a vocabulary
            yield from every

    # --- what the tokenizer tells ---------------------------------------------------------------------------

    @property
    def eos_id(self) -> int:
        """Of the end of a turn.

        Raises:
            ValueError: for a tokenizer that has none.
        """
        found: int | None = self.tokenizer.eos_token_id
        if found is None:
            raise ValueError(
                f"the tokenizer {self.tokenizer_source} has no eos token, which ends a turn of a dialogue"
            )
        return found

    @property
    def pad_id(self) -> int:
        """Of the tokenizer; its EOS where it has none, as GPT-2's: lengths tell what is read."""
        found: int | None = self.tokenizer.pad_token_id
        return self.eos_id if found is None else found

    @property
    def most_tokens(self) -> int:
        """Of a history with the longest response."""
        return self.history_tokens + self.longest + 1

    @property
    def vocabulary(self) -> str:
        """The tokenizer as a document, with how turns are cut."""
        own = {"longest": self.longest, "history_tokens": self.history_tokens}
        return json.dumps({**json.loads(super().vocabulary), **own}, ensure_ascii=False, sort_keys=True)

    # --- sets -----------------------------------------------------------------------------------------------

    def _made(self) -> tuple[Any, int, int]:
        return self.tokenizer, self.eos_id, self.pad_id

    def items(
        self,
        exchanges: Sequence[Exchange],
        name: str,
        texts: bool = True,
        answers: Sequence[str] = (),
        distractors: bool = False,
    ) -> HistoryItems:
        """A data set of exchanges."""
        sizes = self.longest, self.history_tokens
        return HistoryItems(exchanges, self._made, *sizes, texts, answers, distractors, name)

    def setup(self, stage: str) -> None:
        splits = self.splits
        if stage == "fit":
            self.train_set = self.items(
                splits.train, "the training split", texts=False, distractors=self.distractors
            )
        if stage in ("fit", "validate"):
            self.val_set = self.items(splits.val, "the validation split", answers=splits.answers["val"])
        if stage in ("test", "predict"):
            split = "test" if splits.test else "val"
            rows = getattr(splits, split)
            self.test_set = self.items(rows, f"the {split} split", answers=splits.answers[split])
        if stage == "predict" and self.predict is not None:
            self.predict_set = self.items(asked(self.predict), "the prediction")

    def train_dataloader(self) -> Any:
        self.train_set.tokenize()  # before loader processes begin, each of which would do it anew
        return super().train_dataloader()

    def _evaluated(self, found: Any) -> Any:
        if isinstance(found, HistoryItems):
            found.tokenize()
        return super()._evaluated(found)
