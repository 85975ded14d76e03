"""What weights know of the data that they were trained on, and data that do as the weights expect.

A data module's class may declare ``of_weights``, those of its arguments that a trained network depends on,
each followed by other names under which weights may have it: ``("size side",)``. What only its files tell is
in its attribute ``facts`` once it is set up: plain values by name, ``set`` among them where a run may fall
back to other data. Checkpoints and safetensors keep both, and ``zoo predict``, ``test`` and ``validate`` take
them from there unless a config or a flag says otherwise. Data that differ all the same are told.

``split_of_weights`` names those arguments that decide which items are trained on and which are kept from it:
another split tests on what was trained on. A run that goes on from its checkpoint, or is tested by it, takes
them from there, also over its config; ``fit`` refuses flags that say otherwise.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.engine.arguments import Arguments
from zoo.engine.errors import UsageError
from zoo.hub.foreign import is_plain
from zoo.hub.yaml_files import parse_yaml
from zoo.nn.data_fit import shown
from zoo.nn.variants import idle_options
from zoo.reports import say

_MOST_CLASSES = 1000
_LONGEST = 500


def noted(config: Namespace | None, data: Any) -> dict[str, Any] | None:
    """What weights keep of their data.

    Args:
        config: of the data, ``class_path`` and ``init_args``.
        data: the data module, set up.
    """
    if config is None or data is None:
        return None
    given = config.get("init_args") or {}  # a class without arguments has none
    init_args = {key: given.get(key) for key in _declared(type(data))}
    init_args = {key: value for key, value in init_args.items() if value is not None and is_plain(value)}
    init_args |= _split(type(data), given)
    return {"class_path": config.class_path, "init_args": init_args, "facts": _facts(data)}


def _declared(cls: Any) -> Mapping[str, str]:
    return {names.split()[0]: names for names in getattr(cls, "of_weights", ())}


def _split(cls: Any, given: Any) -> dict[str, Any]:
    """What decides the split, of the data that an argument holds too: ``source.init_args.seed``."""
    found: dict[str, Any] = {}
    for key in getattr(cls, "split_of_weights", ()):
        value = given.get(key)
        inner = value.get("class_path") if isinstance(value, Namespace | Mapping) else None
        if isinstance(inner, str):
            init_args = value.get("init_args") or {}
            given_below = init_args.as_dict() if isinstance(init_args, Namespace) else init_args
            held = _defaults(_import(inner)) | given_below
            below = _split(_import(inner), held)
            found |= {f"{key}.class_path": inner} | {f"{key}.init_args.{k}": v for k, v in below.items()}
        elif is_plain(value) and key in given:
            found[key] = value
    return found


def _facts(data: Any) -> dict[str, Any]:
    names = list(getattr(data, "class_names", None) or [])
    facts = {"class_names": names} if 0 < len(names) <= _MOST_CLASSES else {}
    facts |= getattr(data, "facts", None) or {}
    return {key: value for key, value in facts.items() if is_plain(value)}


def _defaults(cls: type) -> dict[str, Any]:
    """Arguments of a class with their defaults, also those of its parents, which ``**kwargs`` pass on."""
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters
            found |= {name: parameter.default for name, parameter in parameters.items()}
    return found


def _import(class_path: Any) -> Any:
    """The class that the user or a shipped config names; None where there is none: the parser will say so."""
    if not isinstance(class_path, str) or not re.fullmatch(r"(\w+\.)+\w+", class_path):
        return None
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def take_from_weights(arguments: Arguments) -> None:
    """Flags for what the weights expect of the data and neither a config nor a flag sets.

    Raises:
        UsageError: where a run is to go on with another split than its own.
    """
    if arguments.trained is None:
        return
    trained = arguments.trained_data = arguments.trained.data
    cls = _import(_class_path(arguments))
    if trained is None or cls is None:
        return
    same = trained["class_path"].rpartition(".")[2] == cls.__name__
    if same:
        _take_split(arguments, cls, trained["init_args"])
    if arguments.verb == "fit":
        if not same and arguments.checkpoint is None:
            arguments.trained_data = None  # fine-tuned on other data, as weights are for
        return
    has = {**trained["init_args"], **trained["facts"]}
    given = _given(arguments)
    defaults = _defaults(cls)
    taken = {}
    for key, names in _declared(cls).items():
        value = next((has[n] for n in names.split() if has.get(n) is not None), None)
        if value is None or key in given or key not in defaults or defaults[key] == value:
            continue
        taken[key] = value
    taken = _useful(cls, taken, _with(_of_configs(arguments), _of_flags(arguments)))
    arguments.flags += [_flag(key, value) for key, value in taken.items()]
    if taken:
        words = ", ".join(f"{key}: {_json(value)}" for key, value in taken.items())
        say(f"data.init_args.{words}, as {arguments.trained_name} was trained")


def _useful(cls: Any, taken: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is taken from weights, what the variant that is ``given`` uses and so does not refuse."""
    idle = idle_options(cls, {**_defaults(cls), **given, **taken})
    return {key: value for key, value in taken.items() if key not in idle}


def _take_split(arguments: Arguments, cls: Any, trained: Mapping[str, Any]) -> None:
    """Flags for the split of the weights, where no flag sets one.

    A checkpoint is asked before the configs, whose flags it was trained with, as for the model; weights, and
    what is predicted, which may be anybody's, after them.
    """
    if arguments.verb == "fit" and arguments.checkpoint is None:
        return  # fine-tuning: told if it differs
    configs, flags = _of_configs(arguments), _of_flags(arguments)
    before_configs = arguments.checkpoint is not None and arguments.verb != "predict"
    wanted = _split(cls, _defaults(cls) | _with(configs, flags))
    keys = [key for key in wanted if key in trained and _other(trained[key], wanted[key])]
    flagged = [key for key in keys if any(f"{key}.".startswith(f"{flag}.") for flag in flags)]
    if flagged and arguments.verb == "fit":
        raise UsageError(
            f"{arguments.trained_name} was trained with {_words(flagged, trained)}, not "
            f"{_words(flagged, wanted)}: leave the flags out to go on, or --ckpt_path to train anew"
        )
    own = {k for k in keys if k not in flagged and (before_configs or not _sets(configs, k))}
    useful = _useful(cls, {k: trained[k] for k in own}, _with(configs, flags))
    taken = [k for k in keys if k in useful]
    for key in taken:
        arguments.flags.append(_flag(key, trained[key]))
    if taken:
        say(f"{_words(taken, trained)}, as {arguments.trained_name} was trained")


def _sets(given: Any, key: str) -> bool:
    """Whether ``given`` has a value for a name with dots."""
    for part in key.split("."):
        if not isinstance(given, dict) or part not in given:
            return False
        given = given[part]
    return True


def _flag(key: str, value: Any) -> str:
    """As a person would give it: a text without the quotes of JSON, which would become a part of it."""
    return f"--data.init_args.{key}={value if isinstance(value, str) else json.dumps(value)}"


def _json(value: Any) -> str:
    """As YAML takes it; of a long list its first values and how many there are."""
    return shown(value) if isinstance(value, list) and shown(value) != str(value) else json.dumps(value)


def _words(keys: list[str], values: Mapping[str, Any]) -> str:
    line = ", ".join(f"{key}: {json.dumps(values[key])}" for key in keys)
    return f"data.init_args.{''.join(c if c.isprintable() else '?' for c in line)[:_LONGEST]}"


def _other(a: Any, b: Any) -> bool:
    return bool(_plain_list(a) != _plain_list(b))


def _of_configs(arguments: Arguments) -> dict[str, Any]:
    """What configs set of the data module's arguments."""
    found: dict[str, Any] = {}
    for content in arguments.yaml:
        data = content.get("data")
        found |= (data.get("init_args") or {}) if isinstance(data, dict) else {}
    return found


def _of_flags(arguments: Arguments) -> dict[str, Any]:
    """What flags set of them, by name: ``seed``, or ``source.init_args.seed`` of data within."""
    found: dict[str, Any] = {}
    if any(re.match(r"--data(=|$)", flag) for flag in arguments.flags):
        content = _parsed(arguments.value("data"))
        found |= (content.get("init_args") or {}) if isinstance(content, dict) else {}
    for flag in arguments.flags:
        if (match := re.match(r"--data\.init_args\.([\w.]+)", flag)) or (
            (match := re.match(r"--data\.(\w+)", flag)) and match[1] not in ("class_path", "init_args")
        ):
            found[match[1]] = _parsed(arguments.value(match[0][2:]))
    return found


def _parsed(text: str | None) -> Any:
    try:
        return parse_yaml(text or "null", "a flag")
    except ValueError:
        return text


def _with(configs: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with those of flags, which reach into data that an argument holds."""
    found = copy.deepcopy(dict(configs))
    for key, value in flags.items():
        *path, last = key.split(".")
        node = found
        for part in path:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        inside = isinstance(node.get(last), dict) and isinstance(value, str)
        node[last] = {"class_path": value} if inside else value
    return found


def _class_path(arguments: Arguments) -> str | None:
    """Of the data module that configs and flags ask for; the last flag wins."""
    asked = arguments.value("data.class_path")
    for i, flag in enumerate(arguments.flags):
        if match := re.fullmatch(r"--data(?:\.class_path)?(?:=(.*))?", flag, re.DOTALL):
            asked = match[1] if match[1] is not None else "".join(arguments.flags[i + 1 : i + 2])
    if asked is None or not asked.startswith("{"):
        return asked
    content = parse_yaml(asked, "--data")
    return content.get("class_path") if isinstance(content, dict) else None


def _given(arguments: Arguments) -> set[str]:
    """Names of the data module's arguments that a config or a flag sets."""
    contents = [content.get("data") for content in arguments.yaml]
    if (value := arguments.value("data")) and value.startswith("{"):
        contents.append(parse_yaml(value, "--data"))
    names = {key for c in contents if isinstance(c, dict) for key in c.get("init_args") or {}}
    flags = (re.match(r"--data\.(?:init_args\.)?(\w+)", flag) for flag in arguments.flags)
    return names | {match[1] for match in flags if match}


class DataOfWeights(Callback):
    """Keeps in each checkpoint what it was trained on, and says where a run's data are others.

    Args:
        config: of the data.
        trained: what the weights of an evaluation know, or None.
        name: of the weights.
    """

    def __init__(self, config: Namespace | None, trained: Mapping[str, Any] | None, name: str) -> None:
        self.config, self.trained, self.name = config, trained, name

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        data = noted(self.config, getattr(trainer, "datamodule", None))
        if data is not None:
            checkpoint.setdefault("zoo", {})["data"] = data

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        now = noted(self.config, getattr(trainer, "datamodule", None))
        if self.trained is None or now is None:
            return
        for line in differences(self.trained, now, _declared(type(trainer.datamodule))):  # type: ignore[attr-defined]
            say(f"note: {self.name} was trained on other data: {line}")


def differences(trained: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """What data have that differs from those of the weights, one line or none.

    Args:
        trained: what the weights know.
        now: of this run.
        names: ``of_weights`` of this run's data.
    """
    found = []
    same = trained["class_path"].rpartition(".")[2] == now["class_path"].rpartition(".")[2]
    if not same:
        found.append(f"{trained['class_path']}, here {now['class_path']}")
    has = {**trained["init_args"], **trained["facts"]}
    for key, value in now["init_args"].items():
        if key not in names:  # of the split
            if same and key in has and _other(has[key], value):
                found.append(f"data.init_args.{key} {has[key]}, here {value}")
            continue
        before = next((has[n] for n in names[key].split() if has.get(n) is not None), None)
        if before is not None and before != value:
            found.append(f"data.init_args.{key} {before}, here {value}")
    for key, value in now["facts"].items():
        before = trained["facts"].get(key)
        if before is not None and _plain_list(before) != _plain_list(value):
            found.append(f"{key.replace('_', ' ')} {_short(before)}, here {_short(value)}")
    line = "".join(c if c.isprintable() else "?" for c in "; ".join(found))  # a file's texts go to a terminal
    return [line[:_LONGEST]] if found else []


def _plain_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    items = _plain_list(value)
    if not isinstance(items, list):
        return str(items)
    return f"[{', '.join(map(str, items[:4]))}{', ...' if len(items) > 4 else ''}] ({len(items)})"
