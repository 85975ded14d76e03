"""Options of the official code whose weight is 0 in its recipe: MoCo's queue and the policy gradient."""

from __future__ import annotations

import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
from fakes.seqco import data, fitted, one_batch, small
from lightning.pytorch import seed_everything
from quiet import quiet_trainer
from torch.nn import functional

from zoo.seqco.objective import Objective, Parts
from zoo.seqco.queue import KeyQueue
from zoo.seqco.similarity import policy_loss, queue_loss, unit

# --- MoCo's queue -------------------------------------------------------------------------------------------


def test_the_own_key_is_told_from_those_of_the_queue() -> None:
    torch.manual_seed(0)
    online, target, keys = unit(torch.randn(3, 4, 5)), unit(torch.randn(3, 2, 5)), unit(torch.randn(6, 5))
    usable = torch.ones(3, 6, dtype=torch.bool)
    usable[1, 2:] = False
    rows = torch.tensor([True, True, False])
    expected = 0.0
    for row, count in ((0, 6), (1, 2)):
        scores = torch.cat([(online[row, 0] @ target[row, 0])[None], keys[:count] @ online[row, 0]]) / 0.7
        expected += float(functional.cross_entropy(scores[None], torch.tensor([0]))) / 2
    assert queue_loss(online, target, keys, usable, 0.7, rows).item() == pytest.approx(expected, abs=1e-6)
    # without negatives there is nothing to tell it from, and nothing to learn
    online.requires_grad_(True)
    nothing = queue_loss(online, target, keys, torch.zeros_like(usable), 0.7)
    nothing.backward()
    assert nothing.item() == 0
    assert not online.grad.any()


def test_the_queue_keeps_the_last_keys_in_the_order_of_their_documents() -> None:
    queue = KeyQueue(["y"], 3, 1)
    assert not queue.holds("y")
    queue.add("y", torch.tensor([[7.0], [5.0]]), torch.tensor([7, 5]), torch.tensor([True, True]))
    assert queue.y_documents.tolist() == [5, 7, -1]
    queue.add(
        "y", torch.tensor([[2.0], [9.0], [1.0]]), torch.tensor([2, 9, 1]), torch.tensor([1, 0, 1]).bool()
    )
    assert queue.y_documents.tolist() == [2, 7, 1]
    assert queue.keys_of("y").flatten().tolist() == [2, 7, 1]
    assert queue.usable("y", torch.tensor([7, 3]), 2).tolist() == [[True, False, True], [True] * 3]
    assert queue.usable("y", None, 1).all()  # documents of another set have the same numbers
    many = torch.arange(10)
    queue.add("y", many[:, None].float(), many, torch.ones(10, dtype=torch.bool))
    assert sorted(queue.y_documents.tolist()) == [7, 8, 9]


def test_an_updates_keys_are_the_targets_and_enter_after_it() -> None:
    module = small(weight_xy=1.0, similarity="queue", queue_size=12)
    assert {n for n in module.state_dict() if "queue" in n} == {
        f"network.queue.{view}_{part}" for view in ("x", "y") for part in ("keys", "documents", "next")
    }
    module.network.reset_target()
    before = copy.deepcopy(module)
    batches: list[Any] = []
    original = Objective.__call__

    def kept(self: Objective, batch: Any, step: int) -> Parts:
        batches.append(batch)
        return original(self, batch, step)

    with mock.patch.object(Objective, "__call__", kept):
        fitted(module, 1, 2, batch_size=4)
    assert module.trainer.callback_metrics["train/loss_xy"] == 0  # the queue was empty
    index = torch.cat([batch["index"] for batch in batches])
    assert module.network.queue.y_documents[:8].tolist() == sorted(index.tolist())
    assert module.network.queue.y_next == 8
    # as the target network was before it moved
    batch = batches[0]
    states = before.network.slow_states(batch["target"], batch["target_mask"])
    keys = before.network.slow_project(states)[:, 0]
    for key, document in zip(keys, batch["index"].tolist(), strict=True):
        place = module.network.queue.y_documents.tolist().index(document)
        torch.testing.assert_close(module.network.queue.keys_of("y")[place], key, rtol=0, atol=1e-6)
    later = fitted(small(weight_xy=1.0, similarity="queue", queue_size=12), 2)
    assert 0 < later.trainer.callback_metrics["train/loss_xy"] < 2 * math.log(13) + 40


def test_pairs_without_negatives_are_not_reported() -> None:
    module = small(weight_xy=1.0, similarity="queue", queue_size=12)
    trainer = quiet_trainer(max_steps=2, val_check_interval=2, limit_val_batches=1)
    trainer.fit(module, data())
    assert "val/loss_xy" in trainer.callback_metrics
    assert "val/loss_xyhat" not in trainer.callback_metrics


# --- the policy gradient ------------------------------------------------------------------------------------


def test_the_policy_loss_weighs_each_tokens_likelihood_by_its_reward() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 3, 7, requires_grad=True)
    ids = torch.randint(7, (3, 3))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    rewards = torch.rand(3, 3, requires_grad=True)
    rows = torch.tensor([True, True, False])
    log_p = logits.log_softmax(-1)
    for centred in (False, True):
        mean = float(rewards[:2][mask[:2]].mean()) if centred else 0.0
        expected = 0.0
        for row, length in ((0, 3), (1, 2)):
            each = [
                (rewards[row, t].item() - mean) * log_p[row, t, ids[row, t]].item() for t in range(length)
            ]
            expected -= sum(each) / length / 2
        found = policy_loss(logits, ids, mask, rewards, centred, rows)
        assert found.item() == pytest.approx(expected, abs=1e-6)
    policy_loss(logits, ids, mask, rewards, False, rows).backward()
    assert rewards.grad is None
    assert logits.grad is not None
    chosen = logits.grad.gather(2, ids.unsqueeze(2)).squeeze(2)
    assert (chosen[:2][mask[:2]] < 0).all()  # a positive reward makes the token likelier
    assert not logits.grad[2].any()


def test_the_reward_is_the_similarity_of_each_drawn_token_to_its_document() -> None:
    module = small(weight_xyhat=1.0, weight_policy=0.5)
    module.network.reset_target()
    batch = one_batch(3)
    yhat = module.objective.view_of(torch.tensor([[2, 5, 6, 2], [2, 7, 2, 1], [2, 8, 9, 10]]))
    views = module.objective.views(batch, yhat, None)
    rewards = views.rewards()
    assert rewards.shape == yhat.ids.shape
    assert not rewards.requires_grad
    each = (rewards * yhat.mask).sum(dim=1) / yhat.mask.sum(dim=1)
    one_way = views._direction("xyhat", "x", "yhat")
    assert (1 - each).mean().item() == pytest.approx(one_way.item(), abs=1e-6)


def test_the_policy_gradient_moves_the_decoder_and_counts_nothing() -> None:
    found = {}
    for weight in (0.0, 0.5):
        seed_everything(0, verbose=False)
        found[weight] = fitted(small(weight_xyhat=1.0, weight_policy=weight), 1)
    plain, policy = (m.trainer.callback_metrics for m in found.values())
    assert policy["train/tokens"] == plain["train/tokens"]
    assert -1 <= policy["train/reward"] <= 1
    assert policy["train/policy"] != 0
    assert "train/policy" not in plain
    parts = [
        {
            "decoder": m.network.backbone.get_decoder().layers[0].fc1.weight,
            "head": m.network.head[0].weight,
            "attention": m.network.attention.out_proj.weight,
        }
        for m in found.values()
    ]
    assert not torch.equal(parts[0]["decoder"], parts[1]["decoder"])
    for name in ("head", "attention"):  # the reward is no loss
        assert torch.equal(parts[0][name], parts[1][name])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weight_policy": 0.5}, "needs weight_xyhat"),
        (
            {"weight_policy": 0.5, "weight_xyhat": 1.0, "similarity": "cls"},
            "needs similarity: cross_attention",
        ),
        ({"weight_policy": 0.5, "weight_xyhat": 1.0, "generated": "cached"}, "needs generated: online"),
        ({"weight_policy": 0.5, "weight_xyhat": 1.0, "sample_top_p": 0.9}, "needs sample_top_p"),
        ({"weight_policy": "1:0", "weight_xyhat": 1.0}, "weight_policy"),
        ({"policy_baseline": "mean"}, "set weight_policy"),
        ({"queue_size": 9}, "queue_size is 9"),
        ({"similarity": "queue", "mask_padding": False}, "mask_padding"),
    ],
)
def test_what_the_variants_need_is_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        small(**given)
    assert "\n" not in str(caught.value)
