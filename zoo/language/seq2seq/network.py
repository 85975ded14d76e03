"""T5 of transformers, built from plain sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.hub import foreign
from zoo.nn.pretrained_seq2seq import PretrainedSeq2Seq

Model = Literal["t5-small", "t5-base", "t5-large"]
SIZES = ("width", "layers", "heads", "head_width", "hidden")
SHAPES: dict[str, tuple[int, int, int, int, int]] = {
    "t5-small": (512, 6, 8, 64, 2048),
    "t5-base": (768, 12, 12, 64, 3072),
    "t5-large": (1024, 24, 16, 64, 4096),
}
"""Name -> width, layers of each side, heads, width of a head, hidden."""
_NAMES = ("d_model", "num_layers", "num_heads", "d_kv", "d_ff")
FeedForward = Literal["relu", "gated-gelu"]


def t5(
    vocab_size: int,
    sizes: Mapping[str, int],
    pad: int,
    eos: int,
    dropout: float = 0.1,
    feed_forward: str = "relu",
    scaled: bool = True,
    embedding_std: float = 1.0,
) -> PretrainedSeq2Seq:
    """T5ForConditionalGeneration, whose sources get EOS and whose targets begin with the pad.

    Args:
        vocab_size: V.
        sizes: of :data:`SIZES`.
        pad: id.
        eos: id.
        dropout: rate.
        feed_forward: ``relu`` of T5, ``gated-gelu`` of T5 1.1.
        scaled: states are multiplied by width^-.5 before the one table of words makes logits of them.
        embedding_std: of that table at first.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    given: dict[str, Any] = {
        "vocab_size": vocab_size, "d_model": sizes["width"], "d_kv": sizes["head_width"],
        "d_ff": sizes["hidden"], "num_layers": sizes["layers"], "num_decoder_layers": sizes["layers"],
        "num_heads": sizes["heads"], "dropout_rate": float(dropout), "feed_forward_proj": feed_forward,
        "pad_token_id": pad, "eos_token_id": eos, "decoder_start_token_id": pad,
        "tie_word_embeddings": scaled,  # the tables always are; this is what the library takes it for
    }  # fmt: skip
    model = T5ForConditionalGeneration(T5Config(**given))
    with torch.no_grad():
        model.shared.weight.mul_(embedding_std)  # the library's is 1
    return PretrainedSeq2Seq(model, pad)


def settings_of_folder(folder: Path) -> dict[str, Any]:
    """Constructor arguments of a folder's T5.

    Raises:
        FileNotFoundError, ValueError: one line on what is no T5.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; needed are config.json and model.safetensors of T5")
    content = foreign.read_json(path)
    if not isinstance(content, dict) or content.get("model_type") != "t5":
        kind = content.get("model_type") if isinstance(content, dict) else None
        raise ValueError(f"{path}: a model of type {kind!r}; read is t5")
    sizes = [content.get(name) for name in (*_NAMES, "vocab_size")]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            f"{path}: {', '.join(_NAMES)}, vocab_size must be whole numbers above 0, got {sizes}"
        )
    if content.get("num_decoder_layers") not in (None, sizes[1]):
        raise ValueError(f"{path}: encoder and decoder must have equally many layers")
    forward = content.get("feed_forward_proj", "relu")
    if forward not in ("relu", "gated-gelu"):
        raise ValueError(f"{path}: feed_forward_proj is {forward!r}; read are relu and gated-gelu")
    pad, eos = content.get("pad_token_id"), content.get("eos_token_id")
    if type(pad) is not int or type(eos) is not int:
        raise ValueError(f"{path}: no pad_token_id or eos_token_id")
    found: dict[str, Any] = dict(zip((*SIZES, "vocab_size"), sizes, strict=True))
    # transformers 5 always ties; it takes "not tied" of older files for "not scaled"
    scaled = bool(content.get("scale_decoder_outputs", content.get("tie_word_embeddings", True)))
    found |= {"pad_id": pad, "bos_id": pad, "eos_id": eos}
    return {"model": "t5-small", **found, "feed_forward": forward, "scaled": scaled}


def start_from(network: PretrainedSeq2Seq, folder: Path) -> int:
    """Load a folder's tensors; how many.

    Raises:
        FileNotFoundError, ValueError: one line on weights that do not fit.
    """
    path = folder / "model.safetensors"
    state: dict[str, Tensor] = {
        f"model.{k}": v for k, v in foreign.state_dict(foreign.load(path), path).items()
    }
    wanted = network.state_dict()
    shared, head = state.get("model.shared.weight"), state.get("model.lm_head.weight")
    if shared is not None and head is not None and not torch.equal(shared, head):
        raise ValueError(f"{path}: lm_head is a table of its own (T5 1.1); read is T5 with one for all words")
    for name in (
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "model.lm_head.weight",
    ):
        if name not in wanted:  # another name of the one table
            state.pop(name, None)
    # of later files, a table that no layer reads
    state.pop("model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)
    network.load_state_dict(foreign.fitted(state, wanted, path))
    return len(state)
