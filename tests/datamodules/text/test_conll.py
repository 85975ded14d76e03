"""Readers of words and tags: the layouts of the published sets, their traps, a user's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.named_entities import GOLD, write_gold

from datamodules import NER
from datamodules.text.conll import read_columns, read_gold_conll
from datamodules.text.grammar import SIZES, grammar_sentences
from datamodules.text.ner_files import read_jsonl, read_sentences
from datamodules.text.vectors import read_vectors

PUBLISHED = {
    ("ncbi_disease", "train"): (5432, 136_086, 5145),
    ("ncbi_disease", "dev"): (923, 23_969, 787),
    ("ncbi_disease", "test"): (940, 24_497, 960),
    ("wnut17", "train"): (3394, 62_730, 1975),
    ("wnut17", "dev"): (1009, 15_733, 836),
    ("wnut17", "test"): (1287, 23_394, 1079),
    ("uner_zh_gsd", "train"): (3997, 98_616, 6136),
    ("uner_zh_gsd", "dev"): (500, 12_663, 810),
    ("uner_zh_gsd", "test"): (500, 12_012, 767),
}


@pytest.mark.skipif("ZOO_DATA" not in os.environ, reason="ZOO_DATA is not set: the open sets are not here")
@pytest.mark.parametrize("name", ["ncbi_disease", "wnut17", "uner_zh_gsd"])
def test_the_open_sets_have_their_published_sizes(name: str) -> None:
    data = NER(name)
    if not data.root.is_dir():
        pytest.skip(f"{data.root} is not here")
    data.setup("fit")
    for split, found in data.sets.items():
        counts = len(found), sum(len(s.words) for s in found), sum(len(s.spans or ()) for s in found)
        assert counts == PUBLISHED[name, split]


def test_separators_comments_and_marks_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\n\t\nGerman JJ B-NP I-MISC\n  \n\n"
    )
    found = list(read_columns(path))
    assert [s.words for s in found] == [("EU", "rejects"), ("German",)]
    assert [s.spans for s in found] == [((0, 1, "ORG"),), ((0, 1, "MISC"),)]
    path.write_text("# sent_id = 1\n# text = # 1\n1\t#\tO\t-\t-\n2\tUlm\tB-LOC\t-\tx\n")
    (sentence,) = read_columns(path, word=1, tag=2, delimiter="\t", comments=True)
    assert sentence.words == ("#", "Ulm")
    assert sentence.spans == ((1, 2, "LOC"),)


def test_brackets_of_ontonotes(tmp_path: Path) -> None:
    path = write_gold(tmp_path / "x.v4_gold_conll", GOLD)
    found = list(read_gold_conll(path, "nw"))
    assert [s.words for s in found] == [tuple(w for w, _ in sentence) for sentence in GOLD]
    assert found[0].spans == ((0, 2, "PERSON"), (3, 4, "GPE"))
    assert found[0].genre == "nw"
    assert found[1].spans == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a O\nb\n", "line 2: 1 columns, the lines before have 2"),
        ("a\nb\n", "line 1: 1 column, no tag"),
        ("a B\n", "line 1: 'B' is no tag"),
        ("a X-PER\n", "line 1: 'X-PER' is no tag"),
        ("b" * 1001 + " O\n", "line 1: a word of 1,001 characters, 1,000 at most"),
    ],
)
def test_a_bad_line_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        list(read_columns(path))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"tokens": ["a", "b"], "tags": ["O"]}', "line 1: 1 tags of 2 tokens"),
        ('{"tokens": [], "tags": []}', "at least one"),
        ('{"tokens": ["a", ""], "tags": ["O", "O"]}', "none empty"),
        ('{"tokens": ["a"], "tags": [0]}', "texts like B-PER"),
        ('{"tokens": ["a"], "spans": [{"start": 0, "end": 2, "label": "X"}]}', "reach over the 1 tokens"),
        ('{"tokens": ["a"], "spans": [{"start": 0, "end": 1}]}', "and a label"),
        ("[1]", "no JSON object"),
        ("{", "no JSON"),
    ],
)
def test_a_bad_record_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=said):
        list(read_jsonl(path))


def test_sentences_keep_their_row_and_empty_lines_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text, expected, said in (
        ("a.txt", "\nAda left\n \nEly\n\n", [1, 3], "3 of 5 lines of"),
        ("a.jsonl", '{"tokens": ["Ada"]}\n\n{"tokens": ["Ely"]}\n', [0, 2], "1 of 3 lines of"),
        ("a.conll", "Ada O\n\n\nEly O\n", [0, 1], ""),
        ("b.txt", "Ada left\nEly\n", [0, 1], ""),
    ):
        (tmp_path / name).write_text(text)
        rows, found = read_sentences(tmp_path / name)
        assert rows == expected
        assert [s.words[0] for s in found] == ["Ada", "Ely"]
        out = capsys.readouterr().out
        assert said in out
        assert bool(said) == bool(out)


def test_own_files_of_every_kind_read_alike(tmp_path: Path) -> None:
    table = "Ada B-PER\nleft O\n\nEly B-LOC\n"
    lines = (
        '{"tokens": ["Ada", "left"], "tags": ["B-PER", "O"]}\n'
        '{"words": ["Ely"], "spans": [{"start": 0, "end": 1, "label": "LOC"}]}\n'
    )
    for split, name in (("train", "train.jsonl"), ("dev", "dev.conll"), ("test", "test.tsv")):
        text = (
            lines if name.endswith("jsonl") else table.replace(" ", "\t") if name.endswith("tsv") else table
        )
        (tmp_path / name).write_text(text)
        assert split in name
    data = NER("files", str(tmp_path), seed_budget=100)
    data.setup("fit")
    assert data.sets["train"] == data.sets["dev"] == data.sets["test"]
    assert data.entity_types == ["LOC", "PER"]
    assert data.tags == ["O", *(f"{m}-{t}" for t in ("LOC", "PER") for m in "BIES")]
    (tmp_path / "train.conll").write_text(table)
    with pytest.raises(ValueError, match="both there"):
        NER("files", str(tmp_path)).setup("fit")


def test_tags_come_from_what_is_declared_never_from_the_pool(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ada B-PER\n\nEly B-LOC\n")
    (tmp_path / "dev.conll").write_text("Bea B-PER\n")
    with pytest.raises(ValueError, match=r"train sentence 2 .* type 'LOC', which is none of .* PER"):
        NER("files", str(tmp_path)).setup("fit")
    data = NER("files", str(tmp_path), types=["PER", "LOC"])
    data.setup("fit")
    assert data.tags[1] == "B-PER"
    with pytest.raises(
        FileNotFoundError, match=r"test.conll; data.init_args.root is a folder with train, dev"
    ):
        NER("files", str(tmp_path)).setup("test")


def test_vectors_are_found_exact_lower_then_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("5 2\nthe 1 2\nThe 3 4\n00 5 6\n. . 7 8\nx 9 10\n")
    found = read_vectors(path, ["The", "THE", "19", ". .", "unseen"])
    assert {word: v.tolist() for word, v in found.items()} == {
        "The": [3, 4],
        "the": [1, 2],
        "00": [5, 6],
        ". .": [7, 8],
    }
    path.write_text("the 1 nan\n")
    with pytest.raises(ValueError, match="line 1: no vector of 2 finite numbers"):
        read_vectors(path, ["the"])
    path.write_text("other 1 2\n")
    with pytest.raises(ValueError, match="a vector of none of the 1 words"):
        read_vectors(path, ["the"])


def test_the_grammar_is_a_function_of_split_and_seed_with_uneven_names() -> None:
    train = grammar_sentences("train")
    assert [len(grammar_sentences(s)) for s in SIZES] == [1500, 300, 300]
    assert train == grammar_sentences("train")
    assert train != grammar_sentences("train", seed=1)
    names: dict[str, int] = {}
    for sentence in train:
        for start, end, _ in sentence.spans or ():
            names[" ".join(sentence.words[start:end])] = names.get(" ".join(sentence.words[start:end]), 0) + 1
    assert max(names.values()) > 100
    assert sum(count == 1 for count in names.values()) > 100
    assert 0.35 < sum(not s.spans for s in train) / 1500 < 0.65
