"""Config files as the command line names them. Reading them imports neither torch nor Lightning."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.engine.errors import UsageError
from zoo.hub.catalog import find_config
from zoo.hub.yaml_files import read_yaml

_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
_GROUPS = ("trainer", "checkpoint", "ema", "previews")
_WEIGHTS_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")


def split_configs(argv: Sequence[str]) -> tuple[list[Path], list[str]]:
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


def read_config(path: Path) -> dict[str, Any]:
    """Content of a config file.

    Raises:
        ValueError: for a file that holds no mapping of settings, and as
            :func:`zoo.hub.yaml_files.read_yaml` does.
    """
    if path.suffix in _WEIGHTS_SUFFIXES:
        raise ValueError(f"{path} is no config: give weights to --weights and checkpoints to --ckpt_path")
    content = read_yaml(path)
    if content is None:
        raise ValueError(f"{path} is empty; a config is YAML with keys such as model, data and trainer")
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping with keys such as model, data and trainer")
    for group in _GROUPS:
        if not isinstance(content.get(group, {}), dict):
            raise ValueError(f"{path}: {group} must be a mapping of settings, got {content[group]!r}")
    settings = [content, *(content.get(group, {}) for group in _GROUPS)]
    for key in (key for mapping in settings for key in mapping if not isinstance(key, str)):
        raise ValueError(f"{path}: the key {key!r} is no name of a setting")
    for group in ("model", "data"):
        node = content.get(group)
        stray = set(node) - _CLASS_KEYS if isinstance(node, dict) and "class_path" in node else ()
        if stray:
            raise ValueError(f"{path}: {group}.{min(map(str, stray))} belongs under {group}.init_args")
    return content


def class_named(class_path: str) -> Any:
    """The class of a class path that has been checked."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def under_public_names(node: Any) -> Any:
    """A config with public classes under their public names: modules move, ``zoo.DTR`` does not.

    A run's config.yaml of an earlier version may say ``datamodules.digits.Digits``.
    """
    if isinstance(node, list):
        return [under_public_names(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _public(v) if key == "class_path" else under_public_names(v) for key, v in node.items()}


def _public(class_path: Any) -> Any:
    if not isinstance(class_path, str) or not re.fullmatch(r"(zoo|datamodules)(\.\w+){2,}", class_path):
        return class_path
    module, _, name = class_path.rpartition(".")
    try:
        gone = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        gone = True
    package = importlib.import_module(module.partition(".")[0])
    return f"{package.__name__}.{name}" if gone and name in package.__all__ else class_path
