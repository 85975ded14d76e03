"""Samplers over a respaced schedule: ancestral DDPM with learned variance, DDIM, diffusers' DPM-Solver++."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo.diffusion.losses import interpolated_log_variance, posterior_mean, predict_x0
from zoo.diffusion.schedules import NoiseSchedule

SamplerName = Literal["ddpm", "ddim", "dpm++"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), original timesteps (B,)) -> (B, 2C, H, W), eps then v; or (B, C, H, W), eps alone."""


class SampleNoise:
    """Gaussian noise that depends on each sample's own seed, not on the batch or device it lands in.

    Args:
        seeds: one integer per sample.
        shape: (C, H, W) of a sample.
    """

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self._generators = [torch.Generator().manual_seed(int(s) & 0x7FFF_FFFF_FFFF_FFFF) for s in seeds]
        self._shape, self._device = tuple(shape), device

    def __call__(self) -> Tensor:
        """The next draw, float32 (B, C, H, W)."""
        # The type is named: in pure bfloat16 training Lightning changes torch's default.
        draws = [torch.randn(self._shape, generator=g, dtype=torch.float32) for g in self._generators]
        return torch.stack(draws).to(self._device)


def guided(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    labels: Tensor,
    null_label: int,
    scale: float,
    channels: int,
    cfg_channels: int | None = None,
) -> Denoiser:
    """Classifier-free guidance, eps = eps_u + s (eps_c - eps_u), as a function of (x, t).

    Both halves share t, hence the task mask. The variance channels are those of the conditional half.

    Args:
        scale: s; 1 runs the conditional network alone.
        channels: C of the sample.
        cfg_channels: guide only the first so many channels (official DiT: 3); None guides all (DTR).
    """
    if cfg_channels is not None and not 0 < cfg_channels <= channels:
        raise ValueError(f"cfg_channels must lie in 1..{channels} or be null, got {cfg_channels}")
    if scale == 1:
        return lambda x, t: denoiser(x, t, labels)
    both_labels = torch.cat([labels, torch.full_like(labels, null_label)])
    g = channels if cfg_channels is None else cfg_channels

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = denoiser(torch.cat([x, x]), torch.cat([t, t]), both_labels).chunk(2)
        eps = unconditional[:, :g] + scale * (conditional[:, :g] - unconditional[:, :g])
        return torch.cat([eps, conditional[:, g:]], dim=1)

    return denoise


def _steps(schedule: NoiseSchedule, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(index in the respaced schedule, original timestep), both (B,), from the noisiest down."""
    for i in reversed(range(schedule.timesteps)):
        t = torch.full((len(x),), i, dtype=torch.long, device=x.device)
        yield t, torch.full_like(t, int(schedule.original_timesteps[i]))


def _predict(
    denoiser: Denoiser, schedule: NoiseSchedule, x: Tensor, t: Tensor, original: Tensor, clip: bool
) -> tuple[Tensor, Tensor | None]:
    """x_0 prediction and, where the network has it, v."""
    output = denoiser(x, original).float()
    eps, v = output.split(x.shape[1], dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
    x0 = predict_x0(schedule, x, t, eps)
    return (x0.clamp(-1, 1) if clip else x0), v


def ddpm(
    denoiser: Denoiser, schedule: NoiseSchedule, noise: SampleNoise, clip_denoised: bool = False
) -> Tensor:
    """Ancestral sampling; without a learned variance it uses the upper bound beta', IDDPM's ``FIXED_LARGE``.

    No noise is added at the last step. float32 (B, C, H, W)
    """
    x = noise()
    for t, original in _steps(schedule, x):
        x0, v = _predict(denoiser, schedule, x, t, original, clip_denoised)
        mean = posterior_mean(schedule, x0, x, t)
        if int(t[0]) == 0:
            return mean
        log_variance = (
            schedule.gather("log_beta", t, x.ndim) if v is None else interpolated_log_variance(schedule, v, t)
        )
        x = mean + torch.exp(0.5 * log_variance) * noise()
    raise AssertionError("a schedule has at least one step")


def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    noise: SampleNoise,
    clip_denoised: bool = False,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12); eta = 0 is deterministic. float32 (B, C, H, W)"""
    x = noise()
    for t, original in _steps(schedule, x):
        x0, _ = _predict(denoiser, schedule, x, t, original, clip_denoised)
        abar, previous = (schedule.gather(k, t, x.ndim) for k in ("alpha_bar", "alpha_bar_prev"))
        # eps that belongs to the (possibly clipped) x_0 prediction
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        sigma = eta * ((1 - previous) / (1 - abar) * (1 - abar / previous)).sqrt()
        x = previous.sqrt() * x0 + (1 - previous - sigma**2).clamp(min=0).sqrt() * eps
        if eta and int(t[0]) > 0:
            x = x + sigma * noise()
    return x


def dpm_solver(
    denoiser: Denoiser, schedule: NoiseSchedule, noise: SampleNoise, steps: int, clip_denoised: bool = False
) -> Tensor:
    """DPM-Solver++ (2M) through diffusers' ``DPMSolverMultistepScheduler``; eps only. float32 (B, C, H, W)

    Args:
        schedule: the full, not respaced, schedule; the solver picks its ``steps`` integer timesteps itself.
    """
    from diffusers import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=schedule.tables["beta"].float().numpy(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="linspace",
        thresholding=False,
    )
    solver.set_timesteps(steps)
    x = noise()
    for step in solver.timesteps:
        t = torch.full((len(x),), int(step), dtype=torch.long, device=x.device)
        x0, _ = _predict(denoiser, schedule, x, t, t, clip_denoised)
        abar = schedule.gather("alpha_bar", t, x.ndim)
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        x = solver.step(eps, int(step), x, return_dict=False)[0]
    return x
