"""Sizes that a config leaves out come from the data, and are then as if the config had said them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from processes import CLI, environment
from test_configs import GOLDEN, curve

import cli
import zoo
from datamodules import KarateClub
from zoo.engine.data_sizes import _set_up
from zoo.hub.catalog import config_folder
from zoo.nn.data_fit import misfit, told

ROOT = Path(__file__).parents[3]
FLAGS = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def without_sizes(config: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A shipped config without the sizes of its data, and what they were."""
    content = yaml.safe_load((config_folder() / f"{config}.yaml").read_text())
    arguments = content["model"]["init_args"]
    declared = getattr(zoo, content["model"]["class_path"].removeprefix("zoo.")).data_sizes
    sizes = {key: arguments.pop(key) for key in declared if key in arguments}
    path = folder / f"{config}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, sizes


def model_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    return found


@pytest.mark.parametrize("config", [
    "cnnae_letters", "digit_classifier_digits", "dtr_dit_digits", "gaug_m_digits", "gaug_o_digits",
    "gnn_gen_graphvae_community_small", "gnn_graph_synthetic", "gnn_link_karate", "gnn_node_sbm",
    "gnn_traffic_synthetic", "imae_letters", "lds_cancer_baseline", "lds_karate", "mbt_tones_sum",
])  # fmt: skip
def test_a_config_without_its_sizes_follows_its_golden_curve(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One config per class; asking the data beforehand does not move a random draw."""
    path, sizes = without_sizes(config, tmp_path)
    assert sizes
    run = cli.main
    monkeypatch.setattr(cli, "main", lambda argv: run([str(path) if a == config else a for a in argv]))
    golden = json.loads((GOLDEN / f"{config}.json").read_text())
    rows, expected = curve(config, tmp_path, golden["flags"]), golden["rows"]
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, known in zip(rows, expected, strict=True):
        assert row == pytest.approx(known, rel=2e-3, abs=1e-5)
    found = model_of(tmp_path / config / "version_0")
    if config.startswith("gnn_gen"):  # the config leaves room, the data need no more
        sizes["bandwidth"] = 15
    assert {key: found[key] for key in sizes} == sizes


def test_filled_sizes_are_told_stored_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=gnn_node_karate", f"--trainer.default_root_dir={tmp_path}", *FLAGS]
    short = ["--checkpoint.every_n_train_steps=2", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", *flags, *short, "--trainer.max_steps=2"]) == 0
    line = "zoo: model.init_args.features: 34, num_classes: 4 from the data\n"
    assert capsys.readouterr().out.count(line) == 1
    run = tmp_path / "gnn_node_karate" / "version_0"
    (checkpoint,) = (run / "checkpoints").glob("step=*.ckpt")
    stored = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    for found in (model_of(run), stored, dict(zoo.load(checkpoint).hparams)):
        assert (found["features"], found["num_classes"]) == (34, 4)
    # what the checkpoint, the weights or the run's own config hold is not asked for again
    safetensors = zoo.hub.weights.save(zoo.load(checkpoint), tmp_path / "x.safetensors")
    for verb, more in (
        ("fit", [*short, "--trainer.max_steps=4", "--ckpt_path=last"]),
        ("validate", [f"--weights={safetensors}"]),
        ("predict", [f"--ckpt_path={checkpoint}"]),
    ):
        assert cli.main([verb, *flags, *more]) == 0
        assert "from the data" not in capsys.readouterr().out
    for more in (["--ckpt_path=last"], [f"--weights={safetensors}"]):
        assert cli.main(["test", *flags, "--data=datamodules.BlockModel", *more]) == 1
        error = capsys.readouterr().err
        assert "model.init_args.features is 34, but the data (datamodules.BlockModel) has 16" in error


def test_what_is_given_wins_whoever_gives_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["fit", "--data=datamodules.KarateClub", "--trainer.max_steps=1", *FLAGS]
    start.append(f"--trainer.default_root_dir={tmp_path}")
    model = {"class_path": "zoo.GAugM", "init_args": {"num_classes": 4}}
    for given, told_of in (
        (["--model=zoo.GAugM", "--model.init_args.features=34"], "num_classes: 4"),
        (["--model.class_path", "zoo.LDS", "--model.num_features", "34"], "num_nodes: 34, num_classes: 4"),
        ([f"--model={json.dumps(model)}"], "features: 34"),
    ):
        more = ["--data.init_args.early_stopping=true"] if "zoo.LDS" in given else []
        assert cli.main([*start, *given, *more]) == 0
        assert f"zoo: model.init_args.{told_of} from the data\n" in capsys.readouterr().out
    assert cli.main([*start, "--model=zoo.GAugM", "--model.features=33"]) == 1
    assert "model.init_args.features is 33, but the data" in capsys.readouterr().err


def test_a_complete_config_does_not_touch_the_data_beforehand(tmp_path: Path) -> None:
    path, _ = without_sizes("gnn_node_sbm", tmp_path)
    asked = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1", *FLAGS]
    with mock.patch("zoo.engine.data_sizes._set_up", wraps=_set_up) as set_up:
        for config, times in (("gnn_node_sbm", 0), (path, 1)):
            assert cli.main(["fit", f"--config={config}", *asked]) == 0
            assert set_up.call_count == times


class Silent(KarateClub):
    """Does not tell its sizes, and asks its trainer for something in ``setup``."""

    def setup(self, stage: str) -> None:
        assert self.trainer.max_steps == 1  # type: ignore[union-attr]
        super().setup(stage)
        del self.num_classes


def test_data_that_cannot_tell_leave_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--data={Silent.__module__}.Silent", "--model.init_args.features=34", "--trainer.max_steps=1"]
    assert (
        cli.main(
            ["fit", "--config=gnn_node_karate", f"--trainer.default_root_dir={tmp_path}", *FLAGS, *flags]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "Silent) does not tell model.init_args.num_classes: 7 is its default\n" in out
    assert model_of(tmp_path / "gnn_node_karate" / "version_0")["num_classes"] == 7


class Drawing(KarateClub):
    """Draws from the global generators in ``setup``."""

    def setup(self, stage: str) -> None:
        torch.rand(3), np.random.rand(3)
        super().setup(stage)


def test_asking_the_data_leaves_the_random_state(tmp_path: Path) -> None:
    flags = [f"--data={Drawing.__module__}.Drawing", "--trainer.max_steps=2", *FLAGS]
    sizes = ["--model.init_args.features=34", "--model.init_args.num_classes=4"]
    states = []
    for name, more in (("given", sizes), ("filled", [])):
        root = tmp_path / name
        flags_of_run = [f"--trainer.default_root_dir={root}", "--checkpoint.every_n_train_steps=2", *more]
        assert cli.main(["fit", "--config=gnn_node_karate", *flags, *flags_of_run]) == 0
        (checkpoint,) = root.rglob("step=*.ckpt")
        states.append(torch.load(checkpoint, weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_two_processes_fill_in_the_same_and_tell_it_once(tmp_path: Path) -> None:
    path, sizes = without_sizes("gnn_graph_synthetic", tmp_path)
    flags = ["--trainer.devices=2", "--trainer.max_steps=2", "--data.init_args.batch_size=16"]
    command = [sys.executable, str(CLI), "fit", f"--config={path}", "--config=trainer/ddp", *FLAGS, *flags]
    output = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(command, cwd=tmp_path, env=environment(), **output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 x cpu" in done.stdout
    assert done.stdout.count("from the data") == 1
    run = tmp_path / "runs" / "gnn_graph_synthetic" / "version_0"
    assert {k: model_of(run)[k] for k in sizes} == sizes == {"num_features": 1, "num_classes": 4}


def test_data_are_read_along_a_path() -> None:
    data = SimpleNamespace(shape=(3, 8, 9), shapes={"rgb": (3, 2)}, unknown=None)
    paths = ("shape.1", "shapes.rgb.0", "shapes.spectrogram.1", "unknown.0", "graph.num_nodes")
    assert [told(data, path) for path in paths] == [8, 3, None, None, None]


def test_the_error_names_the_key_of_the_data_where_it_has_one() -> None:
    class Data:
        def __init__(self, lags: int) -> None: ...

    trainer = SimpleNamespace(datamodule=Data(1))
    module = SimpleNamespace(trainer=trainer, hparams={"lags": 12, "nodes": 3})
    text = str(misfit(module, "lags", 10))
    assert text.startswith("model.init_args.lags is 12, but the data (")
    assert text.endswith(
        "Data) has 10; set model.init_args.lags: 10 or data.init_args.lags: 12, or choose other data with "
        "data.class_path"
    )
    assert "nodes: 4, or choose" in str(misfit(module, "nodes", 4))


class Telling(LightningDataModule):
    """Data that say what they do, and may then fail."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def setup(self, stage: str) -> None:
        print("zoo: 2 lines are empty")
        if self.fails:
            raise ValueError("line 3 is damaged")


def test_what_the_run_s_own_data_will_say_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert _set_up(Telling(False), "fit")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="damaged"):
        _set_up(Telling(True), "fit")
    assert capsys.readouterr().out == "zoo: 2 lines are empty\n"
