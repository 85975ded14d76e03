"""The Python call: texts and files of documents, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import zoo

TEXTS = ["on rose tulip painting had of portrait kid is for it infant then by", "woods jungle summit hill"]


@pytest.fixture(scope="module")
def module() -> Any:
    return zoo.load("seqco_procedural")


def test_a_string_is_a_document_and_a_path_a_file(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = module.summarize(TEXTS)
    assert expected[0] == "flower picture child"
    assert module.summarize(TEXTS[0]) == expected[:1]
    lines = tmp_path / "documents.txt"
    # a mark of the byte order, ends of lines of Windows, a blank line, no end of the last line
    lines.write_bytes(b"\xef\xbb\xbf" + TEXTS[0].encode() + b"\r\n \r\n" + TEXTS[1].encode())
    assert module.summarize(lines) == expected
    records = tmp_path / "documents.jsonl"
    records.write_text("".join(json.dumps({"document": text}) + "\n" for text in TEXTS))
    assert module.summarize(records, batch_size=1) == expected
    assert capsys.readouterr().out == f"zoo: {lines}: 1 blank lines are left out\n"
    long = " ".join([TEXTS[0]] * 9)
    module.summarize([*TEXTS, long, "quarks gluons"])
    said = capsys.readouterr().out
    assert "1 of 4 documents have more than the 62 tokens that are read, cut" in said
    assert "1 of 4 documents have no word that these weights know" in said


def test_a_word_once_is_no_matter_of_the_end(module: Any) -> None:
    """BART's decoder begins with ``</s>``: counted as said, nothing could end."""
    twice = "magistrate with a umpire emperor ruler was creek and to is brook this to"
    assert module.summarize([TEXTS[0], twice]) == ["flower picture child", "judge river river"]
    with mock.patch.dict(module.hparams, no_repeat_ngram=1):
        one, other = module.summarize([TEXTS[0], twice])
    assert one == "flower picture child"
    words = other.split()
    assert words[:2] == ["judge", "river"]
    assert len(words) == len({*words}) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rose\n\ncaf\xe9\n", "line 3: byte 4 is no text in UTF-8"),
        ("rose".encode("utf-16"), "line 1: holds a byte 0"),
        (b"\n \n", "holds no documents"),
        (None, "no file"),
    ],
)
def test_a_file_that_is_no_text_is_one_line_with_its_name(
    module: Any, content: bytes | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        module.summarize(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_files_are_refused_before_they_are_read(module: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    for size, words in ((2**40, r"has 1\.1 TB, more than"), (200 * 2**20, "line 1: more than")):
        with path.open("wb") as file:
            file.truncate(size)  # takes no room on the disk
        with pytest.raises(ValueError, match=words) as caught:
            module.summarize(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{'document': 1}\n", "line 1 is not JSON"),
        ('{"document": "rose"}\n{"text": "rose"}\n', "line 2: no object with a text under 'document'"),
        ('{"document": NaN}\n', "line 1: no object with a text"),
        ('{"document": " "}\n', "line 1: its document is empty"),
        ('{"document": "rose"}\n{"document": "\\ud800"}\n', "line 2 holds half a character"),
    ],
)
def test_records_without_a_document_are_named(module: Any, content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        module.summarize(path)
    assert str(path) in str(caught.value)


def test_what_is_no_document_is_one_line(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.txt").write_text("rose\n")
    for documents, words in (
        ("documents.txt", "a string is a document"),
        ("", "document 1 is empty"),
        (["rose", "\t\n"], "document 2 is empty"),
        (["rose", float("nan")], "document 2 is float, no text"),
        (["rose", None], "document 2 is NoneType"),
        (["rose", "half \ud800"], "document 2 holds half a character"),
        (None, "document: a text is wanted, or a list of texts, not None"),
        (5, "not 5"),
        (b"rose", "not b'rose'"),
        ({"document": "rose"}, "not {'document': 'rose'}"),
        ({"rose"}, "not {'rose'}"),
        ([["rose"]], "document 1 is list"),
        (torch.tensor(1.0), "not tensor"),
        (tmp_path / "table.csv", "table.csv is a .csv"),
    ):
        with pytest.raises(ValueError, match=words):
            module.summarize(documents)
    for size in (0, None, 2.5, "3", True):
        with pytest.raises(ValueError, match=r"batch_size is .* but must be a whole number"):
            module.summarize(["rose"], size)
    assert module.summarize([]) == []
