"""Gaussian diffusion shared by the zoo's generative methods: schedules, losses, samplers."""
