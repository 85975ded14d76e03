"""The overlays: each lies over any recipe, changes the trainer only and loses none of the zoo's callbacks."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from covering import covering
from interruption import fit
from lightning.pytorch.strategies import ModelParallelStrategy

import cli
from zoo.engine.checkpoint import Checkpoint
from zoo.engine.ema import EMA
from zoo.engine.predictions import PredictionWriter, Previews
from zoo.engine.random_state import ResumableRandomness
from zoo.engine.run import Run
from zoo.engine.runner import ZooCLI
from zoo.hub.catalog import config_folder, find_config, listing

OVERLAYS = ("bf16", "cpu", "ddp", "debug", "fsdp", "multinode", "tensor_parallel", "wandb")
ALWAYS = (Checkpoint, EMA, Previews, ResumableRandomness, Run, PredictionWriter)


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> ZooCLI:
    """The objects that ``zoo fit`` builds, with a model on the meta device."""

    def stop(self: ZooCLI) -> None:
        raise Instantiated(self)

    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", stop)
    with pytest.raises(Instantiated) as caught, torch.device("meta"):
        cli.main(["fit", *arguments, f"--trainer.default_root_dir={root}", "--debug"])
    built: ZooCLI = caught.value.args[0]
    return built


def test_every_overlay_is_listed_here_with_a_header() -> None:
    shipped = {p.stem for p in (config_folder() / "trainer").glob("*.yaml")}
    assert shipped == set(OVERLAYS)
    about = {row["name"]: row["about"] for row in listing({})["configs"]}
    assert all(about[f"trainer/{name}"].startswith("Overlay: ") for name in OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_changes_the_trainer_only(overlay: str) -> None:
    content = yaml.safe_load(find_config(f"trainer/{overlay}").read_text())
    assert set(content) == {"trainer"}
    assert "callbacks" not in content["trainer"]


RECIPES = ("dtr_dit_digits", "dtr_dit_l")


@pytest.mark.parametrize(
    ("overlay", "recipe", "overlay_first"),
    covering(
        product(OVERLAYS, RECIPES, (False, True)),
        [*((o, RECIPES[i % 2], False) for i, o in enumerate(OVERLAYS)), ("debug", RECIPES[0], True)],
    ),
)
def test_every_callback_and_every_setting_of_the_recipe_survives(
    overlay: str, recipe: str, overlay_first: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # a folder named like the recipe, as in runs/, hides no shipped config
    configs = [f"--config={recipe}", f"--config=trainer/{overlay}"]
    built = build(monkeypatch, tmp_path, *configs[:: -1 if overlay_first else 1], "--trainer.accelerator=cpu")
    callbacks = built.trainer.callbacks  # type: ignore[attr-defined]
    for wanted in ALWAYS:
        assert len([c for c in callbacks if isinstance(c, wanted)]) == 1, wanted

    (ema,) = (c for c in callbacks if isinstance(c, EMA))
    (checkpoint,) = (c for c in callbacks if isinstance(c, Checkpoint))
    expected = yaml.safe_load(find_config(recipe).read_text())
    assert ema.decay == expected["ema"]["decay"]
    assert checkpoint.every_n_train_steps == expected["checkpoint"]["every_n_train_steps"]
    # the run is the recipe's, and --ckpt_path last finds it with and without the overlay
    assert built.arguments.name == recipe
    if overlay != "debug" or overlay_first:
        assert built.trainer.max_steps == expected["trainer"]["max_steps"]


def test_fsdp_shards_over_all_devices_and_gathers_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500"), ("NODE_RANK", "0")):
        monkeypatch.setenv(name, value)
    flags = ["--config=dtr_dit_digits", "--config=trainer/fsdp", "--trainer.accelerator=cpu"]
    built = build(monkeypatch, tmp_path, *flags, "--trainer.devices=3", "--trainer.num_nodes=2")
    strategy = built.trainer.strategy
    assert isinstance(strategy, ModelParallelStrategy)
    with mock.patch.object(ModelParallelStrategy, "setup_environment"):
        strategy.setup_environment()
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)
    assert strategy._save_distributed_checkpoint is False


def test_debug_runs_a_few_steps_with_anomaly_detection(tmp_path: Path) -> None:
    folder = fit(tmp_path, "--config=trainer/debug", "--trainer.accelerator=cpu")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 6
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["detect_anomaly"] is True
    assert not torch.is_anomaly_enabled()


def test_bf16_trains_with_float32_weights(tmp_path: Path) -> None:
    folder = fit(tmp_path, "--config=trainer/bf16", "--trainer.accelerator=cpu", "--trainer.max_steps=2")
    assert json.loads((folder / "summary.json").read_text())["precision"] == "bf16-mixed"
    saved = torch.load(folder / "checkpoints" / "step=00000002.ckpt", weights_only=True)
    assert {t.dtype for t in saved["callbacks"]["EMA"]["shadow"].values()} == {torch.float32}


def test_wandb_needs_no_account_offline_and_does_not_stop_a_second_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    monkeypatch.chdir(tmp_path)
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONFIG_DIR", str(tmp_path / "config"))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    flags = ("--config=trainer/wandb", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1")
    try:
        first = fit(Path("runs"), *flags, "--trainer.max_steps=2")
        second = fit(Path("runs"), *flags, "--trainer.max_steps=3", "--model.init_args.width=24")
    finally:
        wandb.finish()

    assert (first.name, second.name) == ("version_0", "version_1")
    for folder, steps in ((first, 2), (second, 3)):
        with (folder / "metrics.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == steps
        assert (folder / "checkpoints" / f"step={steps:08d}.ckpt").is_file()
    assert len(list(Path("runs/wandb").glob("offline-run-*"))) >= 1
    assert not Path("wandb").exists()
