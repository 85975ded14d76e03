"""Objectives of IDDPM with learned variance and the loss weightings that DTR is combined with.

Everything here works in float32 whatever the autocast state: with the cosine schedule the variational term
of an untrained network is about 1e3 bits per dimension at the last timestep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.diffusion.schedules import NoiseSchedule
from zoo.nn.precision import keeping_dtype

LossWeight = Literal["constant", "min_snr", "p2", "uw"]
LOSS_WEIGHTS: tuple[LossWeight, ...] = get_args(LossWeight)


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, float32, shape of ``x0`` (B, C, H, W)."""
    x0, noise = x0.float(), noise.float()
    a = schedule.gather("sqrt_alpha_bar", t, x0.ndim)
    s = schedule.gather("sqrt_one_minus_alpha_bar", t, x0.ndim)
    return a * x0 + s * noise


def predict_x0(schedule: NoiseSchedule, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_0 = x_t / sqrt(abar_t) - sqrt(1 / abar_t - 1) eps, float32 (B, C, H, W)."""
    a = schedule.gather("sqrt_recip_alpha_bar", t, x_t.ndim)
    b = schedule.gather("sqrt_recip_alpha_bar_minus_one", t, x_t.ndim)
    return a * x_t.float() - b * eps.float()


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7), float32 (B, C, H, W)."""
    a = schedule.gather("posterior_mean_x0", t, x_t.ndim)
    b = schedule.gather("posterior_mean_xt", t, x_t.ndim)
    return a * x0.float() + b * x_t.float()


def interpolated_log_variance(schedule: NoiseSchedule, v: Tensor, t: Tensor) -> Tensor:
    """log var = f log beta_t + (1 - f) log ptilde_t with f = (v + 1) / 2, not clamped (IDDPM, eq. 15)."""
    fraction = (v.float() + 1) / 2
    upper = schedule.gather("log_beta", t, v.ndim)
    lower = schedule.gather("posterior_log_variance", t, v.ndim)
    return fraction * upper + (1 - fraction) * lower


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) per element, in nats."""
    return 0.5 * (
        -1
        + log_var2
        - log_var1
        + torch.exp(log_var1 - log_var2)
        + (mean1 - mean2) ** 2 * torch.exp(-log_var2)
    )


def _approximate_normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretised_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-likelihood in nats of x under a Gaussian discretised to bins of half-width 1/255 (IDDPM code).

    Beyond +-0.999 the bin is the tail. The normal CDF is the tanh approximation; probabilities are clamped at
    1e-12. Used as it is for latents too, although they do not lie in [-1, 1].
    """
    centred = x - mean
    inverse_std = torch.exp(-log_scale)
    cdf_plus = _approximate_normal_cdf(inverse_std * (centred + 1 / 255))
    cdf_minus = _approximate_normal_cdf(inverse_std * (centred - 1 / 255))
    log_plus = cdf_plus.clamp(min=1e-12).log()
    log_minus = (1 - cdf_minus).clamp(min=1e-12).log()
    log_delta = (cdf_plus - cdf_minus).clamp(min=1e-12).log()
    return torch.where(x < -0.999, log_plus, torch.where(x > 0.999, log_minus, log_delta))


def variational_bound(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, v: Tensor
) -> Tensor:
    """One term of the variational bound per sample, in bits per dimension (IDDPM, eq. 4-6). (B,)

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, the discretised negative log-likelihood for
    t = 0. ``eps`` is detached: this term trains the variance only. The x_0 prediction is not clipped.
    """
    x0, x_t = x0.float(), x_t.float()
    true_mean = posterior_mean(schedule, x0, x_t, t)
    true_log_var = schedule.gather("posterior_log_variance", t, x_t.ndim)
    model_mean = posterior_mean(schedule, predict_x0(schedule, x_t, t, eps.detach()), x_t, t)
    model_log_var = interpolated_log_variance(schedule, v, t)
    kl = gaussian_kl(true_mean, true_log_var, model_mean, model_log_var)
    nll = -discretised_gaussian_log_likelihood(x0, model_mean, 0.5 * model_log_var)
    first = (t == 0).view(-1, *([1] * (x_t.ndim - 1)))
    return torch.where(first, nll, kl).flatten(1).mean(dim=1) / math.log(2)


def min_snr_weight(schedule: NoiseSchedule, t: Tensor, gamma: float = 5.0) -> Tensor:
    """min(snr, gamma) / snr, the Min-SNR weight for eps-prediction (Hang et al. 2023). (B,)"""
    snr = schedule.gather("snr", t)
    return snr.clamp(max=gamma) / snr


def p2_weight(schedule: NoiseSchedule, t: Tensor, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """1 / (k + snr)^gamma (Choi et al. 2022). (B,)

    DTR's code makes it (B, C, H, W) and multiplies a (B,) loss by it, which broadcasts wrongly.
    """
    return (k + schedule.gather("snr", t)) ** -gamma


def timestep_weight(
    schedule: NoiseSchedule,
    t: Tensor,
    kind: LossWeight,
    min_snr_gamma: float = 5.0,
    p2_gamma: float = 1.0,
    p2_k: float = 1.0,
) -> Tensor:
    """Weight of the eps error per sample, (B,). It never multiplies the variational term.

    ``uw`` weights intervals, not samples (:class:`UncertaintyWeighting`): its weight here is 1.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in LOSS_WEIGHTS:
        raise ValueError(f"loss_weight must be one of {', '.join(LOSS_WEIGHTS)}, got {kind!r}")
    if kind == "min_snr":
        return min_snr_weight(schedule, t, min_snr_gamma)
    if kind == "p2":
        return p2_weight(schedule, t, p2_gamma, p2_k)
    return torch.ones(t.shape, dtype=torch.float32, device=t.device)


def stratified_timesteps(
    batch_size: int, timesteps: int, intervals: int, generator: torch.Generator
) -> Tensor:
    """int64 (B,): the i-th contiguous part is uniform on the i-th of ``intervals`` equal intervals.

    Raises:
        ValueError: if ``intervals`` does not divide the batch and the number of timesteps.
    """
    if batch_size % intervals or timesteps % intervals:
        raise ValueError(
            f"stratified timesteps need a batch and a number of timesteps that {intervals} divides, "
            f"got batch {batch_size} and {timesteps} timesteps; change data.init_args.batch_size or "
            "model.init_args.uw_intervals"
        )
    width = timesteps // intervals
    draws = torch.randint(
        width, (intervals, batch_size // intervals), generator=generator, device=generator.device
    )
    starts = torch.arange(intervals, device=generator.device)[:, None] * width
    return (draws + starts).flatten()


class UncertaintyWeighting(nn.Module):
    """ANT-UW: one learned log-variance s_i per timestep interval (Go et al. 2023; Kendall et al. 2018).

    total = sum_i 0.5 (exp(-s_i) L_i / K + s_i), with L_i the mean loss of the i-th contiguous part of the
    batch and K the number of intervals. At equilibrium exp(s_i) = L_i / K. The total can be negative.
    The log-variances keep their float32 values under ``.to(torch.bfloat16)``.

    Raises:
        ValueError: if ``intervals`` is not positive.
    """

    def __init__(self, intervals: int = 8) -> None:
        super().__init__()
        if intervals < 1:
            raise ValueError(f"uw_intervals must be at least 1, got {intervals}")
        self.intervals = intervals
        self.log_variances = nn.Parameter(torch.zeros(intervals, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> UncertaintyWeighting:
        super()._apply(keeping_dtype(fn), recurse)
        return self

    @property
    def weights(self) -> Tensor:
        """0.5 exp(-s_i), (K,), detached."""
        return 0.5 * torch.exp(-self.log_variances.detach())

    def forward(self, loss: Tensor) -> Tensor:
        """Per-sample losses (B,) in stratified order -> scalar total.

        Raises:
            ValueError: if the number of intervals does not divide B.
        """
        if len(loss) % self.intervals:
            raise ValueError(
                f"a batch of {len(loss)} per device is not divisible by {self.intervals} timestep intervals; "
                "change data.init_args.batch_size or model.init_args.uw_intervals"
            )
        per_interval = loss.float().view(self.intervals, -1).mean(dim=1) / self.intervals
        return (0.5 * (torch.exp(-self.log_variances) * per_interval + self.log_variances)).sum()
