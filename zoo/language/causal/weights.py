"""Folders of transformers and checkpoints of nanoGPT <-> ours.

nanoGPT's linear layers are torch's, GPT-2's in transformers have their axes the other way round; its GELU is
the exact one, GPT-2's the tanh approximation; its biases may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub.foreign import State, Weights, building, fitted, load, safetensors_in, state_dict, written_whole
from zoo.language.causal.module import CausalLM
from zoo.language.folders import sizes_in, tokenizer_document, write_folder
from zoo.nn.kept_text import KeptText
from zoo.reports import writing

FORMATS: dict[str, tuple[str, ...]] = {"transformers": (), "nanogpt": (".pt",)}
"""What :func:`write` writes: a folder, a checkpoint."""

_TURNED = re.compile(r"\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
_BUFFER = re.compile(r"\.attn\.(masked_)?bias$")  # the causal mask of older files
_ARGUMENTS = {"n_embd": "width", "n_layer": "layers", "n_head": "heads", "block_size": "context",
              "vocab_size": "vocab_size", "bias": "bias"}  # fmt: skip


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of transformers, or a checkpoint of nanoGPT, as weights of :class:`zoo.CausalLM`.

    Args:
        path: folder with ``config.json`` and ``model.safetensors``, or ``ckpt.pt``.
        given: constructor arguments; ``heads`` of a bare state dict, which does not tell them.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on what holds no such model.
    """
    if path.is_dir():
        sizes = sizes_in(str(path))
        state = _of_folder(path)
        text, what = tokenizer_document(str(path)), f"{sizes['model'].split('-')[0]} of transformers"
    else:
        sizes, state = _of_nanogpt(path)
        text, what = "", "nanoGPT"
    hparams = {**sizes, **given}
    with building(path, sum(v.numel() * v.element_size() for v in state.values())):
        module = CausalLM(**hparams)
    wanted = module.network.model.state_dict()
    if hparams.get("tied"):
        state["lm_head.weight"] = state[_table(hparams["model"])]
    state = fitted({k: v for k, v in state.items() if not _BUFFER.search(k)}, wanted, path)
    names: Any = module.network._names  # of tied weights, which are kept once
    tensors = {f"network.model.{k}": v.float() for k, v in state.items() if k not in names}
    tensors["vocabulary._extra_state"] = KeptText(text).get_extra_state()
    cost = module.cost()
    lines = [f"{what}: {cost.parameters:,} parameters, {'a' if text else 'no'} tokenizer beside them"]
    return Weights(path, "zoo.CausalLM", dict(module.hparams), tensors), lines


def _table(model: str) -> str:
    return "transformer.wte.weight" if model.startswith("gpt2") else "model.embed_tokens.weight"


def _of_folder(path: Path) -> State:
    """The tensors of one file, or of the parts that an index names.

    Raises:
        FileNotFoundError: for a folder without safetensors, which alone are read.
    """
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path} has no model.safetensors; pickled weights are not read")
    state: State = {}
    for file in files:
        state |= state_dict(safetensors_in(file)[1], file)
    if "transformer.wte.weight" not in state and "wte.weight" in state:  # GPT-2's own files
        state = {f"transformer.{k}": v for k, v in state.items()}
    return state


def _of_nanogpt(path: Path) -> tuple[dict[str, Any], State]:
    content = load(path)
    arguments: Any = {}
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        arguments, content = content.get("model_args") or {}, content["model"]
    state = {k.removeprefix("module."): v for k, v in state_dict(content, path).items()}
    table, places = state.get("transformer.wte.weight"), state.get("transformer.wpe.weight")
    if table is None or places is None:
        raise ValueError(f"{path} has no transformer.wte.weight: this is no checkpoint of nanoGPT")
    layers = {int(m[1]) for k in state if (m := re.match(r"transformer\.h\.(\d+)\.", k))}
    sizes: dict[str, Any] = {
        "vocab_size": len(table), "width": table.shape[1], "context": len(places), "layers": len(layers),
        "bias": "transformer.ln_f.bias" in state,
    }  # fmt: skip
    if isinstance(arguments, Mapping):
        sizes |= {ours: arguments[k] for k, ours in _ARGUMENTS.items() if k in arguments}
    sizes["hidden"] = 4 * sizes["width"]
    sizes |= {"model": "gpt2", "tied": True, "entries": {"activation_function": "gelu"}}
    return sizes, {k: turned(k, v) for k, v in state.items()}


def turned(name: str, value: Tensor) -> Tensor:
    """A matrix of a linear layer with its axes the other way round; its own reverse."""
    return value.T.contiguous() if _TURNED.search(name) else value


def write(module: CausalLM, out: Path, to: str) -> list[str]:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` reads, or a checkpoint of nanoGPT.

    Raises:
        ValueError: for what nanoGPT has no place for.
    """
    network = module.network
    if to == "transformers":
        with writing(out):
            write_folder(network.plain(), module.vocabulary, out)
        what = "model and tokenizer" if module.vocabulary.text else "model, no tokenizer"
        return [f"wrote {out}: {what}; AutoModelForCausalLM.from_pretrained({str(out)!r})"]
    config = network.model.config
    if config.model_type != "gpt2" or config.activation_function != "gelu" or not config.tie_word_embeddings:
        raise ValueError(
            "nanoGPT has GPT-2 with the exact GELU and tied tables alone, as model: nanogpt-cpu; write --to "
            "transformers"
        )
    model = network.plain()
    state = {k: turned(k, v).detach().cpu() for k, v in model.state_dict().items()}
    state = {k: v for k, v in state.items() if network.has_biases or not k.endswith(".bias")}
    arguments = {
        "n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd,
        "block_size": config.n_positions, "bias": network.has_biases, "vocab_size": config.vocab_size,
        "dropout": 0.0,
    }  # fmt: skip
    with written_whole(out) as temporary:
        torch.save({"model": state, "model_args": arguments, "iter_num": 0, "config": {}}, temporary)
    return [f"wrote {out}: a checkpoint of nanoGPT"]
