"""Noise schedules and respacing, against the numbers of IDDPM's code."""

from __future__ import annotations

import math
from typing import Literal
from unittest import mock

import pytest
import torch

from zoo.diffusion.losses import posterior_mean, predict_x0
from zoo.diffusion.schedules import (
    NoiseSchedule,
    cosine_betas,
    leading_timesteps,
    linear_betas,
    scaled_linear_betas,
    space_timesteps,
)

AT = [0, 250, 500, 750, 999]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.9999, 0.521423, 0.0777967, 0.00330016, 4.03583e-5]),
        ("cosine", [0.999959, 0.845888, 0.492285, 0.143179, 2.42877e-9]),
    ],
)
def test_alpha_bar_has_the_known_values(name: Literal["linear", "cosine"], expected: list[float]) -> None:
    table = NoiseSchedule.named(name).tables["alpha_bar"]
    assert (table.dtype, table[AT].tolist()) == (torch.float64, pytest.approx(expected, rel=4e-6, abs=0))


def test_betas_are_those_of_the_equations() -> None:
    linear, cosine = linear_betas(), cosine_betas()
    assert linear.dtype == cosine.dtype == torch.float64
    assert linear[[0, 999]].tolist() == [1e-4, 0.02]
    assert linear.diff().std() < 1e-15
    assert cosine[999] == 0.999, "capped"
    assert bool((cosine[:999] < 0.999).all())

    def abar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    assert cosine[500].item() == pytest.approx(1 - abar(0.501) / abar(0.5), abs=1e-15)


def test_shorter_linear_schedules_are_rescaled() -> None:
    assert linear_betas(100)[[0, 99]].tolist() == pytest.approx([1e-3, 0.2], abs=1e-15)


def test_the_posterior_variance_of_the_first_step_is_replaced_by_the_second() -> None:
    table = NoiseSchedule.named("linear").tables["posterior_log_variance"]
    assert (table[[0, 1]].tolist(), table[0]) == (pytest.approx([-9.816725, -9.816725], abs=1e-6), table[1])
    s = NoiseSchedule.named("linear").tables
    t = 700
    variance = s["beta"][t] * (1 - s["alpha_bar"][t - 1]) / (1 - s["alpha_bar"][t])
    assert table[t].item() == pytest.approx(math.log(variance), abs=1e-12)


def test_gather_gives_float32_of_the_float64_table_on_any_default_type() -> None:
    schedule = NoiseSchedule.named("linear")
    torch.set_default_dtype(torch.bfloat16)
    t = torch.tensor([999, 0])
    values = schedule.gather("alpha_bar", t, 4)
    assert (values.shape, values.dtype) == ((2, 1, 1, 1), torch.float32)
    assert torch.equal(values.flatten(), schedule.tables["alpha_bar"][t].float())
    assert NoiseSchedule.named("cosine").tables["alpha_bar"].dtype == torch.float64


def test_tables_first_used_in_inference_mode_serve_training_later() -> None:
    schedule, t = NoiseSchedule.named("linear"), torch.tensor([3])
    with torch.inference_mode():
        schedule.gather("beta", t)
    x = torch.ones(1, requires_grad=True)
    (x * schedule.gather("beta", t)).sum().backward()
    assert x.grad is not None


# The start of the official space_timesteps(1000, "250"): 999/249 accumulated as floats, rounded half to even.
OFFICIAL_250 = [
    0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76, 80, 84, 88, 92, 96, 100,
    104, 108, 112, 116, 120, 124, 128, 132, 136, 140, 144, 148, 152, 156, 160, 164, 169, 173, 177, 181, 185,
]  # fmt: skip


def official_space_timesteps(steps: int) -> list[int]:
    """The loop of the official code, one section."""
    stride = 1 if steps <= 1 else (1000 - 1) / (steps - 1)
    position, taken = 0.0, []
    for _ in range(steps):
        taken.append(round(position))
        position += stride
    return taken


def test_250_steps_retain_the_official_list() -> None:
    retained = space_timesteps(1000, 250)
    assert (retained[: len(OFFICIAL_250)], retained[-3:]) == (OFFICIAL_250, [991, 995, 999])
    assert (retained, retained) == (official_space_timesteps(250), [round(i * 999 / 249) for i in range(250)])
    assert len(set(retained)) == 250


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 100, 250, 500, 999, 1000])
def test_other_counts_follow_the_official_loop(steps: int) -> None:
    assert space_timesteps(1000, steps) == official_space_timesteps(steps)


@pytest.mark.parametrize(("steps", "stride"), [(250, 4), (50, 20), (1000, 1), (100, 10)])
def test_ddim_spacing_is_a_range(steps: int, stride: int) -> None:
    assert space_timesteps(1000, steps, "ddim") == list(range(0, 1000, stride))


def test_ddim250_ends_at_996_and_ddim50_at_980() -> None:
    assert (space_timesteps(1000, 250, "ddim")[-1], space_timesteps(1000, 50, "ddim")[-1]) == (996, 980)


@pytest.mark.parametrize(
    ("steps", "spacing"), [(0, "iddpm"), (1001, "iddpm"), (300, "ddim"), (250, "linear")]
)
def test_impossible_spacings_are_refused(steps: int, spacing: Literal["iddpm", "ddim"]) -> None:
    with pytest.raises(ValueError):
        space_timesteps(1000, steps, spacing)


def test_a_respaced_schedule_keeps_alpha_bar_and_the_original_timesteps() -> None:
    full, retained = NoiseSchedule.named("linear"), space_timesteps(1000, 250)
    short = full.respaced(retained)
    assert (short.timesteps, short.original_timesteps.tolist()) == (250, retained)
    torch.testing.assert_close(
        short.tables["alpha_bar"], full.tables["alpha_bar"][retained], atol=1e-14, rtol=1e-10
    )
    abar = full.tables["alpha_bar"]
    assert short.tables["beta"][100].item() == pytest.approx(
        1 - abar[retained[100]].item() / abar[retained[99]].item(), abs=1e-15
    )
    assert short.tables["beta"][0].item() == pytest.approx(1 - abar[0].item(), abs=1e-15)
    assert short.tables["posterior_log_variance"][0] == short.tables["posterior_log_variance"][1]


def test_respacing_to_all_steps_changes_nothing() -> None:
    full = NoiseSchedule.named("cosine")
    same = full.respaced(range(1000))
    for name, table in full.tables.items():
        torch.testing.assert_close(same.tables[name], table, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("retained", [[], [-1, 4], [5, 1000]])
def test_retained_steps_outside_the_schedule_are_refused(retained: list[int]) -> None:
    with pytest.raises(ValueError, match=r"0\.\.999"):
        NoiseSchedule.named("linear").respaced(retained)


def test_unknown_schedules_and_betas_are_refused() -> None:
    with pytest.raises(ValueError, match="'linear' or 'cosine'"):
        NoiseSchedule.named("sigmoid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="betas"):
        NoiseSchedule(torch.tensor([0.0, 0.1]))


@pytest.mark.parametrize("steps", [40, 20, 7])
def test_stable_diffusions_betas_and_timesteps_are_those_of_diffusers(steps: int) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", timestep_spacing="leading", steps_offset=1, clip_sample=False
    )
    theirs.set_timesteps(steps)
    betas, retained = scaled_linear_betas(), leading_timesteps(1000, steps, 1)
    assert torch.allclose(betas.float(), theirs.betas, rtol=1e-6)
    assert retained[::-1] == theirs.timesteps.tolist()
    ours = NoiseSchedule(betas)
    assert float(ours.tables["alpha_bar"][-1]) == pytest.approx(0.00466, abs=5e-6)
    # a step down of the respaced schedule is diffusers' step between the same timesteps
    respaced = ours.respaced(retained)
    g = torch.Generator().manual_seed(0)
    x, eps, noise = (torch.randn(1, 4, 8, 8, generator=g) for _ in range(3))
    for place in (steps - 1, steps // 2, 0):
        t = torch.tensor([place])
        x0 = predict_x0(respaced, x, t, eps)
        mean = posterior_mean(respaced, x0, x, t)
        table = respaced.tables
        variance = (1 - table["alpha_bar_prev"][place]) / (1 - table["alpha_bar"][place])
        variance = (variance * table["beta"][place]).clamp(min=1e-20)
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=noise):
            step = theirs.step(eps, retained[place], x)
        assert torch.allclose(mean + variance.sqrt().float() * noise, step.prev_sample, atol=2e-4, rtol=1e-4)
        assert torch.allclose(x0, step.pred_original_sample, atol=2e-3, rtol=1e-4)


def test_leading_timesteps_are_a_stride_and_an_offset() -> None:
    found = leading_timesteps(1000, 40, 1)
    assert (found[0], found[1], found[-1], len(found)) == (1, 26, 976, 40)
    assert leading_timesteps(1000, 20, 1)[-2:] == [901, 951]
    for steps, offset in ((0, 0), (1001, 0), (40, 25), (40, -1)):
        with pytest.raises(ValueError, match=r"1\.\.1000|of 1000 timesteps"):
            leading_timesteps(1000, steps, offset)
