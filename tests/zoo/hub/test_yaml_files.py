"""What the reader of YAML takes and refuses, each refusal with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.engine.configs import read_config
from zoo.hub.catalog import read_mapping
from zoo.hub.yaml_files import check_yaml, parse_yaml, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)

REFUSED = {
    "alias bomb": (BOMB, "t.yaml, line 6: stands for more than 100,000 values"),
    "long text repeated": (f"a: &a {'x' * 10**6}\nb: [{'*a,' * 7}]", "line 2: stands for more than"),
    "itself": ("\nmodel: &m {class_path: zoo.X, init_args: *m}", "t.yaml, line 2: *m refers to itself"),
    "itself at the top": ("&a {trainer: *a}", "t.yaml, line 1: *a refers to itself"),
    "itself in a text": ("\ntrainer: '&a [*a]'", "t.yaml, line 2: *a refers to itself"),
    "brackets": ("a: " + "[" * 5000, "t.yaml, line 1: nested deeper than 32 levels"),
    "texts in texts": ("".join(" " * i + "k: |\n" for i in range(99)), "nested deeper than 32 levels"),
    "key twice": ("a: 1\nb: {c: 2}\na: 3", "t.yaml, line 3: the key a is given twice"),
    "key twice inside": ("a: {c: 1, b: 2, c: 3}", "t.yaml, line 1: the key c is given twice"),
    "no such day": ("a: 1\nb: 2001-13-45", "t.yaml, line 2: not valid YAML ('2001-13-45' is no timestamp)"),
    "a tag's value": ("a: !!int x", "line 1: not valid YAML ('x' is no int)"),
    "a NUL": ("a: 1\nb: \0", "t.yaml, line 2: not valid YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_with_file_and_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("t.yaml")
    text, line = REFUSED[name]
    path.write_text(text)

    for read in (read_yaml, read_config, lambda p: read_mapping(p, ("method",))):
        with pytest.raises(ValueError) as refused:
            read(path)
        assert line in str(refused.value)
        assert "\n" not in str(refused.value)


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    for encoding, line in (("latin-1", 2), ("utf-16", 1)):
        path = tmp_path / f"{encoding}.yaml"
        path.write_bytes("a: 1\nb: Bär\n".encode(encoding))
        with pytest.raises(ValueError, match=rf"{encoding}.yaml, line {line}: not a text in UTF-8"):
            read_yaml(path)
    path.write_text("a: Bär", encoding="utf-8-sig")  # with the mark that some editors write
    assert read_yaml(path) == {"a": "Bär"}


def test_what_is_larger_than_any_settings_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match=r"huge.yaml is larger than 10 MB"):
        read_yaml(path)


def test_aliases_and_merges_keep_their_meaning() -> None:
    text = "a: &a {lr: 1, eps: 2}\nb: *a\nc: {<<: *a, lr: 3}\nd: [&x y, *x, '${args}']"
    assert parse_yaml(text, "t") == {
        "a": {"lr": 1, "eps": 2},
        "b": {"lr": 1, "eps": 2},
        "c": {"lr": 3, "eps": 2},
        "d": ["y", "y", "${args}"],
    }


def test_what_is_no_yaml_passes_the_check_alone() -> None:
    check_yaml("a: [", "--model")
    with pytest.raises(ValueError, match=r"--model, line 1: \*a refers to itself"):
        check_yaml("&a [*a]", "--model")
