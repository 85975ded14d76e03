"""Weights of fairseq (BART, and SeqCo's official checkpoints) and folders of transformers <-> ours."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch

from zoo.hub.foreign import (
    State,
    Weights,
    building,
    fitted,
    load,
    read_json,
    safetensors_in,
    state_dict,
    written_whole,
)
from zoo.reports import writing
from zoo.seqco import backbones
from zoo.seqco.module import SeqCo

FORMATS: dict[str, tuple[str, ...]] = {"official": (".pt",), "transformers": ()}
"""What :func:`write` writes: a fairseq checkpoint, a plain folder of transformers."""

_OURS = "models.article-summary."
_DROPPED = re.compile(r"(^|\.)(version|_float_tensor)$")
_PARTS = {
    "encoder_extra_fc.": "head.",
    "momentum_encoder_extra_fc.": "target.head.",
    "encoder_extra_fc2.": "predictor.",
}
_HEADS = {1024: 16, 768: 12}
_HEADS_UNTOLD = (
    "heads are not in the file; they are 64 wide unless "
    "--set 'sizes={encoder_attention_heads: 8, decoder_attention_heads: 8}' says otherwise"
)
_THIRDS = ("q_proj", "k_proj", "v_proj")


# --- fairseq -> ours ----------------------------------------------------------------------------------------


def _of_backbone(state: State, prefix: str) -> State:
    """Encoder or decoder of fairseq under transformers' names, the embedding apart."""
    found = {}
    for key, value in state.items():
        if key.startswith(prefix) and not _DROPPED.search(key):
            found[key.removeprefix(prefix)] = value
    return found


def from_fairseq(state: State) -> tuple[State, bool]:
    """Tensors of fairseq under the names of :class:`SeqCoNetwork`, and whether a target network is there.

    ``models.article-summary.`` goes off, the embedding is ``model.shared.weight``, and queries, keys and
    values of the cross attention are joined.

    Raises:
        KeyError: with the name of a tensor that is missing.
    """
    official = any(key.startswith(_OURS) for key in state)
    plain = _of_backbone(state, _OURS if official else "")
    kept = {k: v for k, v in plain.items() if k.startswith(("encoder.", "decoder."))}
    kept = {
        k: v for k, v in kept.items() if not k.endswith(("embed_tokens.weight", "output_projection.weight"))
    }
    shared = plain["encoder.embed_tokens.weight"]
    found = {f"backbone.model.{k}": v for k, v in kept.items()} | {"backbone.model.shared.weight": shared}
    found["backbone.final_logits_bias"] = torch.zeros(1, len(shared))
    for theirs, ours in _PARTS.items():
        found |= {ours + k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
    if "cross_attention.q_proj.weight" in state:
        for kind in ("weight", "bias"):
            thirds = [state[f"cross_attention.{part}.{kind}"] for part in _THIRDS]
            found[f"attention.in_proj_{kind}"] = torch.cat(thirds)
            found[f"attention.out_proj.{kind}"] = state[f"cross_attention.out_proj.{kind}"]
    slow = _of_backbone(state, "momentum_encoder.")
    found |= {f"target.encoder.{k}": v for k, v in slow.items()}
    return found, bool(slow)


def to_fairseq(state: State, official: bool = True) -> State:
    """The reverse of :func:`from_fairseq`, of a network's tensors."""
    prefix = _OURS if official else ""
    shared = state["backbone.model.shared.weight"]
    found: State = {}
    for key, value in state.items():
        if key.startswith("backbone.model."):
            name = key.removeprefix("backbone.model.")
            if name != "shared.weight":
                found[prefix + name] = value
        elif key.startswith("target.encoder."):
            found[f"momentum_encoder.{key.removeprefix('target.encoder.')}"] = value
        elif key.startswith("attention.in_proj_"):
            kind = key.removeprefix("attention.in_proj_")
            found |= {f"cross_attention.{p}.{kind}": t for p, t in zip(_THIRDS, value.chunk(3), strict=True)}
        elif key.startswith("attention."):
            found[f"cross_attention.{key.removeprefix('attention.')}"] = value
        else:
            part = next((p for p in _PARTS.items() if key.startswith(p[1])), None)
            if part is not None:
                found[part[0] + key.removeprefix(part[1])] = value
    for side in ("encoder", "decoder"):
        found[f"{prefix}{side}.embed_tokens.weight"] = shared
    return found


def _sizes(state: State) -> dict[str, Any]:
    """Sizes of BART that its tensors tell; heads are 64 wide unless it is said otherwise."""
    vocabulary, width = state["backbone.model.shared.weight"].shape
    positions = len(state["backbone.model.encoder.embed_positions.weight"]) - 2
    found: dict[str, Any] = {"d_model": width, "max_position_embeddings": positions}
    heads = _HEADS.get(width, max(1, width // 64))
    for side in ("encoder", "decoder"):
        layers = {
            int(m[1]) for k in state if (m := re.match(rf"backbone\.model\.{side}\.layers\.(\d+)\.", k))
        }
        found |= {f"{side}_layers": len(layers), f"{side}_attention_heads": heads}
        found[f"{side}_ffn_dim"] = len(state[f"backbone.model.{side}.layers.0.fc1.weight"])
    return {"vocab_size": vocabulary, "sizes": found}


def _read_fairseq(path: Path) -> State:
    content = load(path, admitted=(argparse.Namespace,))
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    return state_dict(content, path)


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A fairseq checkpoint or a folder of transformers as weights of :class:`zoo.SeqCo`, and lines on them.

    Args:
        path: ``model.pt`` of ``bart.large``, a checkpoint of the official code, or a folder.
        given: constructor arguments that take the place of what the file tells.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights.
    """
    if path.is_dir():
        return _read_folder(path, given)
    state = _read_fairseq(path)
    try:
        tensors, compared = from_fairseq(state)
        hparams: dict[str, Any] = {"backbone": "bart"} | _sizes(tensors)
    except KeyError as error:
        raise ValueError(
            f"{path}: these are no weights of BART or SeqCo: {error.args[0]} is missing"
        ) from None
    if "predictor.0.weight" in tensors:
        hparams["similarity"] = "cls"
        tensors = {k: v for k, v in tensors.items() if not k.startswith("attention.")}
    elif "attention.in_proj_weight" not in tensors:
        compared = False
    if not compared:
        tensors = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
        hparams |= {f"weight_{pair}": 0.0 for pair in ("xy", "xyhat", "yyhat")}
    hparams["special_ids"] = [3, hparams["vocab_size"] - 1]
    told = given.get("sizes") or {}
    hparams |= given | {"sizes": hparams["sizes"] | told}
    with building(path):
        module = SeqCo(**hparams)
    tensors = fitted(tensors, module.network.state_dict(), path)
    size = hparams["sizes"]
    lines = [
        f"BART of width {size['d_model']}, {size['encoder_layers']} and {size['decoder_layers']} layers, "
        f"{hparams['vocab_size']} tokens, {size['encoder_attention_heads']} heads"
        + (" with head, cross attention and target network" if compared else ", without what SeqCo adds"),
        *([] if told else [_HEADS_UNTOLD]),
    ]
    return _weights(path, module, tensors), lines


def _weights(path: Path, module: SeqCo, tensors: State) -> Weights:
    hparams = dict(module.hparams)
    state = {f"network.{k}": v for k, v in tensors.items()}
    rest = {k: v for k, v in module.state_dict().items() if not k.startswith("network.")}
    return Weights(path, "zoo.SeqCo", hparams, state | rest)


# --- folders of transformers --------------------------------------------------------------------------------


def _folder_state(path: Path) -> State:
    """Tensors of a folder, of one file or of several that an index names."""
    single = path / "model.safetensors"
    if single.is_file():
        return safetensors_in(single)[1]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError(f"{index} names files outside of its folder; refused")
        return {k: v for name in names for k, v in safetensors_in(path / name)[1].items()}
    binary = path / "pytorch_model.bin"
    if binary.is_file():
        return state_dict(load(binary), binary)
    raise FileNotFoundError(f"{path} has no model.safetensors and no pytorch_model.bin")


def _read_folder(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    config = path / "config.json"
    content, state = read_json(config), _folder_state(path)
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    try:
        with building(path, size):
            module = SeqCo(**_of_config(content, path) | given)
    except Exception as error:  # of a constructor with a file's values anything may come
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{config}: {text}") from None
    wanted = module.network.state_dict()
    tensors = {k: v for k, v in _with_prefix(state).items() if k in wanted}
    constant = {k: v for k, v in wanted.items() if k not in tensors and _is_table(k)}
    tensors = fitted(tensors | constant, wanted, path)
    count = sum(v.numel() for v in tensors.values())
    return _weights(path, module, tensors), [f"a {module.hparams['backbone']} with {count:,} numbers"]


def _of_config(content: Any, path: Path) -> dict[str, Any]:
    """Constructor arguments that a ``config.json`` tells."""
    kind = backbones.settings(str(path), None)["model_type"]
    names = ("vocab_size", "pad_token_id", "eos_token_id")
    ids = {k: content[k] for k in names if isinstance(content.get(k), int)}
    bos, is_bart = content.get("bos_token_id"), kind in ("bart", "led")
    return {
        "backbone": str(path),
        **ids,
        "bos_token_id": bos if isinstance(bos, int) and is_bart else -1,
        "special_ids": [3, ids["vocab_size"] - 1] if is_bart else [],
        **{f"weight_{pair}": 0.0 for pair in ("xy", "xyhat", "yyhat")},
        **_of_generation(path / "generation_config.json"),
    }


def _of_generation(path: Path) -> dict[str, Any]:
    """How a folder generates, if it says at most how much: what it leaves open is transformers' default."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not isinstance(content.get("max_length"), int):
        return {}
    named = {"beams": "num_beams", "no_repeat_ngram": "no_repeat_ngram_size"}
    plain = {"beams": 1, "length_penalty": 1.0, "min_length": 0, "no_repeat_ngram": 0}
    told = {key: content.get(named.get(key, key)) for key in plain}
    return {
        **{key: value if told[key] is None else told[key] for key, value in plain.items()},
        "max_length": content["max_length"],
        "force_bos": content.get("forced_bos_token_id") is not None,
    }


def _with_prefix(state: State) -> State:
    """A folder's names under ``backbone.``; ``facebook/bart-large`` was saved without its head."""
    names = (
        state
        if any(k.startswith(("model.", "led.", "lm_head", "final_logits", "decoder.block")) for k in state)
        else None
    )
    found = {f"backbone.{k}" if names is not None else f"backbone.model.{k}": v for k, v in state.items()}
    shared = next((v for k, v in found.items() if k.endswith(("shared.weight",))), None)
    embedded = next((v for k, v in found.items() if k.endswith("encoder.embed_tokens.weight")), None)
    if shared is None and embedded is not None:
        for root in ("backbone.model.", "backbone.led.", "backbone."):
            if any(k.startswith(root + "encoder.") for k in found):
                found[root + "shared.weight"] = embedded
                break
    return found


def _is_table(name: str) -> bool:
    """Whether the network makes a tensor itself: zero biases of the logits, tables of sines."""
    return name.endswith(("final_logits_bias", "embed_positions.weight"))


def start_from(backbone: Any, source: str) -> str:
    """Load pretrained weights into a backbone: a folder, a hub id, or fairseq's ``model.pt``.

    Returns:
        What was found, in words.

    Raises:
        FileNotFoundError, ValueError: one line where they do not fit.
    """
    path = Path(source)
    if path.is_file():
        tensors, _ = from_fairseq(_read_fairseq(path))
        found = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    else:
        found = dict(backbones.pretrained(source).state_dict())
    wanted = backbone.state_dict()
    for name, value in wanted.items():
        given = found.get(name)
        if given is None and "embed_tokens" not in name and "lm_head" not in name and not _is_table(name):
            raise ValueError(f"{source} does not fit: {name} is missing")
        if given is not None and given.shape != value.shape:
            raise ValueError(
                f"{source} does not fit: {name} is {list(given.shape)}, the model wants {list(value.shape)}; "
                "leave model.init_args.sizes out, or take its own tokenizer (data.init_args.tokenizer)"
            )
    backbone.load_state_dict({k: v for k, v in found.items() if k in wanted}, strict=False)
    return f"{source} ({sum(v.numel() for v in backbone.parameters()):,} parameters)"


# --- out ----------------------------------------------------------------------------------------------------


def write(module: SeqCo, out: Path, to: str) -> list[str]:
    """Write fairseq's checkpoint, or a folder that ``AutoModelForSeq2SeqLM.from_pretrained`` reads.

    Raises:
        ValueError: for fairseq and a backbone other than BART.
    """
    if to == "official":
        kind = module.network.backbone.config.model_type
        if kind != "bart":
            raise ValueError(f"the official code has BART alone, this is a {kind}; write --to transformers")
        state = {k: v.detach().cpu().contiguous() for k, v in module.network.state_dict().items()}
        with written_whole(out) as temporary:
            torch.save({"model": to_fairseq(state, official=module.network.compared)}, temporary)
        return [f"wrote {out}: a fairseq checkpoint with its tensors under `model`"]
    return write_folder(module, out)


def write_folder(module: SeqCo, out: Path) -> list[str]:
    """The summariser alone, its generation settings and its tokenizer, as a plain folder of transformers."""
    model = module.network.backbone
    before = model.generation_config
    model.generation_config = module.summariser.generation_config()
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(out)
            if module.vocabulary.text:
                module.vocabulary.tokenizer.save_pretrained(out)
    finally:
        model.generation_config = before
    what = (
        "model, generation settings and tokenizer"
        if module.vocabulary.text
        else "model and generation settings"
    )
    lines = [f"wrote {out}: {what}; AutoModelForSeq2SeqLM.from_pretrained({str(out)!r})"]
    if module.hparams["no_repeat_ngram"] == 1:
        lines.append("no_repeat_ngram: 1 is not among the settings: transformers' own would count </s>, too")
    return lines
