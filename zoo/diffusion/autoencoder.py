"""The VAE of latent diffusion, diffusers' ``AutoencoderKL``: pictures -> moments, latents -> pictures.

It runs outside autocast, in the type of its weights: bf16 autocast is meant for the denoiser, and rounding
in the decoder shows in the pictures.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub.foreign import Damaged, TooLarge, check_finite, checked_folder

_DECODED_TOGETHER = 8  # a 256 x 256 picture needs about 0.3 GB inside the decoder


def load_vae(name: str) -> Any:
    """An ``AutoencoderKL`` in eval mode, in float32 on the CPU, from safetensors.

    Args:
        name: local folder (``config.json``, ``diffusion_pytorch_model.safetensors``) or hub id.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or does not fit.
    """
    from diffusers import AutoencoderKL
    from diffusers.utils import logging as diffusers_logging

    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise FileNotFoundError(f"no VAE at {name}: give a diffusers folder or a hub id such as {_EXAMPLE}")
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(logging.CRITICAL)
    try:
        with checked_folder(Path(name)):
            vae, report = AutoencoderKL.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False
            )
    except (Damaged, TooLarge):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"cannot load the VAE {name!r}; it must be a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, or a hub id such as {_EXAMPLE} ({reason})"
        ) from None
    finally:
        diffusers_logging.set_verbosity(level)
    lost = [*report["missing_keys"], *report["mismatched_keys"]]
    if lost:  # diffusers would leave them random
        raise ValueError(
            f"VAE {name!r}: {len(lost)} weights are missing or do not fit, for example {lost[0]}"
        )
    check_finite(vae.state_dict(), Path(name))
    vae.requires_grad_(False)
    return vae.eval()


_EXAMPLE = "stabilityai/sd-vae-ft-ema"


def vae_factor(vae: Any) -> int:
    """Pixels per latent along a side, 8 for Stable Diffusion's."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def vae_digest(vae: Any) -> str:
    """SHA-256 of the weights, whatever the file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_scale(vae: Any, scale: float, key: str) -> None:
    """Refuse a factor that is not the VAE's own.

    Raises:
        ValueError: naming both numbers and the setting ``key``.
    """
    own, shift = float(vae.config.scaling_factor), vae.config.get("shift_factor")
    if own != scale or shift:
        shifted = f" and shift {shift:g}, which is not supported" if shift else ""
        raise ValueError(f"{key} is {scale:g}, but the VAE has factor {own:g}{shifted}")


@torch.no_grad()
def encode_moments(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, float32 (B, C, S / f, S / f) each, unscaled.

    Args:
        vae: from :func:`load_vae`.
        images: (B, 3, S, S) in [-1, 1].
    """
    with torch.autocast(images.device.type, enabled=False):
        posterior = vae.encode(images.to(vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.std.float()


Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel."""


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor, scale: float | Statistics) -> Tensor:
    """Latents in training scale (B, C, S, S) -> pictures float32 (B, 3, f S, f S) in about [-1, 1].

    x = D(z / scale), or D(z std + mean) of latents that were normalised per channel.
    """
    with torch.autocast(latents.device.type, enabled=False):
        z = latents.float()
        if isinstance(scale, tuple):
            mean, std = (z.new_tensor(v)[:, None, None] for v in scale)
            z = z * std + mean
        else:
            z = z / scale
        parts = z.to(vae.dtype).split(_DECODED_TOGETHER)
        return torch.cat([vae.decode(part).sample.float() for part in parts])
