"""Sequence-to-sequence models of transformers with the interface of our encoder-decoders."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.encoder_decoder import Encoded, State
from zoo.nn.tied import keep_one_name

# What a kind of model is used to: ids before and behind a source, and behind the decoder's start.
ENDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "bart": (("bos",), ("eos",), ("bos",)),
    "marian": ((), ("eos",), ()),
    "t5": ((), ("eos",), ()),
    "pegasus": ((), ("eos",), ()),
    "blenderbot": ((), ("eos",), ()),
    "blenderbot-small": ((), ("eos",), ()),
}


class PretrainedSeq2Seq(nn.Module):
    """A model of transformers with the interface of :class:`zoo.nn.encoder_decoder.EncoderDecoder`.

    Sources get the ends that the model is used to here, so that data need not know them, and BOS at the
    beginning of a target is replaced by the model's own start.

    Args:
        model: ``AutoModelForSeq2SeqLM``.
        pad: id that the data pad with.
    """

    def __init__(self, model: Any, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad
        config = model.config
        self.width: int = config.d_model
        self.vocabulary: int = config.vocab_size
        ids = {"bos": getattr(config, "bos_token_id", None), "eos": config.eos_token_id}
        before, after, start = ENDS[config.model_type]
        self.before, self.after = ([ids[k] for k in names] for names in (before, after))
        self.start = [config.decoder_start_token_id, *(ids[k] for k in start)]
        keep_one_name(self, model)

    def word_table(self) -> Tensor:
        """Embeddings of the source words (V, d), without positions and scale."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def encode(self, ids: Tensor, extra: Tensor | None = None) -> Encoded:
        """See :meth:`zoo.nn.encoder_decoder.EncoderDecoder.encode`; the memory has the ends, too."""
        lengths = (ids != self.pad).sum(dim=1)
        front = len(self.before)
        width = ids.shape[1] + front + len(self.after)
        source = ids.new_full((len(ids), width), self.pad)
        source[:, front : front + ids.shape[1]] = ids
        for place, token in enumerate(self.before):
            source[:, place] = token
        rows = torch.arange(len(ids), device=ids.device)
        for place, token in enumerate(self.after):
            source[rows, front + lengths + place] = token
        mask = torch.arange(width, device=ids.device) < (front + lengths + len(self.after))[:, None]
        encoder, table = self.model.get_encoder(), self.model.get_input_embeddings()
        embedded = table(source)
        # the scale of words is the table's in BART and the encoder's in Marian, which leaves it out of
        # embeddings that it is given
        own = getattr(table, "embed_scale", None)
        if extra is not None:
            extra = nn.functional.pad(extra, (0, 0, front, len(self.after)))
            embedded = embedded + (1.0 if own is None else own) * extra
        if own is None:
            embedded = embedded * getattr(encoder, "embed_scale", 1.0)
        states = encoder(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
        return Encoded(states, mask)

    def _started(self, prefix: Tensor) -> Tensor:
        start = torch.tensor(self.start, device=prefix.device).expand(len(prefix), -1)
        return torch.cat([start, prefix[:, 1:]], dim=1)

    def _decoded(self, tokens: Tensor, encoded: Encoded, past: Any, cached: bool) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states),
            attention_mask=encoded.mask.long(),
            decoder_input_ids=tokens,
            past_key_values=past,
            use_cache=cached,
        )

    def decode(self, prefix: Tensor, encoded: Encoded) -> Tensor:
        """Logits (B, T, V) after each token of a prefix that begins with BOS."""
        logits: Tensor = self._decoded(self._started(prefix), encoded, None, False).logits
        return logits[:, len(self.start) - 1 :]

    def begin(self, encoded: Encoded) -> State:
        """A state before the first token."""
        return State(encoded, None, 0, _reordered)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, V) of the next token, with the model's own cache."""
        tokens = tokens[:, None] if state.length else self._started(tokens[:, None])
        found = self._decoded(tokens, state.encoded, state.past, True)
        return found.logits[:, -1], dataclasses.replace(
            state, past=found.past_key_values, length=state.length + 1
        )


def _reordered(past: Any, rows: Tensor) -> Any:
    past.reorder_cache(rows)
    return past
