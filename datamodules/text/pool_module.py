"""A data module whose training set grows: a round is an epoch, at whose end a pool of sentences is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.loading.loaders import SplitModule, as_is, evaluation_loader, place
from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.text.answers import Answer
from datamodules.text.batches import by_length
from datamodules.text.conll import Sentence
from datamodules.text.ner_answers import take_answers
from datamodules.text.ner_items import RoundItems, SentenceItems
from datamodules.text.pool import Pool, labels_digest, noisy, tell_changes
from datamodules.text.queries import export_queries
from datamodules.text.rounds import RoundLoader, RoundSampler
from datamodules.text.schemes import Span


class PoolModule(SplitModule):
    """Rounds over a pool of sentences: who is labelled, what the oracle says, what a round trains on.

    A subclass reads the sentences in ``setup``, begins the ``pool`` of its training set, and states what is
    annotated here.

    Args:
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test, prediction and of scoring the pool.
        num_workers: loader processes.
    """

    entity_types: list[str]
    scheme: str
    lengths: list[int]
    oracle: str
    noise: float
    accept_drafts: bool
    spaces: bool
    rounds: int | None
    seed_updates: int | None
    round_updates: int | None
    passes: int
    window: int
    _seed: int
    _tag_ids: dict[str, int]
    _genre_ids: dict[str, int]

    def __init__(self, batch_size: Many, eval_batch_size: Many, num_workers: Workers = 0) -> None:
        check_ranges(PoolModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.pool: Pool | None = None
        self.sets: dict[str, list[Sentence]] = {}
        self._new_answers: dict[int, Answer] = {}
        self._restored = False

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
        self.pool.drafts |= {i: sorted((guesses or {}).get(i, ())) for i in indices}
        if folder is not None:
            paths = export_queries(
                folder / "queries" / f"round_{self.pool.round + 1:02d}",
                [(i, self.sets["train"][i].words, self.pool.drafts[i], scores.get(i)) for i in indices],
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
        return {} if self.pool is None else {"pool": self.pool.state(), "beside": self._beside()}

    def _beside(self) -> dict[str, Any]:
        """What a run has beside the sentences of its pool, which may change on the way: it is told."""
        return {
            "seed": self._seed,
            "noise": self.noise,
            **{
                split: labels_digest((s.words, s.spans) for s in self.sets[split])
                for split in ("train", "dev")
                if split in self.sets
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the pool of a checkpoint, and with what people have answered since."""
        if self.pool is None or "pool" not in state_dict:
            return
        self.pool.restore(state_dict["pool"])
        tell_changes(state_dict.get("beside", {}), self._beside())
        self._restored = True
        batches = self.updates_of_round()  # of the round that the answers end, before they change anything
        if self._new_answers and (
            given := take_answers(self.pool, self._new_answers, self.labels_of, self.accept_drafts)
        ):
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
