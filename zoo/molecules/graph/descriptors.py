"""Classical descriptors: ECFP4 bits, rdkit's list of physico-chemical numbers, and how they are scaled."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo.molecules.chemistry import chem

Descriptors = Literal["none", "ecfp", "rdkit", "both"]
ECFP_BITS = 2048
_CLIP = 5.0


def ecfp(found: Any, chirality: bool = False) -> Any:
    """ECFP4 of an rdkit molecule: Morgan bits of radius 2 (diameter 4), uint8 (2048,)."""
    return _generator(chirality).GetFingerprintAsNumPy(found)


@lru_cache(maxsize=200_000)
def ecfp_bits(smiles: str, chirality: bool = False) -> Any:
    """The same as rdkit's bit vector, for Tanimoto similarities."""
    return _generator(chirality).GetFingerprint(chem().MolFromSmiles(smiles))


_GENERATORS: dict[bool, Any] = {}


def _generator(chirality: bool) -> Any:
    if chirality not in _GENERATORS:
        made = chem("rdkit.Chem.rdFingerprintGenerator").GetMorganGenerator(
            radius=2, fpSize=ECFP_BITS, includeChirality=chirality
        )
        _GENERATORS[chirality] = made
    return _GENERATORS[chirality]


def rdkit_names() -> list[str]:
    """Names of rdkit's 2-D descriptors, in its own order; their number depends on rdkit's version."""
    return [name for name, _ in chem("rdkit.Chem.Descriptors").descList]


def rdkit_values(found: Any) -> Any:
    """rdkit's 2-D descriptors of a molecule, float64 (217,) in rdkit 2026.09; some are NaN, Ipc is huge.

    One that fails on a molecule is NaN.
    """
    values = []
    for _, function in chem("rdkit.Chem.Descriptors").descList:
        try:
            values.append(float(function(found)))
        except (ValueError, RuntimeError, ZeroDivisionError, OverflowError):
            values.append(float("nan"))
    return np.array(values, dtype=np.float64)


def width_of(descriptors: Descriptors) -> int:
    """Columns of a choice."""
    bits = ECFP_BITS if descriptors in ("ecfp", "both") else 0
    return bits + (len(rdkit_names()) if descriptors in ("rdkit", "both") else 0)


def names_of(descriptors: Descriptors) -> list[str]:
    """Names of the columns of a choice."""
    bits = [f"ecfp_{i}" for i in range(ECFP_BITS)] if descriptors in ("ecfp", "both") else []
    return bits + (rdkit_names() if descriptors in ("rdkit", "both") else [])


def applied_but(module: nn.Module, exact: Sequence[str], apply: Callable[[], object]) -> None:
    """``apply`` a change of device and type to a module, whose ``exact`` buffers only follow to the device.

    A mean in bfloat16 has two digits, and a run in that type would lose the others without a word.
    """
    before = {name: module._buffers[name] for name in exact}
    apply()
    for name, value in before.items():
        now = module._buffers[name]
        if value is not None and now is not None and now.dtype != value.dtype:
            module._buffers[name] = value.to(now.device)


class Standardiser(nn.Module):
    """Descriptors on one scale: ``clip((d - mean) / sd, -5, 5)`` in float64, with NaN and infinity as 0.

    Mean and population deviation are those of the training molecules alone. Columns that are constant there
    are
    dropped: they are 0, whatever they are later. ``version`` is a checksum of rdkit's names, so that weights
    do not meet the list of another rdkit.

    Args:
        descriptors: the choice.
    """

    mean: Tensor
    deviation: Tensor
    fitted: Tensor
    version: Tensor

    def __init__(self, descriptors: Descriptors) -> None:
        super().__init__()
        width = width_of(descriptors)
        self.names = names_of(descriptors)
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("deviation", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("version", torch.tensor(self._checksum()))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        applied_but(self, ("mean", "deviation"), lambda: super(Standardiser, self)._apply(fn, recurse))
        return self

    def _checksum(self) -> int:
        return zlib.crc32("\n".join(self.names).encode())

    def fit(self, values: Any) -> None:
        """Take mean and deviation from the training molecules, float64 (N, D)."""
        clean = finite(values)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = clean.mean(axis=0), clean.std(axis=0)
        constant = (clean == clean[:1]).all(axis=0)  # the mean of equal numbers may be another one
        usable = np.isfinite(mean) & np.isfinite(deviation) & ~constant
        self.mean.copy_(torch.from_numpy(np.where(usable, mean, 0.0)))
        self.deviation.copy_(torch.from_numpy(np.where(usable, deviation, 0.0)))
        self.fitted.fill_(True)

    @property
    def kept(self) -> Tensor:
        """Columns that vary among the training molecules, bool (D,)."""
        return self.deviation > 0

    def forward(self, values: Any) -> Tensor:
        """Standardised float32 (N, D) of float64 (N, D).

        Raises:
            ValueError: before ``fit``, or with weights of another version of rdkit.
        """
        if not bool(self.fitted):
            raise ValueError(
                "the descriptors were never standardised: run `zoo fit`, or give trained weights"
            )
        if int(self.version) != self._checksum():
            raise ValueError(
                "these weights know the descriptors of another version of rdkit than the one that is "
                "installed"
            )
        given = torch.from_numpy(finite(values)).to(self.mean.device)
        kept, scale = self.kept, torch.where(self.kept, self.deviation, 1.0)
        return torch.where(kept, ((given - self.mean) / scale).clamp(-_CLIP, _CLIP), 0.0).float()


def finite(values: Any) -> Any:
    """NaN and infinity as 0."""
    return np.where(np.isfinite(values), values, 0.0)


def nearest(smiles: Sequence[str], train: Sequence[str]) -> tuple[list[str], list[float]]:
    """The most similar training molecule of each, and its Tanimoto similarity of ECFP4 bits."""
    if not train:
        return [""] * len(smiles), [float("nan")] * len(smiles)
    similarities = chem("rdkit.DataStructs").BulkTanimotoSimilarity
    known = [ecfp_bits(text) for text in train]
    names, values = [], []
    for text in smiles:
        found = similarities(ecfp_bits(text), known)
        best = max(range(len(found)), key=lambda i: found[i])
        names.append(train[best])
        values.append(float(found[best]))
    return names, values


def tanimoto(a: Any, b: Any) -> Any:
    """Common bits over bits of either, (N, M); 1 for two molecules without a bit."""
    common = a @ b.T
    either = a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - common
    return np.where(either > 0, common / np.maximum(either, 1), 1.0)
