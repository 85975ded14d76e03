"""Encoder-decoders of transformers, built from plain settings: no network and no file is needed for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.hub.foreign import checked_folder, read_json

_LARGE = {
    "d_model": 1024,
    **{f"{side}_layers": 12 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 16 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 4096 for side in ("encoder", "decoder")},
    "attention_dropout": 0.1,
}
_BASE = {
    "d_model": 768,
    **{f"{side}_layers": 6 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 12 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 3072 for side in ("encoder", "decoder")},
}
KNOWN: dict[str, dict[str, Any]] = {
    "facebook/bart-large": {"model_type": "bart", **_LARGE},
    "facebook/bart-base": {"model_type": "bart", **_BASE, "attention_dropout": 0.1},
    "google/pegasus-large": {
        "model_type": "pegasus",
        **_LARGE,
        **{f"{side}_layers": 16 for side in ("encoder", "decoder")},
        "vocab_size": 96103,
        "activation_function": "relu",
        "scale_embedding": True,
    },
    "google-t5/t5-small": {"model_type": "t5", "vocab_size": 32128},
    "google-t5/t5-base": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 768,
        "d_ff": 3072,
        "num_layers": 12,
        "num_heads": 12,
    },
    "allenai/led-base-16384": {
        "model_type": "led",
        **_BASE,
        "max_encoder_position_embeddings": 16384,
        "attention_window": [1024] * 6,
    },
}
"""Sizes of published models by hub id."""
FAMILIES = ("bart", "pegasus", "t5", "led")
_OF_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
_LIMIT = 10**6


def settings(backbone: str, sizes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entries of a config that make the network: ``model_type`` and sizes.

    Args:
        backbone: a hub id or a local folder, whose ``config.json`` is read unless it is :data:`KNOWN`; or a
            family, ``bart``, ``pegasus``, ``t5`` or ``led``, with the sizes of its large model.
        sizes: take the place of single entries.

    Raises:
        FileNotFoundError, ValueError: for no encoder-decoder, and for entries that it does not have.
    """
    if backbone in FAMILIES:
        found: dict[str, Any] = {"model_type": backbone}
    elif backbone in KNOWN:
        found = dict(KNOWN[backbone])
    else:
        found = _read(backbone)
    found |= sizes or {}
    _check(found, backbone)
    return found


def _read(backbone: str) -> dict[str, Any]:
    path = Path(backbone)
    if path.is_dir():
        content: dict[str, Any] = read_json(path / "config.json")
    else:
        from transformers import AutoConfig

        try:
            content = AutoConfig.from_pretrained(backbone).to_dict()
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:120]
            raise ValueError(
                f"model.init_args.backbone {backbone!r} is no family ({', '.join(FAMILIES)}), no folder, no "
                f"model of the hub that can be had ({why})"
            ) from None
    if not isinstance(content, dict) or not content.get("is_encoder_decoder"):
        raise ValueError(f"{backbone} is no encoder-decoder: is_encoder_decoder is not in its config.json")
    plain = (bool, int, float, str)
    return {
        k: v
        for k, v in content.items()
        if isinstance(v, plain) or (isinstance(v, list) and v and all(isinstance(x, plain) for x in v))
    }


def _check(found: Mapping[str, Any], backbone: str) -> None:
    kind = found.get("model_type")
    if kind is None:
        raise ValueError(f"{backbone}: its config names no model_type")
    for key, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (value == value and abs(value) <= _LIMIT):
            raise ValueError(f"model.init_args.sizes.{key} is {value}, no size of a network")
        sized = key.endswith(
            ("_layers", "_heads", "_dim", "d_model", "d_ff", "d_kv", "_embeddings", "vocab_size")
        )
        if number and sized and value < 1:
            raise ValueError(f"model.init_args.sizes.{key} is {value}, but must be at least 1")


def config_of(found: Mapping[str, Any], **ids: Any) -> Any:
    """The transformers config of :func:`settings` with the tokenizer's size and ids.

    Raises:
        ValueError: for an unknown family or entry.
    """
    from transformers import CONFIG_MAPPING

    kind = found["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"model_type {kind!r} is no family of transformers; known here: {', '.join(FAMILIES)}"
        )
    cls = CONFIG_MAPPING[kind]
    entries = {k: v for k, v in found.items() if k != "model_type"}
    unknown = [k for k in entries if not hasattr(cls(), k)]
    if unknown:
        raise ValueError(f"model.init_args.sizes: {kind} has no entry {unknown[0]!r}")
    try:
        made = cls(**{**entries, **{k: v for k, v in ids.items() if k in _OF_TOKENIZER}})
    except Exception as error:  # transformers checks the types by a class of its own
        raise ValueError(
            f"model.init_args.sizes does not make a {kind}: {' '.join(str(error).split())[:160]}"
        ) from None
    made.forced_eos_token_id = made.forced_bos_token_id = None  # of the generation, not of the network
    return made


def build(config: Any) -> nn.Module:
    """An encoder-decoder with a language-model head, at random."""
    from transformers import AutoModelForSeq2SeqLM

    model: nn.Module = AutoModelForSeq2SeqLM.from_config(config)
    return model


def pretrained(source: str) -> Any:
    """An encoder-decoder with its weights, from a hub id or a local folder of transformers.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that holds none, or a hub that has none.
    """
    from transformers import AutoModelForSeq2SeqLM

    with checked_folder(Path(source)):
        try:
            return AutoModelForSeq2SeqLM.from_pretrained(source)
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"{source} holds no encoder-decoder that can be read ({why})") from None


def width_of(config: Any) -> int:
    """d, the width of the encoder's states."""
    return int(getattr(config, "d_model", None) or config.hidden_size)


def heads_of(config: Any) -> int:
    """Heads of the encoder's attention."""
    return int(getattr(config, "encoder_attention_heads", None) or config.num_attention_heads)


def attention_dropout_of(config: Any) -> float:
    """Dropout on attention weights; T5 has one rate for everything."""
    found = getattr(config, "attention_dropout", None)
    return float(found if found is not None else getattr(config, "dropout_rate", 0.0))


def positions_of(config: Any) -> int | None:
    """The most tokens of a source; None where positions are relative."""
    if config.model_type == "led":
        return int(config.max_encoder_position_embeddings)
    if config.model_type == "t5":
        return None
    found = getattr(config, "max_position_embeddings", None)
    return None if found is None else int(found)


def target_positions_of(config: Any) -> int | None:
    """The most tokens of a summary; None where positions are relative."""
    if config.model_type == "led":
        return int(config.max_decoder_position_embeddings)
    return positions_of(config)
