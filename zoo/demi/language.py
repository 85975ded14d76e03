"""Causal language models of transformers: states, likelihoods of responses, and decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.hub.foreign import checked_folder, read_json
from zoo.nn.decoding import beam_search, generate
from zoo.nn.encoder_decoder import Encoded, State
from zoo.nn.tied import keep_one_name

# Their logits are the output table times the last states, so that those of the responses alone can be had.
FAMILIES = ("gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2")
_GPT2 = {"": (768, 12, 12), "-medium": (1024, 24, 16), "-large": (1280, 36, 20), "-xl": (1600, 48, 25)}
KNOWN: dict[str, dict[str, Any]] = {
    f"{owner}gpt2{size}": {"model_type": "gpt2", "n_embd": d, "n_layer": layers, "n_head": heads}
    for owner in ("", "openai-community/")
    for size, (d, layers, heads) in _GPT2.items()
}
"""Sizes of published models by hub id; ``gpt2`` is the family with the sizes of its small model, too."""
_LIMIT = 10**6
_SIZED = ("embd", "layer", "layers", "head", "heads", "size", "inner", "positions", "embeddings")


def settings(backbone: str, sizes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entries of a config that make the network: ``model_type`` and sizes.

    Args:
        backbone: hub id, folder with a ``config.json``, or a family of :data:`FAMILIES`.
        sizes: take the place of single entries.

    Raises:
        FileNotFoundError, ValueError: for no causal language model, and for entries that make no sense.
    """
    if backbone in KNOWN:
        found: dict[str, Any] = dict(KNOWN[backbone])
    elif backbone in FAMILIES:
        found = {"model_type": backbone}
    else:
        found = _read(backbone)
    found |= sizes or {}
    if found.get("model_type") not in FAMILIES:
        raise ValueError(
            f"model.init_args.backbone {backbone} is a {found.get('model_type')}; known are "
            f"{', '.join(FAMILIES)}"
        )
    for key, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if key.endswith(_SIZED) else -_LIMIT
        if number and not least <= value <= _LIMIT:
            raise ValueError(f"model.init_args.sizes.{key} is {value}, no size of a network")
    return found


def _read(backbone: str) -> dict[str, Any]:
    path = Path(backbone)
    if path.is_dir():
        content: Any = read_json(path / "config.json")
    else:
        from transformers import AutoConfig

        try:
            content = AutoConfig.from_pretrained(backbone, trust_remote_code=False).to_dict()
        except Exception as error:  # of the library anything may come
            raise ValueError(
                f"model.init_args.backbone {backbone!r} is no family ({', '.join(FAMILIES)}), no folder, no "
                f"model of the hub that can be had ({_line(error)})"
            ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{backbone}: its config.json is no object")
    plain = (bool, int, float, str)
    dropped = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    return {k: v for k, v in content.items() if isinstance(v, plain) and k not in dropped}


def config_of(found: Mapping[str, Any], vocab_size: int, eos: int) -> Any:
    """The transformers config of :func:`settings`.

    Raises:
        ValueError: for entries that the family does not have, or that make no network.
    """
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[found["model_type"]]
    known = cls()
    if unknown := [k for k in found if not hasattr(known, k)]:
        raise ValueError(f"model.init_args.sizes: {found['model_type']} has no entry {unknown[0]!r}")
    entries = {k: v for k, v in found.items() if k != "model_type"}
    entries |= {"vocab_size": vocab_size, "eos_token_id": eos, "bos_token_id": eos, "pad_token_id": None}
    try:
        return cls(**entries)
    except Exception as error:  # transformers checks the types by a class of its own
        raise ValueError(
            f"model.init_args.sizes does not make a {found['model_type']}: {_line(error)}"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def start_from(model: CausalLM, source: str) -> str:
    """Load pretrained weights, of a hub id or a folder of transformers; returns what was found, in words.

    Raises:
        ValueError: one line where there are none, or they do not fit.
    """
    from transformers import AutoModelForCausalLM

    with checked_folder(Path(source)):
        try:
            found = AutoModelForCausalLM.from_pretrained(
                source, trust_remote_code=False, use_safetensors=True
            )
        except Exception as error:  # of the library anything may come
            where = "the folder" if Path(source).is_dir() else "the hub's"
            raise ValueError(f"{where} {source} is no causal language model: {_line(error)}") from None
    state, wanted = found.state_dict(), model.model.state_dict()
    for name, value in wanted.items():
        if name not in state or state[name].shape != value.shape:
            given = list(state[name].shape) if name in state else "missing"
            raise ValueError(
                f"{source} does not fit: {name} is {given}, the model wants {list(value.shape)}; leave "
                "model.init_args.sizes out, and take its own tokenizer (data.init_args.tokenizer)"
            )
    model.model.load_state_dict({k: state[k] for k in wanted})
    return f"{source} ({sum(p.numel() for p in model.parameters()):,} parameters)"


class CausalLM(nn.Module):
    """A model of transformers with the interface of :mod:`zoo.nn.decoding`.

    Sequences are padded on the right and read without a mask: what is behind a token is not seen by it.

    Args:
        config: of transformers.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_config(config)
        self.width = int(config.hidden_size)
        self.vocabulary = int(config.vocab_size)
        self.positions = int(config.max_position_embeddings)
        keep_one_name(self, self.model)

    def forward(self, ids: Tensor) -> Tensor:
        """Last states (B, T, d) of ids (B, T)."""
        states: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Of the next token, (..., V), of states (..., d)."""
        found: Tensor = self.model.get_output_embeddings()(states)
        return found

    def log_likelihood(self, states: Tensor, ids: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        """log p of the tokens at places begin .. end - 1 of each row, given all before them, (B, T).

        Args:
            states: (B, T, d) of ``ids``.
            ids: (B, T).
            begin: (B,), at least 1.
            end: (B,).

        Returns:
            0 at all other places.
        """
        place = torch.arange(ids.shape[1], device=ids.device)
        chosen = (place >= begin[:, None]) & (place < end[:, None])
        before = chosen.roll(-1, dims=1)  # place 0 is never chosen
        logits = self.logits(states[before])  # (N, V): those of the responses alone
        nll = functional.cross_entropy(logits.float(), ids[chosen], reduction="none")
        return torch.zeros_like(ids, dtype=nll.dtype).masked_scatter(chosen, -nll)

    # --- decoding -----------------------------------------------------------------------------------------

    def begin(self, encoded: Encoded) -> State:
        """A state before the first token of a response; ``encoded.states`` are the prompt's ids (B, S), read
        where ``encoded.mask`` is true, which is on the right."""
        return State(encoded, None, 0, _reordered)

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
        found = self.model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=state.past,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits = functional.pad(found.logits[:, -1], (0, 1), value=float("-inf"))
        return logits, dataclasses.replace(state, past=found.past_key_values, length=state.length + 1)

    def respond(
        self,
        history: Tensor,
        length: Tensor,
        most: int,
        eos: int,
        uniform: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        beams: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Responses to histories: ids (B, Y), the EOS that ends one included, and their lengths.

        Args:
            history: (B, H), padded on the right.
            length: (B,) of its tokens.
            most: tokens of a response.
            eos: id.
            uniform: (most, B) in [0, 1), of which draws are a function; None takes the likeliest.
            temperature: of a draw.
            top_k: of a draw.
            beams: more than one searches.
        """
        width = int(length.max())
        place = torch.arange(width, device=history.device) - (width - length)[:, None]
        mask = place >= 0
        prompt = Encoded(history.gather(1, place.clamp(min=0)), mask)
        none = self.vocabulary
        if beams > 1:
            found = beam_search(self, prompt, beams, most, none, eos, none)[0][:, 0]
        else:
            found = generate(self, prompt, most, none, eos, none, uniform, temperature, top_k)
        lengths = (found != none).sum(dim=1)
        return torch.where(found == none, eos, found), lengths


def _reordered(past: Any, rows: Tensor) -> Any:
    past.reorder_cache(rows)
    return past


def joined(
    first: Tensor, first_length: Tensor, second: Tensor, second_length: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows of two padded tensors of ids one behind the other, (B, T), and their lengths (B,)."""
    ends = first_length + second_length
    width = max(int(ends.max()), first.shape[1])
    out = functional.pad(first, (0, width - first.shape[1]))
    place = torch.arange(second.shape[1], device=first.device)
    inside = place < second_length[:, None]
    rows = torch.arange(len(first), device=first.device)[:, None].expand_as(inside)
    out[rows[inside], (first_length[:, None] + place)[inside]] = second[inside]
    return out, ends


def at_end(states: Tensor, lengths: Tensor) -> Tensor:
    """The state (B, d) of each row's last token."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def padded(rows: Sequence[Sequence[int]], device: Any = None) -> tuple[Tensor, Tensor]:
    """Ids as (B, T) with zeros behind, and lengths."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=device)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out, lengths
