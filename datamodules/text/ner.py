"""Named entities, and a pool of sentences of which an active learner asks for labels round by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

from torch import Tensor

from datamodules.loading.arguments import check_choice, data_folder
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
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.answers import read_answers
from datamodules.text.conll import Sentence
from datamodules.text.ner_files import known_already, read_pool, read_sentences, short_enough
from datamodules.text.ner_items import SentenceItems, vocabulary_of
from datamodules.text.ner_sets import SETS, SPLITS, Name, check_types, declared_types, read_split, types_of
from datamodules.text.ner_settings import check_settings
from datamodules.text.pool import Pool, budget_of, costs_of, text_digest
from datamodules.text.pool_module import PoolModule
from datamodules.text.schemes import Scheme, tag_names
from datamodules.text.vectors import read_vectors

Unit = Literal["words", "sentences", "percent", "cost"]
Oracle = Literal["simulated", "human"]


class NER(PoolModule):
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
        accept_drafts: take also a file of which every sentence came back exactly as the model tagged it, and
            Prodigy's lines without ``answer``.
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
            **dict.fromkeys(("labels", "accept_drafts", "spaces"), ("human",)),
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
        accept_drafts: bool = False,
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
        self.oracle, self.noise, self.held_out = oracle, noise, held_out
        self.labels, self.accept_drafts = list(labels), accept_drafts
        self.seed, self.predict = seed, predict
        own = SETS[name].spaces if name in SETS else not (name == "ontonotes" and language == "chinese")
        self.spaces = own if spaces is None else spaces
        self.vectors: dict[str, Tensor] = {}

    # --- sets ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        self._seed = global_seed() if self.seed is None else self.seed
        if stage == "predict" and self.predict is not None:
            self._declare()
            rows, found = read_sentences(Path(self.predict))
            self.predict_set = self._items(found, rows)
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

    def _items(self, sentences: Sequence[Sentence], rows: Sequence[int] | None = None) -> SentenceItems:
        spans = [s.spans for s in sentences]
        return SentenceItems(sentences, spans, self._tag_ids, self.scheme, self._genre_ids, rows=rows)

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
                [Path(p) for p in self.labels], train, self.spaces, self.entity_types, self.accept_drafts
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
