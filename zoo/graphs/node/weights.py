"""Weights of ``torch_geometric.nn.models.BasicGNN`` (GCN, GraphSAGE, GIN, GAT, PNA) as those of the zoo.

Our layers are named as PyG's, so that a state dict loads as it is; the keys also tell the architecture and
its sizes, but for attention's heads in hidden layers that keys cannot tell apart from width.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from zoo.graphs.node.module import NodeClassifier
from zoo.hub import foreign
from zoo.hub.foreign import State, Weights

FORMATS: dict[str, tuple[str, ...]] = {"pyg": (".pt", ".pth")}
"""What :func:`write` writes, with the suffixes of its file."""


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """The ``state_dict`` of a BasicGNN as those of :class:`zoo.NodeClassifier`, and lines on what was found.

    Args:
        path: ``torch.save(model.state_dict(), path)``, or the same as ``.safetensors``.
        given: constructor arguments that the keys cannot tell: ``dropout``, ``act``, ``num_classes`` where a
            GAT's heads could be outputs, ...

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights or contradicts ``given``.
    """
    state = foreign.state_dict(foreign.load(path), path)
    try:
        found = _arguments(state) | given
    except (KeyError, IndexError, ValueError, StopIteration):
        raise ValueError(
            f"{path}: the keys are not those of a GCN, GraphSAGE, GIN, GAT or PNA of PyG"
        ) from None
    try:
        with foreign.building(path):
            network = NodeClassifier(**found).network
    except foreign.TooLarge:
        raise
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    what = f"{found['arch']} with the arguments found and given; say what the keys cannot tell with --set"
    state = foreign.fitted(state, network.state_dict(), path, what)
    tensors = {f"network.{name}": tensor for name, tensor in state.items()}
    size = f"{found['layers']} layers, {found['features']} features, {found['num_classes']} outputs"
    lines = [f"{path} holds a {found['arch']} of PyG: {size}"]
    return Weights(path, "zoo.NodeClassifier", found, tensors, averaged=True), lines


def write(module: NodeClassifier, out: Path, to: str) -> list[str]:
    """Write the network's state dict, which PyG's model of the same arguments loads.

    Raises:
        ValueError: for an architecture that is no BasicGNN.
    """
    if not isinstance(module, NodeClassifier):
        raise ValueError(f"PyG's BasicGNN classifies nodes, this is a {type(module).__name__}")
    if module.arch not in ("gcn", "sage", "gin", "gat", "gatv2", "pna"):
        raise ValueError(f"PyG's BasicGNN has no {module.arch}")
    with foreign.written_whole(out) as temporary:
        torch.save(dict(module.encoder.state_dict()), temporary)
    return [f"wrote {out}, a state_dict of torch_geometric.nn.models"]


def _arguments(state: State) -> dict[str, Any]:
    """Constructor arguments that the keys and shapes tell."""
    layers = 1 + max(int(m[1]) for k in state if (m := re.match(r"convs\.(\d+)\.", k)))
    last = f"convs.{layers - 1}."
    arch = _arch(state)
    found: dict[str, Any] = {"arch": arch, "layers": layers, "first_layer_weight_decay": None}
    if arch in ("gat", "gatv2"):
        key = "att_src" if arch == "gat" else "att"
        linear = "lin.weight" if arch == "gat" else "lin_l.weight"
        _, heads, width = state[f"convs.0.{key}"].shape
        hidden, features = state[f"convs.0.{linear}"].shape
        found |= {"heads": heads, "out_heads": state[last + key].shape[1]}
        outputs = state[last + key].shape[2]
        hidden = heads * width if layers > 1 else hidden
    elif arch == "gin":
        hidden, features = state["convs.0.nn.lins.0.weight"].shape
        outputs = state[last + "nn.lins.1.weight"].shape[0]
    elif arch == "pna":
        features = state["convs.0.pre_nns.0.0.weight"].shape[0]
        hidden, outputs = state["convs.0.lin.weight"].shape[0], state[last + "lin.weight"].shape[0]
    else:
        name = "lin.weight" if arch == "gcn" else "lin_l.weight"
        hidden, features = state[f"convs.0.{name}"].shape
        outputs = state[last + name].shape[0]
    if "lin.weight" in state:  # jumping knowledge
        wide = state["lin.weight"].shape[1]
        outputs = state["lin.weight"].shape[0]
        found["jk"] = (
            "lstm" if any(k.startswith("jk.") for k in state) else "cat" if wide > hidden else "last"
        )
        found.pop("out_heads", None)
    if any(k.startswith("norms.") for k in state):
        found["norm"] = "batch" if any(k.endswith("running_mean") for k in state) else "layer"
    return found | {"features": int(features), "hidden": int(hidden), "num_classes": int(outputs)}


def _arch(state: State) -> str:
    marks = {
        "att_src": "gat",
        "att": "gatv2",
        "nn.lins.0.weight": "gin",
        "pre_nns.0.0.weight": "pna",
        "lin_l.weight": "sage",
        "lin.weight": "gcn",
    }
    return next(arch for mark, arch in marks.items() if f"convs.0.{mark}" in state)
