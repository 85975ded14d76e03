"""Turns what libraries raise into one line that says what is wrong, where, and what to do.

jsonargparse wraps the cause of an error in one report per member of a union, but chains its exceptions: the
last one is the cause, the ones before it say where. The texts matched here are those of jsonargparse 4.53.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.engine import ranks

Sources = Sequence[tuple[str, Mapping[str, Any]]]
"""(name, content) of what settings came from besides flags, in order of precedence."""

FAILED = ".failed"
"""File in the folder of a run of several processes, made by the first that fails."""

_LONGEST = 600
_WORKER_GONE = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
_UNION = "Does not validate against any of the Union subtypes"


class UsageError(Exception):
    """The command line or a config file cannot be understood. Its text is for the user as it is."""


class ParserError(UsageError):
    """What the parser says, before :func:`explain_parser` has made a line of it.

    Args:
        message: text of the parser.
        known: names of the options that it takes.
    """

    def __init__(self, message: str, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.known = list(known)


def claim(error: BaseException, folder: Path, rank: int) -> None:
    """Let the first process of a run that fails say why, and no other.

    What stops one rank makes the others fail too, with a lost connection that tells nothing. The mark in the
    run's folder decides who was first; ``speaks`` of the error carries the answer to the command line.
    """
    if hasattr(error, "speaks"):
        return
    try:
        os.close(os.open(folder / FAILED, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        first = True
    except FileExistsError:
        first = False
    except OSError:  # no folder: rank 0 took it away because it failed at once
        first = rank == 0
    error.speaks = first  # type: ignore[attr-defined]


def speaks(error: BaseException) -> bool:
    """Whether this process prints ``error``."""
    return bool(getattr(error, "speaks", ranks.rank() == 0))


def advise(error: BaseException, advice: str, instead: str | None = None) -> None:
    """Let the line about ``error`` end with what to do, and say ``instead`` of a library's text."""
    error.advice, error.instead = advice, instead  # type: ignore[attr-defined]


def explain(error: BaseException) -> str:
    """One line for the user."""
    line = getattr(error, "instead", None) or _explain(error)
    advice = getattr(error, "advice", None)
    return f"{line}; {advice}" if advice else line


def is_worker_gone(error: BaseException) -> bool:
    """Whether a process that reads data has ended."""
    return bool(_WORKER_GONE.match(str(error)))


def _worker_gone(text: str) -> str:
    match = _WORKER_GONE.match(text)
    assert match is not None
    how, less = match[2] or "no exit code", "lower data.init_args.num_workers or data.init_args.batch_size"
    if how == "Bus error":
        return f"a data worker (process {match[1]}) ran out of shared memory; {less}"
    cause = f", most likely for lack of memory; {less}" if how in ("Killed", "no exit code") else ""
    return f"a data worker (process {match[1]}) is gone ({how}){cause}"


def _explain(error: BaseException) -> str:
    text = str(error).strip()
    if is_worker_gone(error):
        return _worker_gone(text)
    if isinstance(error, ParserError):
        return explain_parser(error)
    if "in DataLoader worker process" in text:  # the worker's traceback, the cause in its last line
        return _one_line(text.splitlines()[-1].partition(": ")[2])
    if text.startswith(_UNION):  # raised by a constructor that the parser called
        class_path = re.search(r"class_path='([^']+)'", text)
        cause = explain(list(_chain(error))[-1]) if error.__cause__ else _one_line(text)
        return f"{class_path[1]}: {cause}" if class_path else cause
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed; pip install {_extra_of(error.name)}"
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return (
            f"out of memory ({_one_line(text)}); lower data.init_args.batch_size and raise "
            "trainer.accumulate_grad_batches"
        )
    if isinstance(error, KeyError):
        return f"missing key {text}"
    plain = (UsageError, ValueError, TypeError, OSError, AttributeError, RuntimeError)
    if isinstance(error, plain) or type(error).__module__.startswith("lightning."):
        return _one_line(text) or type(error).__name__
    return f"{type(error).__name__}: {_one_line(text)}".rstrip(": ")


def _extra_of(module: str) -> str:
    import zoo

    return getattr(zoo, "_EXTRAS", {}).get(module.split(".")[0], module.split(".")[0])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def explain_parser(error: ParserError, sources: Sources = (), flags: Sequence[str] = ()) -> str:
    """One line of a parser's report, with the file that the setting came from if it is no flag."""
    text = str(error).strip()
    if match := re.search(r"[Uu]nrecognized arguments?: (.+)", text):
        return _unrecognised(match[1].split()[0], error.known)
    if match := re.search(r"argument (\S+): expected (?:one|at least one) argument", text):
        return f"{match[1]} needs a value"
    if match := re.search(r"arguments are required: \w+\.(\w+)", text):
        return (
            f"no {match[1]}: give a config (--config NAME, see `zoo list configs`) or --{match[1]} CLASS_PATH"
        )
    chain = list(_chain(error))
    cause = chain[-1]
    known = next((e.known for e in reversed(chain) if isinstance(e, ParserError)), [])
    if match := re.search(r"(?:does not accept option|Option) '([^']+)'", str(cause)):
        key = _key(chain, match[1])
        line = _unknown_key(key, known)
    else:
        key = _key(chain)
        line = _one_line(f"{key}: {_cause(cause, chain)}" if key else _cause(cause, chain))
    return line + origin(key, sources, flags)


def _unrecognised(word: str, known: Sequence[str]) -> str:
    if not word.startswith("-"):
        return f"{word!r} is not an option; options read --key value or --key=value"
    name = word.split("=")[0]
    near = [f"--{k}" for k in _nearest(name.lstrip("-"), known)]
    return f"unknown option {name}; {_did_you_mean(near) or 'see `zoo fit --help`'}"


def _unknown_key(key: str, known: Sequence[str]) -> str:
    if re.fullmatch(r"(model|data)\.(?!init_args)\w+", key):
        name = key.split(".")[0]
        return f"unknown key {key}; {name} takes class_path (which class) and init_args (its arguments)"
    near = _nearest(key if "init_args" not in key else key.rpartition(".")[2], known)
    takes = f"it takes {', '.join(k for k in known if '.' not in k)}"[:300]
    return f"unknown key {key}; {_did_you_mean(near) or takes}"


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Names like ``name``: of the same group if there is one of that name, else of any group, else groups."""
    group, dot, last = name.rpartition(".")
    groups = sorted({k.split(".")[0] for k in known})
    if dot and name.split(".")[0] not in groups:
        return difflib.get_close_matches(name.split(".")[0], groups, n=2, cutoff=0.6)
    keys = [k for k in known if not dot or k.startswith(group + ".")]
    exact = [k for k in keys if k.rpartition(".")[2] == last]
    ends = difflib.get_close_matches(last, {k.rpartition(".")[2] for k in keys}, n=2, cutoff=0.6)
    begins = [k for k in keys if len(last) > 3 and k.rpartition(".")[2].startswith(last)]
    return exact or begins[:3] or [k for end in ends for k in keys if k.rpartition(".")[2] == end][:3]


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""


def _key(chain: Sequence[BaseException], option: str | None = None) -> str:
    """Dotted key of the setting that an error is about, ``model.init_args.depth``."""
    keys: list[str] = []
    for e in chain:
        match = re.match(r'Parser key "([^"]+)"', str(e))
        if match and isinstance(e, ParserError) and match[1] not in keys:
            keys.append(match[1])
    keys += [option] if option else []
    text = str(chain[0])
    if len(keys) == 0:
        return ""
    if match := re.search(r"NestedArg\(key='([^']+)'", text):  # the innermost comes first
        return _nested_key(keys, match[1])
    if len(keys) == 1:
        return keys[0]
    try:
        value = ast.literal_eval(text.rpartition("Given value: ")[2])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ".".join(keys)
    path = _find(value, keys[-1])
    return ".".join([keys[0], *path] if path else keys)


def _nested_key(keys: Sequence[str], last: str) -> str:
    """Keys of the parsers that a flag went through, each an argument of the one before, and what is left."""
    above = list(keys)
    while len(above) > 1 and (f".{last}".endswith(f".{above[-1]}") or last.startswith(f"{above[-1]}.")):
        above.pop()
    place = ".init_args.".join(above)
    return f"{place}.{last}" if last == "class_path" else f"{place}.init_args.{last}"


def _find(value: Any, key: str) -> list[str] | None:
    """Path to the first ``key`` in nested mappings."""
    if not isinstance(value, dict):
        return None
    if key in value:
        return [key]
    for name, inner in value.items():
        if (path := _find(inner, key)) is not None:
            return [str(name), *path]
    return None


def origin(key: str, sources: Sources, flags: Sequence[str] = ()) -> str:
    """`` (in FILE)`` for the last source that sets ``key``, unless a flag does."""
    if any(flag.partition("=")[0] == f"--{key}" for flag in flags):
        return ""
    for name, content in reversed(sources):
        node: Any = content
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            return f" (in {name})"
    return ""


def _cause(cause: BaseException, chain: Sequence[BaseException]) -> str:
    """What is wrong with a value."""
    text = " ".join(str(cause).split())
    if match := re.search(r"[Mm]odule '([\w.]+)' has no (?:attribute )?'(\w+)'", text):
        return _no_class(match[1], match[2])
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        asked = re.search(r"(?:class_path|Got value:) '?([\w.]+)", "\n".join(map(str, chain)))
        if asked and asked[1].split(".")[0] != cause.name.split(".")[0]:
            return explain(cause)
        return (
            f"no module {cause.name!r}; a class path reads package.Class, for example zoo.DTR, and a file of "
            "your own lies in the current folder"
        )
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{match[1]!r} is no class path, which reads package.Class, for example zoo.DTR"
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{match[1]} is no {match[2]}"
    if match := re.match(r"Not a valid subclass of (\w+)\. Got value: (.+?)( Subclass types|$)", text):
        wanted = f"the class path of a {match[1]} or a mapping with class_path and init_args"
        return f"expected {wanted}, got {match[2]}"
    if match := re.match(r"Expected an? (.+?)\. Got value: (.*)", text):
        union = next((str(e) for e in reversed(chain) if str(e).startswith(_UNION)), "")
        types = re.search(r"Subtypes: \[(.*)\]\n", union)
        of_another = "NestedArg" in union or (types is not None and "lightning" in types[1])
        inner = types is not None and text.partition(". Got")[0] in union and not of_another
        wanted = _type_names(types[1] if inner and types else match[1])
        of_one = f", which reads '[{match[2]}]' for one" if wanted == "a list" else ""
        return f"expected {wanted}, got {match[2]!r}{of_one}"
    return text


def _no_class(module: str, name: str) -> str:
    found = sys.modules.get(module)
    classes = sorted(n for n in getattr(found, "__all__", dir(found)) if n[:1].isupper())
    near = difflib.get_close_matches(name, classes, n=3, cutoff=0.6)
    if not near and len(classes) <= 80:
        return f"no class {module}.{name}; there are {', '.join(f'{module}.{c}' for c in classes)}"
    hint = _did_you_mean([f"{module}.{c}" for c in near])
    return f"no class {module}.{name}" + (f"; {hint}" if hint else "")


def _type_names(types: str) -> str:
    """``[typing.Literal['a', 'b'], <class 'int'>, <class 'NoneType'>]`` -> ``a, b, int or null``."""
    literals = [
        x.strip(" '\"") for group in re.findall(r"Literal\[([^\]]*)\]", types) for x in group.split(",")
    ]
    classes = [c.rpartition(".")[2] for c in re.findall(r"<class '([^']+)'>", types)]
    told = {"NoneType": "null", "Sequence": "a list", "list": "a list"}
    names = dict.fromkeys([*literals, *(told.get(c, c) for c in classes)])
    words = sorted(names, key=lambda n: n == "null")
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0] if words else types
