"""The LightningCLI behind ``zoo fit | validate | test | predict``."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import get_loader, set_loader
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

import zoo
from zoo.engine.accumulation import EqualSteps, check_hand_stepped
from zoo.engine.arguments import Arguments
from zoo.engine.checkpoint import AtomicCheckpointIO, Checkpoint
from zoo.engine.checkpoint_folder import checkpoints_of
from zoo.engine.configs import class_named, read_config, split_configs
from zoo.engine.data_sizes import sizes_from_data
from zoo.engine.ema import EMA
from zoo.engine.energy.callback import Energy
from zoo.engine.energy.costs import Cost
from zoo.engine.errors import ParserError, UsageError, claim, explain_parser
from zoo.engine.going_on import SameOptimization, take_settings
from zoo.engine.metrics_csv import MetricsCSV
from zoo.engine.own_modules import also_named, install, named_modules, remove, texts_of
from zoo.engine.predictions import PredictionWriter, Previews
from zoo.engine.random_state import ResumableRandomness
from zoo.engine.ranks import (
    FOLDER_VARIABLE,
    RESUME_VARIABLE,
    check_nodes,
    check_srun,
    check_tasks,
    is_child,
    rank,
)
from zoo.engine.run import Run
from zoo.engine.settings import check_settings, device_count, ranges_of
from zoo.engine.stopping import Stopped
from zoo.engine.weights_data import DataOfWeights, take_from_weights
from zoo.hub import weights as hub
from zoo.hub.yaml_files import check_yaml
from zoo.reports import say


def _load_yaml(text: str) -> Any:
    """What the parser reads: values, and files that values name, which nobody has checked before."""
    check_yaml(text, "a file that a setting names")
    also_named(text)
    return get_loader("yaml")(text)


_OF_MODEL = re.compile(r"--model\.(?:init_args\.)?(\w+)(?==|$)")
_OF_OPTIMIZATION = re.compile(r"--model\.(?:init_args\.)?(\w*(?:optimizer|lr_scheduler)\w*)")
_PARSER_MODE = "bounded yaml"
set_loader(_PARSER_MODE, _load_yaml, (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Raises instead of printing the usage and leaving the process, and takes no abbreviated options.

    ``--ckpt X`` for ``--ckpt_path X`` would pass by the checks of :class:`Arguments`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "parser_mode": _PARSER_MODE, **kwargs})

    def add_class_arguments(
        self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """In what ``--model.help CLASS`` shows, each number has its range, which jsonargparse strips."""
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        if (self.description or "").startswith("Help for "):
            ranges = ranges_of(theclass)
            for action in self._actions:
                allowed = ranges.get(action.dest.removeprefix(f"{nested_key}."))
                if allowed is not None:
                    action.help = f"{action.help or ''} [{allowed}]".lstrip()
        return added

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


Record = Callable[[Path, dict[str, Any]], None]
"""``record(file, summary)`` adds a run's metrics to the results file of ``--manifest``."""


def run(
    verb: str, argv: Sequence[str], record: Record | None = None, ready: Callable[[], None] = lambda: None
) -> int:
    """Run one Lightning verb; returns the exit code. ``ready`` is called when all is imported and built."""
    _quieten()
    contents = [read_config(path) for path in split_configs(argv)[0]]
    finder = install(named_modules([*argv, *texts_of(contents)]))
    try:
        return _run(Arguments(verb, list(argv)), record, ready)
    finally:
        remove(finder)


def _run(arguments: Arguments, record: Record | None, ready: Callable[[], None]) -> int:
    try:
        take_from_weights(arguments)
        ZooCLI(arguments, record, ready)
    except ParserError as error:
        arguments.remove_unused_folder()
        raise UsageError(explain_parser(error, arguments.sources, arguments.flags)) from error
    except Exception as error:
        if is_child():
            claim(error, Path(os.environ[FOLDER_VARIABLE]), rank())
        arguments.remove_unused_folder()
        raise
    finally:
        arguments.release_folder()
        for name in (FOLDER_VARIABLE, RESUME_VARIABLE):
            if not is_child():
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


class ZooCLI(LightningCLI):
    """LightningCLI in subclass mode with the zoo's callbacks, folder and checkpoint handling."""

    def __init__(
        self,
        arguments: Arguments,
        record: Record | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.arguments, self.record, self.ready = arguments, record, ready
        self._optimization = SameOptimization()
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

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb that was asked for alone: a parser for each of the four takes time to make."""
        verb = self.arguments.verb
        return {verb: LightningCLI.subcommands()[verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        # before the averages: what they leave in place at the end of a test is what is measured
        parser.add_lightning_class_args(Energy, "energy")
        parser.add_lightning_class_args(Cost, "cost")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Previews, "previews")
        parser.add_argument(
            "--weights", type=str | None, default=None, help="Name or file of weights to start from."
        )
        parser.add_argument(
            "--weights_fit",
            type=Literal["exact", "partial"],
            default="exact",
            help="Of `fit`: partial takes what fits of --weights, the rest of the model starts anew.",
        )
        parser.add_argument(
            "--manifest", type=str | None, default=None, help="Results file to add the metrics of a test to."
        )
        parser.set_defaults({"trainer.default_root_dir": "runs"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Settings are compared with their ranges before anything is done with them, a seed drawn for one."""
        super().parse_arguments(parser, args)
        given = self.arguments
        check_settings(given.verb, self.config[given.verb], given.sources, given.flags)

    def _parse_ckpt_path(self) -> None:
        """Hyperparameters of checkpoints are already on the command line, checked and in the right place."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        arguments = self.arguments
        if arguments.verb == "fit":
            check_hand_stepped(config, self.model)
        folder = arguments.make_folder()
        if config.get("enable_checkpointing") is False:
            callbacks = [c for c in callbacks if not isinstance(c, Checkpoint)]
        for callback in callbacks:
            if isinstance(callback, Checkpoint):
                callback.dirpath = callback.dirpath or str(checkpoints_of(folder))
                _check_folders(_as_list(config.get("callbacks")), Path(callback.dirpath))
                arguments.claim_checkpoints(Path(callback.dirpath), folder)
        command = shlex.join(["zoo", arguments.verb, *arguments.given])
        record, child = self._recorder(), is_child()
        run = Run(arguments.name, folder, self._config_text(), command, record, started_here=child)
        # Run speaks last: after the bar is closed and the predictions are written
        data = self.config[arguments.verb].get("data")
        about_data = DataOfWeights(data, arguments.trained_data, arguments.trained_name)
        named = NamedClass(self.model, arguments.name)
        callbacks = [*callbacks, EqualSteps(), run, named, about_data, self._optimization]
        if not any(isinstance(c, BasePredictionWriter) for c in _as_list(self.model.configure_callbacks())):
            callbacks.insert(0, PredictionWriter())
        if config.get("enable_progress_bar") is not False:
            callbacks.insert(0, StepProgressBar(refresh_rate=5))
        config["logger"] = self._loggers(config.get("logger"), folder)
        config["default_root_dir"] = str(folder)
        config["plugins"] = [*_as_list(config.get("plugins")), AtomicCheckpointIO()]
        if (devices := device_count(config.get("devices")) or 0) > 0:  # before Lightning's own words
            check_tasks(devices * config.get("num_nodes", 1))
        trainer = super()._instantiate_trainer(config, callbacks)
        check_tasks(trainer.world_size)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment):
            check_nodes(trainer.num_nodes)
        elif isinstance(environment, SLURMEnvironment):
            check_srun(trainer.world_size)
        return trainer

    def _recorder(self) -> Callable[[dict[str, Any]], str] | None:
        results, record = self.arguments.value("manifest"), self.record
        if results is None or record is None:
            return None

        def add(summary: dict[str, Any]) -> str:
            record(Path(results), summary)
            return f"added to {results}"

        return add

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
            "weights_fit",
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
        if arguments.weights is not None and arguments.partial:
            anew, left = hub.load_fitting(self.model, arguments.weights)
            say(f"tensors that start anew: {_names(anew)}")
            if left:
                say(f"tensors of {arguments.weights.path} that are left out: {_names(left)}")
        elif arguments.weights is not None:
            hub.load_state(self.model, arguments.weights)
        if arguments.checkpoint is not None:
            if arguments.checkpoint.is_file():
                self._check_checkpoint(arguments.checkpoint)
            if arguments.verb == "fit":
                self._say_what_a_checkpoint_restores()

    def _check_checkpoint(self, path: Path) -> None:
        """What answers is looked at as closely as ``--weights``; a training may go on from NaN, told."""
        own, fits = self.arguments.own_class(), self.arguments.verb == "fit"
        raw = hub.read(path, averaged=False, own_class=own)
        hub.check_state(self.model, raw)
        hub.load_texts(self.model, raw)
        try:
            hub.check_trained(self.model, hub.read(path, averaged=not fits, own_class=own))
        except ValueError as error:
            if not fits:
                raise
            say(f"note: {error}. The run goes on from it")

    def _say_what_a_checkpoint_restores(self) -> None:
        """Flags that a resume does not follow, those of the optimiser and of torch's own schedules, and those
        that make another method of what is resumed."""
        held = self.arguments.trained.hparams if self.arguments.trained is not None else {}
        named = {m[1] for a in self.arguments.flags if (m := _OF_MODEL.match(a))}
        for name in sorted(named & held.keys() & self.model.hparams.keys()):
            before, now = (json.dumps(h[name], default=str)[:80] for h in (held, self.model.hparams))
            if before != now:
                self._optimization.notes.append(
                    f"model.init_args.{name} was {before} in the checkpoint and is {now} from here on"
                )
        flagged = {m[1] for a in self.arguments.flags if (m := _OF_OPTIMIZATION.match(a))}
        if any("optimizer" in name for name in flagged):
            self._optimization.notes.append(
                "note: the checkpoint restores the optimiser with its own learning rate; optimiser flags "
                "do nothing"
            )
        for name in sorted(n for n in flagged if "lr_scheduler" in n):
            path = self.config[self.arguments.verb].get(f"model.init_args.{name}.class_path")
            restore = getattr(class_named(path), "load_state_dict", None) if path else None
            if getattr(restore, "__module__", "").startswith("torch."):  # ours take the position alone
                self._optimization.notes.append(
                    f"note: the checkpoint restores {path} with its own settings; {name} flags do nothing"
                )

    def before_instantiate_classes(self) -> None:
        # TF32 for what autocast leaves in float32. On a CPU the same switch only rounds.
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
        config = self.config[self.arguments.verb]
        if (model := config.get("model")) is not None:
            self.arguments.check_weights(class_named(model.class_path), model.get("init_args") or {})
        sizes_from_data(self.arguments, config)
        if self.arguments.verb == "fit" and (path := self.arguments.checkpoint) is not None:
            checkpoint = hub.load_checkpoint_file(path)
            take_settings(checkpoint, config, self.arguments.flagged)
            self._optimization.goes_on_from(checkpoint)

    def _run_subcommand(self, subcommand: str) -> None:
        self.ready()
        # predictions are on disk, metrics in the run's own lines
        quiet = {"predict": "return_predictions", "validate": "verbose", "test": "verbose"}.get(subcommand)
        if quiet and self.arguments.value(quiet) is None:
            self.config_init[subcommand][quiet] = False
        try:
            super()._run_subcommand(subcommand)
        except Stopped as stop:
            # Lightning kills the others when a process that it started ends otherwise
            raise SystemExit(0 if is_child() else stop.code) from None
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            # Lightning ignores further Ctrl-C while it ends, and leaves with 1
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        finally:
            for callback in self.trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoint):
                    callback.release_signals()


def _check_folders(callbacks: list[Any], ours: Path) -> None:
    """Files of another ModelCheckpoint in our folder would be taken for ours, and ours be pruned."""
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback.dirpath is None or Path(callback.dirpath).resolve() == ours.resolve():
            raise ValueError(
                f"trainer.callbacks: {type(callback).__name__} would write into this run: give it a dirpath "
                "elsewhere, or set checkpoint.every_n_train_steps, keep, monitor and mode instead"
            )


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


def _names(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
