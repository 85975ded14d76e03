import numpy as np
import pytest
import torch

from datamodules.text.batches import TokenBatchSampler, by_length, padded

LENGTHS = np.random.default_rng(0).integers(1, 60, 997)


def test_padding() -> None:
    assert torch.equal(padded([[5], [7, 8, 9]], 1), torch.tensor([[5, 1, 1], [7, 8, 9]]))
    assert padded([[], []], 1).shape == (2, 0)
    assert padded([[2]], 0, width=3).tolist() == [[2, 0, 0]]


def test_batches_hold_at_most_so_many_tokens_and_each_item_once_an_epoch() -> None:
    made = TokenBatchSampler(LENGTHS, 1024)
    plan = made.plan(0)
    assert sorted(i for batch in plan for i in batch) == list(range(997))
    padded_tokens = [len(batch) * LENGTHS[batch].max() for batch in plan]
    assert max(padded_tokens) <= 1024
    assert sum(padded_tokens) < 1.12 * LENGTHS.sum()
    assert sum(len(batch) % 8 for batch in plan) == 997 % 8
    assert made.plan(0) == plan
    assert made.plan(1) != plan
    assert len(made.plan(1)) == len(plan) == len(made)
    assert {frozenset(b) for b in made.plan(1)}.isdisjoint({frozenset(b) for b in plan if len(b) > 16})


def test_ranks_share_the_global_batches() -> None:
    one = list(TokenBatchSampler(LENGTHS, 2048))
    ranks = [list(TokenBatchSampler(LENGTHS, 2048, rank, 2)) for rank in range(2)]
    both = [[*a, *b] for a, b in zip(*ranks, strict=True)]
    assert {len(a) - len(b) for a, b in zip(*ranks, strict=True)} == {0}
    out = {k for batch in one for k in batch} - {k for batch in both for k in batch}
    assert len(out) == 1  # of an odd number
    assert [set(batch) - out for batch in one] == [set(batch) for batch in both]


def test_it_goes_on_where_the_training_stands() -> None:
    trained = 0
    made = TokenBatchSampler(LENGTHS, 1024, trained_batches=lambda: trained)
    whole = [batch for _ in range(2) for batch in _epoch(made, len(made))]
    assert [epoch for ((epoch, _), *_) in whole] == [0] * len(made) + [0] * len(made)
    trained = len(made) + 3
    rest = list(made)
    assert len(rest) == len(made) - 3
    assert [item for _, item in rest[0]] == made.plan(1)[3]


def _epoch(made: TokenBatchSampler, count: int) -> list[list[tuple[int, int]]]:
    found = list(made)
    assert len(found) == count
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lengths": [900] * 9, "tokens": 1024}, "8 items of 900 tokens, the longest, have 7,200"),
        ({"lengths": [1], "tokens": 9, "world_size": 2}, "1 items cannot be spread over 2 devices"),
        ({"lengths": [1] * 9, "tokens": 99, "world_size": 3}, "multiple of 8 items do not divide by 3"),
    ],
)
def test_what_cannot_be_batched_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TokenBatchSampler(**arguments)  # type: ignore[arg-type]


def test_scoring_order_is_of_like_lengths() -> None:
    assert by_length([3, 9, 1, 9], 2) == [[1, 3], [0, 2]]
