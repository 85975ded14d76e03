"""Peptides of an installed package, FASTA in memory and item by item, tables of sequences, ESM folders."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from fakes.proteins import fake_uniref, own_proteins
from fuzz.forked import Reader

import zoo
from datamodules.proteins import files
from zoo.hub.convert import read_foreign
from zoo.language.masked.weights import write


def fasta(folder: Path) -> Path:
    fake_uniref(folder, 30)
    return folder / "uniref50.fasta"


def item_by_item(path: Path) -> list[str]:
    with mock.patch.object(files, "_IN_MEMORY", 0):
        return list(files.read_fasta(path)[0])


def table(folder: Path) -> Path:
    own_proteins(folder)
    return folder / "own.csv"


def peptides(folder: Path) -> Path:
    (folder / "data").mkdir()
    rows = [f"{'GKLV' * (i % 7 + 2)}, {i % 2}" for i in range(40)]
    (folder / "data" / files.PEPTIDES).write_text("\n".join(["40,1,UniProt,AMP", *rows]) + "\n")
    return folder / "data" / files.PEPTIDES


def read_peptides(path: Path) -> object:
    with mock.patch.object(files, "package_folder", return_value=path.parent.parent):
        return files.read_peptides()[1].target


def esm(folder: Path) -> Path:
    write(zoo.MaskedLM(width=8, layers=1, heads=2, hidden=8), folder, "transformers")
    return folder / "model.safetensors"


READERS = [
    Reader("modlamp's peptides", peptides, read_peptides),
    Reader("FASTA", fasta, lambda path: list(files.read_fasta(path)[0])),
    Reader("a large FASTA file", fasta, item_by_item),
    Reader(
        "a table of proteins", table, lambda p: files.read_table(p, "sequence", ["a"], True, "spans").target
    ),
    Reader("a folder of ESM-2", esm, lambda path: read_foreign(path.parent, "masked_lm")[0].state_dict),
]
