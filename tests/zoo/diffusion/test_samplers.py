"""Samplers with a denoiser whose answer is known, and against diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoo.diffusion.losses import posterior_mean, predict_x0
from zoo.diffusion.samplers import SampleNoise, ddim, ddpm, dpm_solver, guided
from zoo.diffusion.schedules import NoiseSchedule, space_timesteps

LINEAR = NoiseSchedule.named("linear")
SHAPE = (2, 3, 3)
TARGET = torch.linspace(-0.9, 0.9, 18).view(SHAPE)


def oracle(x: Tensor, t: Tensor) -> Tensor:
    """The eps of a data distribution that is the one point TARGET, and v = -1."""
    a = LINEAR.gather("sqrt_alpha_bar", t, 4)
    s = LINEAR.gather("sqrt_one_minus_alpha_bar", t, 4)
    return torch.cat([(x - a * TARGET) / s, torch.full_like(x, -1)], dim=1)


def gaussian_oracle(variance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Exact eps of data N(0, variance): sqrt(1 - abar) x_t / (abar variance + 1 - abar)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        abar = LINEAR.gather("alpha_bar", t, 4)
        return (1 - abar).sqrt() * x / (abar * variance + 1 - abar)

    return denoise


def recorded(
    denoiser: Callable[[Tensor, Tensor], Tensor], seen: list[int]
) -> Callable[[Tensor, Tensor], Tensor]:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        assert (t.dtype, len(set(t.tolist()))) == (torch.int64, 1)
        seen.append(int(t[0]))
        return denoiser(x, t)

    return denoise


class CountedNoise(SampleNoise):
    draws = 0

    def __call__(self) -> Tensor:
        self.draws += 1
        return super().__call__()


class Given(SampleNoise):
    """Draws the given tensors, then zeros."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.left = list(draws)
        self.zero = torch.zeros_like(draws[0])

    def __call__(self) -> Tensor:
        return self.left.pop(0) if self.left else self.zero


@pytest.mark.parametrize("steps", [1, 10, 50, 250])
def test_ddpm_and_ddim_reach_the_one_data_point(steps: int) -> None:
    schedule = LINEAR.respaced(space_timesteps(1000, steps))
    for sampler in (ddpm, ddim):
        out = sampler(oracle, schedule, SampleNoise([1, 2], SHAPE))
        torch.testing.assert_close(out, TARGET.expand(2, -1, -1, -1), atol=2e-5, rtol=0)


def test_dpm_solver_reaches_the_one_data_point() -> None:
    out = dpm_solver(oracle, LINEAR, SampleNoise([1, 2], SHAPE), 20)
    torch.testing.assert_close(out, TARGET.expand(2, -1, -1, -1), atol=1e-3, rtol=0)


def test_samples_of_a_gaussian_have_its_variance() -> None:
    """Exact eps of N(0, 0.25). DDIM and DPM-Solver++ scale the noise, DDPM draws from the distribution."""
    noise = lambda: SampleNoise(range(200), (1, 5, 5))  # noqa: E731
    start = noise()()
    exact = 0.5 * start
    schedule = LINEAR.respaced(space_timesteps(1000, 250))
    flow = ddim(gaussian_oracle(0.25), schedule, noise())
    torch.testing.assert_close(flow, exact, atol=0.05, rtol=0)
    solver = dpm_solver(gaussian_oracle(0.25), LINEAR, noise(), 25)
    torch.testing.assert_close(solver, exact, atol=0.05, rtol=0)
    ancestral = ddpm(gaussian_oracle(0.25), schedule, noise())
    assert ancestral.std().item() == pytest.approx(0.5, abs=0.02)
    assert abs((ancestral * start).mean().item()) < 0.05, "fresh noise, not the starting one"


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_250_steps_call_the_network_at_the_original_timesteps(sampler: Callable[..., Tensor]) -> None:
    seen: list[int] = []
    schedule = LINEAR.respaced(space_timesteps(1000, 250))
    sampler(recorded(oracle, seen), schedule, SampleNoise([0], SHAPE))
    assert (seen[:3], seen[-2:], seen) == ([999, 995, 991], [4, 0], space_timesteps(1000, 250)[::-1])


def test_dpm_solver_calls_the_network_at_original_timesteps() -> None:
    seen: list[int] = []
    dpm_solver(recorded(oracle, seen), LINEAR, SampleNoise([0], SHAPE), 25)
    assert (len(seen), seen[0], seen) == (25, 999, sorted(seen, reverse=True))


def test_the_last_ddpm_step_adds_no_noise() -> None:
    noise = CountedNoise([0], SHAPE)
    ddpm(oracle, LINEAR.respaced(space_timesteps(1000, 10)), noise)
    assert noise.draws == 10, "the start and nine of ten steps"
    noise = CountedNoise([0], SHAPE)
    ddim(oracle, LINEAR.respaced(space_timesteps(1000, 10)), noise)
    assert noise.draws == 1


@pytest.mark.parametrize("t", [999, 500, 1])
def test_a_ddpm_step_equals_diffusers(t: int) -> None:
    """One step of DDPMScheduler with learned_range at full spacing; equal where ptilde_0 plays no part."""
    from diffusers import DDPMScheduler

    reference = DDPMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=False,
        variance_type="learned_range",
    )
    x, eps, v = (torch.randn(2, *SHAPE, dtype=torch.float64).float() for _ in range(3))
    expected = reference.step(torch.cat([eps, v], 1), t, x, torch.Generator().manual_seed(5)).prev_sample
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    found: list[Tensor] = []

    def denoiser(now: Tensor, original: Tensor) -> Tensor:
        if int(original[0]) == t - 1:
            found.append(now)
        return torch.cat([eps, v], 1)

    ddpm(denoiser, LINEAR.respaced(range(t + 1)), Given([x, drawn]))
    torch.testing.assert_close(found[0], expected, atol=2e-4, rtol=2e-4)


def test_a_whole_ddpm_run_follows_the_equations_in_float64() -> None:
    retained = space_timesteps(1000, 10)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        scale = (t.view(-1, 1, 1, 1) + 1) / 1000
        return torch.cat([torch.tanh(x * scale), torch.cos(x)], dim=1)

    found = ddpm(denoiser, LINEAR.respaced(retained), SampleNoise([3], SHAPE))
    draws, noise = SampleNoise([3], SHAPE), []
    noise = [draws().double() for _ in range(10)]
    abar = LINEAR.tables["alpha_bar"]
    x = noise[0]
    for i in range(9, -1, -1):
        now, before = abar[retained[i]], abar[retained[i - 1]] if i > 0 else torch.tensor(1.0).double()
        beta = 1 - now / before
        eps, v = denoiser(x, torch.tensor([retained[i]])).chunk(2, dim=1)
        x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        mean = beta * before.sqrt() / (1 - now) * x0 + (1 - before) * (1 - beta).sqrt() / (1 - now) * x
        if i == 0:
            x = mean
            break
        ptilde = beta * (1 - before) / (1 - now)
        f = (v + 1) / 2
        x = mean + torch.exp(0.5 * (f * beta.log() + (1 - f) * ptilde.log())) * noise[10 - i]
    assert found.abs().max() > 1, "x_0 is not clipped"
    torch.testing.assert_close(found.double(), x, atol=1e-4, rtol=1e-4)


def test_ddpm_without_learned_variance_uses_the_upper_bound() -> None:
    with_v = ddpm(
        lambda x, t: torch.cat([0 * x, 0 * x + 1], 1), LINEAR.respaced([0, 999]), SampleNoise([0], SHAPE)
    )
    without = ddpm(lambda x, t: 0 * x, LINEAR.respaced([0, 999]), SampleNoise([0], SHAPE))
    torch.testing.assert_close(with_v, without, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("t", [980, 500, 20])
def test_a_ddim_step_equals_diffusers(t: int) -> None:
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True
    )
    reference.set_timesteps(50)
    x0 = TARGET[None] * 0.3
    eps = torch.randn(1, *SHAPE)
    assert reference.timesteps.tolist() == space_timesteps(1000, 50, "ddim")[::-1]
    x = LINEAR.gather("sqrt_alpha_bar", torch.tensor([t]), 4) * x0 + eps
    steps: list[Tensor] = []

    def denoiser(now: Tensor, original: Tensor) -> Tensor:
        if int(original[0]) < t:
            steps.append(now)
        return eps

    ddim(denoiser, LINEAR.respaced(space_timesteps(1000, 50, "ddim")[: t // 20 + 1]), Given([x]))
    expected = reference.step(eps, t, x).prev_sample
    torch.testing.assert_close(steps[0], expected, atol=2e-5, rtol=2e-5)


def test_ddim_with_eta_1_has_the_ancestral_variance() -> None:
    schedule = LINEAR.respaced([0, 500, 999])
    out = ddim(
        gaussian_oracle(0.25),
        LINEAR.respaced(space_timesteps(1000, 250)),
        SampleNoise(range(200), (1, 5, 5)),
        eta=1.0,
    )
    assert out.std().item() == pytest.approx(0.5, abs=0.02)
    steps: list[Tensor] = []

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        steps.append(x)
        return torch.zeros_like(x)

    ddim(denoiser, schedule, SampleNoise([0], SHAPE), eta=1.0)
    ddpm_variance = schedule.tables["posterior_log_variance"][2].exp().sqrt()
    noise = SampleNoise([0], SHAPE)
    start, drawn = noise(), noise()
    mean = posterior_mean(
        schedule, predict_x0(schedule, start, torch.tensor([2]), 0 * start), start, torch.tensor([2])
    )
    torch.testing.assert_close(steps[1], mean + ddpm_variance.float() * drawn, atol=1e-4, rtol=1e-4)


def test_clipping_bounds_the_prediction_of_x0() -> None:
    wild = lambda x, t: torch.full_like(x, -40.0)  # noqa: E731
    schedule = LINEAR.respaced(space_timesteps(1000, 10))
    for sampler in (ddpm, ddim):
        clipped = sampler(wild, schedule, SampleNoise([0], SHAPE), True)
        assert clipped.abs().max().item() <= 1 + 1e-6
        assert sampler(wild, schedule, SampleNoise([0], SHAPE)).abs().max().item() > 2
    assert dpm_solver(wild, LINEAR, SampleNoise([0], SHAPE), 10, True).abs().max().item() <= 1 + 1e-3


def test_sampling_arithmetic_stays_float32_for_a_bfloat16_network() -> None:
    seen: list[torch.dtype] = []

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.dtype)
        return (0.1 * x).bfloat16()

    torch.set_default_dtype(torch.bfloat16)
    schedule = LINEAR.respaced(space_timesteps(1000, 5))
    for out in (
        ddpm(denoiser, schedule, SampleNoise([0], SHAPE)),
        ddim(denoiser, schedule, SampleNoise([0], SHAPE)),
        dpm_solver(denoiser, LINEAR, SampleNoise([0], SHAPE), 5),
    ):
        assert out.dtype == torch.float32
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_a_sample_does_not_depend_on_the_batch_it_is_in(sampler: Callable[..., Tensor]) -> None:
    schedule = LINEAR.respaced(space_timesteps(1000, 10))
    denoiser = lambda x, t: torch.cat([torch.tanh(x), 0 * x], 1)  # noqa: E731
    together = sampler(denoiser, schedule, SampleNoise([11, 12, 13], SHAPE))
    assert torch.equal(together[1:2], sampler(denoiser, schedule, SampleNoise([12], SHAPE)))
    assert not torch.equal(together[0], together[1])


def labelled(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """eps = label + channel / 10, v = -label."""
    channel = torch.arange(x.shape[1])[None, :, None, None] / 10
    label = y.float().view(-1, 1, 1, 1).expand_as(x)
    return torch.cat([label + channel, -label], dim=1)


@pytest.mark.parametrize(("cfg_channels", "guided_channels"), [(None, 4), (3, 3), (4, 4), (1, 1)])
def test_guidance_formula_on_three_or_all_channels(cfg_channels: int | None, guided_channels: int) -> None:
    labels = torch.tensor([2, 5])
    out = guided(labelled, labels, 10, 1.5, 4, cfg_channels)(torch.zeros(2, 4, 2, 2), torch.tensor([7, 7]))
    assert out.shape == (2, 8, 2, 2)
    for i, label in enumerate(labels.tolist()):
        for c in range(4):
            expected = 10 + 1.5 * (label - 10) if c < guided_channels else label
            assert out[i, c].unique().item() == pytest.approx(expected + c / 10, abs=1e-5)
        assert out[i, 4:].unique().tolist() == [-label], "variance channels stay the conditional ones"


def test_guidance_gives_both_halves_the_same_x_and_t() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append((x, t, y))
        return torch.cat([x, x], 1)

    x, t = torch.randn(2, 4, 2, 2), torch.tensor([999, 3])
    guided(network, torch.tensor([1, 2]), 10, 2.0, 4)(x, t)
    assert torch.equal(seen[0][0], torch.cat([x, x]))
    assert (seen[0][1].tolist(), seen[0][2].tolist()) == ([999, 3, 999, 3], [1, 2, 10, 10])


def test_scale_one_runs_the_conditional_network_alone() -> None:
    seen: list[int] = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return labelled(x, t, y)

    out = guided(network, torch.tensor([3]), 10, 1.0, 4)(torch.zeros(1, 4, 2, 2), torch.tensor([0]))
    assert (seen, out[0, 0].unique().tolist()) == ([1], [3.0])


@pytest.mark.parametrize("bad", [0, 5, -1])
def test_impossible_cfg_channels_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=r"cfg_channels must lie in 1\.\.4"):
        guided(labelled, torch.tensor([0]), 10, 1.5, 4, bad)


def test_noise_is_standard_normal() -> None:
    draws = SampleNoise(range(100), (1, 20, 20))()
    assert draws.mean().item() == pytest.approx(0, abs=0.02)
    assert draws.std().item() == pytest.approx(1, abs=0.02)
    assert math.isclose(draws[0].std().item(), 1, abs_tol=0.15)
