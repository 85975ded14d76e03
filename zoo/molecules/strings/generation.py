"""What generated molecules are worth: valid, unique, novel, diverse, drug-like, easy to make.

Validity = parsable and not empty / all; uniqueness = distinct canonical SMILES / valid ones; novelty = those
of them that were not trained on / distinct ones. rdkit reads the empty text as a molecule without atoms;
here it is none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from zoo.molecules.chemistry import chem

_BITS = 1024
_ROWS = 1000


def molecule(text: str) -> Any:
    """The rdkit molecule of a generated SMILES, or None where it is none."""
    if not text.strip():
        return None
    found = chem().MolFromSmiles(text)
    return None if found is None or found.GetNumAtoms() == 0 else found


def canonical(text: str) -> str:
    """The canonical SMILES of a generated one, "" where it is none."""
    found = molecule(text)
    return "" if found is None else str(chem().MolToSmiles(found))


def scaffold(text: str) -> str:
    """Bemis-Murcko scaffold of a SMILES without chirality, "" of an acyclic molecule."""
    murcko = chem("rdkit.Chem.Scaffolds.MurckoScaffold")
    return str(murcko.MurckoScaffoldSmiles(smiles=text, includeChirality=False))


def _share(count: float, of: int) -> float:
    """NaN of nothing: a share that does not exist is not 0."""
    return count / of if of else math.nan


def shares(generated: Sequence[str], known: Collection[str] | None) -> dict[str, float]:
    """``validity``, ``uniqueness`` and, of ``known`` canonical SMILES, ``novelty``.

    Args:
        generated: SMILES as they were drawn.
        known: canonical SMILES that were trained on; None where nobody knows them.
    """
    valid = [c for c in map(canonical, generated) if c]
    unique = {*valid}
    found = {
        "validity": _share(len(valid), len(generated)),
        "uniqueness": _share(len(unique), len(valid)),
    }
    if known is not None:
        found["novelty"] = _share(len(unique - {*known}), len(unique))
    return found


def _bits(smiles: Sequence[str]) -> torch.Tensor:
    """(N, 1024) Morgan fingerprints of radius 2, as 0 and 1."""
    made = chem("rdkit.Chem.rdFingerprintGenerator").GetMorganGenerator(radius=2, fpSize=_BITS)
    rows = [torch.from_numpy(made.GetFingerprintAsNumPy(molecule(s))) for s in smiles]
    return torch.stack(rows).to(torch.float32)


def _tanimoto(part: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """(M, N) similarities of two sets of fingerprints."""
    both = part @ bits.T
    union = part.sum(dim=1)[:, None] + bits.sum(dim=1) - both
    # two molecules without a bit (a lone ion has one, nothing has none) would be 0 / 0
    return (both / union.clamp(min=1)).double()


def internal_diversity(smiles: Sequence[str]) -> float:
    """1 - mean Tanimoto similarity over all ordered pairs, each with itself included (MOSES): Morgan
    fingerprints of radius 2 and 1,024 bits."""
    if not smiles:
        return math.nan
    bits = _bits(smiles)
    summed = sum(float(_tanimoto(part, bits).sum()) for part in bits.split(_ROWS))
    return 1 - summed / len(smiles) ** 2


def similarities(smiles: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Tanimoto similarity of each of ``smiles`` to those of ``known``: ``snn``, a mean of the nearest one's
    (MOSES), and ``similarity``, a mean over all pairs.
    """
    if not smiles or not known:
        return {"snn": math.nan, "similarity": math.nan}
    bits, nearest, summed = _bits(smiles), torch.zeros(len(smiles), dtype=torch.float64), 0.0
    for start in range(0, len(known), _ROWS):
        found = _tanimoto(bits, _bits(known[start : start + _ROWS]))
        nearest = torch.maximum(nearest, found.amax(dim=1))
        summed += float(found.sum())
    return {"snn": float(nearest.mean()), "similarity": summed / len(smiles) / len(known)}


def scaffold_novelty(unique: Collection[str], known: Collection[str]) -> float:
    """Distinct scaffolds, empty ones left out, that no known molecule has / distinct ones."""
    own = {scaffold(s) for s in unique} - {""}
    return _share(len(own - {scaffold(s) for s in known}), len(own))


@cache
def _sa() -> Any:
    """rdkit's contributed synthetic accessibility score (Ertl & Schuffenhauer 2009)."""
    folder = str(Path(chem("rdkit.RDConfig").RDContribDir) / "SA_Score")
    sys.path.append(folder)
    try:
        import importlib

        return importlib.import_module("sascorer")
    finally:
        sys.path.remove(folder)


def properties(smiles: str) -> dict[str, float]:
    """``qed``, ``sa`` (1 easy to 10 hard to make), ``log_p`` and ``weight`` of a valid SMILES."""
    found = molecule(smiles)
    return {
        "qed": float(chem("rdkit.Chem.QED").qed(found)),
        "sa": float(_sa().calculateScore(found)),
        "log_p": float(chem("rdkit.Chem.Crippen").MolLogP(found)),
        "weight": float(chem("rdkit.Chem.Descriptors").MolWt(found)),
    }


def scores(generated: Sequence[str], known: Sequence[str] | None, most: int = 200_000) -> dict[str, float]:
    """:func:`shares`, ``internal_diversity``, means of ``qed`` and ``sa`` over valid molecules,
    ``scaffold_novelty`` and :func:`similarities` to what is known.

    Args:
        generated: SMILES as they were drawn.
        known: canonical SMILES that were trained on; None where nobody knows them.
        most: known molecules whose scaffolds and fingerprints are made; of more there are no such scores.
    """
    valid = [c for c in map(canonical, generated) if c]
    found = shares(generated, known)
    found["internal_diversity"] = internal_diversity(valid)
    each = {s: properties(s) for s in {*valid}}
    for name in ("qed", "sa"):
        found[name] = _share(math.fsum(each[s][name] for s in valid), len(valid))
    if known is not None and len(known) <= most:
        found["scaffold_novelty"] = scaffold_novelty({*valid}, known)
        found |= similarities(valid, known)
    return found
