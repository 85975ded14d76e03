"""The one reader of YAML: every file and every text that a user hands in passes through here.

A few lines of YAML can stand for a structure without end, or for more nodes than a machine holds: an alias
repeats what its anchor names. What a text stands for is counted before anything is built from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 10_000_000
"""Of a file."""
MOST_NODES = 100_000
"""Of what a text stands for, its aliases written out; 64 characters of a value count as a node."""
MOST_LEVELS = 32
"""Of nesting. What reads a configuration after us takes several calls a level."""
_CHARACTERS = 64

_PlainLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_PlainLoader):
    """Says where a value is that its constructor does not understand: 2001-13-45, ``!!int x``."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{str(node.value)[:40]!r} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        ValueError: with the file and the line, for one that is no YAML, not UTF-8, or stands for too much.
        OSError: for one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES // 10**6} MB, hence no YAML of settings")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not a text in UTF-8; save it as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Content of YAML, of which an error says ``name`` and the line.

    Raises:
        ValueError: for what is no YAML, and as :func:`check_yaml` does.
    """
    try:
        _check(text, name, 0)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}{_where(error, text)}: not valid YAML ({_problem(error)})") from error


def check_yaml(text: str, name: str) -> None:
    """Refuse a text that another parser would read without end; one that is no YAML passes.

    Raises:
        ValueError: for anchors that refer to themselves, keys given twice, nesting deeper than 32 levels
            and more than 100,000 nodes, each in texts that are values of the text, too.
    """
    _check_within(text, name, 0)


def _where(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return f", line {min(mark.line, text.count(chr(10))) + 1}"  # the end of a text is a line of its own
    position = getattr(error, "position", None)  # of a character that may not stand in YAML
    return "" if position is None else f", line {text.count(chr(10), 0, position) + 1}"


def _problem(error: yaml.YAMLError) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return " ".join(str(said).split())


@dataclass
class _Collection:
    """A mapping or sequence that is being read: nodes that it stands for, and the keys of a mapping."""

    anchor: str | None
    mapping: bool
    nodes: int = 1
    children: int = 0
    keys: set[str] = field(default_factory=set)

    def awaits_key(self) -> bool:
        return self.mapping and self.children % 2 == 0


def _check(text: str, name: str, depth: int) -> None:
    """One pass over the events of a text, which stands ``depth`` levels deep in another one."""
    sizes: dict[str, int | None] = {}  # of anchors, None while it is being read
    stack: list[_Collection] = []
    for event in _events(text):
        where = name if depth else f"{name}, line {_line(event)}"
        if isinstance(event, yaml.CollectionEndEvent):
            done = stack.pop()
            if done.anchor is not None:
                sizes[done.anchor] = done.nodes
            _add(stack, done.nodes, where)
        elif isinstance(event, yaml.CollectionStartEvent):
            if depth + len(stack) >= MOST_LEVELS:
                raise ValueError(_too_deep(where))
            if event.anchor is not None:
                sizes[event.anchor] = None
            stack.append(_Collection(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.AliasEvent):
            nodes = sizes.get(str(event.anchor), 1)
            if nodes is None:
                raise ValueError(f"{where}: *{event.anchor} refers to itself; write out what it stands for")
            _add(stack, nodes, where)
        elif isinstance(event, yaml.ScalarEvent):
            _check_key(event, stack, where)
            # the parser of configurations reads a text once more where it wants none
            if len(event.value) < len(text) and any(mark in event.value for mark in "&[{\n\"'"):
                _check_within(event.value, where, depth + len(stack) + 1)
            nodes = 1 + len(event.value) // _CHARACTERS
            if event.anchor is not None:
                sizes[event.anchor] = nodes
            _add(stack, nodes, where)


def _line(event: yaml.Event) -> int:
    return 1 if event.start_mark is None else event.start_mark.line + 1


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=_PlainLoader)
    except UnicodeEncodeError as error:  # half a surrogate pair, which the C parser cannot take
        raise yaml.reader.ReaderError("", error.start, 0, "unicode", "half a character") from error


def _check_key(event: yaml.ScalarEvent, stack: list[_Collection], where: str) -> None:
    if stack and stack[-1].awaits_key():
        if event.value in stack[-1].keys:
            raise ValueError(f"{where}: the key {event.value[:80]} is given twice; take one out")
        stack[-1].keys.add(event.value)


def _check_within(text: str, where: str, depth: int) -> None:
    if depth > MOST_LEVELS:
        raise ValueError(_too_deep(where))
    try:
        _check(text, where, depth)
    except yaml.YAMLError:
        return  # a text and no more


def _too_deep(where: str) -> str:
    return f"{where}: nested deeper than {MOST_LEVELS} levels; write it flatter"


def _add(stack: list[_Collection], nodes: int, where: str) -> None:
    """Count nodes for the collection that they are in."""
    if stack:
        stack[-1].nodes += nodes
        stack[-1].children += 1
    if (stack[-1].nodes if stack else nodes) > MOST_NODES:
        raise ValueError(
            f"{where}: stands for more than {MOST_NODES:,} values, its aliases written out; write less"
        )
