"""``zoo convert``: weights from one format into another.

Files of the zoo are read by :mod:`zoo.hub.weights`; those of other projects are read and written by the
weights room that their method declares (``zoo/<method>/weights.py``: ``read``, ``write`` and ``FORMATS``).
"""

from __future__ import annotations

import difflib
import importlib
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

import zoo
from zoo.hub import weights as hub
from zoo.hub.bounded import one_line
from zoo.hub.foreign import Weights, safetensors_in
from zoo.hub.yaml_files import parse_yaml
from zoo.reports import writing

# "none" is a word of its own: routing=none.
_LISTS = (list, tuple, Sequence)
_WORDS = {"True": True, "False": False, "None": None}


def convert(
    source: Path, out: Path, method: str | None, to: str, given: Sequence[str], force: bool
) -> Iterator[str]:
    """Convert ``source`` into ``out``; yields the lines to print.

    Args:
        source: a file of the zoo (name, ``.ckpt``, ``.safetensors``) or of the method's official code.
        out: file to write; a folder for formats that are folders.
        method: package name of the method, ``dtr``; needed for files of other projects.
        to: ``zoo`` or a format of the method.
        given: ``KEY=VALUE`` constructor arguments.
        force: overwrite.

    Raises:
        FileNotFoundError, ValueError: one line on what does not work and what to do.
    """
    _check_out(out, to, force)
    path = hub.resolve(str(source).replace("hf:/", "hf://", 1) if str(source).startswith("hf:/") else source)
    if _is_ours(path):
        weights = hub.read(path)
        if weights.class_path is None:
            raise ValueError(f"{path} does not name its class; it was not written by the zoo")
        room = _room_of(weights.class_path)
        if method is not None and method != _method(weights.class_path):
            raise ValueError(f"{path} holds a {weights.class_path}, not weights of method {method!r}")
        weights.hparams |= parse_settings(_class(weights.class_path), given)
        which = "" if path.suffix == ".safetensors" else "averaged " if weights.averaged else "raw "
        lines = [f"{path} holds {which}weights of {weights.class_path}"]
    else:
        room = _room(method, path)
        weights, lines = read_foreign(path, str(method), given)
    formats = getattr(room, "FORMATS", {})
    if to != "zoo" and to not in formats:
        raise ValueError(f"--to {to}: {weights.class_path} can be written as {', '.join(['zoo', *formats])}")
    if to != "zoo" and formats[to] and out.suffix not in formats[to]:
        raise ValueError(f"--out {out}: {to} weights are a file that ends in {' or '.join(formats[to])}")
    if to != "zoo" and not formats[to] and (out.suffix in (".safetensors", ".pt", ".ckpt") or out.is_file()):
        raise ValueError(f"--out {out}: {to} weights are a folder")
    module = hub.build(weights)
    if to == "zoo":
        licence = "Apache-2.0" if _is_ours(path) else "that of the source"
        hub.save(module, out, config=weights.config, licence=licence, data=weights.data, force=force)
        lines.append(f"wrote {out}; use it as --weights {out}")
    else:
        with writing(out):
            lines += room.write(module, out, to)
    yield from lines


def read_foreign(path: Path, method: str, given: Sequence[str] = ()) -> tuple[Weights, list[str]]:
    """Another project's file as weights of a method, and lines on what was found.

    Args:
        path: file or folder.
        method: what ``--method`` takes.
        given: ``KEY=VALUE`` constructor arguments.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a file that is no such weights.
    """
    settings = parse_settings(_class_of(method), given)
    try:
        found: tuple[Weights, list[str]] = _room(method, path).read(path, settings)
    except (ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        # sizes and names of any kind go through the room's arithmetic
        raise ValueError(f"{path}: these are no weights of {method} ({one_line(error)})") from error
    return found


def parse_settings(cls: type[LightningModule], given: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` texts as constructor arguments of ``cls``, of the types that it declares.

    Raises:
        ValueError: for an unknown key, one that takes an object, or a value of another type.
    """
    known = hub.argument_types(cls)
    settings: dict[str, Any] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"--set {item}: write KEY=VALUE, for example --set heads=4")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"--set {item}: {cls.__name__} has no argument {key!r}{hint}")
        if not _is_plain(known[key]):
            raise ValueError(f"--set {item}: {key} takes an object, not a plain value")
        value = _value(text)
        if not hub.fits(value, known[key]):
            raise ValueError(f"--set {item}: {key} takes {hub.describe(known[key])}, got {text!r}")
        settings[key] = value
    return settings


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return parse_yaml(text, f"--set {text}") if text.startswith(("[", "{")) else text


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_plain(hint: Any) -> bool:
    return all(
        m in (bool, int, float, str, type(None))
        or typing.get_origin(m) is typing.Literal
        or typing.get_origin(m) is dict
        or (typing.get_origin(m) in _LISTS and all(_is_plain(i) for i in typing.get_args(m) if i is not ...))
        for m in _members(hint)
    )


# --- whose weights -------------------------------------------------------------------------------------


def _is_ours(path: Path) -> bool:
    """Whether the zoo wrote the file; the reading itself is left to :mod:`zoo.hub.weights`."""
    if path.is_dir():
        return (path / "meta.pt").is_file()
    if path.suffix != ".safetensors":
        return path.suffix == ".ckpt"
    try:
        return "zoo" in safetensors_in(path, tensors=False)[0]
    except (ValueError, OSError):
        return True  # hub.read says what is wrong with it


def _check_out(out: Path, to: str, force: bool) -> None:
    if to == "zoo" and out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: weights of the zoo are a file that ends in .safetensors")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; choose another --out or add --force")


def _method(class_path: str) -> str:
    """What ``--method`` calls a class of the zoo."""
    package, declared = zoo._DECLARED[class_path.removeprefix("zoo.")]
    return declared.convert or package.rpartition(".")[2]


def _class(class_path: str) -> type[LightningModule]:
    cls: type[LightningModule] = getattr(zoo, class_path.removeprefix("zoo."))
    return cls


def _rooms() -> dict[str, tuple[str, str]]:
    """Method with a weights room -> its public class and the room."""
    return {
        _method(f"zoo.{name}"): (f"zoo.{name}", f"{package}.{declared.weights}")
        for name, (package, declared) in zoo._DECLARED.items()
        if declared.weights
    }


def _room_of(class_path: str) -> Any:
    """The class's weights room, or None."""
    own = [room for wanted, room in _rooms().values() if wanted == class_path]
    return importlib.import_module(own[0]) if own else None


def _class_of(method: str | None) -> type[LightningModule]:
    return _class(_rooms()[str(method)][0])


def _room(method: str | None, path: Path) -> Any:
    rooms = _rooms()
    if method not in rooms:
        asked = f"{path} was not written by the zoo" if method is None else f"no method {method!r} to convert"
        raise ValueError(f"{asked}; say whose weights it holds: --method {' or '.join(sorted(rooms))}")
    return importlib.import_module(rooms[method][1])
