"""Names out of files do not leave their folder, and what the zoo has not made it does not remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.file_names import make_own, new_file, path_part, remove_own


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".git", "/abs", "a/b", "a\\b", "a\nb", "a\0", " a", "x" * 201, "\udcff"]
)
def test_what_is_no_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^claim.yaml: arm: .* becomes the name of a folder or file"):
        path_part(name, "claim.yaml: arm")


def test_ordinary_names_stay() -> None:
    assert [path_part(n, "") for n in ("gcn+jk (2 layers)", "-1", 7, "größe", "a..b")] == [
        "gcn+jk (2 layers)",
        "-1",
        "7",
        "größe",
        "a..b",
    ]


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", ""])
def test_a_new_file_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="it would be written elsewhere"):
        new_file(tmp_path, name)


def test_a_new_file_overwrites_none(tmp_path: Path) -> None:
    path = new_file(tmp_path, "a/b.png")
    assert path == tmp_path / "a" / "b.png"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ValueError, match=r"b\.png is there already"):
        new_file(tmp_path, "a/b.png")


def test_only_own_folders_are_removed(tmp_path: Path) -> None:
    own, foreign, link = tmp_path / "own", tmp_path / "foreign", tmp_path / "link"
    make_own(own)
    foreign.mkdir()
    (foreign / "precious.txt").touch()
    link.symlink_to(own)
    for folder in (foreign, link):
        with pytest.raises(ValueError, match="is not removed: the zoo has not made it"):
            remove_own(folder)
    with pytest.raises(ValueError, match="holds files that the zoo has not made"):
        make_own(foreign)
    remove_own(own)
    remove_own(own)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign", "link"]
