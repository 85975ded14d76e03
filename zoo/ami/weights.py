"""Checkpoints of the released code (OpenNMT-py 1.0) <-> ours.

The code writes a folder: ``g_model/md_step_N.pt`` (forward), ``m_model/md_step_N.pt`` (backward) and
``n_model/md-N.pt`` (the noise). Its files hold pickled objects besides tensors (``vocab``, ``opt``,
``optim``; the noise is a pickled module), which are refused: where you trust them, save ``{"model": ...,
"generator": ...}`` and the noise's ``state_dict()`` once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.ami.network import SIZES, encoder_decoder
from zoo.ami.noise import NoiseSampler
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights, written_whole

FORMATS: dict[str, tuple[str, ...]] = {"official": ()}
"""What :func:`write` writes: a folder."""

_ATTENTION = (
    (r"linear_query", "query"),
    (r"linear_keys", "key"),
    (r"linear_values", "value"),
    (r"final_linear", "output"),
)
_FEED_FORWARD = ((r"w_1", "inner"), (r"w_2", "outer"), (r"layer_norm", "norm"))
_TABLES = {
    "encoder.embeddings.make_embedding.emb_luts.0.weight": "source_embedding.weight",
    "decoder.embeddings.make_embedding.emb_luts.0.weight": "target_embedding.weight",
    "generator.0.weight": "generator.weight",
    "generator.0.bias": "generator.bias",
}
_NOISE = {f"mu_pjt.{i}.{kind}": f"mu.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
_POSITIONS = re.compile(r".*\.pe\.pe$")


def names(variant: str, layers: int) -> dict[str, str]:
    """Official name -> ours, of every tensor of a network."""
    found = dict(_TABLES)
    if variant == "rnn":
        for i in range(layers):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                found[f"encoder.rnn.{kind}_l{i}"] = f"encoder.{kind}_l{i}"
                found[f"decoder.rnn.layers.{i}.{kind}"] = f"decoder.{i}.{kind}"
        for part in ("in", "out"):
            found[f"decoder.attn.linear_{part}.weight"] = f"attention_{part}.weight"
        return found
    blocks: list[tuple[str, str]] = [
        ("encoder.layer_norm", "encoder_norm"),
        ("decoder.layer_norm", "decoder_norm"),
    ]
    for i in range(layers):
        theirs, ours = f"encoder.transformer.{i}", f"encoder.{i}"
        blocks.append((f"{theirs}.layer_norm", f"{ours}.norm"))
        blocks += _parts(theirs, ours, (("self_attn", "attention"),))
        theirs, ours = f"decoder.transformer_layers.{i}", f"decoder.{i}"
        blocks += [
            (f"{theirs}.layer_norm_1", f"{ours}.self_norm"),
            (f"{theirs}.layer_norm_2", f"{ours}.memory_norm"),
        ]
        blocks += _parts(
            theirs, ours, (("self_attn", "self_attention"), ("context_attn", "memory_attention"))
        )
    for a, b in blocks:
        found |= {f"{a}.{kind}": f"{b}.{kind}" for kind in ("weight", "bias")}
    return found


def _parts(theirs: str, ours: str, attentions: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = [(f"{theirs}.{a}.{x}", f"{ours}.{b}.{y}") for a, b in attentions for x, y in _ATTENTION]
    return found + [(f"{theirs}.feed_forward.{x}", f"{ours}.feed_forward.{y}") for x, y in _FEED_FORWARD]


def _newest(folder: Path, pattern: str) -> Path | None:
    def step(path: Path) -> int:
        return int((re.findall(r"\d+", path.stem) or ["0"])[-1])

    return max(folder.glob(pattern), key=step, default=None)


def _read_network(path: Path) -> State:
    """``model`` and ``generator`` of a file, without the table of positions."""
    content = foreign.load(path)
    if not isinstance(content, dict) or not {"model", "generator"} <= content.keys():
        raise ValueError(
            f"{path} has no 'model' and 'generator': save those two state dicts of the checkpoint"
        )
    state = foreign.state_dict(content["model"], path)
    generator = foreign.state_dict(content["generator"], path)
    state |= {f"generator.{k}": v for k, v in generator.items()}
    return {k: v for k, v in state.items() if not _POSITIONS.match(k)}


def _sizes(state: State, path: Path) -> dict[str, Any]:
    """Constructor arguments that the tensors tell; those of the variant's table are left out."""
    table = state.get("encoder.embeddings.make_embedding.emb_luts.0.weight")
    if table is None or table.dim() != 2:
        raise ValueError(
            f"{path} has no encoder.embeddings.make_embedding.emb_luts.0.weight: no OpenNMT checkpoint"
        )
    rnn = "encoder.rnn.weight_ih_l0" in state
    variant = "rnn" if rnn else "transformer_base"
    pattern = r"encoder\.rnn\.weight_ih_l(\d+)" if rnn else r"encoder\.transformer\.(\d+)\."
    layers = len({m[1] for key in state if (m := re.match(pattern, key))})
    width = {"width": table.shape[1], "layers": layers}
    inner = state.get("encoder.transformer.0.feed_forward.w_1.weight")
    if inner is not None:
        width["hidden"] = inner.shape[0]
    own = dict(zip(("width", "layers", "heads", "hidden"), SIZES[variant], strict=False))
    return {
        "variant": variant,
        "vocab_size": table.shape[0],
        **{k: v for k, v in width.items() if v != own[k]},
    }


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A folder of the released code as weights of :class:`zoo.AMI`.

    Args:
        path: the folder.
        given: constructor arguments; ``heads``, which no tensor tells, where they are not 8.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or no such file.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: give the folder that has g_model/md_step_N.pt and m_model/md_step_N.pt")
    files = {name: _newest(path, f"{room}/*.pt") for name, room in _ROOMS.items()}
    for name in ("forward_network", "backward_network"):
        if files[name] is None:
            raise FileNotFoundError(f"no {path / _ROOMS[name]}/md_step_N.pt")
    tensors: State = {"judged": torch.tensor(False), "vocabulary._extra_state": _no_text()}
    hparams: dict[str, Any] = {}
    for name in ("forward_network", "backward_network"):
        file = files[name]
        assert file is not None
        state = _read_network(file)
        found = _sizes(state, file)
        if hparams and found != hparams:
            raise ValueError(f"{file}: forward and backward network have other sizes: {found}, {hparams}")
        hparams = found
        tensors |= {f"network.{name}.{k}": v for k, v in _ours(state, {**found, **given}, file).items()}
    if (file := files["noise"]) is not None:
        state = foreign.state_dict(foreign.load(file), file)
        with torch.device("meta"):
            width = tensors["network.forward_network.source_embedding.weight"].shape[1]
            wanted = NoiseSampler(width).state_dict()
        renamed = {_NOISE.get(k, k): v.float() for k, v in state.items()}
        tensors |= {f"network.noise.{k}": v for k, v in foreign.fitted(renamed, wanted, file).items()}
    hparams |= given
    hparams |= {"judge": False, "noise": "learned" if file is not None else "none"}
    count = sum(v.numel() for k, v in tensors.items() if k.startswith("network."))
    line = f"{path} holds two networks {hparams['variant']} with {count:,} parameters, the noise included"
    return Weights(path, "zoo.AMI", hparams, tensors, averaged=False), [line]


_ROOMS = {"forward_network": "g_model", "backward_network": "m_model", "noise": "n_model"}


def _no_text() -> Tensor:
    """The vocabulary of weights that bring none."""
    return torch.frombuffer(bytearray(b" "), dtype=torch.uint8)


def _ours(state: State, hparams: Mapping[str, Any], path: Path) -> State:
    sizes = [hparams.get(k) for k in ("width", "layers", "heads", "hidden")]
    layers = hparams.get("layers") or SIZES[hparams["variant"]][1]
    with torch.device("meta"):
        network = encoder_decoder(hparams["variant"], hparams["vocab_size"], 1, False, *sizes)
    known = names(hparams["variant"], layers)
    renamed = {known.get(k, k): v.float() for k, v in state.items()}
    return foreign.fitted(renamed, network.state_dict(), path)


def write(module: Any, out: Path, to: str) -> list[str]:
    """Write the folder that the released code reads, with state dicts alone.

    Raises:
        ValueError: for networks that the released code has not.
    """
    h = module.hparams
    if h["variant"] not in ("rnn", "transformer_base", "transformer_tiny") or h["tied"]:
        what = "tied tables" if h["tied"] else f"variant {h['variant']}"
        raise ValueError(f"the released code has no {what}: write it with --to zoo")
    layers = h["layers"] or SIZES[h["variant"]][1]
    theirs = {ours: official for official, ours in names(h["variant"], layers).items()}
    for name in ("forward_network", "backward_network"):
        state = {k: v.detach().cpu() for k, v in getattr(module.network, name).state_dict().items()}
        named = {theirs[k]: v for k, v in state.items()}
        content = {
            "model": {k: v for k, v in named.items() if not k.startswith("generator.")},
            "generator": {
                k.removeprefix("generator."): v for k, v in named.items() if k.startswith("generator.")
            },
        }
        _save(content, out / _ROOMS[name] / "md_step_0.pt")
    if module.network.noise is not None:
        noise = {v: k for k, v in _NOISE.items()}
        state = {noise[k]: v.detach().cpu() for k, v in module.network.noise.state_dict().items()}
        _save(state, out / _ROOMS["noise"] / "md-0.pt")
    return [f"wrote {out}; the released code also wants its vocab and opt, which are no weights"]


def _save(content: Any, path: Path) -> None:
    with written_whole(path) as temporary:
        torch.save(content, temporary)
