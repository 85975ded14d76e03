"""What an active learner knows of its pool: who is labelled since when, who waits, who is never asked.

All of it is plain lists, so that a checkpoint holds it and a resumed run goes on with it. Sentences are named
by their index in the data set, never by a place in the pool, which shrinks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.loading.terminal import say
from datamodules.text.schemes import Span, spans_of, tag_names, tags_of

_SEED_SET, _HELD_OUT, _NOISE = 7311, 7312, 7313
Spans = Sequence[Span]


def take_budget(order: Sequence[int], costs: Sequence[float], budget: float) -> list[int]:
    """Walk down an order until the cost is at least ``budget``: whole sentences, over by at most one."""
    taken: list[int] = []
    spent = 0.0
    for index in order:
        if spent >= budget:
            break
        taken.append(index)
        spent += costs[index]
    return taken


def costs_of(lengths: Sequence[int], unit: str, fixed: float, per_word: float) -> Sequence[float]:
    """What labels of each sentence cost: its words, 1, or ``fixed + per_word n`` of unit ``cost``."""
    if unit == "cost":
        return [fixed + per_word * n for n in lengths]
    return [1] * len(lengths) if unit == "sentences" else lengths


def budget_of(budget: float, unit: str, words: int) -> float:
    """A budget in what :func:`costs_of` counts; percents are of all words."""
    if unit == "cost":
        return budget
    return max(1, round(budget * (words / 100 if unit == "percent" else 1)))


def text_digest(sentences: Iterable[Sequence[str]]) -> str:
    """Of the sentences in their order: a pool knows them by their index alone."""
    digest = hashlib.blake2b(digest_size=16)
    for words in sentences:
        digest.update("\n".join((*words, "\n")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def labels_digest(sentences: Iterable[tuple[Sequence[str], Spans | None]]) -> str:
    """Of words with their entities, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for words, spans in sentences:
        text = "\n".join((*words, repr(None if spans is None else sorted(spans)), "\n"))
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def permutation(stream: int, seed: int, items: Sequence[int]) -> list[int]:
    """Items in an order that is a function of (stream, seed)."""
    return [items[i] for i in item_generator(stream, seed).permutation(len(items))]


class Pool:
    """The labelled sentences and the rest.

    Attributes:
        round: of the training: 0 with the seed set, raised by each answered query.
        batches_before: training batches of the finished rounds.
        rounds: index -> round since which it is labelled.
        scores: index -> score with which it was asked.
        waiting: asked, not yet answered.
        skipped: never to be asked again.
        held_out: never to be asked at all: the sample of a stopping rule.
        known: not to be asked either: their words have labels elsewhere, or stand before in the pool.
        answers: index -> spans of people's labels.
        drafts: index -> the model's own spans, which went out with the question, sorted.

    Args:
        costs: of each sentence.
        budget: cost that a query may reach.
        text: digest of the sentences, see :func:`text_digest`.
    """

    def __init__(self, costs: Sequence[float], budget: float, text: str = "") -> None:
        self.costs, self.budget, self.text = list(costs), budget, text
        self.round, self.batches_before = 0, 0
        self.rounds: dict[int, int] = {}
        self.scores: dict[int, float] = {}
        self.waiting: list[int] = []
        self.skipped: set[int] = set()
        self.held_out: list[int] = []
        self.known: frozenset[int] = frozenset()
        self.answers: dict[int, list[Span]] = {}
        self.drafts: dict[int, list[Span]] = {}

    def start(
        self,
        seed: int,
        seed_budget: float,
        held_out: int,
        given: Collection[int] | None = None,
        known: Collection[int] = (),
    ) -> None:
        """Draw the held-out sample and the seed set, functions of the seed alone.

        Args:
            seed: of the draws.
            seed_budget: cost of the seed set.
            held_out: size of the sample.
            given: sentences that are labelled from the beginning; the seed set is these then.
            known: sentences that nobody need be asked.
        """
        self.known = frozenset(known)
        every = [i for i in range(len(self.costs)) if i not in self.known and (not given or i not in given)]
        self.held_out = sorted(permutation(_HELD_OUT, seed, every)[:held_out])
        rest = sorted(set(every) - set(self.held_out))
        chosen = (
            sorted(given)
            if given
            else take_budget(permutation(_SEED_SET, seed, rest), self.costs, seed_budget)
        )
        self.rounds = dict.fromkeys(chosen, 0)

    @property
    def labelled(self) -> list[int]:
        """Indices of the labelled sentences, sorted."""
        return sorted(self.rounds)

    @property
    def unlabelled(self) -> list[int]:
        """Indices that may be asked, sorted."""
        no = self.skipped.union(self.rounds, self.held_out, self.waiting, self.known)
        return [i for i in range(len(self.costs)) if i not in no]

    def ask(self, indices: Sequence[int], scores: Mapping[int, float]) -> None:
        """Put sentences in the queue of the oracle.

        Raises:
            ValueError: for one that is asked twice, or is not in the pool.
        """
        allowed = set(self.unlabelled)
        if len(set(indices)) < len(indices) or not allowed.issuperset(indices):
            raise ValueError("a sentence is asked twice, or is not in the pool")
        self.waiting = list(indices)
        self.scores |= {i: float(scores[i]) for i in indices if i in scores}

    def answer(self, labelled: Collection[int], skipped: Collection[int] = ()) -> None:
        """The oracle has answered: a new round begins; who was asked and not answered is in the pool
        again."""
        self.round += 1
        self.skipped.update(skipped)
        for index in self.waiting:
            if index in labelled:
                self.rounds[index] = self.round
        self.waiting = []

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "round": self.round,
            "batches_before": self.batches_before,
            "rounds": [[i, r] for i, r in self.rounds.items()],
            "scores": [[i, s] for i, s in self.scores.items()],
            "waiting": list(self.waiting),
            "skipped": sorted(self.skipped),
            "held_out": list(self.held_out),
            "answers": _plain(self.answers),
            "drafts": _plain(self.drafts),
            "sentences": len(self.costs),
            "text": self.text,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            ValueError: for a state of other data.
        """
        if state["sentences"] != len(self.costs):
            raise ValueError(
                f"the checkpoint's pool has {state['sentences']:,} sentences, the data have "
                f"{len(self.costs):,}: resume with the data of the run, or start anew from its --weights"
            )
        if state.get("text", self.text) != self.text:  # checkpoints of before have none
            raise ValueError(
                "the checkpoint's pool has other sentences than the data, or in another order: resume with "
                "the data of the run, or start anew from its --weights"
            )
        self.round, self.batches_before = int(state["round"]), int(state["batches_before"])
        self.rounds = {int(i): int(r) for i, r in state["rounds"]}
        self.scores = {int(i): float(s) for i, s in state["scores"]}
        self.waiting, self.held_out = list(state["waiting"]), list(state["held_out"])
        self.skipped = set(state["skipped"])
        self.answers = _by_index(state["answers"])
        self.drafts = _by_index(state.get("drafts", ()))  # checkpoints of before have none


def _plain(spans: Mapping[int, Spans]) -> list[Any]:
    return [[i, [list(span) for span in found]] for i, found in spans.items()]


def _by_index(plain: Iterable[Any]) -> dict[int, list[Span]]:
    return {int(i): [(int(a), int(b), str(t)) for a, b, t in spans] for i, spans in plain}


def tell_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say what a resumed run has otherwise than before, and what follows; old checkpoints know less."""
    meanings = {
        "seed": "the orders of its rounds are others, and the errors of a noisy oracle",
        "noise": "labels of earlier rounds have the new share of errors",
        "train": "what is labelled has the new labels",
        "dev": "val/f1 of rounds before and after cannot be compared",
    }
    for key in sorted(before.keys() & now.keys()):
        if before[key] != now[key]:
            what = f"{key} {now[key]}, it had {before[key]}"
            if key in ("train", "dev"):
                what = f"another {key} set" if key == "dev" else "other labels of its train set"
            say(f"the run goes on with {what}: {meanings[key]}")


def noisy(spans: Spans, length: int, types: Sequence[str], share: float, seed: int, index: int) -> list[Span]:
    """What an oracle says that gets a share of the tags wrong: each word's tag becomes another one of IOB2.

    A function of (seed, index): asked twice, it errs in the same way.
    """
    if not share:
        return list(spans)
    tags, names = tags_of(spans, length, "iob2"), tag_names(types, "iob2")
    random = item_generator(_NOISE, seed, index)
    wrong = random.random(length) < share
    for i in np.flatnonzero(wrong):
        others = [name for name in names if name != tags[i]]
        tags[i] = others[int(random.integers(len(others)))]
    return spans_of(tags)
