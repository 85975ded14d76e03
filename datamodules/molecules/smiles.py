"""SMILES of a foreign file: what is read, what is left out, and how that is told.

Atom map numbers are taken off; isotopes, charges and metals stay as written. The canonical SMILES is what a
molecule is called everywhere, and its atoms are numbered in that order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.loading.tables import cut
from datamodules.loading.terminal import say
from datamodules.molecules.chemistry import chem

Salts = Literal["keep", "largest", "skip"]
"""What becomes of several fragments: all are one molecule, the largest alone is read, the row is left out."""
LONGEST = 4000
"""Characters of the longest SMILES that is given to the parser."""


class Unreadable(ValueError):
    """Why a text is no molecule, in few words without the row."""


@dataclass
class Molecules:
    """What was read of a column of SMILES.

    Attributes:
        rows: where each molecule stood, as given.
        smiles: its canonical SMILES.
        skipped: reason -> rows that were left out.
        examples: reason -> the text of the first such row.
        mixtures: molecules of several fragments among ``rows``.
    """

    rows: list[int] = field(default_factory=list)
    smiles: list[str] = field(default_factory=list)
    skipped: dict[str, list[int]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    mixtures: int = 0

    def skip(self, row: int, reason: str, text: str) -> None:
        """Leave a row out."""
        self.skipped.setdefault(reason, []).append(row)
        self.examples.setdefault(reason, cut(text))

    def tell(self, where: object) -> None:
        """One line on the terminal about each reason for which rows of ``where`` were left out."""
        for reason, rows in self.skipped.items():
            count = f"{len(rows):,} row{'s' * (len(rows) > 1)}"
            say(f"{where}: {count} skipped, {reason}: first line {rows[0]}, {self.examples[reason]}")
        if self.mixtures:
            count = f"{self.mixtures:,} molecule{'s' * (self.mixtures > 1)}"
            say(f"{where}: {count} of several fragments (salts, mixtures) kept whole")


def molecule_of(text: str) -> Any:
    """The rdkit molecule of a SMILES.

    Raises:
        Unreadable: for an empty text, one that is too long, no SMILES, or one with a dummy atom.
    """
    text = text.strip()
    if not text:  # rdkit reads it as a molecule without atoms
        raise Unreadable("empty SMILES")
    if len(text) > LONGEST:
        raise Unreadable(f"a SMILES of more than {LONGEST:,} characters")
    found = chem().MolFromSmiles(text.split()[0])
    if found is None or found.GetNumAtoms() == 0:
        raise Unreadable("no SMILES that rdkit can read")
    if any(atom.GetAtomicNum() == 0 for atom in found.GetAtoms()):
        raise Unreadable("a dummy atom (*)")
    return found


def without_maps(found: Any) -> Any:
    """The molecule with its atom map numbers taken off: they name places of a reaction, no chemistry."""
    if any(atom.GetAtomMapNum() for atom in found.GetAtoms()):
        for atom in found.GetAtoms():
            atom.SetAtomMapNum(0)
        # brackets that only held a map: the SMILES without them has the hydrogens that it should
        found = chem().MolFromSmiles(chem().MolToSmiles(found)) or found
    return found


def largest_fragment(found: Any) -> Any:
    """The fragment with most heavy atoms, then most atoms, then the first SMILES in the alphabet."""
    parts = chem().GetMolFrags(found, asMols=True)
    return min(parts, key=lambda m: (-m.GetNumHeavyAtoms(), -m.GetNumAtoms(), chem().MolToSmiles(m)))


def canonical(text: str, salts: Salts = "keep", isomeric: bool = True) -> str:
    """The canonical SMILES of a text, without atom maps.

    Raises:
        Unreadable: see :func:`molecule_of`; also for several fragments that ``salts: skip`` leaves out.
    """
    found = without_maps(molecule_of(text))
    if salts != "keep" and len(chem().GetMolFrags(found)) > 1:
        if salts == "skip":
            raise Unreadable("several fragments (salt, mixture)")
        found = largest_fragment(found)
    return str(chem().MolToSmiles(found, isomericSmiles=isomeric))


def read_smiles(texts: Iterable[tuple[int, str]], salts: Salts = "keep") -> Molecules:
    """Canonical SMILES of (row, text) pairs; rows that are no molecules are left out and counted."""
    found = Molecules()
    for row, text in texts:
        try:
            smiles = canonical(text, salts)
        except Unreadable as error:
            found.skip(row, str(error), text)
            continue
        found.rows.append(row)
        found.smiles.append(smiles)
        found.mixtures += "." in smiles
    return found


def duplicates(smiles: Iterable[str]) -> dict[str, int]:
    """Canonical SMILES that stand more than once, with their number."""
    return {text: count for text, count in Counter(smiles).items() if count > 1}
