"""GPT-2 language models of SMILES as transformers saves them -> ours; a vocabulary of whole tokens is needed.

A folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json`` of a word-level tokenizer whose
entries are tokens of SMILES. Rows of its table are put into our order: pad, BOS, EOS, unknown, then the rest.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub import foreign
from zoo.hub.foreign import Weights, building, fitted
from zoo.molecules.strings.module import SmilesLM
from zoo.molecules.tokens import TokenVocabulary, tokenised
from zoo.nn.kept_text import KeptText

FORMATS: dict[str, tuple[str, ...]] = {}
"""Nothing is written in formats of others."""

_LARGEST = 16 * 2**20
_UNKNOWN = ("<unk>", "[UNK]", "<UNK>")
_NAMES = (
    (r"wte\.weight$", "tokens.weight"), (r"wpe\.weight$", "positions.weight"), (r"ln_f\.", "norm."),
    (r"h\.(\d+)\.ln_1\.", r"blocks.\1.attention_norm."), (r"h\.(\d+)\.ln_2\.", r"blocks.\1.norm."),
    (r"h\.(\d+)\.attn\.c_proj\.", r"blocks.\1.attention.output."),
    (r"h\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.inner."), (r"h\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.outer."),
)  # fmt: skip


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of transformers' GPT-2 as weights of :class:`zoo.SmilesLM`, and lines on what was found.

    Args:
        path: folder.
        given: constructor arguments, ``temperature`` for instance.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that holds no such model.
    """
    settings, tokenizer = (_json(path / name) for name in ("config.json", "tokenizer.json"))
    if settings.get("model_type") != "gpt2":
        raise ValueError(
            f"{path} holds a model of type {settings.get('model_type')!r}, read are those of 'gpt2'"
        )
    width, inner = int(settings["n_embd"]), settings.get("n_inner")
    activation = settings.get("activation_function", "gelu_new")
    if activation != "gelu_new" or inner not in (None, 4 * width):
        raise ValueError(f"{path}: read is GPT-2 with gelu_new and 4 x the width, not {activation}, {inner}")
    state = foreign.state_dict(foreign.load(path / "model.safetensors"), path)
    state = {k.removeprefix("transformer."): v for k, v in state.items() if k != "lm_head.weight"}
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if re.search(r"\.attn\.(masked_)?bias$", name):  # the causal mask of older files
            continue
        if match := re.match(r"h\.(\d+)\.attn\.c_attn\.(weight|bias)$", name):
            for part, piece in zip(("query", "key", "value"), value.chunk(3, dim=-1), strict=True):
                ours[f"blocks.{match[1]}.attention.{part}.{match[2]}"] = _turned(piece)
            continue
        new = next((re.sub(pattern, to, name) for pattern, to in _NAMES if re.match(pattern, name)), name)
        ours[new] = value if new.startswith(("tokens", "positions")) else _turned(value)
    rows, vocabulary = _rows(path, settings, tokenizer, ours["tokens.weight"])
    ours["tokens.weight"] = rows
    hparams = {
        "arch": "gpt", "vocab_size": len(vocabulary), "width": width, "layers": int(settings["n_layer"]),
        "heads": int(settings["n_head"]), "max_length": int(settings.get("n_positions", 1024)), **given,
    }  # fmt: skip
    with building(path):
        module = SmilesLM(**hparams)
    ours = {f"network.{k}": v for k, v in fitted(ours, module.network.state_dict(), path).items()}
    ours["vocabulary._extra_state"] = KeptText(vocabulary.document).get_extra_state()
    lines = [f"GPT-2 of {hparams['layers']} layers of {width}, {len(vocabulary.tokens)} tokens of SMILES"]
    return Weights(path, "zoo.SmilesLM", hparams, ours), lines


def _turned(value: Tensor) -> Tensor:
    """transformers' Conv1D has the axes of a linear layer's weight the other way round."""
    return value.T.contiguous() if value.dim() == 2 else value


def _rows(path: Path, settings: Any, tokenizer: Any, table: Tensor) -> tuple[Tensor, TokenVocabulary]:
    """Our table of tokens, and what they are."""
    model = tokenizer.get("model", {})
    known = model.get("vocab")
    if model.get("type") != "WordLevel" or not isinstance(known, dict):
        raise ValueError(
            f"{path}: its tokenizer is {model.get('type')!r}; read is one of whole tokens, WordLevel"
        )
    special = [settings.get(f"{role}_token_id") for role in ("pad", "bos", "eos")]
    if special[1] is None or special[2] is None:
        raise ValueError(f"{path}: config.json names no bos_token_id or no eos_token_id")
    unknown = next((known[name] for name in _UNKNOWN if name in known), None)
    first = [*special, unknown]
    tokens = [t for t, i in sorted(known.items(), key=lambda item: item[1]) if i not in first]
    plain = [t for t in tokens if _is_token(t)]
    if left := [t for t in tokens if t not in plain and not re.fullmatch(r"[<\[][A-Za-z_]{3,}[>\]]", t)]:
        raise ValueError(f"{path}: {left[0]!r} of its vocabulary is no single token of a SMILES")
    zeros = torch.zeros_like(table[0])
    rows = [zeros if i is None else table[i] for i in first] + [table[known[t]] for t in plain]
    rows[0] = zeros  # a pad is never read
    return torch.stack(rows), TokenVocabulary(tuple(plain))


def _is_token(text: str) -> bool:
    try:
        return tokenised(text) == [text] and not re.fullmatch(r"\[[A-Z_]{3,}\]", text)
    except ValueError:
        return False


def _json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; needed are config.json, model.safetensors and tokenizer.json")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST:,} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    return content
