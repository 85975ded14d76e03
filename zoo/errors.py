"""Turns what libraries raise into one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re


class UsageError(Exception):
    """The command line or a config file cannot be understood."""


def explain(error: BaseException) -> str:
    """One line for the user."""
    text = str(error).strip()
    if isinstance(error, UsageError):
        return _explain_usage(text)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed; pip install {_extra_of(error.name)}"
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory ({_one_line(text)}); lower data.init_args.batch_size and raise trainer.accumulate_grad_batches"
    if isinstance(error, KeyError):
        return f"missing key {text}"
    if isinstance(
        error, ValueError | FileNotFoundError | TypeError | OSError | AttributeError | RuntimeError
    ):
        return _one_line(text) or type(error).__name__
    return f"{type(error).__name__}: {_one_line(text)}"


def _extra_of(module: str) -> str:
    import zoo

    return getattr(zoo, "_EXTRAS", {}).get(module.split(".")[0], module.split(".")[0])


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:600]


def _explain_usage(text: str) -> str:
    """The useful line of a jsonargparse message, which wraps the cause in one report per union member."""
    lines = [line.strip().lstrip("- ").strip() for line in text.splitlines() if line.strip()]
    patterns = (
        r"Key '(?P<key>[^']+)' is not expected",
        r"No action for (?:destination )?key \"(?P<key>[^\"]+)\"",
        r"[Uu]nrecognized arguments?: (?P<key>.+)",
        r"Unaccepted (?:keys|parameter).*?['\"](?P<key>[^'\"]+)['\"]",
    )
    for line in lines:
        for pattern in patterns:
            if match := re.search(pattern, line):
                return _unknown_key(match["key"].strip(), text)
    for index, line in enumerate(lines):
        if line.startswith(("Problem with given class_path", "Not a valid subclass")) and index + 1 < len(
            lines
        ):
            rest = [
                x
                for x in lines[index + 1 :]
                if not x.startswith(("Given value", "Expected a", "Subclass types"))
            ]
            if rest:
                return _strip_parser_words(rest[0], lines)
    return _strip_parser_words(" ".join(lines), lines)


def _unknown_key(key: str, text: str) -> str:
    name = key.split()[0].split("=")[0].lstrip("-")
    where = re.search(r"Parser key \"([^\"]+)\"", text)
    prefix = (
        f"{where[1]}.init_args." if where and not name.startswith(where[1]) and "class_path" in text else ""
    )
    near = difflib.get_close_matches(name.rpartition(".")[2], _known_keys(), n=3, cutoff=0.6)
    hint = (
        f"; did you mean {' or '.join(near)}?"
        if near
        else "; see `zoo fit --help` or the class's documentation"
    )
    return f"unknown key {prefix}{name}{hint}"


def _known_keys() -> list[str]:
    """Argument names of the trainer and of everything public."""
    import inspect

    from lightning.pytorch import Trainer

    import datamodules
    import zoo
    from zoo.callbacks.checkpoint import Checkpoint
    from zoo.callbacks.ema import EMA
    from zoo.callbacks.predictions import Previews

    classes = [Trainer, Checkpoint, EMA, Previews]
    classes += [getattr(zoo, n) for n in zoo._METHODS] + [
        getattr(datamodules, n) for n in datamodules.__all__
    ]
    names = {p for c in classes for p in inspect.signature(c).parameters}
    names |= {
        "model",
        "data",
        "trainer",
        "checkpoint",
        "ema",
        "previews",
        "class_path",
        "init_args",
        "seed_everything",
    }
    return sorted(names | {"config", "weights", "ckpt_path"})


def _strip_parser_words(line: str, lines: list[str]) -> str:
    line = re.sub(r"^Parser key \"([^\"]+)\":\s*", r"\1: ", line)
    line = re.sub(r"Does not validate against any of the Union subtypes\s*", "", line)
    line = re.sub(r"\s+", " ", line).strip()
    return line[:600]
