"""Registered weights: whole, small, and worth what the registry says."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from covering import covering

import cli
import zoo
from zoo.hub import weights
from zoo.hub.catalog import config_folder, registry
from zoo.hub.yaml_files import read_yaml

WEIGHTS = Path(zoo.__file__).parent / "hub" / "files"
NAMES = sorted(registry())
LONG = ("dtr_dit_digits", "dtr_dit_mnist", "imae_solids")  # to measure: images and meshes are made


def test_bundled_files_are_the_registered_ones() -> None:
    assert {e["file"] for e in registry().values()} == {p.name for p in WEIGHTS.glob("*.safetensors")}
    assert sum(e["bytes"] for e in registry().values()) <= 20_000_000


@pytest.mark.parametrize("name", NAMES)
def test_file_size_hash_and_config(name: str) -> None:
    entry = registry()[name]
    content = (WEIGHTS / entry["file"]).read_bytes()
    assert len(content) == entry["bytes"] <= 3_000_000
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert (config_folder() / f"{entry['config']}.yaml").is_file()
    assert entry["licence"]


@pytest.mark.parametrize("name", NAMES)
def test_files_know_the_data_of_their_config(name: str) -> None:
    """The file alone, wherever it lies: the registry does not say it."""
    entry = registry()[name]
    data = weights.read(WEIGHTS / entry["file"], tensors=False).data
    assert data is not None
    wanted = read_yaml(config_folder() / f"{entry['config']}.yaml")["data"]
    given = wanted.get("init_args", {})
    assert data["class_path"] == wanted["class_path"]
    assert {k: given.get(k, v) for k, v in data["init_args"].items()} == data["init_args"]


@pytest.mark.parametrize("name", covering(NAMES, [n for n in NAMES if n not in LONG]))
def test_command_measures_the_registered_metrics(name: str, tmp_path: Path) -> None:
    entry = registry()[name]
    if "needs" in entry and not (Path(os.environ.get("ZOO_DATA", "data")) / entry["needs"]).is_file():
        pytest.skip(f"ZOO_DATA has no {entry['needs']}")
    words = shlex.split(entry["command"])[1:]
    assert (
        cli.main([*words, "--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar=false"])
        == 0
    )
    summary = json.loads(next(tmp_path.rglob(f"summary_{words[0]}.json")).read_text())
    assert entry["metrics"], "the registry must say what the weights are worth"
    for metric, value in entry["metrics"].items():
        # samples pass 50 float32 steps: machines differ in the last digits, wrong weights by far more
        assert summary["final"][metric] == pytest.approx(value, rel=0.02), metric


def test_digits_samples_are_the_requested_classes() -> None:
    """The acceptance bar of the bundled weights: class accuracy of samples at least 0.8."""
    torch.manual_seed(0)
    model, judge = zoo.load("dtr_dit_digits"), zoo.load("digit_classifier_digits")
    labels = torch.arange(200) % 10
    _, logits = judge.features_and_logits(model.sample(labels, seed=0).clamp(-1, 1))
    assert (logits.argmax(dim=1) == labels).float().mean() >= 0.8
