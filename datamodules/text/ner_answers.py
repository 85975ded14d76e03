"""What people's answers do to a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from datamodules.loading.terminal import say
from datamodules.text.pool import Pool
from datamodules.text.schemes import Span

Answers = Mapping[int, Sequence[Span] | None]
"""Index -> entities, None of a skipped sentence."""


def take_answers(pool: Pool, answers: Answers, labels_of: Callable[[int], Sequence[Span]]) -> Answers:
    """Keep the labels of what was asked, and corrections of what was labelled before; it is said.

    A sentence that was skipped and comes back labelled is labelled from now on.

    Args:
        pool: whose ``answers``, ``rounds`` and ``skipped`` change.
        answers: of people.
        labels_of: what a labelled sentence has been labelled with so far.

    Returns:
        Those of sentences that wait, which end the round.
    """
    waiting = set(pool.waiting)
    given = {i: s for i, s in answers.items() if i in waiting}
    corrected = unasked = 0
    for index, spans in answers.items():
        if index not in waiting and index not in pool.rounds and index not in pool.skipped:
            unasked += 1
            continue
        if spans is None:
            continue
        if index in pool.rounds and sorted(spans) != sorted(labels_of(index)):
            corrected += 1
        if index in pool.skipped:
            pool.skipped.discard(index)
            pool.rounds[index] = pool.round
        pool.answers[index] = sorted(spans)
    if given:
        skipped = sum(s is None for s in given.values())
        say(
            f"{len(given) - skipped:,} of {len(waiting):,} sentences come back labelled, {skipped:,} "
            f"skipped, {len(waiting) - len(given):,} not answered"
        )
    if unasked:
        say(f"{unasked:,} answers are of sentences that were not asked: left out")
    if corrected:
        say(f"{corrected:,} sentences that were labelled before have new labels")
    return given
