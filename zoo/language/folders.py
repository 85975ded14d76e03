"""Models of transformers in folders and on the hub: their sizes, their weights, their tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.hub.foreign import checked_folder, read_json
from zoo.language.shapes import ENTRIES, KEYS
from zoo.nn.kept_tokenizer import KeptTokenizer

_ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
_PADDED = 1024
"""Most rows that a table of tokens has beyond its tokenizer: multiples of 64 to 512 are usual."""


def sizes_in(source: str) -> dict[str, Any]:
    """The sizes of a causal model that is a folder or a model of the hub, as those of a named shape.

    Raises:
        FileNotFoundError, ValueError: one line where there is none, or of another kind.
    """
    content = _config(source)
    family = content.get("model_type")
    if family not in KEYS:
        raise ValueError(
            f"{source} is a model of type {str(family)[:40]!r}; read are those of {' and '.join(KEYS)}"
        )
    return {**sizes_of_config(content, source), "model": {"gpt2": "gpt2", "llama": "llama-7b"}[family]}


def sizes_of_config(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Sizes that a ``config.json`` tells, with what it leaves open as transformers takes it."""
    from transformers import CONFIG_MAPPING

    family = content["model_type"]
    try:
        config = CONFIG_MAPPING[family].from_dict(dict(content))
        usual = CONFIG_MAPPING[family]()
    except Exception as error:  # transformers checks types by a class of its own
        raise ValueError(f"{source}: its config.json makes no {family} ({_line(error)})") from None
    sizes = {name: getattr(config, key) for name, key in KEYS[family].items()}
    if family == "gpt2" and sizes["hidden"] is None:
        sizes["hidden"] = 4 * sizes["width"]
    entries = {k: getattr(config, k) for k in ENTRIES[family]}
    entries = {k: v for k, v in entries.items() if v != getattr(usual, k)}
    if family == "llama":
        entries["rms_norm_eps"] = config.rms_norm_eps  # ours is not the library's
        if config.head_dim == sizes["width"] // sizes["heads"]:
            entries.pop("head_dim", None)
    entries = json.loads(json.dumps(entries))
    return {
        **sizes, "vocab_size": config.vocab_size, "tied": bool(config.tie_word_embeddings), "bias": True,
        "entries": entries,
    }  # fmt: skip


def _config(source: str) -> dict[str, Any]:
    path = Path(source)
    if path.is_dir():
        content: Any = read_json(path / "config.json")
    else:
        from transformers import AutoConfig

        try:
            content = AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
        except Exception as error:  # of the library anything may come
            raise ValueError(
                f"model.init_args.pretrained {source!r} is no folder, and no model of the hub that can be "
                f"had ({_line(error)})"
            ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{source}: its config.json is no object")
    return content


def start_from(model: nn.Module, source: str) -> str:
    """Load the weights of a folder or of the hub, safetensors alone; returns what was found, in words.

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
    state, own = found.state_dict(), model.state_dict()
    # layers that were adapted lie within others; what was put beside them is not in the file
    names = {name.replace(".base_layer", ""): name for name in own}
    frozen = any(not p.requires_grad for p in model.parameters())
    new = {name for name, p in model.named_parameters() if frozen and p.requires_grad}
    for name, place in names.items():
        if place not in new and (name not in state or state[name].shape != own[place].shape):
            given = list(state[name].shape) if name in state else "missing"
            raise ValueError(
                f"{source} does not fit: {name} is {given}, the model wants {list(own[place].shape)}; leave "
                "sizes of the model out"
            )
    model.load_state_dict({**own, **{names[k]: v for k, v in state.items() if k in names}})
    return f"{source} ({sum(p.numel() for p in model.parameters()):,} parameters)"


def check_vocabulary(source: str, own: int, data: int) -> None:
    """Whether a pretrained table of ``own`` rows can be that of data with ``data`` entries.

    Raises:
        ValueError: if not.
    """
    if not 0 <= own - data < _PADDED:
        raise ValueError(
            f"{source} has {own:,} tokens, but the tokenizer of the data has {data:,}: set "
            f"data.init_args.tokenizer to {source}"
        )


def tokenizer_document(source: str) -> str:
    """The fast tokenizer of a folder as :class:`KeptTokenizer` keeps it; "" where there is none.

    Raises:
        ValueError: for one that cannot be read.
    """
    from transformers import AutoTokenizer

    path = Path(source)
    if not (path / "tokenizer.json").is_file():
        return ""
    read_json(path / "tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), use_fast=True, trust_remote_code=False)
        content = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # of the library anything may come
        raise ValueError(f"{path / 'tokenizer.json'}: {_line(error)}") from None
    content["truncation"] = content["padding"] = None
    roles = {role: getattr(tokenizer, f"{role}_token", None) for role in _ROLES}
    document = {"tokenizer": content, "roles": {k: v for k, v in roles.items() if v is not None}}
    return json.dumps(document, ensure_ascii=False, sort_keys=True)


def write_folder(model: Any, vocabulary: KeptTokenizer, out: Path) -> None:
    """A model as a folder that ``AutoModelForCausalLM`` reads, with its tokenizer where it has one."""
    config = model.config
    before = {k: getattr(config, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if vocabulary.text:
        tokenizer = vocabulary.tokenizer
        for key in before:
            setattr(config, key, getattr(tokenizer, key))
            setattr(model.generation_config, key, getattr(tokenizer, key))
    try:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        if vocabulary.text:
            tokenizer.save_pretrained(out)
    finally:
        for key, value in before.items():
            setattr(config, key, value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
