"""Gaussian diffusion that generative methods share: schedules, losses, samplers, latents of a VAE."""
