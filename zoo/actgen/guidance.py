"""What guides a sample, as pure functions: centre and gamma, mask, losses, gradients, the mix of a round.

Huang, Liu, You, Xu, "Active Generation for Image Classification", ECCV 2024. Where the paper and the official
code differ, both are here; see docs/pages/actgen.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mask = Literal["none", "normalized", "official"]
GradientNorm = Literal["token", "global"]
Curriculum = Literal["code", "paper"]
_FLAT = 1e-8  # spread of attention below which there is no object in it
_TINY = 1e-12


def guidance_weight(step: int, centre: float) -> float:
    """gamma_i = sigmoid(centre - i) of step i, from 0: near 1 first, 1/2 at the centre, near 0 after it.

    The official centre is 12.5 of 40 steps: gamma_0 = 0.9999963, and all 40 sum to 13.000002.
    """
    return 1.0 / (1.0 + math.exp(min(step - centre, 700.0)))  # e^710 is no float


def towards_guide(x: Tensor, guide: Tensor, gamma: Tensor | float, mask: Tensor | None) -> Tensor:
    """x - gamma m (x - x_g): a mask of 1 and gamma 1 give x_g to the bit, a mask of 0 gives x.

    Args:
        x: the sample after its step (B, C, h, w).
        guide: x_g, the guide's own trajectory after the same step.
        gamma: of the step, a number or (B, 1, 1, 1).
        mask: m (B, 1, h, w); None is 1 everywhere.
    """
    weight = torch.as_tensor(gamma, dtype=x.dtype, device=x.device)
    if mask is not None:
        weight = weight * mask
    # where both are 1 the difference would leave a rounding error of x
    return torch.where(weight == 1, guide, x - weight * (x - guide))


# --- mask -------------------------------------------------------------------------------------------------


def resized(images: Tensor, side: int) -> Tensor:
    """Bilinear to (B, C, side, side), corners not aligned, no antialias, as all resizes of the method."""
    if images.shape[-1] == side and images.shape[-2] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def token_attention(attention: Tensor, tokens: Tensor) -> Tensor:
    """Mean of the columns of the class's tokens, as a picture.

    Args:
        attention: probabilities of a layer, mean over its heads (B, h w, L).
        tokens: 1 at the tokens of the class, else 0 (B, L).

    Returns:
        (B, 1, h, w).
    """
    side = math.isqrt(attention.shape[1])
    share = tokens.to(attention) / tokens.sum(dim=1, keepdim=True).to(attention)
    return (attention * share[:, None]).sum(dim=2).view(-1, 1, side, side)


def normalized_mask(maps: Sequence[Tensor], side: int) -> Tensor:
    """The paper's mask in [0, 1], the object high: (A - min) / (max - min) of each image.

    A flat map has no object and gives 1.

    Args:
        maps: of :func:`token_attention` of the conditional row, of each layer.
        side: of the latents.

    Returns:
        (B, 1, side, side), float32.
    """
    mean = torch.stack([resized(m.float(), side) for m in maps]).mean(dim=0)
    low, high = mean.amin(dim=(1, 2, 3), keepdim=True), mean.amax(dim=(1, 2, 3), keepdim=True)
    flat = high - low < _FLAT
    return torch.where(flat, 1.0, (mean - low) / torch.where(flat, 1.0, high - low))


def accumulated_mask(maps: Sequence[Tensor], side: int, before: Tensor | None) -> Tensor:
    """The official code's: M_i = 1 + A_0 + ... + A_i, a sum that begins at ones and is used as it is.

    It never frees the background, and moves the object by more than the whole way.

    Args:
        maps: of :func:`token_attention`, mean of both guidance rows, of each layer.
        side: of the latents.
        before: M_{i-1}; None at the first step.
    """
    attention = torch.stack([resized(m.float(), side) for m in maps]).mean(dim=0)
    return attention + (torch.ones_like(attention) if before is None else before)


# --- losses and their gradient ----------------------------------------------------------------------------


def dissimilarity_loss(latents: Tensor, memories: Sequence[Tensor], margin: float) -> Tensor:
    """L_contra of each image: mean_k max(0, rho - |f_k - x0|), 0 without a memory. (B,)

    Args:
        latents: x0 (B, ...).
        memories: latents of earlier images of the same class, (K, D) of each image; K may be 0.
        margin: rho.
    """
    rows = []
    for x, memory in zip(latents.flatten(1).float(), memories, strict=True):
        if len(memory):
            # of a distance of 0 the root has no gradient
            distance = ((memory.to(x) - x) ** 2).sum(dim=1).add(_TINY).sqrt()
            rows.append((margin - distance).clamp(min=0).mean())
        else:
            rows.append(x.sum() * 0)
    return torch.stack(rows)


def default_margin(dimensions: int) -> float:
    """rho = 200 at Stable Diffusion's 16,384 dimensions, 1.5625 sqrt(D) at D."""
    return 1.5625 * math.sqrt(dimensions)


def normalized_gradient(gradient: Tensor, kind: GradientNorm) -> Tensor:
    """The direction in which prompt embeddings move; NaN gives 0.

    Args:
        gradient: (2, B, L, D), unconditional and conditional row of each image.
        kind: ``global`` divides by the norm of an image's both rows (paper); ``token`` each channel of each
            row by its norm over the tokens (code: ``F.normalize(grad, dim=1)``), sqrt(2 D) in all.
    """
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    over = (0, 2, 3) if kind == "global" else (2,)
    norm = finite.float().pow(2).sum(dim=over, keepdim=True).sqrt().clamp(min=_TINY)
    return (finite / norm).to(gradient.dtype)


# --- the mix of a round -----------------------------------------------------------------------------------


def random_share(epoch: int, epochs: int) -> float:
    """r_e = max(1 - e / (E / 2 - 1), 0) / 2: from .5 to 0 over the first half; .5 for E of 2 and less."""
    if epochs <= 2:
        return 0.5
    return 0.5 * max(1 - epoch / (0.5 * epochs - 1), 0.0)


def adversarial_share(epoch: int, epochs: int, curriculum: Curriculum) -> float:
    """Of the guided images: .5 - r_e (code, .5 at half time) or .5 e / E (paper)."""
    if curriculum == "paper":
        return 0.5 * epoch / epochs
    return 0.5 - random_share(epoch, epochs)


def tiled(chosen: Sequence[int], count: int) -> list[int]:
    """``count`` of a permutation: its first, or, where it is shorter, all of it floor(K / n) times and the
    first K mod n."""
    if not chosen:
        return []
    times, rest = divmod(count, len(chosen))
    return [*chosen] * times + [*chosen[:rest]]
