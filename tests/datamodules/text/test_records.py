import json
from pathlib import Path

import pytest

from datamodules.text.records import package_folder, read_jsonl, read_lines, read_side_by_side

FIELDS = {"document": str, "summary": str}


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffone\u2028still one\x0c and\r\n\r\ntwo".encode())
    assert read_lines(tmp_path / "a") == ["one\u2028still one\x0c and", "", "two"]


def test_files_side_by_side_have_as_many_lines(tmp_path: Path) -> None:
    (tmp_path / "train.source").write_text("a\nb\n")
    (tmp_path / "train.target").write_text("A\nB\n")
    both = tmp_path / "train.source", tmp_path / "train.target"
    assert read_side_by_side(*both) == [("a", "A"), ("b", "B")]
    (tmp_path / "train.target").write_text("A\n")
    with pytest.raises(ValueError, match=r"train\.target has 1 lines, .*train\.source has 2"):
        read_side_by_side(*both)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"document": "d", "summary": ""}\n{"document": 1}', "line 2: 'document' must be str, got '1'"),
        (b'{"document": "d"}', "line 1: no field 'summary', only 'document'"),
        (b'["d"]', "line 1: .* is no object"),
        (b'{"document": NaN}', "line 1: no JSON"),
        (b"[" * 9000, "line 1: no JSON"),
        (b'{"document": "\xff"}', "line 1: byte 15 is no text"),
        (b"{\0}", "line 1: holds a byte 0"),
        (b"\n\n", "holds no lines"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.jsonl.*{words}"):
        read_jsonl(tmp_path / "x.jsonl", FIELDS)


def test_unknown_fields_stay(tmp_path: Path) -> None:
    record = {"document": "d", "summary": "s", "id": 3}
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n\n")
    assert read_jsonl(tmp_path / "x.jsonl", FIELDS) == [record]


def test_a_package_that_is_missing_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"no_such_set is not installed.*lightning-zoo\[text\]"):
        package_folder("no_such_set")
