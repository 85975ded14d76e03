"""About 6,000 small molecules of public sets, bundled: what reactions are made of, and a small set of SMILES.

``python -m datamodules.molecules.building_blocks FOLDER`` makes the file anew from the public ones in FOLDER.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from datamodules.loading.files import written_whole
from datamodules.molecules.chemistry import chem
from datamodules.molecules.smiles import Unreadable, canonical
from datamodules.molecules.smiles_files import column_of, text_lines

FILE = Path(__file__).parent / "files" / "building_blocks.smi.gz"
LARGEST = 18
"""Heavy atoms of a block."""
_TABLES = ("delaney-processed.csv", "SAMPL.csv", "tox21.csv", "BBBP.csv")


def building_blocks() -> list[str]:
    """Canonical SMILES of the bundled blocks, in the order of the alphabet."""
    return [text for _, text in text_lines(FILE)]


def made(folder: Path) -> list[str]:
    """The blocks of the public files: one fragment, at most 18 heavy atoms, unique."""
    texts = [text for name in _TABLES for _, text in column_of(folder / name, "smiles")]
    for _, reaction in column_of(folder / "uspto_sample_A.csv", "reactants>reagents>production"):
        texts += reaction.partition(">")[0].split(".")
    found: set[str] = set()
    for text in texts:
        try:
            smiles = canonical(text)
        except Unreadable:
            continue
        if "." not in smiles and chem().MolFromSmiles(smiles).GetNumHeavyAtoms() <= LARGEST:
            found.add(smiles)
    return sorted(found)


if __name__ == "__main__":
    with written_whole(FILE) as temporary:
        content = "\n".join(made(Path(sys.argv[1]))) + "\n"
        temporary.write_bytes(gzip.compress(content.encode(), 9, mtime=0))
