"""Draws are functions of their key alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoo.randomness import derived_seed, generator, global_seed, local_rows, step_generator


def place(step: int = 0, rank: int = 0, world: int = 1) -> Any:
    trainer = SimpleNamespace(global_step=step, world_size=world)
    return SimpleNamespace(trainer=trainer, global_rank=rank, device=torch.device("cpu"))


def test_a_derived_seed_is_a_known_number() -> None:
    assert derived_seed(0) == derived_seed(0)
    assert 0 <= derived_seed(3, 4) < 2**63


@pytest.mark.parametrize(
    ("one", "other"),
    [((5,), (5, 0)), ((5,), (5, 0, 0)), ((2**32 + 5,), (5, 1)), ((1, 2), (2, 1)), ((), (0,))],
)
def test_different_keys_give_different_streams(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    # numpy's SeedSequence alone pads with zeros and splits large integers: the first three pairs would meet
    assert derived_seed(*one) != derived_seed(*other)


@pytest.mark.parametrize("bad", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="seeds must lie in"):
        derived_seed(bad)


def test_a_generator_depends_on_its_key_alone() -> None:
    first = torch.randn(4, generator=generator(1, 2))
    torch.manual_seed(123)
    torch.randn(100)
    assert torch.equal(first, torch.randn(4, generator=generator(1, 2)))
    assert not torch.equal(first, torch.randn(4, generator=generator(1, 3)))


def test_the_global_seed_is_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert global_seed() == 7


def test_the_step_generator_is_keyed_by_seed_step_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(step: int, batch: int, rank: int = 0) -> list[float]:
        return torch.randn(3, generator=step_generator(place(step, rank, 2), batch)).tolist()

    assert draw(5, 1) == draw(5, 1)
    assert draw(5, 1) == draw(5, 1, rank=1), "every rank makes the draws of the global batch"
    assert draw(5, 1) != draw(6, 1)
    assert draw(5, 1) != draw(5, 2), "the parts of an accumulated step differ"
    with_seed_0 = draw(5, 1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert draw(5, 1) != with_seed_0


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_share_out_the_global_batch(world: int) -> None:
    draws = torch.arange(16)
    parts = [local_rows(place(rank=r, world=world), draws) for r in range(world)]
    assert [len(p) for p in parts] == [16 // world] * world
    assert torch.stack(parts, dim=1).flatten().tolist() == list(range(16))
