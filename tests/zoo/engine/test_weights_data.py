"""Weights carry what they expect of data, and a run takes it or says what is otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from jsonargparse import Namespace

import zoo
from datamodules import AudioVisual, Planetoid, Saliency
from zoo.engine.arguments import Arguments
from zoo.engine.weights_data import DataOfWeights, _flag, _useful, differences, noted, take_from_weights
from zoo.hub import weights as hub

COMPOSITES = ["--config", "ras_tiny_composites", "--weights", "ras_tiny_composites"]


def asked(*flags: str, verb: str = "predict") -> list[str]:
    arguments = Arguments(verb, [*COMPOSITES, *flags])
    before = len(arguments.flags)
    take_from_weights(arguments)
    return arguments.flags[before:]


def test_data_take_the_size_that_the_weights_know_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Pictures at 352 for weights of 96 pixels give noise."""
    for flags in (["--data.class_path", "datamodules.Saliency"], ["--data=datamodules.Saliency"]):
        assert asked(*flags) == ["--data.init_args.size=96"]
        assert capsys.readouterr().out == "zoo: data.init_args.size: 96, as ras_tiny_composites was trained\n"
    given = ["--data=datamodules.Saliency", "--data.init_args.size=64"]
    (tmp_path / "mine.yaml").write_text("data: {class_path: datamodules.Saliency, init_args: {size: 64}}")
    assert asked(*given) == asked("--config", str(tmp_path / "mine.yaml")) == []
    assert asked() == asked("--data=datamodules.Saliency", verb="fit") == []
    assert capsys.readouterr().out == ""


def test_a_text_is_given_without_the_quotes_of_json(tmp_path: Path) -> None:
    """``--data.init_args.format="jsonl"`` was refused: expected jsonl, got '"jsonl"'."""
    assert _flag("format", "jsonl") == "--data.init_args.format=jsonl"
    assert _flag("size", 96) == "--data.init_args.size=96"
    assert _flag("subsets", ["a", "b"]) == '--data.init_args.subsets=["a", "b"]'


def test_what_the_variant_that_is_asked_for_does_not_use_is_not_taken() -> None:
    """Files have none of the noise that the digits of the weights have: the data would refuse it."""
    has = {"image_noise": 0.3, "spectrogram_mean": 1.0}
    assert _useful(AudioVisual, has, {}) == has
    assert _useful(AudioVisual, has, {"layout": "folder"}) == {"spectrogram_mean": 1.0}
    assert _useful(Planetoid, {"seed": 3}, {"split": "random"}) == {"seed": 3}
    assert _useful(Planetoid, {"seed": 3}, {"split": "public"}) == {}


def test_bundled_weights_know_their_data_by_path_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(hub.resolve("ras_tiny_composites").read_bytes())
    flags = ["--config", "ras_tiny_composites", "--weights", str(path), "--data=datamodules.Saliency"]
    arguments = Arguments("predict", flags)
    take_from_weights(arguments)
    assert "--data.init_args.size=96" in arguments.flags


def test_other_data_than_the_weights_were_trained_on_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without its recordings the demonstration falls back to tones, of which the weights know nothing."""
    arguments = Arguments("predict", ["--config", "mbt_digits", "--weights", "mbt_digits"])
    take_from_weights(arguments)
    data = AudioVisual(root=str(tmp_path), pairs=64, test_pairs=8)
    data.setup("predict")
    config = Namespace(class_path="datamodules.AudioVisual", init_args=Namespace(image_size=None))
    trainer: Any = mock.Mock(datamodule=data)
    DataOfWeights(config, arguments.trained_data, "mbt_digits").setup(trainer, mock.Mock(), "predict")
    fallback, note = capsys.readouterr().out.splitlines()
    assert fallback.startswith(
        f"zoo: no spoken digits at {tmp_path}/fsdd/fsdd_1500.npz: the data are procedural"
    )
    assert note == (
        "zoo: note: mbt_digits was trained on other data: set recordings of fsdd_1500.npz, MNIST digits, "
        "here procedural tones and seven-segment glyphs"
    )


def test_differences_are_one_line_and_equal_data_are_none() -> None:
    trained = {"class_path": "datamodules.A", "init_args": {"side": 96}, "facts": {"class_names": ["a", "b"]}}
    now = {"class_path": "mine.B", "init_args": {"size": 352}, "facts": {"class_names": ("a", "c"), "new": 1}}
    assert differences(trained, now, {"size": "size side"}) == [
        "datamodules.A, here mine.B; data.init_args.size 96, here 352; "
        "class names [a, b] (2), here [a, c] (2)"
    ]
    assert differences(trained, trained, {}) == []
    trained["facts"] = {"new": "\x1b[2J\n"}
    assert differences(trained, now, {})[0].endswith("new ?[2J?, here 1")


def test_checkpoints_and_safetensors_keep_it(tmp_path: Path) -> None:
    data = Saliency(size=64)
    data.facts = {"set": "x", "object": object()}  # type: ignore[attr-defined]
    config = Namespace(class_path="datamodules.Saliency", init_args=Namespace(size=64, root="/home/me"))
    kept = {"class_path": "datamodules.Saliency", "init_args": {"size": 64}, "facts": {"set": "x"}}
    assert noted(config, data) == kept
    checkpoint: dict[str, Any] = {"zoo": {"config": "c"}}
    trainer: Any = mock.Mock(datamodule=data)
    DataOfWeights(config, None, "").on_save_checkpoint(trainer, mock.Mock(), checkpoint)
    assert checkpoint == {"zoo": {"config": "c", "data": kept}}
    module = zoo.RAS(variant="tiny")
    path = zoo.save(module, tmp_path / "x.safetensors", data=kept)
    assert hub.read(path, tensors=False).data == kept
    assert hub.read(zoo.save(module, tmp_path / "old.safetensors")).data is None
    for bad in ("[]", '{"class_path": 1}', '{"class_path": "a.B", "init_args": {"x": {}}, "facts": {}}'):
        with mock.patch.object(hub, "check_data", lambda data, path, bad=bad: json.loads(bad)):
            zoo.save(module, path, data=kept)
        with pytest.raises(ValueError, match=r"x\.safetensors has damaged metadata \(data"):
            hub.read(path)
