"""A made task in which likelihood alone gives dull replies, with exactly known mutual information."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from datamodules.loading.ranges import Depth, Many, Part, Workers, check_ranges
from datamodules.loading.sampling import item_generator
from datamodules.text.exchanges import SPECIALS, Exchange
from datamodules.text.pair_items import PairItems
from datamodules.text.pairs import PairModule, Splits

TOPICS, FILLERS, OPENERS = 16, 9, 4
GENERIC = "i do not know"
_KEY = 16_09
_SPLITS = {"train": 0, "val": 1, "test": 2}


class DullReplies(PairModule):
    """Sources ``ask topic filler``; a target is the one generic reply ``i do not know`` or names the topic,
    ``opener answer closer``. Made, not real: no person said any of it.

    16 topics and 9 fillers are equally frequent: H(S) = ln 144 = 4.970 nats, of which a reply can tell
    ln 16 = 2.773, the topic. A likely reply is the generic one, from which nothing of the source is
    recovered: the mutual information of greedy replies under perfect likelihood is 0.

    Batches are those of :mod:`datamodules.text.pairs`; evaluation adds ``topic`` (B,), and the texts
    ``topic_word``, the topic's answer, and ``generic``. 58 words are the vocabulary.

    Args:
        generic: probability of the generic reply.
        openers: equally likely first words of an informative one, up to 4.
        train_pairs: number.
        val_pairs: number.
        test_pairs: number.
        batch_size: global training batch.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_weights = ()
    tells_repeated = False
    split_of_weights: ClassVar[tuple[str, ...]] = ("generic", "openers", "train_pairs")

    def __init__(
        self,
        generic: Part = 0.6,
        openers: Depth = 1,
        train_pairs: Many = 20_000,
        val_pairs: Many = 200,
        test_pairs: Many = 1_000,
        batch_size: Many = 32,
        eval_batch_size: Many = 250,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(DullReplies, locals())
        if openers > OPENERS:
            raise ValueError(f"data.init_args.openers is {openers}, but there are {OPENERS} words for it")
        super().__init__(None, 1000, "words", False, 8, batch_size, None, eval_batch_size, num_workers)
        self.generic, self.openers = generic, openers
        self.counts = {"train": train_pairs, "val": val_pairs, "test": test_pairs}
        self.source_entropy = math.log(TOPICS * FILLERS)

    def training_texts(self) -> Iterator[str]:
        """Every word, so that the vocabulary does not depend on what was drawn."""
        for topic in [*range(TOPICS)] * 2:  # words that stand once have no place in a vocabulary
            names = f"topic{topic} filler{topic % FILLERS} opener{topic % OPENERS} answer{topic}"
            yield f"ask {names} closer {GENERIC}"

    def _drawn(self, split: str) -> list[Exchange]:
        draw = item_generator(_KEY, _SPLITS[split])
        count = self.counts[split]
        topics, fillers = draw.integers(TOPICS, size=count), draw.integers(FILLERS, size=count)
        dull, openers = draw.random(count) < self.generic, draw.integers(self.openers, size=count)
        return [
            Exchange((f"ask topic{t} filler{f}",), GENERIC if d else f"opener{o} answer{t} closer")
            for t, f, d, o in zip(topics, fillers, dull, openers, strict=True)
        ]

    def read(self) -> Splits:
        train, val, test = (self._drawn(split) for split in _SPLITS)
        return Splits(train, val, test)

    def items(self, exchanges: object, name: str, texts: bool = True) -> PairItems:
        rows: list[Exchange] = list(exchanges)  # type: ignore[call-overload]
        extra: dict[str, Any] = {}
        if texts:
            topics = [int(e.history[0].split()[1].removeprefix("topic")) for e in rows]
            extra = {
                "topic": topics,
                "topic_word": [f"answer{t}" for t in topics],
                "generic": [GENERIC] * len(rows),
            }
        return PairItems(rows, self.made, texts, extra, name)


WORDS = len(SPECIALS) + 2 + 2 * TOPICS + FILLERS + OPENERS + len(GENERIC.split())
"""Of the vocabulary."""
