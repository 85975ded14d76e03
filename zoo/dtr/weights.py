"""DiT and DTR weights of other projects <-> ours: official files, trainers' checkpoints, diffusers folders.

Our parameter names are the official ones under ``network.``, so most of the work is to check. Nothing is
unpickled but tensors, plain values and ``argparse.Namespace``, which DiT's trainer stores beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.dtr import diffusers
from zoo.dtr.module import DTR
from zoo.dtr.network import SIZES, DiT, position_table
from zoo.dtr.tables import official_tables, pop_tables, routing_arguments
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights, written_whole

FORMATS: dict[str, tuple[str, ...]] = {"official": (".pt", ".pth"), "diffusers": ()}
"""What :func:`write` writes, with the suffixes of its file; none for a folder."""

_CLASS_TABLE = "y_embedder.embedding_table.weight"
_GUIDED = 3
"""Channels that DiT's own code guides, whatever their number. DTR's guides all, and so does diffusers'."""


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """Weights of another project as those of :class:`zoo.DTR`, and lines on what was found.

    Takes an official DiT ``.pt`` (bare state dict), the checkpoint of DiT's, fast-DiT's or DTR's trainer (its
    EMA weights), a ``.safetensors`` with official names, or a diffusers folder (transformer or pipeline).

    Args:
        path: file or folder.
        given: constructor arguments for what the tensors cannot tell: ``heads`` unless the size is S, B, L or
            XL, ``schedule``, ``guidance``, ...

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    uw: Tensor | None = None
    found: dict[str, Any] = {}
    if path.is_dir():
        state, found, lines = _read_folder(path)
        guides_all = True
    else:
        state, uw, guides_all, lines = _read_file(path)
    try:
        found |= _sizes(state)
        if found["num_classes"] == 1 and len(state[_CLASS_TABLE]) == 2:
            state[_CLASS_TABLE] = state[_CLASS_TABLE][:1]
            lines.append("the class table has two rows: an unconditional model, whose null row is left out")
        _check_positions(state.pop("pos_embed", None), found)
        routing, masks = routing_arguments(pop_tables(state, found["depth"]), given)
        found |= routing
        if uw is not None:
            found |= {"loss_weight": "uw", "uw_intervals": len(uw)}
        hparams = _merged(found, given)
        plain = hparams["routing"] == "none" and hparams["num_classes"] > 1
        if plain and not guides_all and hparams["in_channels"] > _GUIDED and "cfg_channels" not in given:
            hparams["cfg_channels"] = _GUIDED
            lines.append(
                f"cfg_channels: {_GUIDED}: DiT's code guides these alone; --set cfg_channels=null guides all"
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if "input_size" not in found | given:
        lines.append("there is no pos_embed, so input_size is taken to be 32; else --set input_size=N")
    tensors = {f"network.{name}": tensor.float() for name, tensor in state.items()}
    if masks is not None:
        tensors["network.routing.masks"] = masks
    if hparams.get("loss_weight") == "uw":
        fresh = torch.zeros(hparams.get("uw_intervals", 8))
        tensors["uncertainty.log_variances"] = fresh if uw is None else uw.float()
    return Weights(path, "zoo.DTR", hparams, tensors, averaged=True), [_summary(found, hparams), *lines]


def write(module: DTR, out: Path, to: str) -> list[str]:
    """Write a module's weights in a format of :data:`FORMATS`; returns the lines to print.

    ``official`` is a bare state dict with ``pos_embed`` and, under routing, DTR's tables. ``diffusers`` is a
    folder for ``DiTTransformer2DModel.from_pretrained``.

    Raises:
        ValueError: for routing in a format that cannot hold it.
    """
    if to == "official":
        with written_whole(out) as temporary:
            torch.save(official_state(module), temporary)
        lines = [f"wrote {out}, a state dict as DiT's and DTR's own code load it"]
        if module.uncertainty is not None:
            lines.append("the learned loss weights of uw have no place in it and are left out")
        return lines
    config, state = diffusers_state(module)
    with written_whole(out / f"{diffusers.WEIGHTS}.safetensors") as temporary:
        save_file(state, temporary, {"format": "pt"})
    with written_whole(out / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")
    return [
        f"wrote {out} for DiTTransformer2DModel.from_pretrained",
        "warning: diffusers computes time frequencies with i/127, DiT with i/128: outputs differ, about 1 % "
        "for small weights and more for large ones; its pipeline drops the learned variance",
    ]


def _dit(module: DTR) -> DiT:
    if not isinstance(module.network, DiT):
        raise ValueError("only the DiT backbone has other formats; the U-Net was never released")
    return module.network


def official_state(module: DTR) -> State:
    """State dict under the official names, with the position table and, under routing, a table per block."""
    network = _dit(module)
    state = {k: v.detach().cpu() for k, v in network.state_dict().items() if k != "routing.masks"}
    return state | {"pos_embed": network.pos_embed.cpu().clone()} | official_tables(network.routing)


def diffusers_state(module: DTR) -> tuple[dict[str, Any], State]:
    """Config and state dict of the same network as diffusers' ``DiTTransformer2DModel``.

    Raises:
        ValueError: under routing, unless each task sees every channel.
    """
    network = _dit(module)
    routing = network.routing
    if routing.kind != "none" and routing.active < routing.channels:
        raise ValueError(
            f"diffusers' DiT has no task routing, but this model routes {routing.active} of "
            f"{routing.channels} channels; write --to official instead"
        )
    official = official_state(module)
    if network.num_classes == 1:  # diffusers always has a null row
        official[_CLASS_TABLE] = official[_CLASS_TABLE].repeat(2, 1)
    return diffusers.config_of(network), diffusers.to_diffusers(official, len(network.blocks))


# --- files ---------------------------------------------------------------------------------------------


def _tensors(content: Any, path: Path, what: str) -> State:
    """The state dict without the prefixes of DDP and torch.compile."""
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: {what} is not a state dict of tensors")
    return foreign.state_dict(content, path)


def _load(path: Path) -> Any:
    """``argparse.Namespace`` is the one class that a file may hold besides tensors and plain values."""
    return foreign.load(path, admitted=[argparse.Namespace])


def _read_file(path: Path) -> tuple[State, Tensor | None, bool, list[str]]:
    """State dict, log-variances of uw if there are any, whether all channels are guided, lines to print."""
    content = _load(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a state dict or a trainer's checkpoint"
        )
    if "ema" not in content:
        if isinstance(content.get("model"), dict):
            raise ValueError(
                f"{path} is a trainer's checkpoint without 'ema'; save its 'model' alone to use that"
            )
        return _tensors(content, path, "the file"), None, False, []
    lines = ["a trainer's checkpoint: taken are its EMA weights, not the raw ones nor the optimiser"]
    of_dtr = "config" in content  # DiT's trainer stores "args"
    if of_dtr:
        lines.append("the tensors do not tell the noise schedule: --set schedule=cosine if that was its")
    return _tensors(content["ema"], path, "'ema'"), _log_variances(content.get("uw"), path), of_dtr, lines


def _log_variances(content: Any, path: Path) -> Tensor | None:
    if content is None:
        return None
    values = list(content.values()) if isinstance(content, dict) else [content]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 1:
        raise ValueError(f"{path}: 'uw' is not one vector of log-variances, one per timestep interval")
    return values[0]


def _read_folder(path: Path) -> tuple[State, dict[str, Any], list[str]]:
    """State dict, what config.json says, lines to print."""
    folder = path / "transformer" if (path / "transformer" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no diffusers folder: no config.json in it or its transformer/")
    found, lines = diffusers.read_config(folder)
    single = folder / f"{diffusers.WEIGHTS}.safetensors"
    shards = [single] if single.is_file() else sorted(folder.glob(f"{diffusers.WEIGHTS}-*-of-*.safetensors"))
    pickled = folder / f"{diffusers.WEIGHTS}.bin"
    if shards:
        theirs = {k: v for shard in shards for k, v in _tensors(_load(shard), shard, "the file").items()}
    elif pickled.is_file():
        theirs = _tensors(_load(pickled), pickled, "the file")
    else:
        raise FileNotFoundError(f"no {diffusers.WEIGHTS}.safetensors (or .bin) in {folder}")
    try:
        return diffusers.from_diffusers(theirs), found, lines
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


# --- what tensors tell ---------------------------------------------------------------------------------


def _sizes(state: State) -> dict[str, Any]:
    """Constructor arguments that keys and shapes tell."""

    def shape(key: str, dims: int) -> torch.Size:
        if key not in state or state[key].ndim != dims:
            what = f"of shape {list(state[key].shape)}" if key in state else "missing"
            raise ValueError(f"these are no DiT weights: {key} is {what}")
        return state[key].shape

    width, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    numbers = {int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError("the blocks are not numbered from 0 without gaps")
    outputs, rest = divmod(shape("final_layer.linear.weight", 2)[0], patch * patch)
    if rest or outputs not in (channels, 2 * channels):
        raise ValueError(
            f"{outputs} output channels for {channels} input channels, DiT has 1 or 2 times as many"
        )
    sizes = {
        "width": width,
        "depth": len(numbers),
        "patch_size": patch,
        "in_channels": channels,
        "num_classes": max(shape(_CLASS_TABLE, 2)[0] - 1, 1),  # the last row is the null class
        "learn_sigma": outputs == 2 * channels,
    }
    if "pos_embed" in state:
        sizes["input_size"] = math.isqrt(shape("pos_embed", 3)[1]) * patch
    return sizes


def _check_positions(table: Tensor | None, sizes: dict[str, Any]) -> None:
    if table is None:
        return
    other = "pos_embed is not DiT's fixed 2-D sine-cosine table, so this is another architecture"
    side = sizes["input_size"] // sizes["patch_size"]
    if table.shape != (1, side**2, sizes["width"]):
        raise ValueError(other)
    expected = position_table(sizes["width"], side)
    # The official code averages the table too; rounding lets it drift by some 1e-4 in a long training.
    if not torch.allclose(table.float(), expected, rtol=0, atol=1e-3):
        raise ValueError(other)


def _merged(found: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What the tensors say and what the user says, which must not contradict it.

    ``size`` stands for width, depth and heads where it can.
    """
    claims = {**SIZES.get(given.get("size", ""), {}), **given}
    for key, value in claims.items():
        if found.get(key, value) != value:
            raise ValueError(f"its {key} is {found[key]}, which contradicts --set {key}={value}")
    hparams = {"routing": "none"} | found | given
    for name, numbers in SIZES.items():
        if all(hparams[key] == numbers[key] for key in ("width", "depth")):
            heads = hparams.get("heads")
            own = None if heads == numbers["heads"] else heads
            return hparams | {"size": name, "width": None, "depth": None, "heads": own}
    if hparams.get("heads") is None:
        sizes = ", ".join(f"{n} {v['width']} x {v['depth']}" for n, v in SIZES.items())
        raise ValueError(
            f"width {hparams['width']} x depth {hparams['depth']} is none of {sizes}; tensors do not tell "
            "the number of attention heads: give it as --set heads=N"
        )
    return hparams


def _summary(found: dict[str, Any], hparams: dict[str, Any]) -> str:
    """One line on the network that was found."""
    routing = {"none": "no routing", "random": "random routing, its own masks", "dtr": "task routing"}
    text = routing[hparams["routing"]]
    if hparams["routing"] == "dtr":
        text += f" with alpha {hparams.get('alpha', 4.0)}, beta {hparams.get('beta', 0.8)}"
    return (
        f"a DiT of width {found['width']}, depth {found['depth']}, patch {found['patch_size']}, "
        f"{found['num_classes']} classes, {text}"
    )
