"""SmilesData: splits, vocabulary of the training set, files of a user's own, batches of like lengths."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datamodules
from datamodules.molecules.building_blocks import building_blocks, made
from datamodules.molecules.smiles import canonical
from datamodules.molecules.smiles_files import smiles_of, text_lines
from datamodules.molecules.string_module import StringItems
from datamodules.molecules.tokens import BOS, EOS, PAD, UNK, TokenVocabulary, tokenised
from datamodules.text.batches import LikeLengths

MOLECULES = [
    "CCO",
    "CCN",
    "c1ccccc1",
    "CC(=O)O",
    "CCCl",
    "CCBr",
    "OCCO",
    "CC#N",
    "CC=O",
    "CNC",
    "CSC",
    "COC",
    "CCCC",
]


def own(path: Path, lines: list[str], **settings: Any) -> datamodules.SmilesData:
    path.write_text("\n".join(lines) + "\n")
    return datamodules.SmilesData(layout="file", file=str(path), **{"batch_size": 4, **settings})


def test_the_blocks_are_small_unique_and_split_for_good() -> None:
    data = datamodules.SmilesData()
    splits = data.splits
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4829, "val": 603, "test": 603}
    assert len({s for rows in splits.values() for s in rows}) == 6035
    assert "." not in "".join(building_blocks())
    assert splits == datamodules.SmilesData().splits


def test_the_vocabulary_is_that_of_the_training_set() -> None:
    """Tokens of held-out molecules alone are <unk> there: the vocabulary leaks nothing of them."""
    data = datamodules.SmilesData()
    data.setup("fit")
    of = {split: {t for s in rows for t in tokenised(s)} for split, rows in data.splits.items()}
    assert {*data.tokens().tokens} == of["train"]
    unseen = sorted(of["val"] - of["train"])
    assert unseen
    index = next(i for i, s in enumerate(data.splits["val"]) if unseen[0] in tokenised(s))
    row = data.val_set[index]["ids"].tolist()
    assert UNK in row
    assert (row[0], row[-1]) == (BOS, EOS)


def test_batches_begin_and_end_and_are_padded_behind() -> None:
    data = datamodules.SmilesData(batch_size=2)
    data.setup("fit")
    shortest, longest = (int(f(data.train_set.lengths)) for f in (np.argmin, np.argmax))
    batch = data.train_set.__getitems__([shortest, longest])
    first = batch["ids"][0].tolist()
    end = first.index(EOS)
    assert first[0] == BOS
    assert {*first[end + 1 :]} == {PAD}
    assert data.tokens().text(batch["ids"][1].tolist()) == data.splits["train"][longest]


def test_like_lengths_show_each_item_once_and_pad_little() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 640)
    alike = LikeLengths(lengths, 16, pool=10, seed=3)
    epoch = [[i for _, i in batch] for batch in alike]
    assert sorted(i for batch in epoch for i in batch) == list(range(640))
    padded = sum(16 * lengths[b].max() for b in epoch)
    assert padded < 1.2 * lengths.sum()
    assert epoch != [[i for _, i in batch] for batch in alike]  # the next epoch
    sizes = [lengths[b].mean() for b in epoch]
    assert sizes != sorted(sizes)
    # two processes see the two halves of the same batches
    halves = [
        [[i for _, i in b] for b in LikeLengths(lengths, 16, pool=10, seed=3, rank=r, world_size=2)]
        for r in (0, 1)
    ]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(b) for b in epoch]


def test_own_lines_are_canonical_unique_and_what_is_none_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = own(tmp_path / "own.smi", [*MOLECULES, "OCC name", "", "C1CC", "[Na+].[Cl-] salt"])
    every = sorted(s for rows in data.splits.values() for s in rows)
    assert every == sorted({canonical(s) for s in [*MOLECULES, "[Na+].[Cl-]"]})
    out = capfd.readouterr().out
    assert "1 row skipped, no SMILES that rdkit can read: first line 16, 'C1CC'" in out
    assert "1 repeated molecules are left out" in out


def test_splits_of_a_file_are_apart_and_not_in_its_order(tmp_path: Path) -> None:
    lines = ["C" * n for n in range(1, 61)]
    data = own(tmp_path / "own.smi", lines)
    splits = {name: set(rows) for name, rows in data.splits.items()}
    assert [len(splits[name]) for name in ("train", "val", "test")] == [48, 6, 6]
    assert set.union(*splits.values()) == {*lines}
    assert sum(map(len, splits.values())) == 60
    assert max(map(len, splits["test"])) - min(map(len, splits["test"])) > 6  # no piece of a sorted file
    few = own(tmp_path / "own.smi", lines, most_train=20).splits["train"]
    assert {*few} < splits["train"]
    assert few != data.splits["train"][:20]


def test_moses_is_held_out_of_its_training_molecules(tmp_path: Path) -> None:
    for name, last in (("train", "N"), ("test", "O")):
        rows = ["SMILES,SPLIT", *("C" * n + last + f",{name}" for n in range(1, 91))]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    splits = datamodules.SmilesData(layout="moses", root=str(tmp_path)).splits
    assert [len(splits[name]) for name in ("train", "val", "test")] == [89, 1, 90]
    assert splits["val"][0] not in splits["train"]
    assert splits["val"] != [splits["test"][0]]
    assert {s[-1] for s in splits["train"] + splits["val"]} == {"N"}


def test_lines_that_begin_with_a_mark_and_lines_that_never_end(tmp_path: Path) -> None:
    path = tmp_path / "own.smi"
    path.write_bytes(b"\xef\xbb\xbfCCO\nCN\n")
    assert [s for _, s in smiles_of(path)] == ["CCO", "CN"]
    path.write_bytes(b"C" * (2**20 + 1))
    with pytest.raises(ValueError, match="line 1: more bytes than a file of SMILES has"):
        list(text_lines(path))


def test_weights_that_bring_another_vocabulary_are_read_anew() -> None:
    vocabularies = [TokenVocabulary(("C", "O")), TokenVocabulary(("B", "C", "O"))]
    items = StringItems({"ids": ["CO", "COCO"], "source": ["COCO", "C"]}, lambda: vocabularies[0])
    assert items[0]["ids"].tolist() == [BOS, 4, 5, EOS]
    assert items.lengths.tolist() == [6, 6]  # the longer side with both ends
    vocabularies.reverse()
    assert items[0]["ids"].tolist() == [BOS, 5, 6, EOS]
    assert items[0]["source"].tolist() == [5, 6, 5, 6]
    data = datamodules.SmilesData(most_train=8, representation="selfies")
    data._of_weights = lambda: vocabularies[0].document  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the weights read smiles, but .*representation is selfies"):
        data.tokens()


def test_own_columns_are_found_in_capitals_or_not(tmp_path: Path) -> None:
    path = tmp_path / "own.csv.gz"
    rows = ["id,SMILES,note", *(f'{i},{s},"a, b"' for i, s in enumerate(MOLECULES))]
    path.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    assert [s for _, s in smiles_of(path)] == [s for _, s in smiles_of(path, "Smiles")] == MOLECULES
    with pytest.raises(ValueError, match=r"has no column 'mol'; its first line is 'id,SMILES,note'"):
        list(smiles_of(path, "mol"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,smiles\n1,C\n2\n", "line 3: 1 cells, its first line has 2"),
        (b'id,smiles\n1,"C\n', "line 2: unexpected end of data"),
        (b"id,smiles\n1,\xff\n", "line 2: no text"),
        (b"id,smiles\n", "has no rows"),
        (b"", "has no rows"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        list(smiles_of(path))


def test_a_cut_gzip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.smi.gz"
    path.write_bytes(gzip.compress(b"CCO\n" * 5000)[:-30])
    with pytest.raises(ValueError, match="damaged gzip file"):
        list(text_lines(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "file"}, "data.init_args.layout is file: set data.init_args.file"),
        ({"file": "x.smi"}, "file is x.smi, which layout: blocks does not use"),
        ({"root": "/x"}, "root is /x, which layout: blocks does not use"),
        ({"layout": "x"}, "layout must be one of"),
        ({"longest": 0}, "longest is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        datamodules.SmilesData(**settings)


def test_too_few_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 molecules are too few"):
        _ = own(tmp_path / "few.smi", MOLECULES[:3]).splits
    with pytest.raises(FileNotFoundError, match=r"no .*train\.csv\.gz .*molsets"):
        _ = datamodules.SmilesData(layout="moses", root=str(tmp_path)).splits


def test_long_molecules_are_left_out_and_told(capfd: pytest.CaptureFixture[str]) -> None:
    data = datamodules.SmilesData(longest=12)
    assert max(len(tokenised(s)) for s in data.splits["train"]) == 12
    assert re.search(
        r"train: [\d,]+ of 4,829 molecules have more than 12 tokens: left out", capfd.readouterr().out
    )


def test_selfies_of_the_blocks_decode_to_the_same_molecules() -> None:
    import selfies

    data = datamodules.SmilesData(representation="selfies", most_train=40, most_evaluated=5)
    for string, smiles in zip(data.splits["train"], data.known, strict=True):
        assert canonical(selfies.decoder(string)) == smiles


@pytest.mark.slow
def test_the_bundled_blocks_are_those_of_the_public_files() -> None:
    from datamodules.loading.arguments import data_folder

    folder = data_folder(None, "molecules")
    if not (folder / "tox21.csv").is_file():
        pytest.skip("needs the public files in $ZOO_DATA/molecules")
    assert made(folder) == building_blocks()
