"""D-MPNN weights of chemprop 2 (github.com/chemprop/chemprop) <-> ours.

chemprop's ``message_passing.W_i, W_h, W_o`` are ours under ``backbone``, its ``predictor.ffn`` is ours in one
row. Its output transform (``predictor.output_transform.mean`` and ``scale``) becomes the scale of the
targets. What a state dict does not tell, the readout and the names of the targets, is given with --set.
Nothing is unpickled but tensors: of chemprop's own ``.pt`` files, which hold classes, write
``torch.save(model.state_dict(), ...)``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from zoo.hub import foreign
from zoo.hub.foreign import State, Weights
from zoo.molecules.graph.features import ATOM_WIDTH, BOND_WIDTH
from zoo.molecules.graph.module import MoleculeGraph2D

FORMATS: dict[str, tuple[str, ...]] = {"chemprop": (".pt", ".pth")}
"""What :func:`write` writes, with the suffixes of its file."""
_FFN = re.compile(r"predictor\.ffn\.(\d+)\.(\d+)\.(weight|bias)")
_SCALE = {
    "predictor.output_transform.mean": "target_mean",
    "predictor.output_transform.scale": "target_deviation",
}
_OWN = "members.0.backbone."


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A state dict of chemprop 2's MPNN as weights of :class:`zoo.MoleculeGraph2D`, and lines on what was
    found.

    Args:
        path: ``.pt`` or ``.pth`` with a state dict.
        given: constructor arguments that tensors cannot tell: ``readout``, ``depth``, ``targets``, ``task``.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    state = foreign.state_dict(foreign.load(path), path)
    theirs, scales = _renamed(state, path)
    found = _sizes(theirs, path)
    for key, value in given.items():
        if found.get(key, value) != value:
            raise ValueError(f"{path}: its {key} is {found[key]}, which contradicts --set {key}={value}")
    if "readout" not in given:
        raise ValueError(
            f"{path}: a state dict does not tell how atoms are read out: give --set readout=norm "
            "(chemprop 2's default), mean or sum"
        )
    outputs = len(theirs[f"members.0.ffn.{3 * (found['ffn_layers'] - 1)}.bias"])
    names = given.get("targets") or [f"target_{i}" for i in range(outputs)]
    if len(names) != outputs:
        raise ValueError(f"{path} predicts {outputs} targets, but --set targets names {len(names)}")
    hparams = {**found, **given, "targets": list(names)}
    with foreign.building(path):
        module = MoleculeGraph2D(**hparams)
    fitted = foreign.fitted(theirs, module.network.state_dict(), path)
    tensors = {f"network.{k}": v.float() for k, v in fitted.items()}
    rest = {k: v for k, v in module.state_dict().items() if not k.startswith("network.")}
    for name, value in scales.items():
        if value.numel() != outputs:
            raise ValueError(f"{path}: its output transform has {value.numel()} numbers, not {outputs}")
        rest[name] = value.double().reshape(outputs)
    rest["fitted"] = torch.tensor(True)
    lines = [
        f"{path} holds a D-MPNN of {found['hidden']} units, features {found['features']}, {outputs} targets",
        f"depth {hparams.get('depth', 3)} and readout {given['readout']} are as given, not in the file",
    ]
    return Weights(path, "zoo.MoleculeGraph2D", hparams, tensors | rest), lines


def write(module: MoleculeGraph2D, out: Path, to: str) -> list[str]:
    """Write a D-MPNN's state dict with chemprop 2's keys.

    Raises:
        ValueError: for what chemprop's MPNN has not: other backbones, descriptors, ensembles, variances.
    """
    h = module.hparams
    plain = h["backbone"] == "dmpnn" and h["descriptors"] == "none" and h["members"] == 1
    if not isinstance(module, MoleculeGraph2D) or not plain or h["head"] != "point":
        raise ValueError(
            "chemprop's MPNN is backbone: dmpnn, descriptors: none, members: 1, head: point; this is another"
        )
    state: State = {}
    for name, value in module.network.state_dict().items():
        if name.startswith(_OWN):
            state[f"message_passing.{name.removeprefix(_OWN)}"] = value
        else:
            _, _, _, place, kind = name.split(".")
            number = int(place) // 3
            state[f"predictor.ffn.{number}.{2 if number else 0}.{kind}"] = value
    for theirs, own in _SCALE.items():
        state[theirs] = module.state_dict()[own].float().reshape(1, -1)
    with foreign.written_whole(out) as temporary:
        torch.save(state, temporary)
    return [f"wrote {out}, a state_dict of chemprop 2's MPNN (load_state_dict; features {module.features})"]


def _renamed(state: State, path: Path) -> tuple[State, State]:
    """Our names of the network's tensors, and the scale of the targets."""
    ours: State = {}
    scales: State = {}
    for name, value in state.items():
        if name.startswith("message_passing.W_"):
            ours[_OWN + name.removeprefix("message_passing.")] = value
        elif match := _FFN.fullmatch(name):
            block, place = int(match[1]), int(match[2])
            if place != (2 if block else 0):
                raise ValueError(f"{path}: {name} is no layer of chemprop's FFN")
            ours[f"members.0.ffn.{3 * block}.{match[3]}"] = value
        elif name in _SCALE:
            scales[_SCALE[name]] = value
        elif not name.startswith(("metrics.", "predictor.criterion.")):
            raise ValueError(f"{path}: {name} is of no D-MPNN that is read here (batch norm, others)")
    return ours, scales


def _sizes(state: State, path: Path) -> dict[str, Any]:
    """Constructor arguments that shapes tell."""
    try:
        hidden, wide = state[_OWN + "W_i.weight"].shape
        blocks = [int(k.split(".")[3]) // 3 for k in state if k.startswith("members.0.ffn.")]
        first = state["members.0.ffn.0.weight"].shape
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: these are no weights of chemprop's D-MPNN: {error} is missing") from None
    features = {width + BOND_WIDTH: name for name, width in ATOM_WIDTH.items()}.get(wide)
    if features is None:
        raise ValueError(f"{path}: W_i takes {wide} features, chemprop's are 147 (v1) or 86 (v2)")
    layers = 1 + max(blocks)
    found: dict[str, Any] = {"backbone": "dmpnn", "features": features, "hidden": int(hidden)}
    found |= {"ffn_layers": layers}
    return found | ({"ffn_hidden": int(first[0])} if layers > 1 else {})
