"""CLIP's two encoders, those of transformers, from named sizes or free ones, without its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.vision.pair_losses import MOST_SCALE, SCALE, SIGMOID_BIAS, SIGMOID_SCALE, unit

Shape = Literal["clip-b/32", "clip-b/16", "clip-l/14", "free"]
Activation = Literal["quick_gelu", "gelu"]
SIZES = ("patch_size", "width", "layers", "heads", "text_width", "text_layers", "text_heads", "projection")
SHAPES: dict[str, dict[str, int]] = {
    name: dict(zip(SIZES, sizes, strict=True))
    for name, sizes in {
        "clip-b/32": (32, 768, 12, 12, 512, 12, 8, 512),
        "clip-b/16": (16, 768, 12, 12, 512, 12, 8, 512),
        "clip-l/14": (14, 1024, 24, 16, 768, 12, 12, 768),
    }.items()
}
"""OpenAI's; at 224 pixels, 77 tokens of 49,408 the first has 151,277,313 parameters."""
PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and deviation of RGB in [0, 1] that OpenAI's weights read."""


def config_of(
    sizes: Mapping[str, int], image_size: int, channels: int, vocab_size: int, context: int, activation: str
) -> Any:
    """The transformers config of :data:`SIZES` and what the data decide."""
    from transformers import CLIPConfig

    text = {
        "vocab_size": vocab_size, "hidden_size": sizes["text_width"],
        "intermediate_size": 4 * sizes["text_width"], "num_hidden_layers": sizes["text_layers"],
        "num_attention_heads": sizes["text_heads"], "max_position_embeddings": context,
        "hidden_act": activation, "projection_dim": sizes["projection"],
    }  # fmt: skip
    vision = {
        "hidden_size": sizes["width"], "intermediate_size": 4 * sizes["width"],
        "num_hidden_layers": sizes["layers"], "num_attention_heads": sizes["heads"],
        "num_channels": channels, "image_size": image_size, "patch_size": sizes["patch_size"],
        "hidden_act": activation, "projection_dim": sizes["projection"],
    }  # fmt: skip
    # the network never looks at the marks' ids; CLIP's are its last two
    marks = {"pad_token_id": 0, "bos_token_id": max(0, vocab_size - 2), "eos_token_id": vocab_size - 1}
    return CLIPConfig(
        text_config={**text, **marks}, vision_config=vision, projection_dim=sizes["projection"],
        logit_scale_init_value=SCALE,
    )  # fmt: skip


class ClipNetwork(nn.Module):
    """Unit features of pictures and texts, and the scale of their products.

    Args:
        sizes: those of :data:`SIZES`.
        image_size: S.
        channels: C.
        vocab_size: entries of the tokenizer.
        context: positions of the text encoder.
        activation: of the feed-forward layers.
        sigmoid: with SigLIP's bias, and its first scale.
        pixels: mean and deviation of each channel, which pictures in [0, 1] are standardised by.

    *Shapes*: pictures (B, C, S, S), ids (B, L) and lengths (B,) -> features (B, P) of both.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        sizes: Mapping[str, int],
        image_size: int,
        channels: int,
        vocab_size: int,
        context: int,
        activation: str = "quick_gelu",
        sigmoid: bool = False,
        pixels: Sequence[Sequence[float]] = PIXELS,
    ) -> None:
        super().__init__()
        from transformers import CLIPModel

        self.clip: Any = CLIPModel(
            config_of(sizes, image_size, channels, vocab_size, context, activation)
        ).train()
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS)) if sigmoid else None
        if sigmoid:
            nn.init.constant_(self.clip.logit_scale, SIGMOID_SCALE)
        for name, values in zip(("mean", "deviation"), pixels, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def image_features(self, image: Tensor) -> Tensor:
        """Of pictures in [0, 1]."""
        states = self.clip.vision_model(pixel_values=(image - self.mean) / self.deviation)
        return unit(self.clip.visual_projection(states.pooler_output))

    def text_features(self, ids: Tensor, length: Tensor) -> Tensor:
        """Of texts with their marks: the state of the last of them, whatever its id. Attention is causal, so
        that padding behind it is not seen."""
        states = self.clip.text_model(input_ids=ids).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), length - 1]
        return unit(self.clip.text_projection(last))

    def forward(self, image: Tensor, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        return self.image_features(image), self.text_features(ids, length)

    def scale(self) -> Tensor:
        """exp(s), of CLIP at most 100."""
        s = self.clip.logit_scale.float()
        return (s if self.bias is not None else s.clamp(max=MOST_SCALE)).exp()

    @torch.no_grad()
    def bound_scale(self) -> None:
        """s itself goes back to its bound, where it would stand without a gradient."""
        if self.bias is None:
            self.clip.logit_scale.clamp_(max=MOST_SCALE)
