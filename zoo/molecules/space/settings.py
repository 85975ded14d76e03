"""The settings of molecules in space: which go together, and what a target decides by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from zoo.molecules.space.elements import IN_EV
from zoo.molecules.space.network import HEADS, Backbone, Head, Pool
from zoo.nn.variants import Uses, refuse_unused

Centre = Literal["atom", "molecule", "none"]
Scale = Literal["auto", "none", "sd", "mad", "forces"]
References = Literal["auto", "none", "fit"]
Loss = Literal["mse", "l1"]
Interval = Literal["step", "epoch"]
INTENSIVE = ("homo", "lumo", "gap", "A", "B", "C")
"""Targets that do not grow with the molecule: the mean over its atoms is taken, else the sum."""
_WITH_CUTOFF = ("schnet", "dimenet++", "visnet", "painn")
_OF_BACKBONE: Uses = {
    "cutoff": {"backbone": _WITH_CUTOFF, "chirality": (True,)},
    "radial": _WITH_CUTOFF,
    "lmax": ("visnet",),
    "vertex": ("visnet",),
    "update_coordinates": ("egnn",),
    "chirality": ("schnet", "egnn", "painn"),
}
_OF_HEAD: Uses = dict.fromkeys(("pool", "centre", "references"), ("auto", "scalar"))
_OF_FORCES: Uses = dict.fromkeys(("energy_weight", "force_weight"), (True,))
_OF_DYNAMICS: Uses = dict.fromkeys(("nve_timestep", "temperature"), "more than 0")


def head_of(h: Mapping[str, Any]) -> Head:
    """The given head or that of the target."""
    given, backbone, target = (h[k] for k in ("head", "backbone", "target"))
    if given != "auto":
        found: Head = given
        return found
    own: Mapping[str, Head] = {"mu": "vector_dipole" if backbone == "painn" else "dipole", "r2": "r2"}
    head = own.get(target, "scalar")
    return head if backbone in HEADS[head] else "scalar"


def pool_of(h: Mapping[str, Any]) -> Pool:
    """The given pool or that of the target."""
    given = h["pool"]
    if given != "auto":
        found: Pool = given
        return found
    return "mean" if h["target"] in INTENSIVE and h["backbone"] != "egnn" else "sum"


def check_settings(of: type, h: Mapping[str, Any]) -> None:
    """Refuse what does not go together.

    Args:
        of: the module, whose arguments these are.
        h: the arguments.

    Raises:
        ValueError: naming the setting.
    """
    head = head_of(h)
    for key, choices in (
        ("backbone", get_args(Backbone)),
        ("head", ("auto", *get_args(Head))),
        ("pool", ("auto", *get_args(Pool))),
        ("references", get_args(References)),
        ("centre", get_args(Centre)),
        ("scale", get_args(Scale)),
        ("loss", get_args(Loss)),
        ("schedule_interval", get_args(Interval)),
    ):
        if h[key] not in choices:
            raise ValueError(f"model.init_args.{key} must be one of {', '.join(choices)}, got {h[key]!r}")
    refuse_unused(of, h, "backbone", _OF_BACKBONE)
    refuse_unused(of, h, "head", _OF_HEAD)
    refuse_unused(of, h, "forces", _OF_FORCES)
    refuse_unused(of, h, "nve_steps", _OF_DYNAMICS)
    if h["backbone"] not in HEADS[head]:
        raise ValueError(f"backbone {h['backbone']} has no head {head}; {', '.join(HEADS[head])} have")
    if head != "scalar" and h["forces"]:
        raise ValueError(f"forces are the derivative of an energy, which head {head} is not")
    if h["scale"] == "forces" and not h["forces"]:
        raise ValueError("model.init_args.scale: forces needs forces: true; choose sd, mad or none")
    if h["lmax"] > 2:
        raise ValueError(f"model.init_args.lmax must be 1 or 2, got {h['lmax']}")
    if h["backbone"] == "visnet" and (h["hidden"] or 8) % 8:
        raise ValueError(
            f"model.init_args.hidden of visnet must be a multiple of its 8 heads, got {h['hidden']}"
        )
    if h["nve_steps"] and (h["unit"] not in IN_EV or head != "scalar"):
        raise ValueError(
            f"model.init_args.nve_steps needs an energy, and the target is {h['target']} in {h['unit']}"
        )
