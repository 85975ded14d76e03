"""Sweep files: what ``wandb sweep`` takes, checked, and the command lines that W&B's agent would run."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo.evidence.sweep.parameters import Parameter, read_parameters
from zoo.file_names import path_part
from zoo.hub.catalog import find_config, read_mapping

METHODS = ("grid", "random", "bayes")
_READ = ("method", "metric", "parameters", "command", "program", "run_cap")
_ONLY_THERE = ("name", "description", "project", "entity", "early_terminate", "apiVersion", "kind")
_REFUSED = ("controller", "job", "image_uri", "metrics", "scheduler")
_METRIC_ONLY_THERE = ("impute", "impute_while_running")
_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_ENVIRONMENT, _INTERPRETER = "/usr/bin/env", "python"
_WANDB = "trainer/wandb"


@dataclass(frozen=True)
class Sweep:
    """A sweep file, checked.

    Attributes:
        name: of the file.
        metric: key of ``final`` in a run's summary.json.
        maximize: whether more is better.
        target: the sweep ends once a trial is this good.
        parameters: in W&B's order; those of a grid are lists of values.
        command: with W&B's macros; see :meth:`words`.
        run_cap: trials in all, if the file says so.
        early_terminate: whether the file asks for what only W&B does.
    """

    name: str
    method: str
    metric: str
    maximize: bool
    target: float | None
    parameters: list[Parameter]
    command: list[str]
    program: str
    run_cap: int | None
    early_terminate: bool

    @property
    def searched(self) -> list[Parameter]:
        """Those that are not constant."""
        return [p for p in self.parameters if not p.constant]

    def grid(self) -> list[dict[str, str]]:
        """Draws of all points; the last parameter changes fastest."""
        names = [p.name for p in self.searched]
        points = itertools.product(*(p.choices for p in self.searched))
        return [dict(zip(names, point, strict=True)) for point in points]

    def trials(self, count: int | None) -> int:
        """Completed trials to make.

        Args:
            count: as asked on the command line.

        Raises:
            ValueError: when nothing says it.
        """
        if count is not None and count < 1:
            raise ValueError(f"--count must be at least 1, got {count}")
        asked = count or self.run_cap
        if self.method == "grid":
            points = len(self.grid())
            return min(asked or points, points)
        if asked is None:
            raise ValueError(
                f"method {self.method} never ends by itself; give --count N, or run_cap in the file"
            )
        return asked

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted name -> value, of draws by dotted name; constants included."""
        return {p.name: p.value(drawn.get(p.name)) for p in self.parameters}

    def flags(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Flag -> value as W&B's agent gets them: nested parameters are one flag with a dict."""
        flags: dict[str, Any] = {}
        for parameter in self.parameters:
            node = flags
            for key in parameter.path[:-1]:
                node = node.setdefault(key, {})
            node[parameter.path[-1]] = values[parameter.name]
        return flags

    def words(self, flags: Mapping[str, Any]) -> list[str]:
        """The whole command line that W&B's agent would start."""
        macros = _macros(flags) | {
            "env": [_ENVIRONMENT],
            "interpreter": [_INTERPRETER],
            "program": [self.program],
        }
        words: list[str] = []
        for word in self.command:
            macro = word[2:-1] if word.startswith("${") and word.endswith("}") else ""
            words += macros[macro] if macro in macros else [_with_variables(word)]
        return words

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """Arguments of ``zoo``: the words without what starts it and without the overlay of W&B.

        Raises:
            ValueError: when the command does not run ``zoo fit``.
        """
        return self._zoo_arguments(self.flags(values))

    def arguments_with(self, overlay: Path) -> list[str]:
        """The same with a YAML file instead of the parameters."""
        return [*self._zoo_arguments({}), f"--config={overlay}"]

    def _zoo_arguments(self, flags: Mapping[str, Any]) -> list[str]:
        words = self.words(flags)
        if words[:1] == [_ENVIRONMENT]:
            words = words[1:]
        if words[:1] and re.fullmatch(r"python3?", words[0]):
            words = words[1:] if words[1:2] != ["-m"] else [f"{words[2]}.py", *words[3:]]
        if words[:1] and Path(words[0]).name in ("zoo", "cli.py") and words[1:2] == ["fit"]:
            return _without_wandb(words[1:])
        raise ValueError(
            'command must run `zoo fit`, for example ["${env}", zoo, fit, --config, NAME, "${args}"]; '
            f"it reads {' '.join(self.command)}"
        )

    def fingerprint(self) -> str:
        """Changes when the trials would: what is searched, the configs' text, the zoo's version."""
        parameters = [vars(p) for p in self.parameters]
        rules = [self.method, self.metric, self.maximize, parameters, self.command, self.program]
        text = json.dumps([*rules, zoo.__version__])
        for config in _configs(self._zoo_arguments({})):
            text += find_config(config).read_text()
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ValueError: in one line, for whatever W&B would refuse or a local search cannot do.
    """
    content = _content(path)
    if content.get("method") not in METHODS:
        raise ValueError(f"{path}: method is {', '.join(METHODS)}, got {content.get('method')!r}")
    metric = _metric(path, content.get("metric"))
    parameters = read_parameters(str(path), content.get("parameters"))
    names = [p.name for p in parameters]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: parameter {max(names, key=names.count)} is given twice")
    if content["method"] == "grid":
        parameters = [p.for_grid(str(path)) for p in parameters]
    run_cap = content.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise ValueError(f"{path}: run_cap must be an integer above 0, got {run_cap!r}")
    command = content.get("command") or list(_DEFAULT_COMMAND)
    if not isinstance(command, list):
        raise ValueError(f"{path}: command must be a list of words, got {command!r}")
    sweep = Sweep(
        name=path_part(path.stem, f"the sweep file {path}"),
        method=content["method"],
        metric=str(metric["name"]),
        maximize=metric.get("goal") == "maximize",
        target=metric.get("target"),
        parameters=parameters,
        command=[str(word) for word in command],
        program=str(content.get("program", "")),
        run_cap=run_cap,
        early_terminate="early_terminate" in content,
    )
    _check_command(path, sweep)
    return sweep


def _content(path: Path) -> dict[str, Any]:
    content = read_mapping(path, _READ)
    if "model" in content and "parameters" not in content:
        raise ValueError(f"{path} is the config of a run, not a sweep; `zoo list configs` has those")
    for key in content:
        if key in _REFUSED:
            raise ValueError(f"{path}: {key} belongs to W&B's own search and is not run locally")
        if key not in _READ + _ONLY_THERE:
            near = difflib.get_close_matches(str(key), _READ + _ONLY_THERE, n=2, cutoff=0.6)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else f"keys are {', '.join(_READ + _ONLY_THERE)}"
            )
            raise ValueError(f"{path}: unknown key {key!r}; {hint}")
    return content


def _metric(path: Path, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"{path}: metric is missing: name what ranks the trials, {{name: val/loss, goal: minimize}}"
        )
    known = ("name", "goal", "target", *_METRIC_ONLY_THERE)
    unknown = [k for k in given if k not in known]
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r} in metric; it takes {', '.join(known)}")
    if given.get("goal", "minimize") not in ("minimize", "maximize"):
        raise ValueError(f"{path}: goal of metric is minimize or maximize, got {given['goal']!r}")
    if "target" in given and type(given["target"]) not in (int, float):
        raise ValueError(f"{path}: target of metric must be a number, got {given['target']!r}")
    return given


def _check_command(path: Path, sweep: Sweep) -> None:
    macros = [m for word in sweep.command for m in re.findall(r"\$\{([^}]*)\}", word)]
    known = ["env", "interpreter", "program", *_macros({})]
    for macro in macros:
        if macro not in known and not macro.startswith("envvar:"):
            names = ", ".join(f"${{{k}}}" for k in [*known, "envvar:NAME"])
            raise ValueError(f"{path}: command has ${{{macro}}}; run locally are {names}")
    if not any(macro in _macros({}) for macro in macros):
        raise ValueError(f"{path}: command does not use ${{args}}, so every trial would be the same")
    try:
        for config in _configs(sweep.arguments_with(path)):
            find_config(config)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path}: {error}") from None


def _macros(flags: Mapping[str, Any]) -> dict[str, list[str]]:
    """What W&B's agent puts in the place of its macros: values are Python's ``str``."""
    texts = [f"{key}={value}" for key, value in flags.items()]
    switches = {k: v for k, v in flags.items() if v is not False}
    return {
        "args": [f"--{text}" for text in texts],
        "args_no_hyphens": texts,
        "args_no_equals": [word for key, value in flags.items() for word in (f"--{key}", str(value))],
        "args_no_boolean_flags": [f"--{k}" if v is True else f"--{k}={v}" for k, v in switches.items()],
    }


def _with_variables(word: str) -> str:
    return re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda m: os.environ.get(m[1], m[1]), word)


def _config_places(arguments: Sequence[str]) -> list[tuple[int, int, str]]:
    """Start, end and name of each ``--config NAME``."""
    places = []
    for i, word in enumerate(arguments):
        if word in ("--config", "-c") and i + 1 < len(arguments):
            places.append((i, i + 2, arguments[i + 1]))
        elif word.startswith("--config="):
            places.append((i, i + 1, word.partition("=")[2]))
    return places


def _configs(arguments: Sequence[str]) -> list[str]:
    return [name for _, _, name in _config_places(arguments)]


def _without_wandb(arguments: Sequence[str]) -> list[str]:
    """Without ``--config trainer/wandb``: a local trial needs no account."""
    kept = list(arguments)
    for start, end, name in reversed(_config_places(arguments)):
        if name.removeprefix("configs/").removesuffix(".yaml") == _WANDB:
            del kept[start:end]
    return kept
