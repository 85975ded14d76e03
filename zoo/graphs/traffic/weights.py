"""STGCN weights of the PyTorch port (github.com/hazdzz/stgcn) <-> ours.

Our parameter names are the port's under ``network.``. Its files have neither the graph nor the scale of the
data: a converted model takes both from the data module at its first ``fit``, ``test`` or ``predict``.
Nothing is unpickled but tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.graphs.traffic.module import SpatioTemporalForecaster
from zoo.graphs.traffic.stgcn import STGCN
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights

FORMATS: dict[str, tuple[str, ...]] = {"port": (".pt", ".pth")}
"""What :func:`write` writes, with the suffixes of its file."""

_BLOCK = "st_blocks.0."


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A state dict of the port as weights of :class:`zoo.SpatioTemporalForecaster`, and lines on what was
    found.

    Args:
        path: ``.pt`` or ``.pth`` with a state dict.
        given: constructor arguments that tensors cannot tell: ``target_step``, the port's ``n_pred``, and
            ``horizon`` of the data, by default the same.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    state = foreign.state_dict(foreign.load(path), path)
    try:
        found = _sizes(state)
    except (KeyError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: these are no weights of STGCN's port: {what}") from None
    for key, value in given.items():
        if found.get(key, value) != value:
            raise ValueError(f"{path}: its {key} is {found[key]}, which contradicts --set {key}={value}")
    if given.get("target_step") is None:
        raise ValueError(
            f"{path}: the port trains one model per horizon and its weights do not tell which: give n_pred "
            "as --set target_step=3 (or 6, 9)"
        )
    hparams = {"horizon": given["target_step"], "loss": "mse"} | found | given
    with foreign.building(path):
        module = SpatioTemporalForecaster(**hparams)
    expected = module.state_dict()
    own = {k: v for k, v in module.network.state_dict().items() if k != "supports"}
    theirs = {f"network.{k}": v.float() for k, v in foreign.fitted(state, own, path).items()}
    lines = [
        f"an STGCN of {found['num_nodes']} sensors, {found['lags']} frames, kernel {found['arch']}, for step "
        f"{hparams['target_step']}",
        "graph and scale are not in the file; they come from the data at the first fit, test or predict",
    ]
    weights = Weights(path, "zoo.SpatioTemporalForecaster", hparams, expected | theirs)
    return weights, lines


def write(module: SpatioTemporalForecaster, out: Path, to: str) -> list[str]:
    """Write STGCN weights as a state dict that the port loads strictly; returns the lines to print.

    Raises:
        ValueError: for another architecture, or one that predicts all steps at once.
    """
    if not isinstance(module.network, STGCN):
        raise ValueError(f"{module.hparams['arch']} has no other format; the port has STGCN alone")
    if module.hparams["target_step"] is None:
        raise ValueError(
            "the port predicts one step; this model has target_step: null and predicts all at once"
        )
    with foreign.written_whole(out) as temporary:
        torch.save(port_state(module), temporary)
    lines = [f"wrote {out}, a state dict of STGCN's port; mean, deviation and graph have no place in it"]
    if not module.hparams["unused_aligns"]:
        lines.append("the port's unused align_convs are zeros")
    return lines


def port_state(module: SpatioTemporalForecaster) -> State:
    """The port's state dict, with its unused ``align_conv``\\ s."""
    full = SpatioTemporalForecaster(**{**module.hparams, "unused_aligns": True}).network
    own = module.network.state_dict()
    return {
        k: own.get(k, torch.zeros_like(v)).detach().cpu().clone()
        for k, v in full.state_dict().items()
        if k != "supports"
    }


def _sizes(state: State) -> dict[str, Any]:
    """Constructor arguments that keys and shapes tell."""
    first = state[f"{_BLOCK}tmp_conv1.causal_conv.weight"]
    norm = state[f"{_BLOCK}tc2_ln.weight"]
    frames = state["output.tmp_conv1.causal_conv.weight"].shape[2]
    terms = f"{_BLOCK}graph_conv.cheb_graph_conv.weight"
    sizes: dict[str, Any] = {
        "arch": "stgcn_cheb" if terms in state else "stgcn_1st",
        "num_nodes": norm.shape[0],
        "lags": frames + 4 * (first.shape[2] - 1),
        "in_channels": first.shape[1],
        "hidden": first.shape[0] // 2,
        "unused_aligns": "output.tmp_conv1.align.align_conv.weight" in state,
    }
    if terms in state:
        sizes["cheb_terms"] = state[terms].shape[0]
    if first.shape[2] != 3:
        raise ValueError(f"its temporal kernel has {first.shape[2]} frames, ours 3")
    if len({k.split(".")[1] for k in state if k.startswith("st_blocks.")}) != 2:
        raise ValueError("it does not have two blocks")
    return sizes
