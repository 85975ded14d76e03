"""What the zoo says that it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import datamodules
import zoo
from zoo.hub import catalog


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs in the place of the shipped ones; the working folder is another, empty one."""
    folder = tmp_path / "shipped"
    (folder / "trainer").mkdir(parents=True)
    (folder / "dtr_dit_digits.yaml").write_text("# First line\n# second\nmodel: zoo.DTR\n")
    (folder / "plain.yaml").write_text("model: zoo.DTR\n")
    (folder / "trainer" / "ddp.yaml").write_text("trainer: {devices: 2}\n")
    monkeypatch.setattr(catalog, "config_folder", lambda: folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dtr_dit_digits", "dtr_dit_digits.yaml"),
        ("dtr_dit_digits.yaml", "dtr_dit_digits.yaml"),
        ("configs/dtr_dit_digits", "dtr_dit_digits.yaml"),
        ("configs/dtr_dit_digits.yaml", "dtr_dit_digits.yaml"),
        ("trainer/ddp", "trainer/ddp.yaml"),
        ("configs/trainer/ddp.yaml", "trainer/ddp.yaml"),
    ],
)
def test_configs_are_found_by_name(name: str, file: str, shipped: Path) -> None:
    assert catalog.find_config(name) == shipped / file


def test_a_path_is_taken_as_it_is(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "plain.yaml").write_text("model: mine.Net\n")
    assert catalog.find_config("plain.yaml") == Path("plain.yaml")
    assert catalog.find_config("plain") == shipped / "plain.yaml"
    assert catalog.find_config(str(tmp_path / "work" / "plain.yaml")) == tmp_path / "work" / "plain.yaml"


def test_near_names_on_a_miss(shipped: Path) -> None:
    with pytest.raises(FileNotFoundError, match="did you mean dtr_dit_digits"):
        catalog.find_config("dtr_dit_digit")
    with pytest.raises(FileNotFoundError, match="did you mean trainer/ddp"):
        catalog.find_config("trainer/dpp")
    with pytest.raises(FileNotFoundError, match="zoo list configs"):
        catalog.find_config("xyzzy")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        catalog.find_config(str(shipped))


def test_names_and_headers(shipped: Path) -> None:
    assert catalog.config_names() == ["dtr_dit_digits", "plain", "trainer/ddp"]
    about = {row["name"]: row["about"] for row in catalog.listing({})["configs"]}
    assert about == {"dtr_dit_digits": "First line", "plain": "", "trainer/ddp": ""}


def test_everything_shipped_is_listed_and_described() -> None:
    listing = catalog.listing(datamodules._NAMES)

    assert {row["name"] for row in listing["methods"]} == {f"zoo.{n}" for n in zoo._METHODS}
    assert {row["name"] for row in listing["data"]} == {f"datamodules.{n}" for n in datamodules.__all__}
    assert {row["name"] for row in listing["weights"]} == set(catalog.registry())
    files = {p.relative_to(catalog.config_folder()) for p in catalog.config_folder().rglob("*.yaml")}
    assert {Path(row["name"] + ".yaml") for row in listing["configs"]} == files
    for kind, rows in listing.items():
        for row in rows:
            assert row["about"], f"{kind} {row['name']} has no first line"


def test_described_names_exist() -> None:
    """The list is read from source files; the classes must be there when they are imported."""
    for name in zoo._METHODS:
        assert getattr(zoo, name).__doc__
    for name in datamodules.__all__:
        assert getattr(datamodules, name).__doc__


def test_registry_is_a_mapping(tmp_path: Path) -> None:
    assert isinstance(catalog.registry(), dict)
    for name, entry in catalog.registry().items():
        keys = {"method", "config", "file", "sha256", "bytes", "licence"}
        assert keys <= set(entry), f"{name} lacks {keys - set(entry)}"
        assert yaml.safe_load(yaml.safe_dump(entry)) == entry
