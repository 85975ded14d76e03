"""Proteins: masks, repeated sequences, clusters, windows, files of a user's own and damaged ones."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import datamodules
from datamodules.loading.sampling import item_generator
from datamodules.proteins import files
from datamodules.proteins.clusters import clusters
from datamodules.proteins.files import read_fasta, read_peptides
from datamodules.proteins.items import ProteinItems
from datamodules.proteins.residues import ALPHABET, CLS, EOS, MASK, PAD, cleaned, encoded, letters
from datamodules.text.masking import chosen, masked


def drawn(where: Any, seed: int = 1) -> tuple[Any, Any, Any]:
    ids = 4 + item_generator(9).integers(0, 20, len(where))
    return ids, *masked(ids, where, item_generator(seed), MASK, 4, 20)


def test_of_a_hundred_thousand_tokens_15_percent_are_chosen_and_80_10_10() -> None:
    maskable = np.arange(100_000) % 50 > 0  # every 50th is special
    where = chosen(maskable, 0.15, item_generator(0))
    assert not where[::50].any()
    assert where[maskable].mean() == pytest.approx(0.15, abs=0.01)
    ids, seen, labels = drawn(where)
    assert (labels[~where] == -100).all()
    assert (labels[where] == ids[where]).all()
    assert (seen[~where] == ids[~where]).all()
    same, masks = (seen == ids)[where], (seen == MASK)[where]
    assert masks.mean() == pytest.approx(0.8, abs=0.01)
    assert (~same & ~masks).mean() == pytest.approx(0.1 * 19 / 20, abs=0.01)  # a random one may be the same
    assert same.mean() == pytest.approx(0.1 + 0.1 / 20, abs=0.01)
    random = seen[where & (seen != ids) & (seen != MASK)]
    assert set(random.tolist()) == set(range(4, 24))  # standard residues, no special token


def test_an_entity_is_masked_as_a_whole_or_not_at_all() -> None:
    spans, inside = [(3, 9), (20, 26)], np.ones(30, dtype=bool)
    inside[[0, 29]] = False
    found = np.stack([chosen(inside, 0.5, item_generator(i), spans) for i in range(400)])
    for first, end in spans:
        assert (found[:, first:end].all(axis=1) | ~found[:, first:end].any(axis=1)).all()
        assert found[:, first].mean() == pytest.approx(0.5, abs=0.08)
    assert not found[:, [0, 29]].any()
    assert 0 < (found[:, 10] != found[:, 11]).mean() < 1  # what lies in none is drawn by itself


def items(**settings: Any) -> Any:
    data = datamodules.Proteins(**settings)
    data.setup("fit")
    return data


def test_masks_are_new_each_epoch_and_those_of_the_validation_are_not() -> None:
    data = items(most_train=40, most_evaluated=40)
    train, val = data.train_set, data.val_set
    first, again, later = (train.__getitems__([(e, i) for i in range(40)]) for e in (0, 0, 1))
    assert torch.equal(first["ids"], again["ids"])
    assert not torch.equal(first["labels"], later["labels"])
    alone = train.__getitems__([(1, 7)])
    width = alone["ids"].shape[1]
    assert torch.equal(alone["ids"][0], later["ids"][7, :width])  # whatever it is read together with
    for batch in (first, later, val.__getitems__([*range(40)])):
        hidden = batch["labels"] != -100
        assert 0.05 < hidden.sum() / (batch["ids"] > 3).sum() < 0.3
        assert (batch["labels"][hidden] > 3).all()  # no end, no padding
        assert (batch["ids"][:, 0] == CLS).all()
    with mock.patch.dict("os.environ", PL_GLOBAL_SEED="5"):
        other = items(most_train=40, most_evaluated=40)
        assert not torch.equal(
            other.train_set.__getitems__([(0, i) for i in range(40)])["labels"], first["labels"]
        )
    fixed = [d.val_set.__getitems__([*range(40)])["labels"] for d in (data, other)]
    assert torch.equal(*fixed)
    assert not torch.equal(
        fixed[0], items(most_evaluated=40, mask_seed=1).val_set.__getitems__([*range(40)])["labels"]
    )


def test_peptides_stand_once_and_without_conflicts(capsys: pytest.CaptureFixture[str]) -> None:
    """558 of the 5,200 rows repeat a sequence, 22 sequences stand under both labels."""
    raw = read_peptides()[1]
    assert (len(raw.sequences), raw.target.sum()) == (5200, 2600)
    assert len(raw.sequences) - len(set(raw.sequences)) == 558
    data = items(task="classification")
    assert len(data.records.sequences) == len(set(data.records.sequences)) == 4620
    assert data.records.target.sum() == 2540
    assert "5,200 rows, 4,642 sequences, 22 under both labels left out" in capsys.readouterr().out
    sets = [set(s.sequences) for s in (data.train_set, data.val_set, data.test_set)]
    assert [len(s) for s in sets] == [3234, 462, 924]
    assert len(set.union(*sets)) == 4620
    few = items(task="classification", most_train=100, subset_seed=3)
    assert set(few.train_set.sequences) < sets[0]
    assert set(few.test_set.sequences) == sets[2]


def test_clusters_share_4_mers_and_stay_whole() -> None:
    a, b, c = "GLFDIVKKVVGALGSL", "GLFDIVKKVVGAIGSL", "RRIRPRPPRLPRPRPRPL"
    assert clusters([a, c, b, "MKV"], 0.5) == [[0, 2], [1], [3]]
    assert clusters([a, c, b], 0.9) == [[0], [1], [2]]
    data = items(task="classification", split="clusters")
    parts = [s.places.tolist() for s in (data.train_set, data.val_set, data.test_set)]
    part_of = {i: n for n, part in enumerate(parts) for i in part}
    for group in clusters(data.records.sequences, 0.5):
        assert len({part_of[i] for i in group}) == 1
    assert [len(p) for p in parts] == [3234, 462, 924]


def test_a_window_of_a_long_sequence_is_a_function_of_epoch_and_item() -> None:
    text = "".join(ALPHABET[4 + i % 20] for i in range(50))
    made = [ProteinItems([text], np.arange(1), np.empty((1, 0)), 10, t, 0) for t in (True, False)]
    windows = [letters(made[0].__getitems__([(e, 0)])["ids"][0]) for e in range(30)]
    assert all(w in text and len(w) == 10 for w in windows)
    assert len({*windows}) > 10
    assert windows[4] == letters(made[0].__getitems__([(4, 0)])["ids"][0])
    assert letters(made[1].__getitems__([0])["ids"][0]) == text[:10]
    assert made[0].lengths.tolist() == [12]


def test_letters_that_esm_lacks_are_read_as_documented_or_refused() -> None:
    assert cleaned("mk v*") == "MKV"
    assert encoded("J").tolist() == [ALPHABET.index("X")]
    for text, words in (("MK?V", "'?' at 3 is no residue"), ("MK1", "'1' at 3"), ("M_K", "'_' at 2")):
        with pytest.raises(ValueError, match=re.escape(words)):
            cleaned(text)
    assert encoded(cleaned("M_K", blanks=True))[1] == MASK
    assert letters([CLS, 4, MASK, EOS, PAD]) == "L_"


# --- files of a user's own ----------------------------------------------------------------------------------

FASTA = ">one first of them\nMKVL\nSPAD\n>two\nGGGGKKKK\n\n>three\nMKVLSPAD\n" + "".join(
    f">s{i}\n{'ACDEFGHIKL'[i % 10] * (i + 3)}W\n" for i in range(20)
)


def test_fasta_plain_gzipped_and_item_by_item(tmp_path: Path) -> None:
    plain, packed = tmp_path / "own.fasta", tmp_path / "own.fa.gz"
    plain.write_text(FASTA)
    packed.write_bytes(gzip.compress(FASTA.encode()))
    sequences, names, repeated = read_fasta(plain)
    assert (sequences[:2], names[:2], repeated) == (["MKVLSPAD", "GGGGKKKK"], ["one", "two"], 1)
    assert read_fasta(packed)[0] == sequences
    with mock.patch.object(files, "_IN_MEMORY", 10):
        large, _, again = read_fasta(plain)
    assert [*large] == sequences
    assert again == 1
    data = items(layout="fasta", file=str(packed), batch_size=4)
    assert len(data.train_set) == 15
    assert next(iter(data.train_dataloader()))["ids"].shape[0] == 4


def test_a_table_of_numbers_averages_what_stands_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["id,sequence,heat", *(f"p{i},{'ACDEFGHIKL'[i % 10] * (i + 4)},{i}" for i in range(30))]
    path = tmp_path / "own.csv"
    path.write_text("\n".join([*rows, f"again,{'A' * 4},2", "none,WWWW,"]) + "\n")
    data = items(layout="csv", file=str(path), task="regression", batch_size=4)
    assert data.targets == ["heat"]
    assert data.records.target[data.records.sequences.index("AAAA")] == [1.0]
    assert "WWWW" not in data.records.sequences
    assert "32 rows, 31 sequences, 1 without a target left out, 30 stay" in capsys.readouterr().out
    assert data.test_set.__getitems__([0])["name"][0].startswith("p")


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("sequence,x\nMKV,1\nMK2,0\n", {}, "line 3: 'MK2': '2' at 3 is no residue"),
        ("sequence,x\nMKV,2\n", {}, "line 2, column 'x': '2' is no label 0 or 1"),
        ("sequence,x\nMKV,nan\n", {"task": "regression"}, "'nan' is no finite number"),
        ("sequence,x\n,1\n", {}, "line 2: an empty sequence"),
        ("seq,x\nMKV,1\n", {}, "no column 'sequence'; its first line is 'seq,x'"),
        ("sequence,x,y\nMKV,1,0\n", {}, "2 columns beside 'sequence'"),
        ("sequence,x\n", {}, "has no rows"),
        ("sequence,x\nMKV,0\nMKV,1\n", {}, "no sequence is left"),
        ("sequence,x\nMKV,0\n", {}, "leaves none of 1 sequences"),
        ("sequence,e\nMKV,2-5\n", {"task": "masked", "entities": "e"}, "'2-5' is no span within 1-3"),
    ],
)
def test_a_damaged_table_is_one_line(text: str, settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        items(**{"layout": "csv", "file": str(path), "task": "classification", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("MKV\n", "line 1: residues before"), ("", "holds no record"), (">a\n>b\nMK\n", "line 1: an empty")],
)
def test_a_damaged_fasta_file_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.fasta"
    path.write_text(text)
    for limit in (files._IN_MEMORY, -1):
        with mock.patch.object(files, "_IN_MEMORY", limit), pytest.raises(ValueError, match=words):
            read_fasta(path)


def test_what_a_prediction_is_asked(tmp_path: Path) -> None:
    data = datamodules.Proteins(predict="GIGKFLHS_KKF")
    data.setup("predict")
    batch = data.predict_set.__getitems__([0])
    assert (batch["labels"] != -100).nonzero().tolist() == [[0, 9]]  # the blank alone
    assert batch["ids"][0, 9] == MASK
    (tmp_path / "asked.txt").write_text("MKV\n\nGGK\n")
    data = datamodules.Proteins(task="classification", predict=str(tmp_path / "asked.txt"))
    data.setup("predict")
    batch = data.predict_set.__getitems__([0, 1])
    assert batch["sequence"] == ["MKV", "GGK"]
    assert batch["name"] == ["1", "3"]
    assert batch["target"].isnan().all()
    with pytest.raises(ValueError, match="'1' at 4 is no residue, and it is no name of a file"):
        datamodules.Proteins(predict="MKV1").setup("predict")
