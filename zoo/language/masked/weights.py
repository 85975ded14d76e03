"""ESM folders of transformers (``config.json``, ``model.safetensors``) <-> ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.hub import foreign
from zoo.hub.foreign import Weights, building, fitted
from zoo.language.masked.network import SIZES, MaskedNetwork
from zoo.language.masked.residues import ALPHABET, MASK, PAD

if TYPE_CHECKING:
    from zoo.language.masked.module import MaskedLM

FORMATS: dict[str, tuple[str, ...]] = {"transformers": ()}
"""What :func:`write` writes: a folder."""
_BUNDLED = Path(foreign.__file__).parent / "files"
_NAMES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_FIXED = {
    "model_type": "esm", "position_embedding_type": "rotary", "emb_layer_norm_before": False,
    "pad_token_id": PAD, "mask_token_id": MASK, "vocab_size": len(ALPHABET),
}  # fmt: skip
_ROTARY = "rotary_embeddings.inv_freq"
_LAYER_NORM = {"gamma": "weight", "beta": "bias"}


def _settings(folder: Path) -> dict[str, Any]:
    """Constructor arguments of a folder's model.

    Raises:
        FileNotFoundError, ValueError: one line on what is no ESM-2.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; needed are config.json and model.safetensors of EsmForMaskedLM")
    content = foreign.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    for key, value in _FIXED.items():
        given = content.get(key, value if key == "emb_layer_norm_before" else None)
        if given != value and not (given is None and value is False):
            raise ValueError(f"{path}: {key} is {given!r}; read is ESM-2, which has {value!r}")
    sizes = [content.get(name) for name in _NAMES]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{path}: {', '.join(_NAMES)} must be whole numbers above 0, got {sizes}")
    found: dict[str, Any] = dict(zip(SIZES, sizes, strict=True))
    return {"model": "esm2-8m", **found, "token_dropout": bool(content.get("token_dropout", False))}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a folder, under ``model.``; older files have the table of angles in each layer."""
    state = foreign.state_dict(foreign.load(path / "model.safetensors"), path / "model.safetensors")
    found = {}
    for name, value in state.items():
        if name.endswith("position_ids") or name == "lm_head.decoder.weight":
            continue  # a count, and another name of the embeddings
        if name.endswith(f".attention.self.{_ROTARY}"):
            name = f"esm.{_ROTARY}"
        # names of older files, which transformers writes again
        name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_LAYER_NORM[m[1]]}", name)
        found[f"model.{name}"] = value
    return {k: v for k, v in found.items() if not k.startswith("model.esm.embeddings.position_embeddings")}


def sizes_of(source: str) -> dict[str, Any]:
    """Constructor arguments of what a training is to begin with: a folder, our file, a bundled name.

    Raises:
        FileNotFoundError, ValueError: one line on what is none of these.
    """
    if Path(source).is_dir():
        return _settings(Path(source))
    metadata, _ = foreign.safetensors_in(_file(source), tensors=False)
    if metadata.get("class_path") != "zoo.MaskedLM":
        raise ValueError(f"model.init_args.pretrained {source} holds no zoo.MaskedLM")
    hparams = json.loads(metadata["hparams"])
    return {k: hparams.get(k) for k in ("model", *SIZES, "token_dropout", "vocab_size")}


def _file(source: str) -> Path:
    for path in (Path(source), _BUNDLED / f"{source}.safetensors"):
        if path.is_file() and path.suffix == ".safetensors":
            return path
    raise FileNotFoundError(
        f"model.init_args.pretrained {source} is no folder of EsmForMaskedLM, no .safetensors of "
        "zoo.MaskedLM, and no name of bundled weights"
    )


def start_from(network: MaskedNetwork, source: str) -> str:
    """Load what a pretrained model has of a network, a head of its own apart; a line on it.

    Raises:
        FileNotFoundError, ValueError: one line on weights that do not fit.
    """
    path = Path(source)
    if path.is_dir():
        state = _tensors(path)
    else:
        path = _file(source)
        given = foreign.state_dict(foreign.safetensors_in(path)[1], path)
        state = {k.removeprefix("network."): v for k, v in given.items() if k.startswith("network.model.")}
    own = network.state_dict()
    wanted = {k: v for k, v in own.items() if k.startswith("model.")}
    state = {k: v for k, v in state.items() if k in wanted or network.head is None}
    # the head of contacts is not in every folder
    kept = {k: own[k] for k in wanted if ("contact_head" in k or k.endswith(_ROTARY)) and k not in state}
    network.load_state_dict({**own, **fitted({**kept, **state}, wanted, path)})
    return f"{source} ({len(state)} tensors)"


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of EsmForMaskedLM as weights of :class:`zoo.MaskedLM`, and lines on what was found.

    Args:
        path: folder.
        given: constructor arguments.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder that holds no such model.
    """
    from zoo.language.masked.module import MaskedLM

    hparams = {**_settings(path), **given}
    with building(path):
        module = MaskedLM(**hparams)
    start_from(module.network, str(path))
    sizes = module.sizes
    lines = [f"ESM-2 of {sizes['layers']} layers of {sizes['width']}, {sizes['heads']} heads"]
    return Weights(path, "zoo.MaskedLM", hparams, dict(module.state_dict())), lines


def write(module: MaskedLM, out: Path, to: str) -> list[str]:
    """Write a folder that ``EsmForMaskedLM.from_pretrained`` and ``EsmTokenizer`` read.

    Raises:
        ValueError: for a model that is no masked ESM.
    """
    network = module.network
    if network.arch != "esm" or network.head is not None:
        raise ValueError(f"{to}: a folder is written of ESM with task: masked alone")
    out.mkdir(parents=True, exist_ok=True)
    network.model.save_pretrained(out)
    (out / "vocab.txt").write_text("\n".join(ALPHABET))
    return [f"wrote {out}; EsmForMaskedLM.from_pretrained reads it"]
