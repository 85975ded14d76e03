"""Weights of one's own in a copy of the package's registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from zoo.hub import catalog, registration, weights
from zoo.hub.registration import register
from zoo.locks import changing

HUB = Path(zoo.__file__).parent / "hub"
SMALL: dict[str, Any] = dict(zoo._DECLARED["DTR"][1].small[0])


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    shutil.copytree(HUB / "files", tmp_path / "hub" / "files")
    shutil.copy(HUB / "registry.yaml", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return zoo.save(zoo.DTR(**SMALL), tmp_path / "mine.safetensors")


def summary(folder: Path, **changes: Any) -> Path:
    content = {
        "config": "dtr_dit_digits",
        "command": "zoo test --config dtr_dit_digits --weights mine.safetensors",
        "final": {"test/mse": 0.12345678, "test/class_accuracy": 0.9},
    }
    (folder / "summary_test.json").write_text(json.dumps({**content, **changes}))
    return folder / "summary_test.json"


def test_an_entry_says_all_and_the_others_stay(hub: Path, source: Path, tmp_path: Path) -> None:
    before = (hub / "registry.yaml").read_text()
    entry = register("mine", source, summary(tmp_path), licence="CC-BY-4.0", folder=hub)
    after = (hub / "registry.yaml").read_text()
    assert after.startswith(before)
    assert yaml.safe_load(after)["mine"] == entry
    content = (hub / "files" / "mine.safetensors").read_bytes()
    assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert entry["command"] == "zoo test --config dtr_dit_digits --weights mine"
    assert entry["metrics"] == {"test/mse": 0.123457, "test/class_accuracy": 0.9}
    assert set(entry) == set(catalog.registry()["dtr_dit_digits"])
    written, given = (weights.read(p) for p in (hub / "files" / "mine.safetensors", source))
    assert written.config == "dtr_dit_digits"
    assert all(torch.equal(written.state_dict[k], v) for k, v in given.state_dict.items())
    assert sorted(p.name for p in hub.iterdir()) == ["files", "registry.yaml"]


def test_two_at_once_are_both_registered(hub: Path, source: Path, tmp_path: Path) -> None:
    """The second waits for the first, and keeps what that one wrote."""
    path, registry = summary(tmp_path), hub / "registry.yaml"
    options = {"licence": "MIT", "folder": hub}
    second = threading.Thread(target=register, args=("mine", source, path), kwargs=options)
    with changing(registry):
        first = registry.read_text()
        second.start()
        second.join(3)
        assert second.is_alive()
        registry.write_text(first + yaml.safe_dump({"theirs": catalog.registry()["dtr_dit_digits"]}))
    second.join()
    assert yaml.safe_load(registry.read_text()).keys() == catalog.registry().keys() | {"mine", "theirs"}


def test_an_entry_is_replaced_where_it_stands(
    hub: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = sum(entry["bytes"] for entry in catalog.registry().values())
    monkeypatch.setattr(registration, "MOST_IN_ALL", full)  # room for the entry that goes, and no more
    before = (hub / "registry.yaml").read_text()
    path = summary(tmp_path)
    register("dtr_dit_digits", source, path, licence="Apache-2.0", metrics=["test/mse"], folder=hub)
    after = (hub / "registry.yaml").read_text()
    assert list(yaml.safe_load(after)) == list(yaml.safe_load(before))
    old, new = set(before.splitlines()), set(after.splitlines())
    assert {line for line in old - new if "class_accuracy" not in line and "step=" not in line} <= {
        f"  {key}: {value}" for key, value in yaml.safe_load(before)["dtr_dit_digits"].items()
    } | {"    test/mse: 0.080864", "    test/frechet_distance: 21.9281"}
    assert yaml.safe_load(after)["dtr_dit_digits"]["metrics"] == {"test/mse": 0.123457}
    assert before[: before.index("dtr_dit_digits:\n")] == after[: after.index("dtr_dit_digits:\n")]
    assert before[before.index("dtr_dit_mnist:\n") :] == after[after.index("dtr_dit_mnist:\n") :]


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"config": "dtr_dit_digit"}, {}, "'dtr_dit_digit', which is no shipped one"),
        ({"config": "lds_wine"}, {}, "holds a zoo.DTR, but config lds_wine is of zoo.LDS"),
        ({}, {"metrics": ["test/fid"]}, "no metric test/fid; it has test/mse, test/class_accuracy"),
        ({"final": {}}, {}, "no metric of any name; it has none"),
        ({"final": {"test/mse": 0.1, "test/accuracy": float("nan")}}, {}, "no number"),
        ({"command": "zoo fit --config dtr_dit_digits"}, {}, "give that of `zoo test`"),
        ({}, {"name": "../mine"}, "letters, digits and underscores"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    changes: dict[str, Any], arguments: dict[str, Any], words: str, hub: Path, source: Path, tmp_path: Path
) -> None:
    before = (hub / "registry.yaml").read_text()
    with pytest.raises(ValueError, match=words):
        register(**{"name": "mine", **arguments}, source=source, summary=summary(tmp_path, **changes),
                 licence="Apache-2.0", folder=hub)  # fmt: skip
    assert (hub / "registry.yaml").read_text() == before
    assert {p.name for p in (hub / "files").iterdir()} == {p.name for p in (HUB / "files").iterdir()}


@pytest.mark.parametrize(("limit", "most"), [("MOST_BYTES", 50_000), ("MOST_IN_ALL", 6_500_000)])
def test_files_stay_small(
    limit: str, most: int, hub: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.stat().st_size > 50_000
    monkeypatch.setattr(registration, limit, most)
    with pytest.raises(ValueError, match=rf"has room for .*{most:,}"):
        register("mine", source, summary(tmp_path), licence="Apache-2.0", folder=hub)
    assert not (hub / "files" / "mine.safetensors").exists()


def test_an_installed_package_registers_nothing(
    hub: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(catalog.config_folder(), tmp_path / "zoo" / "configs")
    monkeypatch.setattr(catalog, "config_folder", lambda: tmp_path / "zoo" / "configs")
    with pytest.raises(ValueError, match=r"installed package.*checkout, or use the file .* --weights"):
        register("mine", source, summary(tmp_path), licence="Apache-2.0", folder=hub)
