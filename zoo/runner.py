"""The LightningCLI behind ``zoo fit | validate | test | predict``."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shlex
import types
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import zoo
from zoo import hub
from zoo.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint, step_checkpoints
from zoo.callbacks.ema import EMA
from zoo.callbacks.metrics_csv import MetricsCSV
from zoo.callbacks.predictions import PredictionWriter, Previews
from zoo.callbacks.randomness import ResumableRandomness
from zoo.callbacks.run import Run, say
from zoo.catalog import OVERLAYS, find_config, registry
from zoo.errors import UsageError

# Handed to the processes that Lightning starts for DDP, so that all ranks use one folder and one checkpoint.
_FOLDER_VARIABLE, _RESUME_VARIABLE = "ZOO_RUN_FOLDER", "ZOO_RESUME_PATH"


class Parser(LightningArgumentParser):
    """Raises instead of printing the usage and leaving the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(message) from ex


class StepProgressBar(TQDMProgressBar):
    """One bar over the optimiser steps of the whole training where ``max_steps`` is set, else one per epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.max_steps > 0:
            bar = self.train_progress_bar
            bar.reset(total=trainer.max_steps)
            bar.initial = bar.n = trainer.global_step
            bar.set_description("Training")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps <= 0:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.max_steps <= 0:
            super().on_train_batch_end(trainer, pl_module, *args)
            return
        step = trainer.global_step
        if self.is_enabled and (step % self.refresh_rate == 0 or step == trainer.max_steps):
            bar = self.train_progress_bar
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            bar.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def run(verb: str, argv: Sequence[str]) -> int:
    """Run one Lightning verb; returns the exit code."""
    _quieten()
    arguments = Arguments(verb, list(argv))
    try:
        cli = ZooCLI(arguments)
    finally:
        for name in (_FOLDER_VARIABLE, _RESUME_VARIABLE):
            if not _is_child():
                os.environ.pop(name, None)
    return 130 if cli.trainer.interrupted else 0


def _quieten() -> None:
    """Silence Lightning's tips and the warnings about choices that the zoo makes on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*`IterableDataset` has `__len__`.*",
        ".*args parameter is intended to run from within Python.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ".*torch.jit.* is deprecated.*",
    ):
        warnings.filterwarnings("ignore", text)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)


def _is_child() -> bool:
    """Whether another process of this run started us (Lightning's DDP launcher)."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 and _FOLDER_VARIABLE in os.environ


def _rank() -> int:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


class Arguments:
    """The command line before the parser sees it: config names become paths, ``last`` and ``best`` become files, the
    hyperparameters of a checkpoint take their place after the config files and before the flags.

    Attributes:
        argv: what the parser gets.
        name: of the run, that of the first config that is no overlay.
        folder: of the run.
        resume: whether the run goes on in an existing folder.
        weights: checked weights file to load before running, or None.
        checkpoint: checkpoint that Lightning restores, or None.
    """

    def __init__(self, verb: str, argv: list[str]) -> None:
        self.verb, self.given = verb, list(argv)
        self.configs: list[Path] = []
        self.argv = self._config_paths(argv)
        self.yaml = [_read_yaml(path) for path in self.configs]
        weights_name = self.value("weights")
        if weights_name and not any(_has_model(y) for y in self.yaml):
            self._config_of_weights(weights_name)
        self.name = self._run_name()
        self.root = Path(self.value("trainer.default_root_dir") or "runs")
        self.resume_folder: Path | None = None
        self.checkpoint = self._checkpoint_path()
        self.weights: hub.Weights | None = None
        if weights_name and self.checkpoint:
            raise UsageError(
                "give either --weights (start from weights) or --ckpt_path (restore a run), not both"
            )
        if weights_name:
            self.weights = hub.read(hub.resolve(weights_name))
            self._insert_hparams(self.weights)
        elif self.checkpoint:
            self._insert_hparams(hub.read(self.checkpoint, tensors=False))
        self._require_model()

    # --- reading --------------------------------------------------------------------------------------------------

    def _config_paths(self, argv: list[str]) -> list[str]:
        out: list[str] = []
        items = iter(argv)
        for item in items:
            if item in ("-c", "--config"):
                value = next(items, None)
                if value is None:
                    raise UsageError(f"{item} needs a config name or file; see `zoo list configs`")
            elif item.startswith("--config="):
                value = item.removeprefix("--config=")
            else:
                out.append(item)
                continue
            path = find_config(value)
            self.configs.append(path)
            out += ["--config", str(path)]
        return out

    def value(self, key: str) -> str | None:
        """Value of a flag, or of the last config that sets it."""
        found: str | None = None
        for content in self.yaml if hasattr(self, "yaml") else []:
            node: Any = content
            for part in key.split("."):
                node = node.get(part) if isinstance(node, dict) else None
            found = found if node is None else str(node)
        for i, item in enumerate(self.argv):
            if item == f"--{key}" and i + 1 < len(self.argv):
                found = self.argv[i + 1]
            elif item.startswith(f"--{key}="):
                found = item.partition("=")[2]
        return None if found in (None, "null", "None", "") else found

    def _replace(self, key: str, value: str | None) -> None:
        """Set a flag to ``value``; None takes it out."""
        out, skip = [], False
        for item in self.argv:
            if skip:
                skip = False
            elif item == f"--{key}":
                skip = True
            elif not item.startswith(f"--{key}="):
                out.append(item)
        self.argv = out if value is None else [*out, f"--{key}={value}"]

    def _config_of_weights(self, name: str) -> None:
        """Registered weights know the config they belong to: `zoo predict --weights X` needs no --config."""
        config = registry().get(name, {}).get("config")
        if config:
            path = find_config(config)
            self.configs.insert(0, path)
            self.yaml.insert(0, _read_yaml(path))
            self.argv = ["--config", str(path), *self.argv]

    def _run_name(self) -> str:
        for path in self.configs:
            if path.parent.name == OVERLAYS:
                continue
            in_run_folder = path.stem.startswith("config") and (path.parent / "metrics.csv").exists()
            return path.parent.parent.name if in_run_folder else path.stem
        return (self.value("model") or self.value("model.class_path") or "run").rpartition(".")[2].lower()

    def _require_model(self) -> None:
        if (
            self.value("model") is None
            and not any(_has_model(y) for y in self.yaml)
            and not self._asks_for_help()
        ):
            if not any(a.startswith("--model") for a in self.argv):
                raise UsageError(
                    f"zoo {self.verb} needs a config with a model: --config NAME; see `zoo list configs`"
                )

    def _asks_for_help(self) -> bool:
        return any(
            a in ("-h", "--help") or a.startswith(("--print_config", "--model.help")) for a in self.argv
        )

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _checkpoint_path(self) -> Path | None:
        asked = self.value("ckpt_path")
        if asked is None:
            return None
        if asked not in ("last", "best"):
            path = Path(asked)
            if not path.exists():
                raise FileNotFoundError(
                    f"--ckpt_path {asked}: no such file; `last` takes the newest of this config's runs"
                )
            return path
        latest = self._latest(asked)
        self._replace("ckpt_path", None if latest is None else str(latest))
        return latest

    def _latest(self, which: str) -> Path | None:
        """``last``: newest readable checkpoint of the newest run that has one; fit goes on in that run's folder."""
        if _is_child():
            inherited = os.environ.get(_RESUME_VARIABLE)
            return Path(inherited) if inherited else None
        for folder in _versions(self.root / self.name):
            checkpoints = folder / "checkpoints"
            candidates = [checkpoints / "best.ckpt"] if which == "best" else step_checkpoints(checkpoints)
            for path in candidates:
                if not path.exists():
                    continue
                try:
                    hub.read(path, tensors=False)
                except ValueError as error:
                    say(f"skipping a broken checkpoint: {error}")
                    if _rank() == 0 and which == "last":
                        path.rename(path.with_name(path.name + ".broken"))
                    continue
                if self.verb == "fit":
                    self.resume_folder = folder
                os.environ[_RESUME_VARIABLE] = str(path)
                return path
        if self.verb != "fit" or which == "best":
            raise FileNotFoundError(
                f"--ckpt_path {which}: no readable checkpoint under {self.root / self.name}"
            )
        say(f"no checkpoint under {self.root / self.name}, starting fresh")
        return None

    def _insert_hparams(self, weights: hub.Weights) -> None:
        class_path = weights.class_path
        wanted = self._model_class()
        if (
            class_path is not None
            and wanted is not None
            and hub.public_name(wanted, weights.path) != class_path
        ):
            raise ValueError(f"{weights.path} holds a {class_path}, but the config asks for {wanted}")
        class_path = class_path or wanted
        if class_path is None:
            raise UsageError(
                f"{weights.path} does not name its class; give the config it was trained with: --config NAME"
            )
        cls = getattr(zoo, class_path.removeprefix("zoo."))
        check_signature(cls, weights.hparams, weights.path)
        last_config = max(
            (i + 2 for i, a in enumerate(self.argv) if a == "--config"),
            default=0,
        )
        inserted = [f"--model={class_path}"]
        inserted += [f"--model.init_args.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in weights.hparams.items()]
        self.argv[last_config:last_config] = inserted

    def _model_class(self) -> str | None:
        """The class that configs and flags ask for."""
        flag = self.value("model.class_path") or self.value("model")
        return flag if flag is None or not flag.startswith("{") else None

    # --- the run's folder -----------------------------------------------------------------------------------------

    def make_folder(self) -> Path:
        """The run's folder: the resumed one, or the next free ``version_N``."""
        if _is_child():
            return Path(os.environ[_FOLDER_VARIABLE])
        folder = self.resume_folder
        if folder is None:
            parent = self.root / self.name
            number = max((int(p.name.removeprefix("version_")) for p in _versions(parent)), default=-1) + 1
            folder = parent / f"version_{number}"
            while _rank() == 0:
                try:
                    folder.mkdir(parents=True)
                    break
                except FileExistsError:  # another run took the number
                    number += 1
                    folder = parent / f"version_{number}"
        os.environ[_FOLDER_VARIABLE] = str(folder)
        return folder


def _versions(parent: Path) -> list[Path]:
    """Run folders, newest first."""
    if not parent.is_dir():
        return []
    folders = [p for p in parent.glob("version_*") if p.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda p: int(p.name.removeprefix("version_")), reverse=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file") from error
    if content is None:
        raise UsageError(f"{path} is empty")
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a mapping with keys such as model, data and trainer")
    return content


def _has_model(content: dict[str, Any]) -> bool:
    return bool(content.get("model"))


def check_signature(cls: type[LightningModule], hparams: dict[str, Any], path: Path) -> None:
    """Stored hyperparameters may set plain arguments only: a string given to a callable argument would be imported.

    Raises:
        ValueError: for an unknown argument or one that takes an object.
    """
    hints = typing.get_type_hints(cls.__init__)
    known = inspect.signature(cls.__init__).parameters
    for name in hparams:
        if name not in known:
            raise ValueError(
                f"{path} sets {name!r}, which {cls.__name__} does not know; it comes from another version"
            )
        if not _is_plain(hints.get(name, object)):
            raise ValueError(f"{path} sets {name!r}, which takes an object; refused")


def _is_plain(hint: Any) -> bool:
    if hint in (int, float, str, bool, type(None)):
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, list, dict, tuple):
        return all(_is_plain(a) for a in typing.get_args(hint) if a is not Ellipsis)
    return False


class ZooCLI(LightningCLI):
    """LightningCLI in subclass mode with the zoo's callbacks, folder and checkpoint handling."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_defaults={
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "callbacks": [ResumableRandomness(), PredictionWriter(), StepProgressBar(refresh_rate=5)],
            },
            seed_everything_default=0,
            parser_kwargs={"prog": "zoo"},
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[arguments.verb, *arguments.argv],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Previews, "previews")
        parser.add_argument(
            "--weights", type=str | None, default=None, help="Name or file of weights to start from."
        )
        parser.set_defaults({"trainer.default_root_dir": "runs"})

    def _parse_ckpt_path(self) -> None:
        """Hyperparameters of checkpoints are already on the command line, checked and in the right place."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        arguments = self.arguments
        folder = arguments.make_folder()
        if config.get("enable_checkpointing") is False:
            callbacks = [c for c in callbacks if not isinstance(c, Checkpoint)]
        for callback in callbacks:
            if isinstance(callback, Checkpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")
        command = shlex.join(["zoo", arguments.verb, *arguments.given])
        run = Run(arguments.name, folder, self._config_text(), command)
        callbacks = [*callbacks, run, NamedClass(self.model, arguments.name)]
        if config.get("enable_progress_bar") is False:
            self.trainer_defaults["callbacks"] = [
                c for c in self.trainer_defaults["callbacks"] if not isinstance(c, StepProgressBar)
            ]
        config["logger"] = self._loggers(config.get("logger"), folder)
        config["default_root_dir"] = str(folder)
        config["plugins"] = [*_as_list(config.get("plugins")), AtomicCheckpointIO()]
        return super()._instantiate_trainer(config, callbacks)

    def _loggers(self, given: Any, folder: Path) -> Any:
        """metrics.csv is always written, whatever other loggers there are; ``trainer.logger: false`` turns all off."""
        if given is False:
            return False
        others = [] if given in (None, True) else _as_list(given)
        return [MetricsCSV(folder), *others]

    def _config_text(self) -> str:
        """The parsed configuration, ready to be used with --config by any verb."""
        verb = self.arguments.verb
        text = self._parser(verb).dump(self.config[verb], skip_none=False, skip_validation=True)
        content = yaml.safe_load(text)
        for key in ("config", "ckpt_path", "weights", "weights_only", "return_predictions", "verbose"):
            content.pop(key, None)
        header = f"# zoo {zoo.__version__}: {shlex.join(['zoo', verb, *self.arguments.given])}\n"
        return header + yaml.safe_dump(content, sort_keys=False)

    def after_instantiate_classes(self) -> None:
        arguments = self.arguments
        if arguments.weights is not None:
            hub.load_state(self.model, arguments.weights)
        if arguments.checkpoint is not None:
            if arguments.checkpoint.is_file():
                hub.check_state(self.model, hub.read(arguments.checkpoint, averaged=False))
            if arguments.verb == "fit" and any(
                ".optimizer" in a or ".lr_scheduler" in a for a in arguments.given
            ):
                say(
                    "note: the checkpoint restores the optimiser with its own learning rate; optimiser flags do nothing"
                )

    def before_instantiate_classes(self) -> None:
        # TF32 for what autocast leaves in float32. On a CPU the same switch only rounds.
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "predict":
            self.config[subcommand]["return_predictions"] = False
            if hasattr(self, "config_init"):
                self.config_init[subcommand]["return_predictions"] = False
        super()._run_subcommand(subcommand)


class NamedClass(Callback):
    """Writes into each checkpoint which public class and config made it, for :func:`zoo.load`."""

    def __init__(self, module: LightningModule, config: str) -> None:
        self.class_path = _public_or_none(module)
        self.config = config

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["zoo"] = {"class_path": self.class_path, "config": self.config, "version": zoo.__version__}


def _public_or_none(module: LightningModule) -> str | None:
    try:
        return hub.public_name(f"{type(module).__module__}.{type(module).__qualname__}", Path("the model"))
    except ValueError:
        return None  # a user's own module, run through the zoo's command


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
