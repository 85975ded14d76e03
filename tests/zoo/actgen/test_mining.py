"""Who is varied and how: what a classifier gets wrong, the orders of choice, a round's plan, its loss."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zoo.actgen.augmentation import weighted_loss
from zoo.actgen.mining import Mined, Planned, choose, mined, plan, random_guides
from zoo.actgen.variation import Variation, in_batches


@pytest.fixture
def found() -> Mined:
    """Probabilities .7 .2 .1, .1 .8 .1, .4 .35 .25, .05 .05 .9 of labels 0, 0, 1, 2: 1 and 2 are wrong."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]])
    return mined(p.log() + 3.0, torch.tensor([0, 0, 1, 2]))


def test_what_is_mined_has_the_values_of_the_probabilities(found: Mined) -> None:
    assert found.wrong.tolist() == [False, True, True, False]
    assert found.loss.tolist() == pytest.approx([-math.log(p) for p in (0.7, 0.1, 0.35, 0.9)], abs=1e-5)
    assert found.margin.tolist() == pytest.approx([0.5, -0.7, -0.05, 0.85], abs=1e-5)
    entropy = [-sum(p * math.log(p) for p in row) for row in ((0.7, 0.2, 0.1), (0.1, 0.8, 0.1))]
    assert found.entropy[:2].tolist() == pytest.approx(entropy, abs=1e-5)
    never = mined(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0]))
    assert (float(never.entropy), float(never.margin)) == (0.0, 1.0)


def test_each_order_of_choice(found: Mined) -> None:
    def chosen(select: Any, count: int = 4, balanced: bool = False) -> list[int]:
        return choose(found, count, select, 0, 0, "skip", balanced)

    assert chosen("loss") == [1, 2, 0, 3]
    assert chosen("margin") == [1, 2, 0, 3]
    assert chosen("entropy") == [2, 0, 1, 3]
    assert chosen("loss", 2) == [1, 2]
    assert chosen("loss", 4, balanced=True) == [1, 2, 3, 0]  # classes 0, 1, 2 in turn, then 0 again
    assert sorted(chosen("wrong")) == [1, 1, 2, 2]
    orders = {tuple(choose(found, 2, "wrong", 0, round_, "skip", False)) for round_ in range(12)}
    assert orders == {(1, 2), (2, 1)}


def test_where_nothing_is_wrong_the_round_is_skipped_or_takes_the_largest_losses(found: Mined) -> None:
    right = Mined(found.loss, found.margin, found.entropy, torch.zeros(4, dtype=torch.bool), found.label)
    assert choose(right, 3, "wrong", 0, 0, "skip", False) == []
    assert choose(right, 3, "wrong", 0, 0, "loss", False) == [1, 2, 0]


def test_a_plan_has_its_shares_and_each_image_its_own_draws() -> None:
    many = 2000
    guides, labels = list(range(many)), [i % 10 for i in range(many)]
    items = plan(guides, labels, "full", 3, 74, 300)
    plain = sum(i.kind == "random" for i in items) / many
    rate = 0.5 * (1 - 74 / 149)
    assert plain == pytest.approx(rate, abs=0.03)
    guided = [i for i in items if i.kind == "guided"]
    assert sum(i.adversarial for i in guided) / len(guided) == pytest.approx(0.5 - rate, abs=0.03)
    assert all(i.contrastive for i in guided)
    assert not any(i.adversarial or i.contrastive for i in items if i.kind == "random")
    assert plan(guides[:7], labels[:7], "full", 3, 74, 300) == items[:7]
    assert (
        len({i.seed for i in items} | {i.seed for i in plan(guides, labels, "full", 3, 75, 300)}) == 2 * many
    )
    masked = plan(guides, labels, "mask", 3, 149, 300)
    assert {(i.kind, i.adversarial, i.contrastive) for i in masked} == {("guided", False, False)}
    assert [i.seed for i in plan(guides, labels, "mask", 3, 74, 300)] == [
        i.seed for i in items
    ]  # paired arms
    assert {i.kind for i in plan(guides, labels, "full", 3, 0, 300, random_rate=1.0)} == {"random"}
    assert {i.kind for i in plan(guides, labels, "real_guidance", 3, 0, 300)} == {"image_to_image"}
    assert sorted(random_guides(labels, many, 0, 1)) == guides


def test_batches_are_of_one_kind_and_lose_none() -> None:
    items = plan(list(range(11)), [0] * 11, "full", 0, 0, 300)
    batches = list(in_batches(items, 3))
    assert all(len({i.kind for i in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert sorted(i.position for batch in batches for i in batch) == list(range(11))


def test_a_guide_that_is_more_wrong_guides_longer(found: Mined) -> None:
    h = {"centre_by_loss": 2.0, "guidance_centre": 6.0}
    parts: Any = SimpleNamespace()
    items = [Planned(i, i, 0, "guided", False, False, i) for i in range(4)]
    centres = Variation(h, parts, parts, found, parts, parts)._centres(items)
    losses = [-math.log(p) for p in (0.7, 0.1, 0.35, 0.9)]
    mean = (losses[1] + losses[2]) / 2  # of the wrong ones
    assert centres == pytest.approx([6 + 2 * (loss - mean) for loss in losses], abs=1e-4)
    assert Variation({**h, "centre_by_loss": 0.0}, parts, parts, found, parts, parts)._centres(items) is None


def test_guides_of_realguidance_are_training_images() -> None:
    asked: list[Any] = []

    class Data:
        def guides(self, index: Any, held_out: bool) -> Any:
            asked.append((index, held_out))
            raise StopIteration

    parts: Any = SimpleNamespace()
    for kind in ("image_to_image", "guided"):
        item = Planned(0, 5, 0, kind, False, False, 1)  # type: ignore[arg-type]
        with pytest.raises(StopIteration):
            Variation({}, Data(), parts, None, parts, parts).rows([item])
    assert asked == [([5], False), ([5], True)]


def test_generated_images_have_their_weight_in_the_loss() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    each = [math.log(1 + math.exp(-2)), math.log(1 + math.e)]
    for weight in (1.0, 0.25, 0.0):
        loss = weighted_loss(scores, target, torch.tensor([False, True]), weight)
        assert float(loss) == pytest.approx((each[0] + weight * each[1]) / 2)
