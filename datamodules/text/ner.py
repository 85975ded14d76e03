"""Named entities, and a pool of sentences of which an active learner asks for labels round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import SplitModule, as_is, evaluation_loader, place
from datamodules.loading.ranges import (
    Count,
    CountOrZero,
    Depth,
    Many,
    ManyOrZero,
    NonNegative,
    Positive,
    Rate,
    Seed,
    Workers,
    check_ranges,
)
from datamodules.loading.sampling import global_seed
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.batches import by_length
from datamodules.text.conll import Sentence
from datamodules.text.ner_answers import take_answers
from datamodules.text.ner_files import known_already, read_pool, read_sentences, short_enough
from datamodules.text.ner_items import RoundItems, SentenceItems, vocabulary_of
from datamodules.text.ner_sets import SETS, SPLITS, Name, check_types, declared_types, read_split, types_of
from datamodules.text.ner_settings import check_settings
from datamodules.text.pool import Pool, budget_of, costs_of, noisy, text_digest
from datamodules.text.queries import export_queries, read_answers
from datamodules.text.rounds import RoundLoader, RoundSampler
from datamodules.text.schemes import Scheme, Span, tag_names
from datamodules.text.vectors import read_vectors

Unit = Literal["words", "sentences", "percent", "cost"]
Oracle = Literal["simulated", "human"]


class NER(SplitModule):
    """Sentences with named entities; the training set grows by rounds of questions (Shen et al., ICLR 2018).

    An epoch is a round: it ends when its ``updates`` are made, the model asks for labels of ``budget`` more,
    and the next epoch trains on all that is labelled by then. The order is a function of (seed, round,
    position). The pool and its history are in every checkpoint.

    Batches are those of :class:`SentenceItems`; ``tags`` are ids of the names in ``tags``.

    Args:
        name: of the set; ``files`` reads your own, ``grammar`` is generated and needs none.
        root: folder of the files, by default below ``$ZOO_DATA``; for ``files`` it has ``train``, ``dev``,
            ``test`` and ``pool`` with the endings conll, tsv, jsonl or (pool) txt.
        language: of OntoNotes: english, chinese or arabic.
        genres: of OntoNotes' training set; null takes all.
        scheme: of the tags that a model learns: iob2, iobes (the paper), bilou.
        types: of entities; null takes those declared for the set, and for ``files`` those of ``dev`` and of
            labelled sentences that are no part of a simulated pool.
        embeddings: text file of word vectors, GloVe's or word2vec's.
        train_sentences: use the first so many of the training set.
        val_sentences: use the first so many of the validation set.
        min_words: shorter sentences do not enter the pool.
        max_words: longer sentences are left out of all sets; null takes all.
        seed_budget: size of the first, random labelled set, in ``unit``.
        budget: of each query, in ``unit``; whole sentences, over by at most one.
        unit: words, sentences, percent of the training words, or ``cost``: a sentence of n words costs
            ``sentence_cost`` + n ``word_cost``, in seconds of a person for instance.
        sentence_cost: what a sentence costs beside its words.
        word_cost: what each of its words costs.
        rounds: queries after the seed set; null goes on until the pool is empty.
        seed_updates: training batches of the seed round; null counts ``passes``.
        round_updates: training batches of each later round; null counts ``passes``.
        passes: over the labelled set in a round, where updates are null (50 in the paper).
        window: batches that are sorted by length together.
        oracle: ``simulated`` answers with the set's own labels; ``human`` writes the questions to files of
            the labelling tools and ends the run, which a resume with ``labels`` goes on with.
        noise: share of the tags that the simulated oracle gets wrong.
        labels: files that came back from the labelling tools.
        held_out: sentences of the pool that are never asked: the sample of a stopping rule.
        spaces: whether blanks stand between the words that people get; null takes the set's, and
            true of your own files.
        predict: file of sentences to tag: .txt (one a line), .jsonl, .conll or .tsv; null takes the test set.
        seed: of seed set, held-out sample and noise; null takes the run's.
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test, prediction and of scoring the pool.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or cannot be read.
    """

    of_weights = ("scheme", "types")
    of_variants: ClassVar[dict[str, Uses]] = {
        "name": {
            "root": tuple(n for n in get_args(Name) if n != "grammar"),
            "spaces": ("files",),
            **dict.fromkeys(("language", "genres"), ("ontonotes",)),
        },
        "oracle": {
            **dict.fromkeys(("noise", "seed_budget"), ("simulated",)),
            **dict.fromkeys(("labels", "spaces"), ("human",)),
        },
        "unit": dict.fromkeys(("sentence_cost", "word_cost"), ("cost",)),
    }
    split_of_weights = (
        *("name", "language", "genres", "train_sentences", "val_sentences", "min_words", "max_words"),
        *("seed_budget", "unit", "sentence_cost", "word_cost", "held_out", "seed"),
    )

    def __init__(
        self,
        name: Name = "grammar",
        root: str | None = None,
        language: str = "english",
        genres: Sequence[str] | None = None,
        scheme: Scheme = "iobes",
        types: Sequence[str] | None = None,
        embeddings: str | None = None,
        train_sentences: Many | None = None,
        val_sentences: Many | None = None,
        min_words: Many = 1,
        max_words: Many | None = None,
        seed_budget: Positive = 1.0,
        budget: Positive = 2.0,
        unit: Unit = "percent",
        sentence_cost: NonNegative = 0.0,
        word_cost: NonNegative = 1.0,
        rounds: CountOrZero | None = None,
        seed_updates: Count | None = None,
        round_updates: Count | None = None,
        passes: Count = 50,
        window: Depth = 16,
        oracle: Oracle = "simulated",
        noise: Rate = 0.0,
        labels: Sequence[str] = (),
        held_out: ManyOrZero = 0,
        spaces: bool | None = None,
        predict: str | None = None,
        seed: Seed | None = None,
        batch_size: Many = 16,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(NER, locals())
        check_variants(NER, locals())
        for key, value, choices in (
            ("name", name, Name),
            ("scheme", scheme, Scheme),
            ("unit", unit, Unit),
            ("oracle", oracle, Oracle),
        ):
            check_choice(key, value, choices)
        check_settings(locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.set_name, self.language, self.genres_of_pool = name, language, genres
        self.root = data_folder(root, SETS[name].folder if name in SETS else name)
        self.scheme, self.embeddings = scheme, embeddings
        self.types = list(types) if types is not None else None
        self.train_sentences, self.val_sentences = train_sentences, val_sentences
        self.min_words, self.max_words = min_words, max_words
        self.seed_budget, self.unit, self.rounds = seed_budget, unit, rounds
        self._budget, self.sentence_cost, self.word_cost = budget, sentence_cost, word_cost
        self.seed_updates, self.round_updates, self.passes, self.window = (
            seed_updates,
            round_updates,
            passes,
            window,
        )
        self.oracle, self.noise, self.labels, self.held_out = oracle, noise, list(labels), held_out
        self.seed, self.predict = seed, predict
        own = SETS[name].spaces if name in SETS else not (name == "ontonotes" and language == "chinese")
        self.spaces = own if spaces is None else spaces
        self.pool: Pool | None = None
        self.sets: dict[str, list[Sentence]] = {}
        self.vectors: dict[str, Tensor] = {}
        self._new_answers: dict[int, list[Span] | None] = {}
        self._restored = False

    # --- sets ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        self._seed = global_seed() if self.seed is None else self.seed
        if stage == "predict" and self.predict is not None:
            self._declare()
            self.predict_set = self._items(read_sentences(Path(self.predict)))
            return
        wanted = SPLITS if stage in ("fit", "validate") else ("test",)
        for split in wanted:
            try:
                self.sets[split] = self._read(split)
            except FileNotFoundError:
                if split != "test" or stage not in ("fit", "validate"):
                    raise
        self._declare()
        if "train" in self.sets:
            self._start_pool()
        for split, limit in (("dev", self.val_sentences), ("test", None)):
            if split in self.sets:
                kept = self.sets[split][:limit]
                self.sets[split] = kept
                setattr(self, "val_set" if split == "dev" else "test_set", self._items(kept))

    def _read(self, split: str) -> list[Sentence]:
        genres = self.genres_of_pool if split == "train" else None
        found = read_split(self.set_name, self.root, split, self.language, genres)
        if split == "train":
            found = [s for s in found if len(s.words) >= self.min_words][: self.train_sentences]
        found = short_enough(found, split, self.max_words)
        if not found:
            raise ValueError(f"{self.root}: the {split} set of {self.set_name} has no sentence")
        return found

    def _declare(self) -> None:
        """Types, tags, genres: declared, or of sentences that everybody may see."""
        own = self.types or types_of(self.set_name)
        seen = [*self.sets.get("dev", ()), *self.sets.get("test", ())]
        if self.oracle == "human":
            seen += self.sets.get("train", ())
        self.entity_types = declared_types(own, seen, self.root)
        for split, sentences in self.sets.items():
            check_types(sentences, self.entity_types, f"{self.root}: {split}")
        self.tags = tag_names(self.entity_types, self.scheme)
        self.genres = sorted({s.genre for found in self.sets.values() for s in found if s.genre})
        self._genre_ids = {name: i for i, name in enumerate(self.genres)}
        self._tag_ids = {name: i for i, name in enumerate(self.tags)}
        self.facts = {"set": self.set_name, "scheme": self.scheme, "types": self.entity_types}

    def _items(
        self, sentences: Sequence[Sentence], members: Sequence[int] | None = None, kind: Any = SentenceItems
    ) -> Any:
        return kind(
            sentences, [s.spans for s in sentences], self._tag_ids, self.scheme, self._genre_ids, members
        )

    def _start_pool(self) -> None:
        train = self.sets["train"]
        given: list[int] = []
        known: list[int] = []
        if self.oracle == "human":
            if any(s.spans is None for s in train):
                raise ValueError(
                    f"{self.root}: the train file has sentences without tags; they belong in pool"
                )
            given = list(range(len(train)))
            asked = [s for s in read_pool(self.root) if len(s.words) >= self.min_words]
            train = self.sets["train"] = [*train, *short_enough(asked, "pool", self.max_words)]
            evaluated = [*self.sets.get("dev", ()), *self.sets.get("test", ())]
            known = known_already(train, len(given), evaluated)
        self.lengths = [len(s.words) for s in train]
        costs = costs_of(self.lengths, self.unit, self.sentence_cost, self.word_cost)
        budgets = [budget_of(b, self.unit, sum(self.lengths)) for b in (self._budget, self.seed_budget)]
        self.pool = Pool(costs, budgets[0], text_digest(s.words for s in train))
        self.pool.start(self._seed, budgets[1], self.held_out, given, known)
        self._count_vocabulary()
        if self.labels:
            self._new_answers = read_answers(
                [Path(p) for p in self.labels], train, self.spaces, self.entity_types
            )

    def _count_vocabulary(self) -> None:
        """Words and characters of the pool: of its text, never of its labels."""
        self.vocabulary_words, self.vocabulary_characters = vocabulary_of(self.sets["train"])
        if self.embeddings is not None:
            everywhere = {word for found in self.sets.values() for s in found for word in s.words}
            self.vectors = read_vectors(Path(self.embeddings), everywhere)
            self.vocabulary_words = sorted({*self.vocabulary_words, *self.vectors})

    @property
    def num_words(self) -> int | None:
        """Words of the vocabulary, None before it is known."""
        return len(self.vocabulary_words) if self.pool is not None else None

    @property
    def num_characters(self) -> int | None:
        """Characters of the vocabulary, None before it is known."""
        return len(self.vocabulary_characters) if self.pool is not None else None

    @property
    def vector_size(self) -> int | None:
        """Width of the word vectors, None without a file of them."""
        return len(next(iter(self.vectors.values()))) if self.vectors else None

    # --- rounds ----------------------------------------------------------------------------------------

    def labels_of(self, index: int) -> list[Span]:
        """What the oracle says of a labelled sentence of the pool."""
        assert self.pool is not None
        sentence = self.sets["train"][index]
        if index in self.pool.answers:
            return self.pool.answers[index]
        spans = list(sentence.spans or ())
        return noisy(spans, len(sentence.words), self.entity_types, self.noise, self._seed, index)

    def updates_of_round(self) -> int:
        """Training batches of the present round."""
        assert self.pool is not None
        updates = self.seed_updates if self.pool.round == 0 else self.round_updates
        if updates is None:
            updates = -(-self.passes * len(self.pool.rounds) // self.batch_size)
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        return min(updates, limit) if isinstance(limit, int) else max(1, int(limit * updates))

    @property
    def last_round(self) -> bool:
        """Whether no query follows this round."""
        assert self.pool is not None
        return (self.rounds is not None and self.pool.round >= self.rounds) or not self.pool.unlabelled

    def _unlabelled(self, members: Sequence[int] | None = None) -> SentenceItems:
        """Sentences of the pool without any label."""
        return SentenceItems(
            self.sets["train"], [None] * len(self.lengths), {}, self.scheme, self._genre_ids, members
        )

    def batch_of(self, indices: Sequence[int]) -> dict[str, Any]:
        """Sentences of the pool as a batch, without any label."""
        return self._unlabelled().batch(indices)

    def pool_batches(self, indices: Sequence[int] | None = None) -> list[list[int]]:
        """The unlabelled sentences by length, in batches; a function of the pool alone."""
        assert self.pool is not None
        chosen = self.pool.unlabelled if indices is None else indices
        places = by_length([self.lengths[i] for i in chosen], self.eval_batch_size)
        return [[chosen[p] for p in batch] for batch in places]

    def pool_dataloader(self) -> Any:
        """The unlabelled sentences in the order of their index, without labels."""
        assert self.pool is not None
        items = self._unlabelled(self.pool.unlabelled)
        return evaluation_loader(self, items, self.eval_batch_size, self.num_workers)

    def ask(
        self,
        indices: Sequence[int],
        scores: Mapping[int, float],
        guesses: Mapping[int, Sequence[Span]] | None = None,
        folder: Path | None = None,
    ) -> bool:
        """End the round with a query.

        Args:
            indices: of the sentences that are asked for, in order.
            scores: by index.
            guesses: the model's own entities, for people to correct.
            folder: of the run, for the files of a human oracle.

        Returns:
            Whether the answers are there: a human's come later.
        """
        assert self.pool is not None
        self.pool.ask(indices, scores)
        if self.oracle == "simulated":
            self._answered({i: self.sets["train"][i].spans for i in indices}, self.updates_of_round())
            return True
        if folder is not None:
            paths = export_queries(
                folder / "queries" / f"round_{self.pool.round + 1:02d}",
                [
                    (i, self.sets["train"][i].words, (guesses or {}).get(i, ()), scores.get(i))
                    for i in indices
                ],
                self.spaces,
                self.entity_types,
            )
            for path in paths:
                say(f"wrote {path}")
        return False

    def _answered(self, answers: Mapping[int, Sequence[Span] | None], batches: int) -> None:
        assert self.pool is not None
        self.pool.batches_before += batches
        skipped = {i for i, spans in answers.items() if spans is None}
        self.pool.answer(set(answers) - skipped, skipped & set(self.pool.waiting))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pool is None else {"pool": self.pool.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the pool of a checkpoint, and with what people have answered since."""
        if self.pool is None or "pool" not in state_dict:
            return
        self.pool.restore(state_dict["pool"])
        self._restored = True
        batches = self.updates_of_round()  # of the round that the answers end, before they change anything
        if self._new_answers and (given := take_answers(self.pool, self._new_answers, self.labels_of)):
            self._answered(given, batches)

    # --- loaders ---------------------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        assert self.pool is not None
        if self._new_answers and not self._restored:
            raise ValueError(
                "data.init_args.labels answers the questions of a run: add --ckpt_path last, or leave it out "
                "to start anew"
            )
        train, pool = self.sets["train"], self.pool
        spans: list[Sequence[Span] | None] = [None] * len(train)
        for index in pool.rounds:
            spans[index] = self.labels_of(index)
        dataset = RoundItems(train, spans, self._tag_ids, self.scheme, self._genre_ids)
        rank, world = place(self)
        position: Callable[[], int] = lambda: 0  # noqa: E731
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.total
            position = partial(_since, progress, pool.batches_before)
        sampler = RoundSampler(
            pool.labelled,
            self.lengths,
            self.batch_size,
            self.updates_of_round(),
            self._seed,
            pool.round,
            self.window,
            rank,
            world,
            position,
        )
        return RoundLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_is,
            generator=torch.Generator(),
        )


def _since(progress: Any, before: int) -> int:
    return int(progress.ready) - before
