"""ImageNet's lists and files of class names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.images.imagenet_meta import read_class_names, read_meta


def listed(folder: Path, *lines: str) -> Path:
    (folder / "train.txt").write_bytes("\n".join(lines).encode())
    return folder / "train.txt"


def test_lines_are_paths_and_labels_whatever_their_order(tmp_path: Path) -> None:
    path = listed(tmp_path, "n02/b.JPEG 1", "n01/a name.JPEG 0", "n02/c.JPEG\t 1", "")
    with pytest.raises(ValueError, match=r"line 3: the label .* is no whole number"):
        read_meta(listed(tmp_path, "a.JPEG 0", "b.JPEG 1", "c.JPEG x"))
    path = listed(tmp_path, "n02/b.JPEG 1", "n01/a name.JPEG 0", "n02/c.JPEG 1", "")
    paths, labels = read_meta(path)
    assert paths.tolist() == [b"n02/b.JPEG", b"n01/a name.JPEG", b"n02/c.JPEG"]
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (("a.JPEG 0", "a.JPEG 1"), r"line 2: 'a\.JPEG' is in line 1 already"),
        (("a.JPEG 0", "b.JPEG 2"), "none of its pictures has label 1"),
        (("a.JPEG -1",), "line 1: the label -1 is not 0 to"),
        (("a.JPEG 1.0",), r"label '1\.0' is no whole number"),
        (("a.JPEG",), "line 1: 'a.JPEG' is not"),
        (("../../etc/passwd 0",), "no path below the folder"),
        (("/etc/passwd 0",), "no path below the folder"),
        (("C:\\a.JPEG 0",), "no path below the folder"),
        (("a.JPEG 0", "", "b.JPEG 0"), "line 2: empty, but lines follow"),
        ((), "names no pictures"),
        (("a.JPEG 99999999999999999999",), "no whole number"),
    ],
)
def test_what_is_no_list_is_refused(lines: tuple[str, ...], word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word) as found:
        read_meta(listed(tmp_path, *lines))
    assert "train.txt" in str(found.value)


def test_the_number_of_classes_may_be_said(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.JPEG 0", "b.JPEG 7")
    assert read_meta(path, 10)[1].tolist() == [0, 7]
    with pytest.raises(ValueError, match="line 2: the label 7 is not 0 to 6"):
        read_meta(path, 7)


def test_class_names_of_every_kind_of_file(tmp_path: Path) -> None:
    def names(name: str, text: str) -> list[str]:
        (tmp_path / name).write_text(text)
        return read_class_names(tmp_path / name)

    wanted = ["tench", "great white shark"]
    assert names("a.txt", "tench\ngreat white shark\n") == wanted
    assert names("b.txt", "n01440764 tench, Tinca tinca\nn01484850 great white shark, man-eater\n") == wanted
    assert names("c.json", json.dumps(wanted)) == wanted
    keras = {"1": ["n01484850", "great white shark"], "0": ["n01440764", "tench"]}
    assert names("d.json", json.dumps(keras)) == wanted
    # a name that only looks like a synset among others is one
    assert names("e.txt", "n01440764 tench\nshark\n") == ["n01440764 tench", "shark"]
    with pytest.warns(UserWarning, match="1 names stand for several classes, for example 'crane'"):
        assert names("f.txt", "crane\ncrane\n") == ["crane", "crane"]
    for name, text, word in (
        ("g.json", '{"0": "a", "2": "b"}', "keys 0 to the last label"),
        ("h.json", "[1, 2]", "label 0 is no text"),
        ("i.json", "[", "no readable JSON"),
        ("j.txt", "", "has 0 names"),
    ):
        with pytest.raises(ValueError, match=word):
            names(name, text)
    with pytest.raises(ValueError, match=r"a\.txt has 2 names for 3 classes"):
        read_class_names(tmp_path / "a.txt", 3)
