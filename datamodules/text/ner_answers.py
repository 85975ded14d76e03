"""What people's answers do to a pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datamodules.loading.terminal import say
from datamodules.text.answers import ACCEPT, Answer
from datamodules.text.pool import Pool
from datamodules.text.schemes import Span

LabelsOf = Callable[[int], Sequence[Span]]


def take_answers(
    pool: Pool, answers: Mapping[int, Answer], labels_of: LabelsOf, accept_drafts: bool = False
) -> dict[int, Sequence[Span] | None]:
    """Keep the labels of what was asked, and corrections of what was labelled before; it is said.

    A sentence that was skipped and comes back labelled is labelled from now on.

    Args:
        pool: whose ``answers``, ``rounds`` and ``skipped`` change.
        answers: of people, by index.
        labels_of: what a labelled sentence has been labelled with so far.
        accept_drafts: people agree with every draft.

    Returns:
        Entities (None of a skipped one) of sentences that wait, which end the round.

    Raises:
        ValueError: for a file that says nothing but what the model had said; nothing is changed then.
    """
    waiting = set(pool.waiting)
    asked = {i: a for i, a in answers.items() if i in waiting or i in pool.rounds or i in pool.skipped}
    _tell_untouched(
        pool, {i: a for i, a in asked.items() if _says_something(pool, i, a, labels_of)}, accept_drafts
    )
    corrected = 0
    for index, answer in asked.items():
        if answer.spans is None:
            continue
        spans = sorted(answer.spans)
        if index in pool.rounds and spans != sorted(labels_of(index)):
            corrected += 1
        if index in pool.skipped:
            pool.skipped.discard(index)
            pool.rounds[index] = pool.round
        pool.answers[index] = spans
    given = {i: a.spans for i, a in asked.items() if i in waiting}
    if given:
        skipped = sum(s is None for s in given.values())
        say(
            f"{len(given) - skipped:,} of {len(waiting):,} sentences come back labelled, {skipped:,} "
            f"skipped, {len(waiting) - len(given):,} not answered"
        )
    if len(asked) < len(answers):
        say(f"{len(answers) - len(asked):,} answers are of sentences that were not asked: left out")
    if corrected:
        say(f"{corrected:,} sentences that were labelled before have new labels")
    return given


def _says_something(pool: Pool, index: int, answer: Answer, labels_of: LabelsOf) -> bool:
    """Whether an answer is news; files of earlier rounds are named again at each resume."""
    if index in pool.rounds:
        return answer.spans is not None and sorted(answer.spans) != sorted(labels_of(index))
    return index not in pool.skipped or answer.spans is not None


def _tell_untouched(pool: Pool, news: Mapping[int, Answer], accept_drafts: bool) -> None:
    """Count what came back as it went out, where the file does not say that somebody has looked at it."""
    every: Counter[Path] = Counter(a.path for a in news.values())
    untouched: Counter[Path] = Counter(
        a.path
        for i, a in news.items()
        if not a.confirmed and a.spans is not None and pool.drafts.get(i) == sorted(a.spans)
    )
    for path, count in untouched.items():
        if count == every[path] and not accept_drafts:
            raise ValueError(
                f"{path}: all {count:,} sentences came back exactly as the model tagged them, like a "
                f"file that nobody has edited; name the one with people's labels; {ACCEPT}"
            )
    for path, count in untouched.items():
        say(
            f"{count:,} of {every[path]:,} sentences in {path} came back exactly as the model tagged them: "
            "they count as labelled"
        )
