"""A transformer of the Hugging Face hub as encoder: the state of each word's first sub-token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class SubTokens:
    """A batch as sub-tokens.

    Attributes:
        ids: int64 (B, S).
        attention: int64 (B, S), 0 at padding.
        first: int64 (B, T) place of each word's first sub-token; 0 at padding.
        lengths: int64 (B,) words.
    """

    ids: Tensor
    attention: Tensor
    first: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Real words, bool (B, T)."""
        return torch.arange(self.first.shape[1], device=self.first.device) < self.lengths[:, None]


class TransformerEncoder(nn.Module):
    """*Shapes*: :class:`SubTokens` -> (B, T, hidden).

    Args:
        backbone: id on the hub, or a folder with ``config.json``, ``model.safetensors`` and a fast tokenizer.
        dropout: on its output, beside its own.

    Raises:
        ValueError: for what cannot be loaded.
    """

    def __init__(self, backbone: str, dropout: float) -> None:
        super().__init__()
        self.tokenizer, self.model = _load(backbone)
        self.dropout = nn.Dropout(dropout)
        self.width = int(self.model.config.hidden_size)
        self.most = int(getattr(self.model.config, "max_position_embeddings", 512))

    def encode(self, sentences: Sequence[Sequence[str]], device: torch.device | str = "cpu") -> SubTokens:
        """Words as sub-tokens.

        Raises:
            ValueError: for a sentence with more sub-tokens than positions.
        """
        got = self.tokenizer([list(s) for s in sentences], is_split_into_words=True, add_special_tokens=True)
        longest, most = max(map(len, got["input_ids"])), max(map(len, sentences))
        if longest > self.most:
            raise ValueError(
                f"a sentence takes {longest} sub-tokens, the backbone has {self.most} positions; leave out "
                "long ones with data.init_args.max_words"
            )
        pad = self.tokenizer.pad_token_id or 0
        ids, attention = (
            torch.full((len(sentences), longest), pad),
            torch.zeros(len(sentences), longest, dtype=torch.long),
        )
        first = torch.zeros(len(sentences), most, dtype=torch.long)
        for row, tokens in enumerate(got["input_ids"]):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            attention[row, : len(tokens)] = 1
            places: dict[int, int] = {}
            for place, word in enumerate(got.word_ids(row)):
                if word is not None:
                    places.setdefault(word, place)
            # a word of characters that the tokenizer drops has no sub-token: the place of the first mark
            for word in range(len(sentences[row])):
                first[row, word] = places.get(word, 0)
        lengths = torch.tensor([len(s) for s in sentences])
        return SubTokens(*(t.to(device) for t in (ids, attention, first, lengths)))

    def forward(self, batch: SubTokens) -> Tensor:
        states = self.model(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state
        words = states.gather(1, batch.first[..., None].expand(-1, -1, states.shape[2]))
        return self.dropout(words) * batch.mask[..., None]


def _load(backbone: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # else a table of the head's weights, of which an encoder has no use
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbone, use_fast=True, trust_remote_code=False)
        if torch.get_default_device().type == "meta":
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
            model = AutoModel.from_config(config, trust_remote_code=False)
        else:
            model = AutoModel.from_pretrained(backbone, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model.init_args.backbone {backbone!r} cannot be loaded: {reason}") from None
    finally:
        logging.set_verbosity(level)
    if not tokenizer.is_fast:
        raise ValueError(
            f"model.init_args.backbone {backbone!r} has no fast tokenizer, which tells words apart"
        )
    return tokenizer, model.train()  # it comes in eval mode: its dropout would be off
