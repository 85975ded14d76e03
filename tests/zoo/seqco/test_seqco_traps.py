"""The traps of the specification that are seen through the whole module, each with its number."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from fakes.seqco import BART, data, fitted, one_batch, small
from quiet import quiet_trainer
from torch import Tensor
from torch.nn import functional

from zoo.seqco.sampling import sample, uniform_draws
from zoo.seqco.similarity import pooled, spread

DOCUMENTS = [[5, 9, 11, 7], [6, 8]]
SUMMARIES = [[20, 21, 22], [23]]


def rows_of(rows: list[list[int]], pads: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows)) + 2 + pads
    ids = torch.tensor([[0, *row, 2, *[1] * (width - len(row) - 2)] for row in rows])
    return ids, torch.tensor([[i < len(row) + 2 for i in range(width)] for row in rows])


def ragged(pads: int = 0) -> dict[str, Any]:
    """Two documents and summaries of different lengths, with further columns of pads."""
    source, target = rows_of(DOCUMENTS, pads), rows_of(SUMMARIES, pads)
    return {
        "source": source[0], "source_mask": source[1], "target": target[0], "target_mask": target[1],
        "index": torch.arange(2),
    }  # fmt: skip


def test_features_of_both_networks_have_length_one_at_every_position() -> None:
    views = small(weight_xy=1.0).objective.views(ragged(3), None, None)
    for form in ("x", "y"):
        for slow in (False, True):
            lengths = views.features(form, slow).norm(dim=-1)
            torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-5)


def test_columns_of_pads_change_no_similarity_of_the_whole_model() -> None:
    module = small(weight_xy=1.0).eval()
    for pair in ("xy", "xyhat", "yyhat"):
        found = []
        for pads in (0, 5):
            batch = ragged(pads)
            yhat = module.objective.view_of(torch.tensor([[2, 30, 31, 2], [2, 32, 2, 1]]), width=6 + pads)
            found.append(module.objective.views(batch, yhat, None).loss(pair).item())
        assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("pads", [0, 4])
def test_pads_of_summaries_are_no_tokens_of_the_loss(pads: int) -> None:
    module = small(label_smoothing=0.1)
    found = module.objective(ragged(pads), 0)
    assert found.counted == 5 + 3
    expected = 0.0
    for row in range(2):  # each alone, without a pad
        ids, mask = rows_of([DOCUMENTS[row]], 0)
        labels = rows_of([SUMMARIES[row]], 0)[0]
        logits = module.network(ids, mask, torch.cat([torch.tensor([[2]]), labels[:, :-1]], dim=1))
        expected += float(
            functional.cross_entropy(logits[0], labels[0], label_smoothing=0.1, reduction="sum").detach()
        )
    assert found.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_spread_is_unbiased() -> None:
    # the standard deviation of -1, 0, 1 is 1, that of their population sqrt(2 / 3)
    assert spread(torch.tensor([[-1.0, 2.0], [0.0, 2.0], [1.0, 2.0]])).item() == pytest.approx(0.5)


def test_the_spreads_are_of_states_and_of_features() -> None:
    module = small(weight_xy=1.0)
    batch = one_batch(6)
    found = module.objective(batch, 0).spreads
    assert found is not None
    states = module.network.encode(batch["target"], batch["target_mask"])
    expected = [
        spread(pooled(each, batch["target_mask"])).item() for each in (states, module.network.project(states))
    ]
    assert [float(value) for value in found] == pytest.approx(expected, rel=1e-5)
    assert expected[0] != pytest.approx(expected[1], rel=0.05)


def test_drawing_keeps_a_cache_and_ends_in_the_last_slot() -> None:
    module = small(sample_length=8).eval()
    model = module.network.backbone
    model.final_logits_bias[0, 2] = -100.0  # never by itself
    batch = one_batch(3)
    with mock.patch.object(type(model), "generate", autospec=True, side_effect=type(model).generate) as made:
        drawn = sample(model, batch["source"], batch["source_mask"], BART, uniform_draws(0, 0, range(3), 7))
    assert made.call_args.kwargs["generation_config"].use_cache
    assert drawn.shape == (3, 8)  # gen_sum_len counts the start token
    assert (drawn[:, -1] == 2).all()
    assert not (drawn[:, 1:-1] == 2).any()


def test_the_documents_own_pass_serves_once_more_where_it_may() -> None:
    batch = one_batch(4)
    losses, passes = [], []
    for reuse in (False, True):
        torch.manual_seed(0)
        module = small(weight_xy=1.0, reuse_source=reuse)
        encoder = module.network.backbone.get_encoder()
        counted = [0]
        encoder.register_forward_hook(lambda *_, counted=counted: counted.__setitem__(0, counted[0] + 1))
        losses.append(module.objective(batch, 0).loss.item())
        passes.append(counted[0])
    assert passes == [3, 2]  # NLL, y, and x once more or not
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_schedule_that_begins_at_zero_builds_everything_at_once() -> None:
    late, now = small(weight_xy="0:0,5:1"), small(weight_xy=1.0)
    assert late.state_dict().keys() == now.state_dict().keys()
    assert not hasattr(small(weight_xy="0:0,5:0").network, "head")
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(late, data())
    assert "train/loss_xy" not in trainer.callback_metrics


def test_the_target_follows_what_the_step_has_made() -> None:
    # xi_new = theta_new where beta is 0: a target that moved before the step would lag behind
    module = fitted(small(weight_xy=1.0, ema_decay=0.0), 1)
    slow, fast = module.network.target["encoder"], module.network.backbone.get_encoder()
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
