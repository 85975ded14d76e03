"""ESM-2 and BERT of transformers, built from plain sizes, with a head for properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.language.masked.residues import CLS, EOS, FIRST, PAD
from zoo.nn.tied import keep_one_name

Arch = Literal["esm", "bert"]
Model = Literal["esm2-8m", "esm2-35m", "esm2-150m", "esm2-650m", "esm2-3b", "bert-base"]
SIZES = ("width", "layers", "heads", "hidden", "context")
SHAPES: dict[str, tuple[Arch, tuple[int, int, int, int, int]]] = {
    "esm2-8m": ("esm", (320, 6, 20, 1280, 1026)),
    "esm2-35m": ("esm", (480, 12, 20, 1920, 1026)),
    "esm2-150m": ("esm", (640, 30, 20, 2560, 1026)),
    "esm2-650m": ("esm", (1280, 33, 20, 5120, 1026)),
    "esm2-3b": ("esm", (2560, 36, 40, 10240, 1026)),
    "bert-base": ("bert", (768, 12, 12, 3072, 512)),
}
"""Name -> architecture and width, layers, heads, hidden, context."""


def config_of(
    arch: Arch, vocab_size: int, sizes: Mapping[str, int], dropout: float, token_dropout: bool
) -> Any:
    """The configuration of transformers."""
    common: dict[str, Any] = {
        "vocab_size": vocab_size, "pad_token_id": PAD, "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"], "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["hidden"], "max_position_embeddings": sizes["context"],
        "hidden_dropout_prob": float(dropout), "attention_probs_dropout_prob": float(dropout),
    }  # fmt: skip
    if arch == "bert":
        from transformers import BertConfig

        return BertConfig(**common, bos_token_id=CLS, eos_token_id=EOS)
    from transformers import EsmConfig

    return EsmConfig(
        **common, mask_token_id=vocab_size - 1, layer_norm_eps=1e-5, position_embedding_type="rotary",
        emb_layer_norm_before=False, token_dropout=token_dropout, eos_token_id=EOS, bos_token_id=CLS,
    )  # fmt: skip


class MaskedNetwork(nn.Module):
    """Logits of every token, or, with ``outputs``, a property head on the mean state of the residues.

    *Shapes*: ids (B, T) -> (B, T, V), or (B, outputs).

    Args:
        arch: ``esm`` or ``bert``.
        vocab_size: V.
        sizes: width, layers, heads, hidden, context.
        dropout: of states, attention and head.
        token_dropout: of ``esm``: embeddings of masked tokens are 0 and the others scaled up to what training
            masks (12 %) leave.
        outputs: of the head, which takes the place of the language model's; None keeps that.
    """

    def __init__(
        self,
        arch: Arch,
        vocab_size: int,
        sizes: Mapping[str, int],
        dropout: float = 0.0,
        token_dropout: bool = True,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        from transformers import BertForMaskedLM, EsmForMaskedLM

        self.arch = arch
        config = config_of(arch, vocab_size, sizes, dropout, token_dropout)
        kind: Any = EsmForMaskedLM if arch == "esm" else BertForMaskedLM
        self.model = kind(config)
        if arch == "esm":  # a regression is fitted to it, no gradient
            self.trunk.contact_head.requires_grad_(False)
        if outputs is not None:  # a head without a gradient would stop several processes
            setattr(self.model, "lm_head" if arch == "esm" else "cls", None)
        self.head = None if outputs is None else PropertyHead(sizes["width"], outputs, dropout)
        keep_one_name(self, self.model)

    @property
    def trunk(self) -> Any:
        """The model without its heads."""
        return self.model.base_model

    def forward(self, ids: Tensor) -> Tensor:
        attention = (ids != PAD).long()
        if self.head is not None:
            return self.head(self.pooled(self.states(ids)[-1], ids))
        logits: Tensor = self.model(input_ids=ids, attention_mask=attention).logits
        return logits

    def states(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(B, T, d) of the embeddings and behind each layer; the last is normalised."""
        found = self.trunk(input_ids=ids, attention_mask=(ids != PAD).long(), output_hidden_states=True)
        return (*found.hidden_states[:-1], found.last_hidden_state)

    @staticmethod
    def pooled(states: Tensor, ids: Tensor) -> Tensor:
        """(B, d): the mean over residues, ends and padding left out."""
        real = (ids >= FIRST)[..., None].to(states.dtype)
        return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def attentions(self, ids: Tensor) -> Tensor:
        """(B, layers, heads, T, T), 0 at padding."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")  # the fused one gives none
        try:
            attention = (ids != PAD).long()
            found = self.trunk(input_ids=ids, attention_mask=attention, output_attentions=True).attentions
        finally:
            self.model.set_attn_implementation(before)
        real = attention[:, None, None, :, None] * attention[:, None, None, None, :]
        return torch.stack(found, dim=1) * real


class PropertyHead(nn.Module):
    """``W2 tanh(W1 h)`` with dropout before both."""

    def __init__(self, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.outer(self.dropout(torch.tanh(self.inner(self.dropout(pooled)))))
        return out
