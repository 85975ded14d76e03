"""DTR: Denoising Task Routing for diffusion models (Park et al., ICLR 2024) on DiT (Peebles & Xie, 2023)."""

from zoo.dtr.module import DTR

__all__ = ["DTR"]
