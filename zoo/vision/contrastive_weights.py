"""Folders of transformers' CLIPModel <-> ours: ``zoo convert FOLDER --method clip``, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.hub.foreign import State, Weights, checked_folder, fitted, read_json
from zoo.reports import writing
from zoo.vision.clip_network import PIXELS, SHAPES, SIZES
from zoo.vision.contrastive import ContrastiveVL

FORMATS: dict[str, tuple[str, ...]] = {"transformers": ()}
_CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder with ``config.json`` and ``model.safetensors``; ``tokenizer.json`` and
    ``preprocessor_config.json`` are read where they are there.

    Args:
        path: of the folder.
        given: constructor arguments.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that is no such model.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path} with config.json and model.safetensors")
    from transformers import CLIPConfig, CLIPModel

    content = read_json(path / "config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "clip":
        raise ValueError(f"{path}: config.json says model_type {kind!r}, and clip is read")
    with checked_folder(path):
        config = CLIPConfig.from_pretrained(path)
        hparams = {**_hparams(config, path), **_pixels(path), **given}
        try:
            model = CLIPModel.from_pretrained(path, use_safetensors=True)
        except Exception as error:  # of the library anything may come
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"{path} holds no CLIP that can be read ({why})") from None
    module = ContrastiveVL(**hparams)
    state: State = {f"clip.{k}": v for k, v in model.state_dict().items()}
    wanted = {k: v for k, v in module.network.state_dict().items() if k != "bias"}
    module.network.load_state_dict(fitted(state, wanted, path), strict=hparams.get("loss") != "siglip")
    lines = [f"{path}: CLIP of {sum(v.numel() for v in state.values()):,} numbers"]
    tokenizer = path / "tokenizer.json"
    if tokenizer.is_file():
        module.vocabulary.fill(_document(tokenizer))
        lines.append(f"with its tokenizer of {len(module.vocabulary.tokenizer):,} entries")
    else:
        lines.append("without a tokenizer.json: data.init_args.tokenizer has to say it")
    return Weights(path, "zoo.ContrastiveVL", dict(module.hparams), module.state_dict()), lines


def _hparams(config: Any, path: Path) -> dict[str, Any]:
    text, vision = config.text_config, config.vision_config
    for part, name in ((text, "text_config"), (vision, "vision_config")):
        if part.intermediate_size != 4 * part.hidden_size or part.layer_norm_eps != 1e-5:
            raise ValueError(
                f"{path}: {name} has intermediate_size {part.intermediate_size} and layer_norm_eps "
                f"{part.layer_norm_eps:g}; four times hidden_size {part.hidden_size} and 1e-5 are read"
            )
    if text.hidden_act != vision.hidden_act:
        raise ValueError(f"{path}: the encoders have {text.hidden_act} and {vision.hidden_act}, one is read")
    numbers = (
        vision.patch_size, vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads,
        text.hidden_size, text.num_hidden_layers, text.num_attention_heads, config.projection_dim,
    )  # fmt: skip
    sizes = dict(zip(SIZES, numbers, strict=True))
    shape = next((name for name, known in SHAPES.items() if known == sizes), "free")
    return {
        **(sizes if shape == "free" else {}),
        "shape": shape,
        "image_size": vision.image_size,
        "channels": vision.num_channels,
        "vocab_size": text.vocab_size,
        "context": text.max_position_embeddings,
        "activation": text.hidden_act,
    }


def _pixels(path: Path) -> dict[str, Any]:
    """Mean and deviation that the weights read, where they are not OpenAI's."""
    file = path / "preprocessor_config.json"
    content = read_json(file) if file.is_file() else {}
    found: Any = [content.get(k) if isinstance(content, dict) else None for k in ("image_mean", "image_std")]
    if None in found or all(list(a) == list(b) for a, b in zip(found, PIXELS, strict=True)):
        return {}
    return {"mean": list(found[0]), "std": list(found[1])}


def _document(path: Path) -> str:
    """A tokenizer.json as the document that weights keep."""
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{path} is no tokenizer.json: it has no model")
    added = content.get("added_tokens") or ()
    known = {*(model.get("vocab") or ()), *(a["content"] for a in added if isinstance(a, dict))}
    begin, end = _CLIP_MARKS if set(_CLIP_MARKS) <= known else ("<s>", "</s>")
    if not {begin, end} <= known:
        raise ValueError(f"{path} has no marks of begin and end ({', '.join(_CLIP_MARKS)} or <s>, </s>)")
    roles = {"bos": begin, "eos": end, "pad": "<pad>" if "<pad>" in known else end}
    if "<unk>" in known:
        roles["unk"] = "<unk>"
    inner = {**content, "truncation": None, "padding": None}
    return json.dumps({"tokenizer": inner, "roles": roles}, ensure_ascii=False, sort_keys=True)


def write(module: ContrastiveVL, out: Path, to: str) -> list[str]:
    """A folder that transformers' CLIPModel and its tokenizer are loaded from.

    Raises:
        ValueError: for what CLIPModel has no place for.
    """
    if module.hparams["loss"] != "clip":
        raise ValueError(
            "weights of loss: siglip have a bias, which transformers' CLIPModel has no place for"
        )
    config = module.network.clip.config
    tokenizer = module.vocabulary.tokenizer if module.vocabulary.text else None
    if tokenizer is not None:
        marks = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
        if marks["eos_token_id"] == 2:
            raise ValueError(
                "the tokenizer's end has id 2, which transformers takes for a sign of old weights: it would "
                "pool texts at their largest id"
            )
        for key, value in marks.items():
            setattr(config.text_config, key, value)
    h, (mean, std) = module.hparams, module._pixels()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        module.network.clip.save_pretrained(out)
        if tokenizer is not None:
            tokenizer.save_pretrained(out)
        side = h["image_size"]
        pixels = {
            "image_processor_type": "CLIPImageProcessor", "image_mean": mean, "image_std": std,
            "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
            "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side},
        }  # fmt: skip
        (out / "preprocessor_config.json").write_text(json.dumps(pixels, indent=1) + "\n")
    return [f"wrote {out}; CLIPModel.from_pretrained({str(out)!r}) reads it"]
