"""Sizes of language models by name, the transformers configs that they make, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_GPT2: dict[str, Any] = {"family": "gpt2", "tied": True, "context": 1024, "vocab_size": 50257}
_LLAMA: dict[str, Any] = {"family": "llama", "tied": False, "context": 2048, "vocab_size": 32000}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT2, "width": 768, "layers": 12, "heads": 12, "hidden": 3072},
    "gpt2-medium": {**_GPT2, "width": 1024, "layers": 24, "heads": 16, "hidden": 4096},
    "gpt2-large": {**_GPT2, "width": 1280, "layers": 36, "heads": 20, "hidden": 5120},
    "gpt2-xl": {**_GPT2, "width": 1600, "layers": 48, "heads": 25, "hidden": 6400},
    # nanoGPT's setting for a CPU: no biases, the exact GELU
    "nanogpt-cpu": {
        **_GPT2, "width": 128, "layers": 4, "heads": 4, "hidden": 512, "context": 64,
        "vocab_size": 259, "entries": {"activation_function": "gelu"}, "bias": False,
    },
    "llama-7b": {**_LLAMA, "width": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "hidden": 11008},
    "tiny-llama-bytes": {
        **_LLAMA, "width": 128, "layers": 4, "heads": 4, "kv_heads": 4, "hidden": 344, "context": 256,
        "tied": True, "vocab_size": 259,
    },
}  # fmt: skip
"""Named shapes; single sizes of one can be replaced."""
KEYS = {
    "gpt2": {"width": "n_embd", "layers": "n_layer", "heads": "n_head", "hidden": "n_inner",
             "context": "n_positions"},
    "llama": {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
              "kv_heads": "num_key_value_heads", "hidden": "intermediate_size",
              "context": "max_position_embeddings"},
}  # fmt: skip
"""Our names of sizes -> those of transformers, by family."""
ENTRIES = {
    "gpt2": ("activation_function", "layer_norm_epsilon", "scale_attn_weights",
             "scale_attn_by_inverse_layer_idx"),
    "llama": ("hidden_act", "rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias", "head_dim"),
}  # fmt: skip
"""Further entries of a config that change what its network computes."""


def sizes_of(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a named shape, those in ``given`` that are not null in the place of its own.

    Raises:
        ValueError: for an unknown name, and for sizes that do not go together.
    """
    if model not in SHAPES:
        raise ValueError(
            f"model.init_args.model {model!r} is no shape; known are {', '.join(SHAPES)}; weights of others "
            "come by model.init_args.pretrained"
        )
    sizes = {"kv_heads": None, "bias": True, "entries": {}, **SHAPES[model]}
    changed = {k: v for k, v in given.items() if v is not None}
    if sizes["family"] == "gpt2" and "kv_heads" in changed:
        raise ValueError(f"model.init_args.kv_heads: {model} has as many as heads; leave it out")
    if "heads" in changed and "kv_heads" not in changed and sizes["kv_heads"] is not None:
        sizes["kv_heads"] = changed["heads"]
    entries = changed.pop("entries", {})
    if unknown := [k for k in entries if k not in ENTRIES[sizes["family"]]]:
        raise ValueError(
            f"model.init_args.entries: {sizes['family']} has no entry {unknown[0]!r} here; known are "
            f"{', '.join(ENTRIES[sizes['family']])}"
        )
    sizes |= {**changed, "entries": {**sizes["entries"], **entries}}
    if sizes["width"] % sizes["heads"]:
        raise ValueError(
            f"model.init_args.width {sizes['width']} is no multiple of model.init_args.heads {sizes['heads']}"
        )
    if sizes["family"] == "llama":
        if sizes["heads"] % sizes["kv_heads"]:
            raise ValueError(
                f"model.init_args.heads {sizes['heads']} is no multiple of model.init_args.kv_heads "
                f"{sizes['kv_heads']}"
            )
        if sizes["width"] // sizes["heads"] % 2:
            raise ValueError(
                f"model.init_args.width {sizes['width']} / heads {sizes['heads']} is odd: rotary positions "
                "turn pairs of numbers"
            )
    return sizes


def config_of(sizes: Mapping[str, Any], dropout: float = 0.0) -> Any:
    """The config of transformers that has these sizes, with attention by SDPA."""
    from transformers import GPT2Config, LlamaConfig

    family = sizes["family"]
    entries = {key: sizes[name] for name, key in KEYS[family].items()}
    entries |= {
        "vocab_size": sizes["vocab_size"], "tie_word_embeddings": sizes["tied"], "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None, "attn_implementation": "sdpa", "use_cache": True,
    }  # fmt: skip
    if family == "gpt2":
        entries |= {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    else:
        entries |= {"attention_dropout": dropout, "rms_norm_eps": 1e-5}
    try:
        return (GPT2Config if family == "gpt2" else LlamaConfig)(**{**entries, **sizes["entries"]})
    except Exception as error:  # transformers checks types by a class of its own
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"these sizes and model.init_args.entries make no {family}: {text}") from None


@dataclass(frozen=True)
class Cost:
    """What a model costs to train.

    Attributes:
        parameters: N, tied ones once.
        embeddings: of N, in the tables of tokens and positions.
        flops: of a training token, 6 N + 12 L d T.
        state_bytes: parameters, gradients and two moments of Adam, 4 bytes each.
        activation_bytes: rough, of one row of T tokens without checkpointing in 16 bits: 34 L T d bytes
            (Korthikanti et al. 2022, without the attention matrix, which SDPA does not keep).
    """

    parameters: int
    embeddings: int
    flops: int
    state_bytes: int
    activation_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters ({self.parameters - self.embeddings:,} without embeddings), "
            f"{self.flops / 1e9:,.4g} GFLOP a training token; {_bytes(self.state_bytes)} of weights, "
            f"gradients and Adam moments in 32 bits, about {_bytes(self.activation_bytes)} of activations a "
            "row in 16"
        )


def cost_of(network: nn.Module, layers: int, width: int, length: int) -> Cost:
    """The cost of a network, whose parameters may lie on the meta device.

    Args:
        network: of the model.
        layers: L.
        width: d.
        length: T of a row.
    """
    count = sum(p.numel() for p in network.parameters())
    tables = {id(m.weight): m.weight.numel() for m in network.modules() if isinstance(m, nn.Embedding)}
    flops = 6 * count + 12 * layers * width * length
    return Cost(count, sum(tables.values()), flops, 16 * count, 34 * layers * length * width)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} TB"
