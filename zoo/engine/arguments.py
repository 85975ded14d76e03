"""The command line of a run before the parser sees it: names become files, a checkpoint is checked."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zoo.engine.checkpoint import step_checkpoints
from zoo.engine.configs import class_named, read_config, split_configs, under_public_names
from zoo.engine.errors import FAILED, UsageError
from zoo.engine.lock import LOCK, FolderLock
from zoo.engine.ranks import FOLDER_VARIABLE, RESUME_VARIABLE, is_child, rank
from zoo.hub import weights as hub
from zoo.hub.catalog import OVERLAYS, config_names, find_config, registry, shadowed
from zoo.hub.foreign import Damaged, Weights
from zoo.hub.yaml_files import check_yaml, parse_yaml
from zoo.reports import say

UNTRAINED = "none"
"""What ``--weights`` says to have an answer from a network without any."""
_BROKEN = ".broken"  # added to the names of checkpoints whose content is damaged


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
        partial: whether only those tensors of the weights are loaded that fit.
        checkpoint: checkpoint that Lightning restores, or None.
        trained: what ``weights`` or ``checkpoint`` hold besides tensors, or None.
        trained_data: what they know of their data, see :mod:`zoo.engine.weights_data`.
        untrained: whether ``--weights none`` insists on an untrained network.
    """

    def __init__(self, verb: str, argv: list[str]) -> None:
        self.verb, self.given = verb, list(argv)
        self.configs, self.flags = split_configs(argv)
        for flag, following in zip_longest(self.flags, self.flags[1:], fillvalue=""):
            key, _, value = flag.partition("=")
            check_yaml(value or following, key)  # the parser reads it as YAML
        for path in self.configs:
            if (shipped := shadowed(path)) is not None:
                say(f"config {path} of the current folder, not the shipped {shipped}")
        self._as_written = [read_config(path) for path in self.configs]
        self.yaml = [under_public_names(content) for content in self._as_written]
        self._check_one_model()
        self.hparams: dict[str, Any] = {}
        self.weights: Weights | None = None
        self.partial = False
        self.checkpoint: Path | None = None
        self.trained: Weights | None = None
        self.trained_data: dict[str, Any] | None = None
        self.resume_folder: Path | None = None
        self._new_folder: Path | None = None
        self._lock: FolderLock | None = None
        self.untrained = False
        if self._asks_for_help():
            self.name, self.root = "run", Path("runs")
            return
        weights_name, asked = self.value("weights"), self.value("ckpt_path")
        self.untrained = weights_name == UNTRAINED
        if weights_name and asked:
            raise UsageError(
                "give either --weights (start from weights) or --ckpt_path (restore a run), not both"
            )
        self.partial = self._asks_for_part(weights_name)
        if weights_name and not self.untrained:
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
        self.trained = self.weights
        if self.checkpoint:
            self.trained = hub.read(self.checkpoint, tensors=False, own_class=self.own_class())
        if self.trained is not None:
            self._take_hparams(self.trained)
        if not self.hparams and not self._names_model():
            raise UsageError(f"zoo {verb} needs a config with a model: --config NAME; see `zoo list configs`")

    @property
    def trained_name(self) -> str:
        """What the user calls the weights or the checkpoint."""
        return self.value("weights") or str(self.checkpoint)

    @property
    def argv(self) -> list[str]:
        """What the parser gets."""
        configs = [
            f"--config={path if given == now else json.dumps(now)}"
            for path, given, now in zip(self.configs, self._as_written, self.yaml, strict=True)
        ]
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

    def sets_model(self) -> set[str]:
        """Names of the model's arguments that a config, the checkpoint or a flag sets."""
        models = [content.get("model") for _, content in self.sources]
        if any(re.match(r"--model(=|$)", flag) for flag in self.flags):
            models.append(parse_yaml(self.value("model") or "", "--model"))
        names = {name for m in models if isinstance(m, dict) for name in m.get("init_args") or {}}
        flags = (re.match(r"--model\.(?:init_args\.)?(\w+)", flag) for flag in self.flags)
        return names | {match[1] for match in flags if match}

    def check_weights(self, model: type, init_args: Mapping[str, Any]) -> None:
        """A verb other than ``fit`` answers with weights, by a method without any, or when one insists.

        Raises:
            UsageError: that names the bundled weights of the config.
        """
        if self.verb == "fit" or self.weights is not None or self.checkpoint is not None:
            return
        if answers_untrained(model, init_args):
            return
        if self.untrained:
            say(f"{self.verb} with an untrained network, as --weights {UNTRAINED} asks")
            return
        bundled = sorted(name for name, entry in registry().items() if entry["config"] == self.name)
        given = [f"--weights {name} (bundled)" for name in bundled] or ["--weights NAME|FILE"]
        raise UsageError(
            f"zoo {self.verb} of {self.name} has no weights; an untrained network answers at random: give "
            f"{', '.join(given)}, --ckpt_path last after `zoo fit`, or --weights {UNTRAINED} to insist"
        )

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
        self._as_written.insert(0, read_config(self.configs[0]))
        self.yaml.insert(0, under_public_names(self._as_written[0]))
        say(f"config {name}, as {path} says")

    def _check_one_model(self) -> None:
        """A run has the name, the data and the monitor of its first config: a second method does not fit in.

        Raises:
            UsageError: for configs of two classes of models.
        """
        named: dict[str, Path] = {}
        for path, content in zip(self.configs, self.yaml, strict=True):
            model = content.get("model")
            if isinstance(model, dict) and isinstance(model.get("class_path"), str):
                named.setdefault(model["class_path"], path)
        if len(named) > 1:
            given = " and ".join(f"{cls} ({path.name})" for cls, path in named.items())
            raise UsageError(f"the configs are of two methods, {given}: give one of them, and overlays")

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

    def _asks_for_part(self, weights: str | None) -> bool:
        fit = self.value("weights_fit") or "exact"
        if fit == "exact":
            return False
        if fit != "partial":
            raise UsageError(f"--weights_fit {fit}: it is exact (all tensors must fit) or partial")
        if self.verb != "fit" or weights is None:
            raise UsageError(
                "--weights_fit partial starts a training from what fits of --weights: it goes with `zoo fit` "
                "and --weights"
            )
        return True

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
        if is_child():
            inherited = os.environ.get(RESUME_VARIABLE)
            return Path(inherited) if inherited else None
        broken: list[Path] = []
        for folder in _versions(self.root / self.name):
            checkpoints = folder / "checkpoints"
            candidates = [checkpoints / "best.ckpt"] if which == "best" else step_checkpoints(checkpoints)
            broken += sorted(checkpoints.glob("*" + _BROKEN), reverse=True)
            if self.verb == "fit" and rank() == 0 and any(path.exists() for path in candidates):
                FolderLock(folder).release()  # who trains there takes away what is read here
            for path in candidates:
                if not path.exists():
                    continue
                try:
                    hub.read(path, tensors=False, own_class=self.own_class())
                except FileNotFoundError:  # of a run that goes on, which has written a newer one
                    return self._latest(which)
                # what is refused or cannot be read now may be whole: it stops the run
                except Damaged as error:
                    say(f"skipping a broken checkpoint: {error}")
                    broken.append(path)
                    if rank() == 0 and which == "last":
                        path.rename(path.with_name(path.name + _BROKEN))
                    continue
                if self.verb == "fit":
                    self.resume_folder = folder
                os.environ[RESUME_VARIABLE] = str(path)
                return path
        if self.verb != "fit" or which == "best":
            raise FileNotFoundError(
                f"--ckpt_path {which}: no readable checkpoint under {self.root / self.name}; train first or "
                "give a file"
            )
        if broken:
            raise ValueError(
                f"--ckpt_path last: every checkpoint under {self.root / self.name} is broken, for example "
                f"{broken[0].name}; leave --ckpt_path out to start anew, or give an earlier file"
            )
        say(f"no checkpoint under {self.root / self.name}, starting fresh")
        return None

    def _take_hparams(self, weights: Weights) -> None:
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
        cls = class_named(class_path)
        hub.check_signature(cls, weights.hparams, weights.path)
        if own is None:
            hub.check_size(cls, weights.hparams, weights.path)
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
        if is_child():
            return Path(os.environ[FOLDER_VARIABLE])
        folder = self.resume_folder
        if folder is None:
            parent = self.root / self.name
            number = max((int(p.name.removeprefix("version_")) for p in _versions(parent)), default=-1) + 1
            folder = parent / f"version_{number}"
            while rank() == 0:
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
        if self.verb == "fit" and rank() == 0:
            self._lock = FolderLock(folder)
        os.environ[FOLDER_VARIABLE] = str(folder)
        return folder

    def release_folder(self) -> None:
        """Another process may go on with the run."""
        if self._lock is not None:
            self._lock.release()

    def remove_unused_folder(self) -> None:
        """A run that failed before it did anything leaves no numbered folder behind."""
        folder = self._new_folder
        if folder is None or rank() or not folder.is_dir():
            return
        ours = re.compile(rf"config\w*\.yaml|{re.escape(FAILED)}|{re.escape(LOCK)}")
        if all(ours.fullmatch(p.name) for p in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def answers_untrained(model: type, init_args: Mapping[str, Any]) -> bool:
    """What a module's class declares in ``answers_untrained``: True, or the arguments with which it learns
    nothing that its answers rest on, ``{"arch": ("ha", "last")}``."""
    declared = getattr(model, "answers_untrained", False)
    if not isinstance(declared, Mapping):
        return bool(declared)
    return any(init_args.get(name) in values for name, values in declared.items())


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
