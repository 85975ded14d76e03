"""The command line in this process: what it builds of a config, and what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest
import torch

import cli
from zoo.engine import run as engine
from zoo.engine.runner import ZooCLI


class Instantiated(Exception):
    """Raised with the objects once the command line has built them."""


def build(config: str, root: Path, *flags: str) -> ZooCLI:
    """The objects that ``zoo fit --config CONFIG`` builds, with a model on the meta device."""

    def stop(self: ZooCLI) -> NoReturn:
        raise Instantiated(self)

    common = [f"--trainer.default_root_dir={root}", "--trainer.accelerator=cpu"]
    with (
        mock.patch.object(ZooCLI, "after_instantiate_classes", stop),
        pytest.raises(Instantiated) as caught,
        torch.device("meta"),
    ):
        cli.main(["fit", "--config", config, *common, *flags, "--debug"])
    built: ZooCLI = caught.value.args[0]
    return built


def words(flags: Mapping[str, Any]) -> list[str]:
    """``--key=value`` of each; switches and None as YAML has them."""
    yaml = {True: "true", False: "false", None: "null"}
    return [f"--{k}={yaml[v] if v is None or isinstance(v, bool) else v}" for k, v in flags.items()]


def run(verb: str, config: str, root: Path, *flags: str) -> Path:
    """Folder of a run on the CPU, without its curves, which take longer to draw than a short run."""
    common = [f"--trainer.default_root_dir={root}", "--trainer.accelerator=cpu"]
    with mock.patch.object(engine, "plot_curves"):
        code = cli.main([verb, "--config", config, *common, "--trainer.enable_progress_bar=false", *flags])
    assert code == 0
    return max((root / config).glob("version_*"), key=lambda p: int(p.name.removeprefix("version_")))


def summary(verb: str, config: str, root: Path, *flags: str) -> dict[str, Any]:
    """What ``run`` with these arguments leaves in its summary."""
    folder = run(verb, config, root, *flags)
    name = "summary.json" if verb == "fit" else f"summary_{verb}.json"
    return dict(json.loads((folder / name).read_text()))


def of_model(**values: Any) -> list[str]:
    """Flags of the model's ``init_args``."""
    return words({f"model.init_args.{k}": v for k, v in values.items()})


def of_data(**values: Any) -> list[str]:
    """Flags of the data's ``init_args``."""
    return words({f"data.init_args.{k}": v for k, v in values.items()})


def of_trainer(**values: Any) -> list[str]:
    """Flags of the trainer."""
    return words({f"trainer.{k}": v for k, v in values.items()})
