"""Policies: sequences of attackers, and the presets of the paper."""

from __future__ import annotations

import difflib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo.caa.attackers import ATTACKERS
from zoo.caa.corruptions import SEVERITIES

Mode = Literal["sequence", "subpolicies", "union"]
MODES = ("sequence", "subpolicies", "union")
Threat = Literal["linf", "l2", "unrestricted"]
GoalRule = Literal["next", "least_likely"]
ONE_TARGET = 2
"""Classes of which a targeted attacker has one target: its nominal cost on a goal."""
_MOST_STEPS = 10**6


@dataclass(frozen=True)
class Step:
    """An attacker of a policy.

    Attributes:
        attacker: its name.
        magnitude: share of eps, in (0, 1]; of a corruption the severity 1 to 5.
        steps: iterations.
    """

    attacker: str
    magnitude: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        if self.attacker not in ATTACKERS:
            near = difflib.get_close_matches(str(self.attacker), ATTACKERS, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it must be of {', '.join(ATTACKERS)}"
            raise ValueError(f"policy: no attacker {self.attacker!r}; {hint}")
        kind = ATTACKERS[self.attacker]
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        if not whole or not 1 <= self.steps <= _MOST_STEPS:
            raise ValueError(
                f"policy: steps of {self.attacker} is {self.steps!r}, but must be a whole number from 1 to "
                f"{_MOST_STEPS:,}"
            )
        if kind.steps != "any" and self.steps != 1:
            raise ValueError(f"policy: {self.attacker} takes no steps, got {self.steps}; leave them out")
        number = isinstance(self.magnitude, int | float) and not isinstance(self.magnitude, bool)
        high = SEVERITIES if kind.magnitude == "severity" else 1
        if not number or not 0 < self.magnitude <= high:
            what = "severity" if kind.magnitude == "severity" else "magnitude (a share of eps)"
            raise ValueError(
                f"policy: {what} of {self.attacker} is {self.magnitude!r}, but must lie in (0, {high}]"
            )
        if kind.magnitude == "severity" and self.magnitude != int(self.magnitude):
            raise ValueError(
                f"policy: severity of {self.attacker} is {self.magnitude!r}, but must be a whole number"
            )
        if kind.magnitude == "none" and self.magnitude != 1:
            raise ValueError(
                f"policy: {self.attacker} has no magnitude, got {self.magnitude!r}; leave it out"
            )

    def backward(self, classes: int) -> int:
        """Nominal backward passes of an image."""
        return ATTACKERS[self.attacker].backward(self.steps, classes)

    def forward(self, classes: int) -> int:
        """Nominal forward passes of an image, those of the gradients among them."""
        return self.backward(classes) + ATTACKERS[self.attacker].forward(self.steps, classes)


@dataclass(frozen=True)
class Policy:
    """A sequence of attackers; ``mode`` says what counts.

    * ``sequence``: each starts from the output of the one before; the final output counts (the definition).
    * ``subpolicies``: besides, each attacker from the second on runs from the clean image too; an image is
      robust if every intermediate and every such output is classified right (the official numbers).
    * ``union``: each runs from the clean image alone; the worst counts (AutoAttack's way).
    """

    steps: tuple[Step, ...]
    mode: Mode = "sequence"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be {' or '.join(MODES)}, got {self.mode!r}")
        if not self.steps:
            raise ValueError("policy: no attackers; give at least one, Skip for clean images")

    def backward(self, classes: int) -> int:
        """Nominal backward passes of an image: the paper's complexity, 800 of ``caa_linf``."""
        costs = [step.backward(classes) for step in self.steps]
        return sum(costs) + (sum(costs[1:]) if self.mode == "subpolicies" else 0)

    def forward(self, classes: int) -> int:
        """Nominal forward passes of an image."""
        costs = [step.forward(classes) for step in self.steps]
        return sum(costs) + (sum(costs[1:]) if self.mode == "subpolicies" else 0)

    def check(self, threat: str) -> None:
        """Refuse attackers that the threat model does not allow.

        Raises:
            ValueError: naming the first one.
        """
        for step in self.steps:
            norms = ATTACKERS[step.attacker].norms
            if step.attacker == "Skip":
                continue
            if threat == "unrestricted" and norms:
                raise ValueError(f"policy: {step.attacker} works inside a ball; set threat: {norms[0]}")
            if threat != "unrestricted" and threat not in norms:
                wanted = norms[0] if norms else "unrestricted"
                raise ValueError(f"policy: {step.attacker} is not of threat {threat}; set threat: {wanted}")

    def to_json(self) -> str:
        """``{"mode": ..., "steps": [{"attacker": ..., "magnitude": ..., "steps": ...}, ...]}``."""
        steps = [vars(step) for step in self.steps]
        return json.dumps({"mode": self.mode, "steps": steps}, indent=2) + "\n"

    @classmethod
    def of(cls, given: Sequence[Mapping[str, Any]], mode: Mode = "sequence") -> Policy:
        """Of a YAML list of ``{attacker: PGD, magnitude: 0.5, steps: 100}``.

        Raises:
            ValueError: for what is no such list.
        """
        steps = []
        for entry in given:
            if (
                not isinstance(entry, Mapping)
                or "attacker" not in entry
                or set(entry) - {"attacker", "magnitude", "steps"}
            ):
                raise ValueError(
                    f"policy: {entry!r} is no attacker; write {{attacker: PGD, magnitude: 1.0, steps: 100}}"
                )
            steps.append(Step(**entry))
        return cls(tuple(steps), mode)

    @property
    def word(self) -> int:
        """A number that the policy's attackers alone decide (crc32)."""
        return zlib.crc32(json.dumps([list(vars(s).values()) for s in self.steps]).encode())

    def __str__(self) -> str:
        def shown(step: Step) -> str:
            kind = ATTACKERS[step.attacker]
            parts = [f"{step.magnitude:g}"] * (kind.magnitude != "none") + [str(step.steps)] * (
                kind.steps == "any"
            )
            return f"{step.attacker}({', '.join(parts)})" if parts else step.attacker

        return (" -> " if self.mode != "union" else " | ").join(map(shown, self.steps))


def _steps(*given: tuple[Any, ...]) -> tuple[Step, ...]:
    return tuple(Step(*entry) for entry in given)


_CHAIN = _steps(
    ("APGD-CE", 1.0, 100), ("APGD-T", 1.0, 100), ("FAB-T", 1.0, 100), ("Square", 1.0, 5000)
)  # fmt: skip
PRESETS: dict[str, tuple[Threat, Policy]] = {
    "caa_linf": (
        "linf",
        Policy(_steps(("MultiTargeted", 1.0, 50), ("MultiTargeted", 1.0, 25), ("CW", 1.0, 125))),
    ),
    "caa_l2": ("l2", Policy(_steps(("MultiTargeted", 1.0, 100), ("PGD", 0.875, 25), ("DDN", 1.0, 1000)))),
    "caa_unrestricted": ("unrestricted", Policy(_steps(("fog", 1, 1), ("fog", 1, 1), ("SPSA",)))),
    "autoattack_linf": ("linf", Policy(_CHAIN, "union")),
    "autoattack_l2": ("l2", Policy(_CHAIN, "union")),
    "apgd_t_linf": ("linf", Policy(_steps(("APGD-T", 1.0, 100)))),
    "apgd_t_l2": ("l2", Policy(_steps(("APGD-T", 1.0, 100)))),
    "multi_targeted_linf": ("linf", Policy(_steps(("MultiTargeted", 1.0, 12)))),
    "multi_targeted_l2": ("l2", Policy(_steps(("MultiTargeted", 1.0, 25)))),
}
"""The published policies, AutoAttack's standard chain, and the two strong single attackers."""


def chosen_policy(
    policy: str | Sequence[Mapping[str, Any]], threat: str | None = None, mode: Mode | None = None
) -> tuple[Threat, Policy]:
    """Threat model and policy of the arguments.

    Raises:
        ValueError: for an unknown preset, or a policy that does not fit the threat model.
    """
    for key, value, choices in (
        ("threat", threat, ("linf", "l2", "unrestricted")),
        ("mode", mode, MODES),
    ):
        if value is not None and value not in choices:
            raise ValueError(f"model.init_args.{key} must be one of {', '.join(choices)}, got {value!r}")
    if isinstance(policy, str):
        if policy not in PRESETS:
            raise ValueError(
                f"model.init_args.policy: no preset {policy!r}; there are {', '.join(PRESETS)}, or write a "
                "list of attackers"
            )
        own, found = PRESETS[policy]
        if threat not in (None, own):
            raise ValueError(
                f"model.init_args.threat is {threat}, but the preset {policy} is of {own}; leave it out"
            )
        return own, Policy(found.steps, mode or found.mode)
    if threat is None:
        raise ValueError(
            "model.init_args.threat is not set: say of a policy of your own linf, l2 or unrestricted"
        )
    found = Policy.of(policy, mode or "sequence")
    found.check(threat)
    return threat, found  # type: ignore[return-value]
