"""The LightningCLI behind ``zoo fit | validate | test | predict``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
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
from zoo.catalog import OVERLAYS, config_names, find_config, registry
from zoo.errors import FAILED, ParserError, UsageError, claim, explain_parser

# Handed to the processes that Lightning starts for DDP, so that all ranks use one folder and one checkpoint.
_FOLDER_VARIABLE, _RESUME_VARIABLE = "ZOO_RUN_FOLDER", "ZOO_RESUME_PATH"


class Parser(LightningArgumentParser):
    """Raises instead of printing the usage and leaving the process, and takes no abbreviated options.

    ``--ckpt X`` for ``--ckpt_path X`` would pass by the checks of :class:`Arguments`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        raise ParserError(message, _option_names(parser)) from ex


def _option_names(parser: Any) -> list[str]:
    """Options of a parser, of its subcommands if it has some, without the dashes."""
    names: dict[str, None] = {}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for subparser in action.choices.values():
                names |= dict.fromkeys(_option_names(subparser))
        names |= {o[2:]: None for o in action.option_strings if o.startswith("--") and not o.endswith("help")}
    return list(names)


class StepProgressBar(TQDMProgressBar):
    """One bar over the steps of the whole training where ``max_steps`` is set, else one per epoch."""

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
    if not {"", os.getcwd()} & set(
        sys.path
    ):  # the installed command leaves out the folder of the user's own classes
        sys.path.append(os.getcwd())
    arguments = Arguments(verb, list(argv))
    try:
        ZooCLI(arguments)
    except ParserError as error:
        arguments.remove_unused_folder()
        raise UsageError(explain_parser(error, arguments.sources, arguments.flags)) from error
    except Exception as error:
        if _is_child():
            claim(error, Path(os.environ[_FOLDER_VARIABLE]), _rank())
        arguments.remove_unused_folder()
        raise
    finally:
        for name in (_FOLDER_VARIABLE, _RESUME_VARIABLE):
            if not _is_child():
                os.environ.pop(name, None)
    return 0


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
        ".*'set_vital' is deprecated.*",
        ".*You are using a custom batch sampler.*",
        ".*torch.distributed.nn.functional.all_gather is deprecated.*",
        ".*across ranks is zero.*",  # no held-out data, or nothing left to extract
        ".*within local rank has zero length.*",
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
    """The command line before the parser sees it: config names and ``last`` and ``best`` become files.

    What the parser gets is in order of precedence: config files, hyperparameters of the checkpoint, flags.

    Attributes:
        flags: the command line without ``--config``.
        configs: config files, in order.
        yaml: their contents.
        hparams: class and arguments of the model that the weights or the checkpoint hold, as a config.
        name: of the run, that of the first config that is no overlay.
        root: folder of all runs.
        resume_folder: folder of the run that ``fit`` goes on with, or None.
        weights: checked weights file to load before running, or None.
        checkpoint: checkpoint that Lightning restores, or None.
    """

    def __init__(self, verb: str, argv: list[str]) -> None:
        self.verb, self.given = verb, list(argv)
        self.configs, self.flags = _split(argv)
        self.yaml = [_read_yaml(path) for path in self.configs]
        self.hparams: dict[str, Any] = {}
        self.weights: hub.Weights | None = None
        self.checkpoint: Path | None = None
        self.resume_folder: Path | None = None
        self._new_folder: Path | None = None
        if self._asks_for_help():
            self.name, self.root = "run", Path("runs")
            return
        weights_name, asked = self.value("weights"), self.value("ckpt_path")
        if weights_name and asked:
            raise UsageError(
                "give either --weights (start from weights) or --ckpt_path (restore a run), not both"
            )
        if weights_name:
            path = hub.resolve(weights_name)
            self.weights = hub.read(path, own_class=self.own_class())
            self._add_config(registry().get(weights_name, {}).get("config") or self.weights.config, path)
        elif asked and asked not in ("last", "best"):
            self._add_config(
                hub.read(_existing(asked), tensors=False, own_class=self.own_class()).config, asked
            )
        self.name = self._run_name()
        self.root = Path(self.value("trainer.default_root_dir") or "runs")
        self.checkpoint = self._checkpoint_path()
        if self.weights is not None:
            self._take_hparams(self.weights)
        elif self.checkpoint:
            self._take_hparams(hub.read(self.checkpoint, tensors=False, own_class=self.own_class()))
        if not self.hparams and not self._names_model():
            raise UsageError(f"zoo {verb} needs a config with a model: --config NAME; see `zoo list configs`")

    @property
    def argv(self) -> list[str]:
        """What the parser gets."""
        configs = [f"--config={path}" for path in self.configs]
        if self.hparams:
            configs.append(f"--config={json.dumps({'model': self.hparams})}")
        return [self.verb, *configs, *self.flags]

    @property
    def sources(self) -> list[tuple[str, dict[str, Any]]]:
        """Where settings come from besides flags."""
        found = [(str(path), content) for path, content in zip(self.configs, self.yaml, strict=True)]
        if self.hparams:
            path = self.weights.path if self.weights is not None else self.checkpoint
            found.append((str(path), {"model": self.hparams}))
        return found

    # --- reading --------------------------------------------------------------------------------------------

    def value(self, key: str) -> str | None:
        """Value of a flag, or of the last config that sets it."""
        found: str | None = None
        for content in self.yaml:
            node: Any = content
            for part in key.split("."):
                node = node.get(part) if isinstance(node, dict) else None
            found = found if node is None else str(node)
        for i, item in enumerate(self.flags):
            if item == f"--{key}":
                if i + 1 == len(self.flags) or self.flags[i + 1].startswith("--"):
                    raise UsageError(f"--{key} needs a value")
                found = self.flags[i + 1]
            elif item.startswith(f"--{key}="):
                found = item.partition("=")[2]
        return None if found in (None, "null", "None", "") else found

    def _replace(self, key: str, value: str | None) -> None:
        """Set a flag to ``value``; None takes it out."""
        out, skip = [], False
        for item in self.flags:
            if skip:
                skip = False
            elif item == f"--{key}":
                skip = True
            elif not item.startswith(f"--{key}="):
                out.append(item)
        self.flags = out if value is None else [*out, f"--{key}={value}"]

    def _add_config(self, name: Any, path: str | Path) -> None:
        """Weights know the shipped config they belong to: `zoo predict --weights X` needs no --config."""
        if self._names_model() or name not in config_names():
            return
        self.configs.insert(0, find_config(name))
        self.yaml.insert(0, _read_yaml(self.configs[0]))
        say(f"config {name}, as {path} says")

    def _names_model(self) -> bool:
        flagged = any(re.match(r"--model(\.class_path)?(=|$)", flag) for flag in self.flags)
        return flagged or any(content.get("model") for content in self.yaml)

    def _run_name(self) -> str:
        for path in self.configs:
            if path.parent.name == OVERLAYS:
                continue
            # the config.yaml that a run left in its folder, runs/NAME/version_N
            of_a_run = path.stem.startswith("config") and re.fullmatch(r"version_\d+", path.parent.name)
            return path.resolve().parent.parent.name if of_a_run else path.stem
        return (self._model_class() or "run").rpartition(".")[2].lower()

    def _asks_for_help(self) -> bool:
        return any(a in ("-h", "--help") or re.match(r"--[\w.]+\.help\b", a) for a in self.flags)

    # --- checkpoints ----------------------------------------------------------------------------------------

    def _checkpoint_path(self) -> Path | None:
        asked = self.value("ckpt_path")
        if asked is None:
            return None
        if asked not in ("last", "best"):
            return _existing(asked)
        latest = self._latest(asked)
        self._replace("ckpt_path", None if latest is None else str(latest))
        return latest

    def _latest(self, which: str) -> Path | None:
        """``last``: newest readable checkpoint of the newest run that has one; fit goes on in its folder."""
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
                    hub.read(path, tensors=False, own_class=self.own_class())
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
                f"--ckpt_path {which}: no readable checkpoint under {self.root / self.name}; train first or "
                "give a file"
            )
        say(f"no checkpoint under {self.root / self.name}, starting fresh")
        return None

    def _take_hparams(self, weights: hub.Weights) -> None:
        """Check the hyperparameters against the class that the config asks for and use them."""
        wanted, own = self._model_class(), self.own_class()
        if wanted is not None and own is None:
            wanted = hub.public_name(wanted, weights.path)
        class_path = weights.class_path or wanted
        if class_path is None:
            raise UsageError(
                f"{weights.path} does not name its class; give the config it was trained with: --config NAME"
            )
        if wanted is not None and class_path != wanted:
            raise ValueError(
                f"{weights.path} holds a {class_path}, but the config asks for {wanted}; give the config it "
                "was trained with"
            )
        module, _, name = class_path.rpartition(".")
        hub.check_signature(getattr(importlib.import_module(module), name), weights.hparams, weights.path)
        self.hparams = {"class_path": class_path, "init_args": weights.hparams}

    def _model_class(self) -> str | None:
        """The class that configs and flags ask for."""
        flag = self.value("model.class_path") or self.value("model")
        return flag if flag is None or not flag.startswith("{") else None

    def own_class(self) -> str | None:
        """The class asked for, if it is the user's own; a checkpoint may then name it too."""
        name = self._model_class()
        return None if name is None or name.startswith("zoo.") else name

    # --- the run's folder -----------------------------------------------------------------------------------

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
                except FileExistsError as error:  # another run took the number, or a file is in the way
                    if not folder.is_dir():
                        raise _not_writable(folder, error) from error
                    number += 1
                    folder = parent / f"version_{number}"
                except OSError as error:
                    raise _not_writable(folder, error) from error
            self._new_folder = folder
        os.environ[_FOLDER_VARIABLE] = str(folder)
        return folder

    def remove_unused_folder(self) -> None:
        """A run that failed before it did anything leaves no numbered folder behind."""
        folder = self._new_folder
        if folder is None or _rank() or not folder.is_dir():
            return
        if all(re.fullmatch(r"config\w*\.yaml", p.name) or p.name == FAILED for p in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _split(argv: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Config files in order, and the other arguments. Flags win over configs wherever they stand."""
    configs, flags = [], []
    items = iter(argv)
    for item in items:
        if match := re.match(r"(--config)=(.*)|(-c)(?!$)=?(.*)", item, re.DOTALL):
            option, value = match[1] or match[3], match[2] or match[4]
        elif item in ("-c", "--config"):
            option, value = item, next(items, "")
        else:
            flags.append(item)
            continue
        if not value or value.startswith("-"):
            raise UsageError(f"{option} needs a config name or file; see `zoo list configs`")
        configs.append(find_config(value))
    return configs, flags


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"--ckpt_path {name}: no such file; `last` takes the newest of this config's runs"
        )
    if path.suffix == ".safetensors":
        raise UsageError(f"{path} holds weights and no state of a training: give it to --weights")
    return path


def _not_writable(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or type(error).__name__
    return OSError(
        f"cannot make the run's folder {folder} ({reason}); choose another trainer.default_root_dir"
    )


def _versions(parent: Path) -> list[Path]:
    """Run folders, newest first."""
    if not parent.is_dir():
        return []
    folders = [p for p in parent.glob("version_*") if p.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda p: int(p.name.removeprefix("version_")), reverse=True)


_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
_GROUPS = ("trainer", "checkpoint", "ema", "previews")
_WEIGHTS_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.suffix in _WEIGHTS_SUFFIXES:
        raise UsageError(f"{path} is no config: give weights to --weights and checkpoints to --ckpt_path")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file; a config is YAML") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    if content is None:
        raise UsageError(f"{path} is empty; a config is YAML with keys such as model, data and trainer")
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a mapping with keys such as model, data and trainer")
    for group in _GROUPS:
        if not isinstance(content.get(group, {}), dict):
            raise UsageError(f"{path}: {group} must be a mapping of settings, got {content[group]!r}")
    for group in ("model", "data"):
        node = content.get(group)
        stray = set(node) - _CLASS_KEYS if isinstance(node, dict) and "class_path" in node else ()
        if stray:
            raise UsageError(f"{path}: {group}.{min(map(str, stray))} belongs under {group}.init_args")
    return content


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
                "callbacks": [ResumableRandomness()],
            },
            seed_everything_default=0,
            parser_kwargs={"prog": "zoo"},
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments.argv,
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
        parser.add_argument(
            "--manifest", type=str | None, default=None, help="Results file to add the metrics of a test to."
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
        results = arguments.value("manifest")
        run = Run(arguments.name, folder, self._config_text(), command, Path(results) if results else None)
        # Run speaks last: after the bar is closed and the predictions are written
        callbacks = [PredictionWriter(), *callbacks, run, NamedClass(self.model, arguments.name)]
        if config.get("enable_progress_bar") is not False:
            callbacks.insert(0, StepProgressBar(refresh_rate=5))
        config["logger"] = self._loggers(config.get("logger"), folder)
        config["default_root_dir"] = str(folder)
        config["plugins"] = [*_as_list(config.get("plugins")), AtomicCheckpointIO()]
        return super()._instantiate_trainer(config, callbacks)

    def _loggers(self, given: Any, folder: Path) -> Any:
        """metrics.csv is written besides other loggers; ``trainer.logger: false`` turns all off."""
        if given is False:
            return False
        others = [] if given in (None, True) else _as_list(given)
        return [MetricsCSV(folder), *others]

    def _config_text(self) -> str:
        """The parsed configuration, ready to be used with --config by any verb."""
        verb = self.arguments.verb
        text = self._parser(verb).dump(self.config[verb], skip_none=False, skip_validation=True)
        content = yaml.safe_load(text)
        for key in (
            "config",
            "ckpt_path",
            "weights",
            "weights_only",
            "return_predictions",
            "verbose",
            "manifest",
        ):
            content.pop(key, None)
        header = f"# zoo {zoo.__version__}: {shlex.join(['zoo', verb, *self.arguments.given])}\n"
        return header + yaml.safe_dump(content, sort_keys=False)

    def after_instantiate_classes(self) -> None:
        arguments = self.arguments
        if arguments.weights is not None:
            hub.load_state(self.model, arguments.weights)
        if arguments.checkpoint is not None:
            if arguments.checkpoint.is_file():
                own = arguments.own_class()
                hub.check_state(self.model, hub.read(arguments.checkpoint, averaged=False, own_class=own))
            if arguments.verb == "fit" and any(
                ".optimizer" in a or ".lr_scheduler" in a for a in arguments.given
            ):
                say(
                    "note: the checkpoint restores the optimiser with its own learning rate; optimiser flags "
                    "do nothing"
                )

    def before_instantiate_classes(self) -> None:
        # TF32 for what autocast leaves in float32. On a CPU the same switch only rounds.
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")

    def _run_subcommand(self, subcommand: str) -> None:
        # predictions are on disk, metrics in the run's own lines
        quiet = {"predict": "return_predictions", "validate": "verbose", "test": "verbose"}.get(subcommand)
        if quiet and self.arguments.value(quiet) is None:
            self.config_init[subcommand][quiet] = False
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            # Lightning ignores further Ctrl-C while it ends, and leaves with 1
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None


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
