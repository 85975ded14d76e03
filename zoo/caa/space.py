"""The search space: genomes of three integers an attacker, and the policies that they stand for."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zoo.caa.attackers import Attacker, pool
from zoo.caa.corruptions import SEVERITIES
from zoo.caa.policy import Mode, Policy, Step

Array = np.ndarray[Any, Any]
LEVELS = 8
GENES = 3  # attacker, magnitude level, step level


@dataclass(frozen=True)
class Space:
    """Policies of ``length`` attackers: magnitude eps k / 8, steps T_max k / 8 (DDN 5 T_max k / 8), k to 8.

    Attributes:
        threat: ``linf``, ``l2``, ``unrestricted``.
        length: N; shorter policies hold Skip.
        longest: T_max.
        mode: of the policies.
        extra: AutoAttack's four attackers too.
    """

    threat: str
    length: int = 3
    longest: int = 200
    mode: Mode = "sequence"
    extra: bool = False

    @cached_property
    def attackers(self) -> list[Attacker]:
        return pool(self.threat, self.extra)

    @cached_property
    def choices(self) -> list[int]:
        """How many values each gene has."""
        return [len(self.attackers), LEVELS, LEVELS] * self.length

    def random(self, count: int, random: np.random.Generator) -> Array:
        """Genomes drawn uniformly (count, 3 N)."""
        return random.integers(np.asarray(self.choices), size=(count, len(self.choices)))

    def canonical(self, genome: Array) -> tuple[int, ...]:
        """The genome that stands for all with the same policy: neutral genes are 0, Skips go to the end."""
        triples = []
        for index, magnitude, steps in genome.reshape(-1, GENES).tolist():
            kind = self.attackers[index]
            if kind.name == "Skip":
                continue
            if kind.magnitude == "severity":  # the lowest level of a severity
                severity = _severity(magnitude)
                magnitude = next(k for k in range(LEVELS) if _severity(k) == severity)
            elif kind.magnitude == "none":
                magnitude = 0
            if kind.steps != "any":
                steps = 0
            else:
                taken = self._steps(kind, steps)
                steps = next(k for k in range(LEVELS) if self._steps(kind, k) == taken)
            triples.append((index, magnitude, steps))
        skip = next(i for i, a in enumerate(self.attackers) if a.name == "Skip")
        triples += [(skip, 0, 0)] * (self.length - len(triples))
        return tuple(gene for triple in triples for gene in triple)

    def policy(self, genome: Array | tuple[int, ...]) -> Policy:
        """What a genome stands for."""
        steps = []
        for index, magnitude, level in (
            np.asarray(self.canonical(np.asarray(genome))).reshape(-1, GENES).tolist()
        ):
            kind = self.attackers[index]
            share = {"radius": (magnitude + 1) / LEVELS, "severity": float(_severity(magnitude)), "none": 1.0}
            count = self._steps(kind, level) if kind.steps == "any" else 1
            if kind.name != "Skip":
                steps.append(Step(kind.name, share[kind.magnitude], count))
        return Policy(tuple(steps) or (Step("Skip"),), self.mode)

    def _steps(self, kind: Attacker, level: int) -> int:
        return max(1, self.longest * kind.longest * (level + 1) // LEVELS)

    def word(self, **more: Any) -> int:
        """A number that the definition alone decides (crc32), with what else makes results comparable."""
        names = [a.name for a in self.attackers]
        told = {"attackers": names, "length": self.length, "longest": self.longest, "mode": self.mode, **more}
        return zlib.crc32(json.dumps(told, sort_keys=True).encode())


def _severity(level: int) -> int:
    return 1 + level * SEVERITIES // LEVELS
