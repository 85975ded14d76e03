"""Pictures -> latents of a VAE, written in the packed layout."""

from __future__ import annotations

from zoo.latents.module import LatentExtractor

__all__ = ["LatentExtractor"]
