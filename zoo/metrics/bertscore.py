"""BERTScore (Zhang et al., ICLR 2020) over an encoder of transformers that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from zoo.hub.foreign import checked_folder

KEYS = ("bertscore_precision", "bertscore_recall", "bertscore_f1")


def matched(candidate: Tensor, reference: Tensor) -> Tensor:
    """Precision, recall and F1 (3,) of token vectors (N, d) and (M, d); 0 where a text has no token.

    P = mean_i max_j cos(c_i, r_j), R = mean_j max_i cos(c_i, r_j), F = 2 P R / (P + R) (Sec. 3), no idf, no
    rescaling.
    """
    if not len(candidate) or not len(reference):
        return candidate.new_zeros(3)
    cosines = functional.normalize(candidate, dim=1) @ functional.normalize(reference, dim=1).T
    precision, recall = cosines.amax(dim=1).mean(), cosines.amax(dim=0).mean()
    total = precision + recall
    f1 = 2 * precision * recall / total if total else total  # nothing alike: 0, not 0 / 0
    return torch.stack([precision, recall, f1])


class BertScore(Metric):
    """Means over texts of :func:`matched`, special tokens left out, and how many texts were cut.

    Args:
        source: folder of an encoder of transformers with its tokenizer, or a hub id; of an encoder-decoder
            the encoder is taken. It is read when the first text comes.
        layer: states that are compared, 0 those of the embeddings; null is the last. The paper has 17 for
            ``roberta-large``.
    """

    full_state_update = False
    totals: Tensor
    items: Tensor
    truncated: Tensor

    def __init__(self, source: str, layer: int | None = None) -> None:
        super().__init__()
        self.source, self.layer = source, layer
        self._made: tuple[Any, Any] | None = None  # a tuple: its weights are no part of anybody's
        self.add_state("totals", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("truncated", torch.tensor(0), dist_reduce_fx="sum")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": None}

    @property
    def protocol(self) -> str:
        """For the row of a table."""
        layer = "last layer" if self.layer is None else f"layer {self.layer}"
        return f"BERTScore of {Path(self.source).name}, {layer}, no idf, no rescaling"

    @property
    def model(self) -> tuple[Any, Any]:
        """Tokenizer and encoder.

        Raises:
            OSError, ValueError: one line on a folder that holds none, or a layer that it does not have.
        """
        if self._made is None:
            self._made = _read(self.source)
        tokenizer, encoder = self._made
        layers = encoder.config.num_hidden_layers
        if self.layer is not None and self.layer > layers:
            raise ValueError(
                f"BERTScore: {self.source} has {layers} layers, layer {self.layer} was asked for"
            )
        return tokenizer, encoder.to(self.device)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> list[Tensor]:
        """States (N, d) of the ordinary tokens of each text, as many as the encoder has positions for; texts
        with more are cut and counted."""
        tokenizer, encoder = self.model
        room = min(tokenizer.model_max_length, positions_of(encoder))
        whole = tokenizer(list(texts), verbose=False)["input_ids"]
        self.truncated += sum(len(ids) > room for ids in whole)
        given = tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=room,
            return_special_tokens_mask=True,
        )  # fmt: skip
        ordinary = given.pop("special_tokens_mask").to(self.device) == 0
        ids, mask = given["input_ids"].to(self.device), given["attention_mask"].to(self.device)
        states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        found = states[-1 if self.layer is None else self.layer].float()
        return [row[keep] for row, keep in zip(found, ordinary & mask.bool(), strict=True)]

    def update(self, generated: Sequence[str], references: Sequence[str]) -> None:
        for a, b in zip(self.vectors(generated), self.vectors(references), strict=True):
            self.totals += matched(a, b).to(self.totals)
            self.items += 1

    def compute(self) -> dict[str, Tensor]:
        """Precision, recall and F1 by name, and ``bertscore_truncated``, a number of texts."""
        means = self.totals / self.items.clamp(min=1)
        return dict(zip(KEYS, means.float(), strict=True)) | {"bertscore_truncated": self.truncated.float()}


def positions_of(encoder: Any) -> int:
    """Tokens that an encoder takes: RoBERTa counts its positions from behind that of its pad, so that of 514
    it has 512 for tokens."""
    for name, part in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return int(getattr(encoder.config, "max_position_embeddings", 512))


def _read(source: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    with checked_folder(Path(source)):
        try:
            tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:160]
            raise ValueError(
                f"BERTScore: {source} is no folder of an encoder with its tokenizer, and no such model of "
                f"the hub can be had ({why})"
            ) from None
    if tokenizer.pad_token_id is None:
        raise ValueError(f"BERTScore: the tokenizer of {source} has no token that fills up")
    return tokenizer, (model.get_encoder() if model.config.is_encoder_decoder else model).eval()
