"""Text that belongs to a network as its weights do: a tokenizer, a vocabulary, names of tags.

It lies in the state dict as bytes, so that checkpoints, safetensors and ``zoo.load`` carry it and no size of
it has to be known before it is read.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

_LONGEST = 64 * 2**20  # bytes; the largest tokenizers of the hub have 20 million


class KeptText(nn.Module):
    """A JSON document among the weights; empty until the data are known.

    Attributes:
        text: the document, or "".
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.text = text

    @property
    def value(self) -> Any:
        """What the document says; None while it is empty."""
        return json.loads(self.text) if self.text else None

    def fill(self, text: str, whose: str = "the data") -> None:
        """Take ``text``, the first time; compare it, later.

        Raises:
            ValueError: if the weights were trained with another one.
        """
        if self.text and self.text != text:
            raise ValueError(self.differs(text, whose))
        self.text = text

    def differs(self, text: str, whose: str) -> str:
        """In one line, what is other in ``text`` and what to do."""
        return (
            f"the weights were trained with another vocabulary than that of {whose}: take the data that they "
            "were trained on, or train anew"
        )

    def get_extra_state(self) -> Tensor:
        return torch.frombuffer(bytearray(self.text.encode() or b" "), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take what a file holds.

        Raises:
            ValueError: for what is no JSON document in UTF-8.
        """
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError("the vocabulary among the weights is no text")
        if len(state) > _LONGEST:
            raise ValueError(
                f"the vocabulary among the weights has {len(state):,} bytes, more than {_LONGEST:,}"
            )
        try:
            text = bytes(state.cpu().numpy()).decode().strip()
            if text:
                json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("the vocabulary among the weights is no JSON document") from None
        self.text = text
