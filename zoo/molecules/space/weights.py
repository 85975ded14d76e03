"""State dicts of other projects: PaiNN of schnetpack 2 and SchNet of torch-geometric.

Both projects publish whole pickled models, which are never loaded: save ``model.state_dict()`` there and
convert that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.hub import foreign
from zoo.hub.foreign import State, Weights, building
from zoo.molecules.space.module import MoleculeRegressor3D

FORMATS: dict[str, tuple[str, ...]] = {}
_WRAPPERS = ("state_dict", "model")


def read(path: Path, settings: Mapping[str, Any]) -> tuple[Weights, list[str]]:
    """PaiNN of schnetpack or SchNet of torch-geometric, by the names of the tensors.

    Args:
        path: a state dict, in a ``.pt`` or ``.safetensors`` file.
        settings: constructor arguments; cutoff, target and unit are in no state dict.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is neither.
    """
    content = foreign.load(path)
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    state = foreign.state_dict(content, path)
    state = {k.removeprefix("model."): v for k, v in state.items()}
    if "representation.filter_net.weight" in state:
        return _painn(path, state, settings)
    if "interactions.0.conv.lin1.weight" in state:
        return _schnet(path, state, settings)
    raise ValueError(
        f"{path} holds neither a PaiNN of schnetpack (representation.filter_net.weight) nor a SchNet of "
        "torch-geometric (interactions.0.conv.lin1.weight)"
    )


def _painn(path: Path, state: State, settings: Mapping[str, Any]) -> tuple[Weights, list[str]]:
    prefix = "representation."
    hidden = int(state[f"{prefix}embedding.weight"].shape[1])
    width, radial = state[f"{prefix}filter_net.weight"].shape
    layers = int(width) // (3 * hidden)
    heads = sorted(k.partition("outnet.")[0] for k in state if k.endswith("outnet.0.weight"))
    if not layers or len(heads) != 1:
        raise ValueError(
            f"{path} has {len(heads)} scalar output modules and {layers} blocks; one and some are read"
        )
    cutoff, waves = state.get(f"{prefix}cutoff_fn.cutoff"), state.get(f"{prefix}radial_basis.freqs")
    if f"{prefix}radial_basis.widths" in state:
        raise ValueError(f"{path} has a basis of Gaussians; PaiNN here has one of sines")
    given: dict[str, Any] = {"backbone": "painn", "hidden": hidden, "layers": layers, "radial": int(radial)}
    if cutoff is not None:
        given["cutoff"] = float(cutoff.reshape(-1)[0])
    elif waves is not None:
        given["cutoff"] = math.pi / float(waves.reshape(-1)[0])
    ours: State = {"embedding.weight": state[f"{prefix}embedding.weight"]}
    weights = state[f"{prefix}filter_net.weight"].chunk(layers)
    biases = state[f"{prefix}filter_net.bias"].chunk(layers)
    for n in range(layers):
        ours |= {f"messages.{n}.filter.weight": weights[n], f"messages.{n}.filter.bias": biases[n]}
        ours[f"updates.{n}.mix.weight"] = state[f"{prefix}mixing.{n}.mu_channel_mix.weight"]
        for kind in ("weight", "bias"):
            for theirs, own in ((0, 0), (1, 2)):
                name = f"{prefix}interactions.{n}.interatomic_context_net.{theirs}.{kind}"
                ours[f"messages.{n}.phi.{own}.{kind}"] = state[name]
                name = f"{prefix}mixing.{n}.intraatomic_context_net.{theirs}.{kind}"
                ours[f"updates.{n}.mlp.{own}.{kind}"] = state[name]
    for kind in ("weight", "bias"):
        for theirs, own in ((0, 0), (1, 2)):
            ours[f"head.{own}.{kind}"] = state[f"{heads[0]}outnet.{theirs}.{kind}"]
    mean = next(
        (v for k, v in state.items() if k.startswith("postprocessors.") and k.endswith(".mean")), None
    )
    references = next(
        (v for k, v in state.items() if k.startswith("postprocessors.") and k.endswith(".atomref")), None
    )
    lines = [
        f"{path} holds a PaiNN of schnetpack: {layers} blocks of {hidden} features, {radial} basis functions"
    ]
    return _weights(path, ours, given, settings, mean, references, lines)


def _schnet(path: Path, state: State, settings: Mapping[str, Any]) -> tuple[Weights, list[str]]:
    hidden = int(state["embedding.weight"].shape[1])
    layers = len({k.split(".")[1] for k in state if k.startswith("interactions.")})
    offset = state["distance_expansion.offset"]
    filters = int(state["interactions.0.conv.lin1.weight"].shape[0])
    if filters != hidden:
        raise ValueError(
            f"{path} has {filters} filters and {hidden} features; these networks have as many of both"
        )
    given: dict[str, Any] = {
        "backbone": "schnet",
        "hidden": hidden,
        "layers": layers,
        "radial": len(offset),
        "cutoff": float(offset[-1]),
    }
    dropped = (".mlp.", "atomref", "atomic_mass")
    ours = {k: v for k, v in state.items() if not any(d in k for d in dropped)}
    references = state.get("atomref.weight")
    lines = [
        f"{path} holds a SchNet of torch-geometric: {layers} blocks of {hidden} features",
        "torch-geometric keeps mean and std outside of the state dict: what they did is missing here",
    ]
    return _weights(path, ours, given, settings, None, references, lines)


def _weights(
    path: Path,
    body: State,
    found: Mapping[str, Any],
    given: Mapping[str, Any],
    mean: Tensor | None,
    references: Tensor | None,
    lines: list[str],
) -> tuple[Weights, list[str]]:
    for key, value in found.items():
        if given.get(key, value) != value:
            raise ValueError(f"{path} has {key} {value}, and --set says {given[key]}")
    with building(path, sum(v.numel() * v.element_size() for v in body.values())):
        module = MoleculeRegressor3D(**{**found, **given})
    fitted = foreign.fitted(body, module.network.body.state_dict(), path, "the network")
    module.network.body.load_state_dict(fitted)
    units = module.network.units
    if mean is not None:
        units.mean.fill_(float(mean.reshape(-1)[0]))
    if references is not None:
        values = references.reshape(len(references), -1)[:, 0].double()
        count = min(len(values), len(units.references))
        units.references[:count] = values[:count]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    if not {"target", "unit"} <= set(given):
        lines.append("target and unit are in no state dict: say them with --set target=U0 --set unit=eV")
    return Weights(path, "zoo.MoleculeRegressor3D", dict(module.hparams), state), lines
