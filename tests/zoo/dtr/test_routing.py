"""The task masks, against the numbers of the official code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zoo.dtr.routing import TaskRouting, random_masks, task_masks, window_starts

# (C, alpha, beta): k, s_t at t = 0, 250, 500, 750, 998, 999, first t with s_t > 0. From the official code.
TABLE = {
    (384, 4.0, 0.8): (307, [0, 0, 5, 24, 77, 77], 284),
    (768, 4.0, 0.8): (614, [0, 1, 10, 49, 153, 154], 239),
    (1024, 4.0, 0.8): (819, [0, 1, 13, 65, 204, 205], 223),
    (1152, 4.0, 0.8): (921, [0, 1, 14, 73, 230, 231], 216),
    (1024, 1.0, 0.8): (819, [0, 51, 103, 154, 205, 205], 3),
    (1024, 2.0, 0.5): (512, [0, 32, 128, 289, 511, 512], 32),
    (1024, 8.0, 0.8): (819, [0, 0, 1, 21, 203, 205], 471),
}


@pytest.mark.parametrize(("setting", "expected"), TABLE.items())
def test_window_starts_are_those_of_the_official_code(setting: Any, expected: Any) -> None:
    channels, alpha, beta = setting
    k, at, first = expected
    starts = window_starts(channels, 1000, alpha, beta)
    assert (starts[[0, 250, 500, 750, 998, 999]].tolist(), int((starts > 0).nonzero()[0])) == (at, first)
    assert task_masks(channels, 1000, alpha, beta).sum(dim=1).unique().tolist() == [k]


@pytest.mark.parametrize("setting", TABLE)
def test_windows_slide_monotonically_from_the_first_to_the_last_channels(setting: Any) -> None:
    channels, alpha, beta = setting
    k = TABLE[setting][0]
    masks, starts = task_masks(channels, 1000, alpha, beta), window_starts(channels, 1000, alpha, beta)
    assert masks[0].tolist() == [True] * k + [False] * (channels - k), "t = 0 is the least noise"
    assert masks[999].tolist() == [False] * (channels - k) + [True] * k
    assert bool((starts.diff() >= 0).all())
    for t in (0, 1, 300, 700, 998, 999):
        on = masks[t].nonzero().flatten()
        assert (int(on[0]), int(on[-1])) == (int(starts[t]), int(starts[t]) + k - 1), "one contiguous window"


def test_masks_agree_with_a_loop_in_float64() -> None:
    t, channels, k = np.arange(1000, dtype=np.float64), 1152, int(1152 * 0.8)
    starts = np.round((t / 999) ** 4.0 * (channels - k)).astype(int)
    expected = np.zeros((1000, channels), dtype=bool)
    for i, s in enumerate(starts):
        expected[i, s : s + k] = True
    assert np.array_equal(task_masks(channels).numpy(), expected)


def test_channels_in_the_middle_are_on_for_all_tasks() -> None:
    shared = task_masks(1024).all(dim=0).nonzero().flatten()
    assert (int(shared[0]), int(shared[-1]), len(shared)) == (205, 818, 614)


@pytest.mark.parametrize(("channels", "k"), [(384, 307), (768, 614), (1024, 819), (1152, 921)])
def test_the_window_is_truncated_not_rounded(channels: int, k: int) -> None:
    assert (TaskRouting(channels, 1).active, int(task_masks(channels)[500].sum())) == (k, k)


def test_beta_one_masks_nothing() -> None:
    assert bool(task_masks(48, 1000, 4.0, 1.0).all())


@pytest.mark.parametrize(
    "bad", [{"alpha": 0.0}, {"alpha": float("nan")}, {"beta": 0.0}, {"beta": 1.1}, {"beta": 0.01}]
)
def test_impossible_windows_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        task_masks(48, **bad)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'dtr', 'random' or 'none'"):
        TaskRouting(48, 1, "learned")  # type: ignore[arg-type]


def test_each_sample_gets_the_mask_of_its_own_timestep() -> None:
    t = torch.tensor([999, 0, 500, 0])
    masks = TaskRouting(1024, 3)(t, torch.float32)
    assert masks is not None
    assert len(masks) == 3
    assert masks[0].shape == (4, 1, 1024)
    assert torch.equal(masks[2][:, 0].bool(), task_masks(1024)[t])
    assert set(masks[0].unique().tolist()) == {0.0, 1.0}


def test_casting_the_module_does_not_touch_the_window_starts() -> None:
    routing, expected = TaskRouting(1024, 2), window_starts(1024)
    for cast in (torch.bfloat16, torch.float16, torch.float64):
        routing.to(cast)
        assert routing.starts.dtype == torch.int64
        assert torch.equal(routing.starts, expected)
        masks = routing(torch.tensor([998, 999]), torch.bfloat16)
        assert masks is not None
        assert masks[0][:, 0].argmax(dim=1).tolist() == [204, 205]  # 999 itself is no bfloat16 number


def test_a_bfloat16_default_type_does_not_touch_the_tables() -> None:
    expected = random_masks(1024, 5, 0.8, torch.Generator().manual_seed(3))
    torch.set_default_dtype(torch.bfloat16)
    assert torch.equal(window_starts(1024)[[500, 998, 999]], torch.tensor([13, 204, 205]))
    assert torch.equal(random_masks(1024, 5, 0.8, torch.Generator().manual_seed(3)), expected)


def test_dtr_adds_nothing_to_the_state_dict() -> None:
    assert list(TaskRouting(1024, 24).state_dict()) == []
    assert list(TaskRouting(1024, 24, "none").state_dict()) == []


def test_random_routing_is_stored_seeded_and_differs_by_block_and_task() -> None:
    def table(seed: int) -> torch.Tensor:
        return TaskRouting(96, 3, "random", seed=seed).state_dict()["masks"]

    one = table(0)
    assert (one.shape, one.dtype) == ((3, 1000, 96), torch.bool)
    assert one.sum(dim=2).unique().tolist() == [int(96 * 0.8)]
    assert torch.equal(one, table(0))
    assert not torch.equal(one, table(1))
    assert not torch.equal(one[0], one[1])
    assert len(one[0].unique(dim=0)) == 1000, "each task draws its own channels"
    # uniform: each channel is on for 76 of 96 tasks; sd of the share over 3000 draws is .0074
    assert (one.float().mean(dim=(0, 1)) - 76 / 96).abs().max() < 0.03


def test_random_routing_ignores_the_global_generator() -> None:
    torch.manual_seed(1)
    one = TaskRouting(48, 2, "random").masks
    torch.manual_seed(2)
    assert torch.equal(one, TaskRouting(48, 2, "random").masks)


def test_random_routing_looks_up_its_stored_table() -> None:
    routing, other = TaskRouting(48, 2, "random"), TaskRouting(48, 2, "random", seed=9)
    routing.load_state_dict(other.state_dict())
    t = torch.tensor([3, 999])
    masks = routing(t, torch.float32)
    assert masks is not None
    for i in range(2):
        assert torch.equal(masks[i][:, 0].bool(), other.masks[i, t])
