"""The objective, against an independent float64 implementation, and the loss weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.diffusion.losses import (
    UncertaintyWeighting,
    discretised_gaussian_log_likelihood,
    gaussian_kl,
    interpolated_log_variance,
    min_snr_weight,
    p2_weight,
    posterior_mean,
    predict_x0,
    q_sample,
    stratified_timesteps,
    timestep_weight,
    variational_bound,
)
from zoo.diffusion.schedules import NoiseSchedule

LINEAR, COSINE = NoiseSchedule.named("linear"), NoiseSchedule.named("cosine")


def reference_vb(betas: np.ndarray, x0: Tensor, x_t: Tensor, t: int, eps: Tensor, v: Tensor) -> float:
    """One sample's term in bits per dimension, written with numpy in float64 from the equations."""
    x0_, x_t_, eps_, v_ = (x.double().numpy() for x in (x0, x_t, eps, v))
    abar = np.cumprod(1 - betas)
    prev = abar[t - 1] if t > 0 else 1.0

    def posterior_variance(i: int) -> float:
        return betas[i] * (1 - (abar[i - 1] if i > 0 else 1.0)) / (1 - abar[i])

    def q_mean(start: np.ndarray) -> np.ndarray:
        a = betas[t] * np.sqrt(prev) / (1 - abar[t])
        b = (1 - prev) * np.sqrt(1 - betas[t]) / (1 - abar[t])
        return a * start + b * x_t_

    predicted = (x_t_ - np.sqrt(1 - abar[t]) * eps_) / np.sqrt(abar[t])
    mean, log_ptilde = q_mean(predicted), math.log(posterior_variance(max(t, 1)))
    f = (v_ + 1) / 2
    log_var = f * math.log(betas[t]) + (1 - f) * log_ptilde
    if t > 0:
        var1, var2 = math.exp(log_ptilde), np.exp(log_var)
        per_element = 0.5 * (np.log(var2 / var1) + (var1 + (q_mean(x0_) - mean) ** 2) / var2 - 1)
    else:

        def cdf(u: np.ndarray) -> np.ndarray:
            return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))

        std = np.exp(0.5 * log_var)
        plus, minus = cdf((x0_ - mean + 1 / 255) / std), cdf((x0_ - mean - 1 / 255) / std)
        probability = np.where(x0_ < -0.999, plus, np.where(x0_ > 0.999, 1 - minus, plus - minus))
        per_element = -np.log(np.clip(probability, 1e-12, None))
    return float(per_element.mean() / math.log(2))


def sample_at(schedule: NoiseSchedule, t: Tensor, error: float = 0.3) -> tuple[Tensor, ...]:
    """x0, x_t, a wrong eps and a v, with values of x0 beyond +-0.999."""
    g = torch.Generator().manual_seed(4)
    x0 = (torch.randn(len(t), 2, 5, 5, generator=g) * 0.8).clamp(-1, 1)
    noise = torch.randn(x0.shape, generator=g)
    x_t = q_sample(schedule, x0, t, noise)
    eps = noise + error * torch.randn(x0.shape, generator=g)
    return x0, x_t, eps, torch.randn(x0.shape, generator=g) * 0.5


def test_q_sample_mixes_by_alpha_bar() -> None:
    x0, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0)
    out = q_sample(LINEAR, x0, torch.tensor([250]), noise).item()
    assert out == pytest.approx(2 * math.sqrt(0.521423) + 3 * math.sqrt(1 - 0.521423), abs=1e-5)


def test_q_sample_of_bfloat16_is_float32() -> None:
    x = torch.randn(2, 1, 4, 4, dtype=torch.bfloat16)
    assert q_sample(LINEAR, x, torch.tensor([5, 999]), x).dtype == torch.float32


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_predict_x0_inverts_q_sample(schedule: NoiseSchedule) -> None:
    t = torch.tensor([0, 250, 500, 900])
    x0, noise = torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    torch.testing.assert_close(
        predict_x0(schedule, q_sample(schedule, x0, t, noise), t, noise), x0, atol=2e-4, rtol=0
    )


def test_the_posterior_mean_is_that_of_the_gaussian_product() -> None:
    t = 400
    abar, beta = LINEAR.tables["alpha_bar"], LINEAR.tables["beta"]
    x0, x_t = torch.tensor([[0.7]]), torch.tensor([[-1.2]])
    # product of N(x_{t-1}; sqrt(abar_{t-1}) x0, 1 - abar_{t-1}) and N(x_t; sqrt(1 - beta) x_{t-1}, beta)
    precision = 1 / (1 - abar[t - 1]) + (1 - beta[t]) / beta[t]
    mean = (abar[t - 1].sqrt() * 0.7 / (1 - abar[t - 1]) + (1 - beta[t]).sqrt() * -1.2 / beta[t]) / precision
    assert posterior_mean(LINEAR, x0, x_t, torch.tensor([t])).item() == pytest.approx(mean.item(), abs=1e-6)


def test_log_variance_interpolates_and_is_not_clamped() -> None:
    t = torch.tensor([300])
    upper, lower = LINEAR.tables["log_beta"][300].item(), LINEAR.tables["posterior_log_variance"][300].item()
    for v in (-1.0, 0.0, 1.0, 3.0, -5.0):
        f = (v + 1) / 2
        value = interpolated_log_variance(LINEAR, torch.full((1, 1, 1, 1), v), t).item()
        assert value == pytest.approx(f * upper + (1 - f) * lower, abs=2e-6)


def test_gaussian_kl_has_the_known_values() -> None:
    zero = torch.zeros(1)
    assert gaussian_kl(zero, zero, zero, zero).item() == 0
    assert gaussian_kl(zero + 2, zero, zero, zero).item() == pytest.approx(2.0)
    assert gaussian_kl(zero, zero + math.log(4), zero, zero).item() == pytest.approx(0.5 * (3 - math.log(4)))


def test_the_discretised_likelihood_sums_to_one_over_the_bins() -> None:
    centres = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_p = discretised_gaussian_log_likelihood(centres, torch.tensor(0.2), torch.tensor(math.log(0.3)))
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_probabilities_are_clamped_at_1e_12() -> None:
    log_p = discretised_gaussian_log_likelihood(torch.tensor(0.0), torch.tensor(5.0), torch.tensor(-5.0))
    assert log_p.item() == pytest.approx(math.log(1e-12), abs=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("t", [0, 1, 2, 100, 500, 998])
def test_the_variational_bound_equals_the_float64_reference(name: str, t: int) -> None:
    schedule = {"linear": LINEAR, "cosine": COSINE}[name]
    steps = torch.full((3,), t)
    x0, x_t, eps, v = sample_at(schedule, steps)
    found = variational_bound(schedule, x0, x_t, steps, eps, v)
    betas = schedule.tables["beta"].numpy()
    expected = [reference_vb(betas, x0[i], x_t[i], t, eps[i], v[i]) for i in range(3)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=2e-3 if t < 3 else 2e-4)


def test_a_batch_of_mixed_timesteps_uses_the_likelihood_at_zero_only() -> None:
    t = torch.tensor([0, 1, 0, 999])
    x0, x_t, eps, v = sample_at(LINEAR, t)
    mixed = variational_bound(LINEAR, x0, x_t, t, eps, v)
    singles = [
        variational_bound(LINEAR, *(a[i : i + 1] for a in (x0, x_t, t, eps, v))).item() for i in range(4)
    ]
    assert mixed.tolist() == pytest.approx(singles, rel=1e-6)


def test_the_bound_is_zero_for_the_true_posterior() -> None:
    """Exact eps and v = -1: p is q."""
    t = torch.tensor([300, 700])
    x0, x_t, _, _ = sample_at(LINEAR, t)
    noise = (x_t - LINEAR.gather("sqrt_alpha_bar", t, 4) * x0) / LINEAR.gather(
        "sqrt_one_minus_alpha_bar", t, 4
    )
    found = variational_bound(LINEAR, x0, x_t, t, noise, torch.full_like(x0, -1))
    assert found.abs().max().item() < 1e-5


def test_the_bound_trains_v_and_not_eps() -> None:
    t = torch.tensor([0, 500])
    x0, x_t, eps, v = sample_at(LINEAR, t)
    eps.requires_grad_()
    v.requires_grad_()
    variational_bound(LINEAR, x0, x_t, t, eps, v).sum().backward()
    assert eps.grad is None
    assert v.grad is not None
    assert bool((v.grad.flatten(1).abs().amax(1) > 0).all())
    assert bool(v.grad.isfinite().all())


def test_the_bound_does_not_clip_the_prediction_of_x0() -> None:
    """A prediction far outside [-1, 1] must cost more than one at the border."""
    t = torch.tensor([800])
    x0, x_t, eps, v = sample_at(LINEAR, t)
    small, large = (variational_bound(LINEAR, x0, x_t, t, eps - d, v).item() for d in (3.0, 30.0))
    assert large > 50 * small


def test_cosine_at_the_last_step_is_huge_and_finite_in_float32() -> None:
    """beta_999 is capped: an untrained network pays about 1e3 bits per dimension there, 1e-2 elsewhere."""
    x0 = torch.rand(64, 4, 8, 8) * 2 - 1
    zeros = torch.zeros_like(x0)

    def bound(schedule: NoiseSchedule, step: int) -> Tensor:
        t = torch.full((64,), step)
        return variational_bound(
            schedule, x0, q_sample(schedule, x0, t, torch.randn_like(x0)), t, zeros, zeros
        )

    last = bound(COSINE, 999)
    assert last.dtype == torch.float32
    assert bool(last.isfinite().all())
    assert 300 < last.mean().item() < 5000
    assert bound(COSINE, 500).mean().item() < 0.05
    assert bound(LINEAR, 999).mean().item() < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bound(COSINE, 999).mean().item() == pytest.approx(last.mean().item(), rel=0.1)


def test_min_snr_weights_have_the_known_values() -> None:
    abar = torch.tensor([0.9999, 0.521423, 0.0777967, 4.03583e-5], dtype=torch.float64)
    snr = abar / (1 - abar)
    weights = min_snr_weight(LINEAR, torch.tensor([0, 250, 500, 999]))
    assert weights.tolist() == pytest.approx((snr.clamp(max=5) / snr).tolist(), rel=1e-3)
    assert weights.tolist() == pytest.approx([5.0005e-4, 1, 1, 1], rel=1e-3)
    assert min_snr_weight(LINEAR, torch.tensor([250]), gamma=0.5).item() == pytest.approx(0.458916, rel=1e-4)


def test_p2_weights_have_the_known_values() -> None:
    # 1 / (1 + snr) = 1 - abar
    weights = p2_weight(LINEAR, torch.tensor([0, 250, 500, 999]))
    assert weights.shape == (4,)
    assert weights.tolist() == pytest.approx([1e-4, 1 - 0.521423, 1 - 0.0777967, 1.0], rel=1e-3)
    snr = 0.521423 / (1 - 0.521423)
    assert p2_weight(LINEAR, torch.tensor([250]), 0.5, 2.0).item() == pytest.approx(
        (2 + snr) ** -0.5, rel=1e-5
    )


def test_weights_are_chosen_by_name() -> None:
    t = torch.tensor([0, 999])
    assert timestep_weight(LINEAR, t, "constant").tolist() == [1, 1]
    assert timestep_weight(LINEAR, t, "uw").tolist() == [1, 1]
    assert torch.equal(timestep_weight(LINEAR, t, "min_snr", 5.0), min_snr_weight(LINEAR, t, 5.0))
    assert torch.equal(timestep_weight(LINEAR, t, "p2", 5.0, 0.5, 2.0), p2_weight(LINEAR, t, 0.5, 2.0))
    with pytest.raises(ValueError, match="constant, min_snr, p2, uw"):
        timestep_weight(LINEAR, t, "min-snr")  # type: ignore[arg-type]


def test_stratified_timesteps_fill_the_eighths_in_order() -> None:
    t = stratified_timesteps(80_000, 1000, 8, torch.Generator().manual_seed(0)).view(8, -1)
    for i, part in enumerate(t):
        assert (int(part.min()), int(part.max()), len(part.unique())) == (125 * i, 125 * i + 124, 125)
        assert part.double().mean().item() == pytest.approx(125 * i + 62, abs=1.5)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_ranks_slice_keeps_its_eighths(world: int) -> None:
    t = stratified_timesteps(64, 1000, 8, torch.Generator().manual_seed(0))
    for rank in range(world):
        local = t[rank::world]
        assert (local // 125).tolist() == [i for i in range(8) for _ in range(8 // world)]


def test_five_intervals_as_in_the_ant_release() -> None:
    t = stratified_timesteps(240, 1000, 5, torch.Generator().manual_seed(0))
    assert (t // 200).tolist() == [i for i in range(5) for _ in range(48)]


@pytest.mark.parametrize(("batch", "timesteps"), [(12, 1000), (16, 999)])
def test_batches_that_eight_does_not_divide_are_refused(batch: int, timesteps: int) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.batch_size or model\.init_args\.uw_intervals"):
        stratified_timesteps(batch, timesteps, 8, torch.Generator())


def test_uncertainty_weighting_has_the_known_value() -> None:
    uw = UncertaintyWeighting(8)
    s = torch.linspace(-1, 1, 8)
    uw.log_variances.data = s.clone()
    loss = torch.arange(16.0)
    intervals = loss.view(8, 2).mean(1) / 8
    assert uw(loss).item() == pytest.approx((0.5 * (torch.exp(-s) * intervals + s)).sum().item(), rel=1e-6)
    assert uw.weights.tolist() == pytest.approx((0.5 * torch.exp(-s)).tolist())
    assert UncertaintyWeighting(8)(torch.full((8,), 3.0)).item() == pytest.approx(0.5 * 3)


def test_uncertainty_weighting_has_its_equilibrium_at_the_interval_loss() -> None:
    """exp(s_i) = L_i / 8: no gradient, each interval contributes 0.5 (1 + s_i); the total can be negative."""
    uw = UncertaintyWeighting(8)
    loss = torch.rand(8, 4).add(0.1).flatten()
    intervals = loss.view(8, 4).mean(1) / 8
    uw.log_variances.data = intervals.log()
    total = uw(loss)
    total.backward()
    assert uw.log_variances.grad.abs().max().item() < 1e-7
    weighted = uw.weights * intervals
    assert weighted.tolist() == pytest.approx([0.5] * 8, rel=1e-6)
    assert total.item() < 0


def test_its_gradient_on_the_loss_is_the_logged_weight() -> None:
    uw = UncertaintyWeighting(8)
    uw.log_variances.data = torch.linspace(-1, 1, 8)
    loss = torch.rand(16, requires_grad=True)
    uw(loss).backward()
    # each of 2 samples has 1/2 of L_i, and L_i is divided by 8
    assert loss.grad.view(8, 2)[:, 0].tolist() == pytest.approx((uw.weights / 16).tolist(), rel=1e-6)


def test_a_local_batch_that_eight_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 12 per device is not divisible by 8 timestep intervals"):
        UncertaintyWeighting(8)(torch.ones(12))


def test_log_variances_keep_type_and_value_under_casts() -> None:
    module = torch.nn.ModuleDict({"uw": UncertaintyWeighting(8), "net": torch.nn.Linear(2, 2)})
    values = torch.linspace(-1.234567, 1.234567, 8)
    module["uw"].log_variances.data = values.clone()
    for cast in (torch.bfloat16, torch.float16, torch.float64):
        module.to(cast)
        assert (module["net"].weight.dtype, module["uw"].log_variances.dtype) == (cast, torch.float32)
        assert torch.equal(module["uw"].log_variances.data, values)
    assert isinstance(module["uw"].log_variances, torch.nn.Parameter)


def test_log_variances_are_float32_under_a_bfloat16_default() -> None:
    torch.set_default_dtype(torch.bfloat16)
    assert UncertaintyWeighting(8).log_variances.dtype == torch.float32


def test_uncertainty_of_bfloat16_losses_is_float32() -> None:
    assert UncertaintyWeighting(8)(torch.rand(16).bfloat16()).dtype == torch.float32
