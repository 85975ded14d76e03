"""Noise schedules of discrete-time Gaussian diffusion (Ho et al. 2020; Nichol & Dhariwal 2021, "IDDPM").

A schedule holds float64 tables over the timesteps. Timestep 0 is the least noise, T - 1 (nearly) pure noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

ScheduleName = Literal["linear", "cosine"]


def linear_betas(timesteps: int = 1000) -> Tensor:
    """Linear from 1e-4 to 0.02 (Ho et al. 2020), both rescaled by 1000 / T as IDDPM does. float64 (T,)."""
    scale = 1000 / timesteps
    return torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64, device="cpu")


def cosine_betas(timesteps: int = 1000, max_beta: float = 0.999) -> Tensor:
    """Cosine schedule (IDDPM, eq. 17), each beta capped at ``max_beta``. float64 (T,)."""

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [
        min(1 - alpha_bar((i + 1) / timesteps) / alpha_bar(i / timesteps), max_beta) for i in range(timesteps)
    ]
    return torch.tensor(betas, dtype=torch.float64, device="cpu")


def scaled_linear_betas(timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Linear in sqrt(beta) (Rombach et al. 2022; diffusers' ``scaled_linear``). float64 (T,)."""
    roots = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64, device="cpu")
    return roots**2


class NoiseSchedule:
    """The constants of q(x_t | x_0) and q(x_{t-1} | x_t, x_0) for a sequence of betas.

    Plain data on purpose, not an ``nn.Module``: ``module.to(torch.bfloat16)`` must not round the tables. They
    are kept in float64; :meth:`gather` hands out float32 values on the caller's device.

    Args:
        betas: (T,) variances of the forward steps, each in (0, 1].
        original_timesteps: (T,) index of each step in the schedule that this one was respaced from. It is
            what the network sees (time embedding and task mask), defaults to 0..T-1.
    """

    def __init__(self, betas: Tensor, original_timesteps: Tensor | None = None) -> None:
        betas = betas.to(device="cpu", dtype=torch.float64)
        if betas.ndim != 1 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise ValueError(f"betas must be one row of numbers in (0, 1], got shape {tuple(betas.shape)}")
        self.timesteps = len(betas)
        if original_timesteps is None:
            original_timesteps = torch.arange(self.timesteps, device="cpu")
        self.original_timesteps = original_timesteps
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), alpha_bar[:-1]])
        posterior_variance = betas * (1 - alpha_bar_prev) / (1 - alpha_bar)
        # The posterior of the first step has variance 0; IDDPM replaces its log by that of the second.
        clipped = (
            torch.cat([posterior_variance[1:2], posterior_variance[1:]]) if self.timesteps > 1 else betas
        )
        self.tables: dict[str, Tensor] = {
            "beta": betas,
            "log_beta": betas.log(),
            "alpha_bar": alpha_bar,
            "alpha_bar_prev": alpha_bar_prev,
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
            "sqrt_recip_alpha_bar": alpha_bar.rsqrt(),
            "sqrt_recip_alpha_bar_minus_one": (1 / alpha_bar - 1).sqrt(),
            "posterior_log_variance": clipped.log(),
            "posterior_mean_x0": betas * alpha_bar_prev.sqrt() / (1 - alpha_bar),
            "posterior_mean_xt": (1 - alpha_bar_prev) * (1 - betas).sqrt() / (1 - alpha_bar),
            "snr": alpha_bar / (1 - alpha_bar),
        }
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    @classmethod
    def named(cls, name: ScheduleName, timesteps: int = 1000) -> NoiseSchedule:
        """``linear`` or ``cosine`` over ``timesteps`` steps."""
        if name == "linear":
            return cls(linear_betas(timesteps))
        if name == "cosine":
            return cls(cosine_betas(timesteps))
        raise ValueError(f"schedule must be 'linear' or 'cosine', got {name!r}")

    def gather(self, table: str, t: Tensor, ndim: int = 1) -> Tensor:
        """float32 values of ``table`` at timesteps t (B,), shaped (B, 1, ..., 1) with ``ndim`` dimensions."""
        if t.device not in self._on_device:
            self._on_device[t.device] = {k: v.float().to(t.device) for k, v in self.tables.items()}
        values = self._on_device[t.device][table][t]
        return values.view(-1, *([1] * (ndim - 1)))

    def respaced(self, retained: Sequence[int]) -> NoiseSchedule:
        """Schedule of the retained timesteps, beta'_i = 1 - abar_{tau_i} / abar_{tau_{i-1}} (IDDPM, 4)."""
        index = torch.tensor(sorted(set(retained)), dtype=torch.long, device="cpu")
        if len(index) == 0 or index[0] < 0 or index[-1] >= self.timesteps:
            raise ValueError(
                f"retained timesteps must lie in 0..{self.timesteps - 1}, got {list(retained)[:5]}..."
            )
        alpha_bar = self.tables["alpha_bar"][index]
        previous = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), alpha_bar[:-1]])
        return NoiseSchedule(1 - alpha_bar / previous, self.original_timesteps[index])


def space_timesteps(timesteps: int, steps: int, spacing: Literal["iddpm", "ddim"] = "iddpm") -> list[int]:
    """Timesteps retained by a sampler of ``steps`` steps, ascending.

    ``iddpm`` covers both ends: stride (T - 1) / (steps - 1), the fractional positions accumulated as floats
    and rounded half to even as the official code does (250 of 1000: 0, 4, 8, 12, 16, 20, ..., 991, 995, 999).
    ``ddim`` is ``range(0, T, T // steps)`` with an integer stride that gives exactly ``steps`` values
    (250 of 1000: 0, 4, ..., 996).
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling steps must lie in 1..{timesteps}, got {steps}")
    if spacing == "ddim":
        for stride in range(1, timesteps + 1):
            retained = range(0, timesteps, stride)
            if len(retained) == steps:
                return list(retained)
        raise ValueError(
            f"no integer stride over {timesteps} timesteps gives {steps} DDIM steps; use spacing iddpm"
        )
    if spacing != "iddpm":
        raise ValueError(f"spacing must be 'iddpm' or 'ddim', got {spacing!r}")
    stride_ = 1.0 if steps <= 1 else (timesteps - 1) / (steps - 1)
    position, retained_ = 0.0, []
    for _ in range(steps):
        retained_.append(round(position))
        position += stride_
    return retained_


def leading_timesteps(timesteps: int, steps: int, offset: int = 0) -> list[int]:
    """Timesteps of diffusers' spacing ``leading``, ascending: k (T // steps) + offset, k = 0, 1, ...

    Stable Diffusion has an offset of 1: 40 of 1000 are 1, 26, ..., 976. A step goes from each to the one
    before it, and from the first to no noise at all: what :meth:`NoiseSchedule.respaced` makes of them.

    Raises:
        ValueError: for steps that do not fit, or an offset that leads beyond the last timestep.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling steps must lie in 1..{timesteps}, got {steps}")
    stride = timesteps // steps
    if not 0 <= offset <= timesteps - 1 - (steps - 1) * stride:
        raise ValueError(f"offset {offset} leads beyond the last of {timesteps} timesteps with {steps} steps")
    return [k * stride + offset for k in range(steps)]
