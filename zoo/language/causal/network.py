"""A causal language model of transformers, with documents packed into rows and a cache for decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.language.adaptation import (
    Adapt,
    Virtual,
    add_adapters,
    add_ia3,
    add_lora,
    keep_plain_names,
    merged,
)
from zoo.language.initial import initialise, without_biases
from zoo.language.packing import attention_mask, is_plain
from zoo.language.shapes import config_of
from zoo.nn.decoding import beam_search, generate
from zoo.nn.encoder_decoder import Encoded, State
from zoo.nn.tied import keep_one_name


@dataclass(frozen=True)
class Adaptation:
    """What learns beside frozen weights, see :mod:`zoo.language.adaptation`.

    Attributes:
        kind: ``lora``, ``ia3``, ``adapters``, ``prefix`` or ``prompt``.
        rank: of LoRA.
        alpha: of LoRA; null is twice the rank.
        targets: layers of LoRA and IA3.
        by_root: rsLoRA.
        tokens: of a prefix or prompt.
        bottleneck: units of an adapter.
    """

    kind: Adapt
    rank: int = 8
    alpha: float | None = None
    targets: Sequence[str] | None = None
    by_root: bool = False
    tokens: int = 20
    bottleneck: int = 64

    def add_to(self, network: CausalNetwork) -> None:
        """Freeze the network's weights and put new ones beside them."""
        if self.kind == "lora":
            add_lora(network.model, self.rank, self.alpha, self.targets, self.by_root)
        elif self.kind == "ia3":
            add_ia3(network.model, self.targets)
        elif self.kind == "adapters":
            add_adapters(network.model, self.bottleneck)
        else:
            network.virtual = Virtual(network.model, self.tokens, self.kind == "prefix")


class CausalNetwork(nn.Module):
    """Logits of the next token.

    Args:
        sizes: of :func:`zoo.language.shapes.sizes_of`.
        dropout: rate.
        adaptation: of :class:`Adaptation`; null trains all weights.

    Attributes:
        model: ``GPT2LMHeadModel`` or ``LlamaForCausalLM``.
    """

    def __init__(
        self, sizes: Mapping[str, Any], dropout: float = 0.0, adaptation: Adaptation | None = None
    ) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_config(config_of(sizes, dropout))
        self.vocabulary, self.context = int(sizes["vocab_size"]), int(sizes["context"])
        self.layers, self.width = int(sizes["layers"]), int(sizes["width"])
        self.has_biases = bool(sizes["bias"])
        if not self.has_biases:
            without_biases(self.model)
        initialise(self.model, self.layers)
        self.virtual: Virtual | None = None
        if adaptation is not None:
            adaptation.add_to(self)
        self.is_wrapped = any(hasattr(m, "base_layer") for m in self.model.modules())
        # weights lose their plain names before those of tied ones are asked for, and get them back after
        keep_plain_names(self)
        keep_one_name(self, self.model)

    @property
    def prompted(self) -> int:
        """Positions that a learned prompt takes."""
        return self.virtual.count if self.virtual is not None and not self.virtual.is_prefix else 0

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L blocks, from the first to the last."""
        base = self.model.base_model
        found: Sequence[nn.Module] = base.h if hasattr(base, "h") else base.layers
        return found

    def plain(self) -> Any:
        """A model that transformers reads: the same, but with biases of 0 where this one has none, and LoRA
        and IA3 merged.

        Raises:
            ValueError: for what its layers have no place for.
        """
        from transformers import AutoModelForCausalLM

        if self.virtual is not None:
            raise ValueError(
                "a prefix or prompt is no part of a plain model: transformers has no place for it"
            )
        model = merged(self.model) if self.is_wrapped else self.model
        if self.has_biases:
            return model
        made = AutoModelForCausalLM.from_config(model.config)
        state = model.state_dict()
        zeros = {k: torch.zeros_like(v) for k, v in made.state_dict().items() if k not in state}
        made.load_state_dict({**zeros, **state})
        return made.eval()

    def checkpoint_activations(self) -> None:
        """Compute each block a second time in the backward pass instead of keeping what it computed."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def compile_blocks(self) -> None:
        """Compile each block in place; names of weights stay."""
        for block in self.blocks:
            block.compile()

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of the token after each place.

        Args:
            ids: (B, T).
            positions: (B, T) of each token in its document; null counts from the row's beginning.
            documents: (B, T), see :func:`zoo.language.packing.attention_mask`; null is one a row.
        """
        if self.virtual is not None:
            return self._behind(self.virtual, ids, positions, documents)
        if is_plain(documents, positions):
            found = self.model(input_ids=ids, use_cache=False)
        else:
            # without a mask transformers reads documents off the positions by itself
            mask = attention_mask(torch.ones_like(ids) if documents is None else documents)
            found = self.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
        logits: Tensor = found.logits
        return logits

    def _behind(
        self, virtual: Virtual, ids: Tensor, positions: Tensor | None, documents: Tensor | None
    ) -> Tensor:
        """:meth:`forward` behind a prefix or prompt, which every document sees."""
        rows, length = ids.shape
        count = virtual.count
        mask = attention_mask(torch.ones_like(ids) if documents is None else documents)
        seen = mask.new_ones(rows, 1, length, count)
        if positions is None:
            positions = torch.arange(length, device=ids.device).expand(rows, -1)
        if virtual.is_prefix:
            found: Tensor = self.model(
                input_ids=ids, position_ids=positions, attention_mask=torch.cat([seen, mask], dim=3),
                past_key_values=virtual.cache(rows, self.model.config), use_cache=True,
            ).logits  # fmt: skip
            return found
        own = attention_mask(torch.ones(rows, count, dtype=torch.long, device=ids.device))
        whole = torch.cat([functional.pad(own, (0, length)), torch.cat([seen, mask], dim=3)], dim=2)
        places = torch.arange(count, device=ids.device).expand(rows, -1)
        found = self.model(
            inputs_embeds=virtual.before(self.model.get_input_embeddings()(ids)), attention_mask=whole,
            position_ids=torch.cat([places, positions + count], dim=1), use_cache=False,
        ).logits  # fmt: skip
        return found[:, count:]

    # --- decoding -----------------------------------------------------------------------------------------

    def begin(self, encoded: Encoded) -> State:
        """A state before the first new token; ``encoded.states`` are the prompt's ids (B, S), read where
        ``encoded.mask`` is true, which is on the right."""
        past = None
        if self.virtual is not None and self.virtual.is_prefix:
            past = self.virtual.cache(len(encoded.states), self.model.config)
        return State(encoded, past, 0, _reordered)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (B, V + 1) of the next token; the last one stands for none and is what ended rows get."""
        prompt = state.encoded
        mask = prompt.mask.long()
        if state.length:
            mask = functional.pad(mask, (0, state.length), value=1)
            ids = tokens.clamp(max=self.vocabulary - 1)[:, None]
        else:
            ids = prompt.states
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given: dict[str, Any] = {"input_ids": ids}
        if self.virtual is not None:
            mask = functional.pad(mask, (self.virtual.count, 0), value=1)
            if not self.virtual.is_prefix:
                places = places + self.virtual.count
                if not state.length:
                    embedded = self.virtual.before(self.model.get_input_embeddings()(ids))
                    given = {"inputs_embeds": embedded}
                    first = torch.arange(self.virtual.count, device=ids.device).expand(len(ids), -1)
                    places = torch.cat([first, places], dim=1)
        found = self.model(
            **given, attention_mask=mask, position_ids=places, past_key_values=state.past, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        logits = functional.pad(found.logits[:, -1], (0, 1), value=float("-inf"))
        return logits, dataclasses.replace(state, past=found.past_key_values, length=state.length + 1)

    @torch.no_grad()
    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        eos: int | None,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        beams: int = 1,
        length_penalty: float = 0.0,
        never: Sequence[int] = (),
    ) -> list[list[int]]:
        """What follows each prompt: new tokens without the EOS that ended them.

        A prompt that is longer than the context less ``most`` loses its beginning.

        Args:
            prompts: of at least one token each.
            most: new tokens.
            eos: id that ends a row; null has none.
            uniform: (most, B) in [0, 1), of which draws are a function; null takes the likeliest.
            temperature: of a draw.
            top_k: of a draw.
            top_p: of a draw.
            beams: more than one searches.
            length_penalty: of the search.
            never: ids that are not chosen.
        """
        device = self.model.get_input_embeddings().weight.device
        room = self.context - most - self.prompted
        kept = [list(p)[-room:] for p in prompts]
        width, none = max(map(len, kept)), self.vocabulary
        ids = torch.zeros(len(kept), width, dtype=torch.long)
        mask = torch.zeros(len(kept), width, dtype=torch.bool)
        for row, prompt in enumerate(kept):  # on the right, so that all rows go on at one place
            ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask[row, width - len(prompt) :] = True
        encoded, end = Encoded(ids.to(device), mask.to(device)), none if eos is None else eos
        if beams > 1:
            found = beam_search(self, encoded, beams, most, none, end, none, length_penalty, never)[0][:, 0]
        else:
            found = generate(self, encoded, most, none, end, none, uniform, temperature, top_k, top_p, never)
        return [[t for t in row if t not in (none, end)] for row in found.tolist()]


def _reordered(past: Any, rows: Tensor) -> Any:
    past.reorder_cache(rows)
    return past
