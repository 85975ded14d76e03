"""Lines and columns of SMILES, gzipped too, reactions in their layouts, a run's checkpoints to average."""

from __future__ import annotations

from pathlib import Path

import torch
from fakes.molecule_strings import ALCOHOLS, fake_moses, fake_raw, fake_token_lines, fake_uspto_50k
from fuzz.forked import Reader

import zoo
from datamodules import SmilesData
from datamodules.molecules.reaction_files import read_reactions, read_token_lines
from datamodules.molecules.smiles_files import smiles_of
from zoo.hub.convert import read_foreign


def own_lines(folder: Path) -> Path:
    (folder / "own.smi").write_text("\n".join(ALCOHOLS) + "\n")
    return folder / "own.smi"


def moses(folder: Path) -> Path:
    fake_moses(folder)
    return folder / "train.csv.gz"


def tokens(folder: Path) -> Path:
    fake_token_lines(folder)
    return folder / "src-train.txt"


def raw(folder: Path) -> Path:
    fake_raw(folder)
    return folder / "train.txt"


def table(folder: Path) -> Path:
    fake_uspto_50k(folder)
    return folder / "raw_train.csv"


def checkpoint(folder: Path) -> Path:
    model = zoo.ReactionTransformer(vocab_size=8, width=4, layers=1, heads=2, hidden=4)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(content, folder / "step=00000001.ckpt")
    return folder / "step=00000001.ckpt"


READERS = [
    Reader("lines of SMILES", own_lines, lambda path: SmilesData(layout="file", file=str(path)).splits),
    Reader("a gzipped column of SMILES", moses, lambda path: list(smiles_of(path))),
    Reader("token lines of reactions", tokens, lambda p: read_token_lines(p, p.with_name("tgt-train.txt"))),
    Reader("rxn_smiles with edits", raw, read_reactions),
    Reader("a table of reactions", table, read_reactions),
    Reader("checkpoints to average", checkpoint, lambda path: read_foreign(path.parent, "reactions")),
]
