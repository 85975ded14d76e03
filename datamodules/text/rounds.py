"""Training batches of active learning: an epoch is a round, whose set is what is labelled by then.

The order of a round is a function of (seed, round, position): the labelled sentences again and again, each
pass in an order of its own; windows of some batches are sorted by length before they are cut, so that a
batch pads little, and the batches of a window are shuffled. Nothing of it has a state to lose: where a round
goes on follows from the number of batches that the training has had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from datamodules.loading.loaders import TrainLoader
from datamodules.loading.sampling import item_generator

_PASSES, _WINDOWS = 7321, 7322


class RoundSampler:
    """Batches of one round, as lists of (pass, index).

    Args:
        members: indices of the labelled sentences.
        lengths: of all sentences, by index.
        batch_size: global batch, over all processes.
        updates: batches of the round.
        seed: of the orders.
        round_: whose order it is.
        window: batches that are sorted by length together; 1 leaves them as drawn.
        rank: this process takes items rank, rank + world_size, ... of each batch.
        world_size: number of processes.
        position: tells how many batches of the round the training has had when an iteration begins.

    Raises:
        ValueError: if nothing is labelled or ``world_size`` does not divide the batch.
    """

    def __init__(
        self,
        members: Sequence[int],
        lengths: Sequence[int],
        batch_size: int,
        updates: int,
        seed: int,
        round_: int,
        window: int = 16,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                "data.init_args.batch_size is global and must be a positive multiple of the number of "
                f"devices, got {batch_size} for {world_size}"
            )
        if not members:
            raise ValueError("no sentence is labelled: raise data.init_args.seed_budget, or label some")
        self.members, self.lengths = list(members), lengths
        self.batch_size, self.updates, self.seed, self.round, self.window = (
            batch_size,
            updates,
            seed,
            round_,
            window,
        )
        self.rank, self.world_size, self._position = rank, world_size, position
        self._passes: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(self._position())

    def _batches(self, position: int) -> Iterator[list[tuple[int, int]]]:
        batches: list[list[tuple[int, int]]] = []
        for place in range(position, self.updates):
            if not batches or place % self.window == 0:
                batches = self._window(place // self.window)
            yield batches[place % self.window][self.rank :: self.world_size]

    def _window(self, number: int) -> list[list[tuple[int, int]]]:
        # the last window of a round is shorter, so that a round has all that was drawn, whatever its length
        size = min(self.window, self.updates - number * self.window) * self.batch_size
        first = number * self.window * self.batch_size
        drawn = [self._drawn(i) for i in range(first, first + size)]
        if self.window > 1:
            drawn.sort(key=lambda key: self.lengths[key[1]])  # stable: equal lengths stay as drawn
        batches = [drawn[i : i + self.batch_size] for i in range(0, size, self.batch_size)]
        if self.window > 1:
            random = item_generator(_WINDOWS, self.seed, self.round, number)
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches

    def _drawn(self, place: int) -> tuple[int, int]:
        """Item ``place`` of the endless sequence of passes."""
        number, offset = divmod(place, len(self.members))
        if number not in self._passes:
            order = item_generator(_PASSES, self.seed, self.round, number).permutation(len(self.members))
            self._passes = {
                k: v for k, v in self._passes.items() if k >= number - self.window * self.batch_size
            }
            self._passes[number] = order.tolist()
        return number, self.members[self._passes[number][offset]]


class RoundLoader(TrainLoader):
    """A loader that goes on where the round stands. How many sentences it has, the pool keeps."""

    batch_sampler: RoundSampler

    def state_dict(self) -> dict[str, int]:
        return {"batch_size": self.batch_sampler.batch_size}


def padded_words(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Words that batches have with their padding."""
    return int(sum(len(b) * max(lengths[i] for i in b) for b in batches if len(b)))
