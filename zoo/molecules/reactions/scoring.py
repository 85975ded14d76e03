"""Whether predicted molecules are the true ones: canonical SMILES compared, top-k, invalid, round trip."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.molecules.strings.generation import canonical

Candidates = Sequence[Sequence[str]]


def ranked(candidates: Sequence[str]) -> list[str]:
    """Canonical SMILES of the candidates that are molecules, each once, best first."""
    return [s for s in dict.fromkeys(map(canonical, candidates)) if s]


def hits(candidates: Candidates, targets: Sequence[str], ks: Sequence[int]) -> dict[str, float]:
    """Sums over reactions: ``top<k>`` whose canonical target is among the first k beams (invalid and repeated
    ones take their places, as in the Molecular Transformer's tables), ``invalid`` whose first beam is no
    molecule.
    """
    found = {f"top{k}": 0.0 for k in ks} | {"invalid": 0.0}
    for beams, target in zip(candidates, targets, strict=True):
        names, truth = [*map(canonical, beams)], canonical(target)
        for k in ks:
            found[f"top{k}"] += bool(truth) and truth in names[:k]
        found["invalid"] += not names or not names[0]
    return found


def copied(source: str, count: int) -> list[str]:
    """What a reader of nothing answers: the molecules of a source, the longest first."""
    parts = sorted(source.replace(">", ".").split("."), key=lambda s: (-len(s), s))
    return parts[:count]
