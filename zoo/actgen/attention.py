"""Cross-attention probabilities of diffusers' UNets, kept at the wanted resolution alone.

Fused attention has no probabilities: the layers that are looked at get a processor that computes them in the
open; all others keep theirs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


class KeptAttention:
    """A processor of diffusers' ``Attention`` that keeps its probabilities, mean over the heads.

    A forward that is computed again, for a checkpointed gradient, keeps nothing.

    Attributes:
        kept: (B, h w, L) of the last forward since :meth:`forget`, without gradient.
    """

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def forget(self) -> None:
        """Before a forward whose probabilities are wanted."""
        self.kept = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The same numbers as diffusers' own ``AttnProcessor`` gives for a cross-attention of a UNet."""
        assert encoder_hidden_states is not None
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        if attention_mask is not None:
            tokens = encoder_hidden_states.shape[1]
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens, len(hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)  # (B heads, h w, L)
        if self.kept is None:
            self.kept = probabilities.detach().unflatten(0, (-1, attn.heads)).mean(dim=1)
        mixed = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor


def keep_attention(unet: Any, sides: Collection[int]) -> dict[str, KeptAttention]:
    """Put :class:`KeptAttention` on the cross-attentions of the down and up blocks at these sides.

    Args:
        unet: diffusers' ``UNet2DConditionModel``; a block's side follows from its place.
        sides: of the latents there; the middle block is never looked at.

    Returns:
        The processors by their layer's name.

    Raises:
        ValueError: for a UNet without a cross-attention at such a side.
    """
    levels = len(unet.config.block_out_channels)
    size = int(unet.config.sample_size)
    processors = dict(unet.attn_processors)
    found: dict[str, KeptAttention] = {}
    for name in processors:
        block, _, rest = name.partition(".")
        if block not in ("down_blocks", "up_blocks") or ".attn2." not in name:
            continue
        number = int(rest.split(".")[0])
        level = number if block == "down_blocks" else levels - 1 - number
        if size // 2**level in sides:
            found[name] = KeptAttention()
    if not found:
        raise ValueError(
            f"this UNet has no cross-attention where latents have side {' or '.join(map(str, sides))}; set "
            "model.init_args.mask: none, or give another generator"
        )
    unet.set_attn_processor({**processors, **found})
    return found
