"""Gaussian diffusion shared by the zoo's generative methods: schedules, losses, samplers."""

from zoo.diffusion import losses, samplers, schedules

__all__ = ["losses", "samplers", "schedules"]
