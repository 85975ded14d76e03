"""Damaged files against our readers, each in a child forked from this warm process, with limits.

A reader passes when it reads a mutated file or refuses it in one line that names the file. It fails with any
other exception, a signal, more than ``SECONDS`` or ``MEMORY``, or a NaN or infinity in what it returns.
"""

from __future__ import annotations

import faulthandler
import io
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS, MEMORY = 20, 2 * 2**30
REFUSALS = (ValueError, OSError)  # FileNotFoundError is an OSError
COUNTS = (0, 1, -1, 255, 2**16, 10**9, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)
WORDS = (
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"1e308",
    b"1000000000",
    b"99999999999999999999",
    b"x",
    b"",
    b"1.5",
    b'"',
)


@dataclass(frozen=True)
class Reader:
    """One of our readers of foreign files.

    Attributes:
        name: row of the table.
        write: makes a small valid file, and what belongs to it, in a folder; gives the one to mutate.
        read: reads it to the end; what it returns is looked through for NaN and infinity.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """``content`` with one kind of damage: in a zip archive every second time inside of a member."""
    if zipfile.is_zipfile(io.BytesIO(content)) and draw.random() < 0.5:
        return _repacked(content, draw)
    damage = draw.choice((_bits, _bits, _truncated, _length, _length, _exchanged, _word, _word, _filled))
    return damage(content, draw)


def _place(content: bytes, draw: random.Random) -> int:
    # headers are short and decide most: every second damage is among the first bytes
    size = max(len(content), 1)
    return draw.randrange(min(size, 200)) if draw.random() < 0.5 else draw.randrange(size)


def _bits(content: bytes, draw: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if out:
            out[_place(content, draw)] ^= 1 << draw.randrange(8)
    return bytes(out)


def _truncated(content: bytes, draw: random.Random) -> bytes:
    return content[: _place(content, draw)]


def _length(content: bytes, draw: random.Random) -> bytes:
    size, order = draw.choice((2, 4, 8)), draw.choice(("little", "big"))
    at, value = _place(content, draw), draw.choice(COUNTS) % 2 ** (8 * size)
    return content[:at] + value.to_bytes(size, order) + content[at + size :]  # type: ignore[arg-type]


def _exchanged(content: bytes, draw: random.Random) -> bytes:
    a, b = sorted((_place(content, draw), _place(content, draw)))
    size = min(draw.choice((1, 4, 16, 64)), b - a, len(content) - b)
    first, second = content[a : a + size], content[b : b + size]
    return content[:a] + second + content[a + size : b] + first + content[b + size :]


def _filled(content: bytes, draw: random.Random) -> bytes:
    at, size = _place(content, draw), draw.choice((4, 16, 256))
    return content[:at] + draw.choice((b"\0", b"\xff")) * size + content[at + size :]


def _word(content: bytes, draw: random.Random) -> bytes:
    """A field of a text, or what looks like one, is another word."""
    at = _place(content, draw)
    marks = b" ,;:\n\t[]{}()'\"="
    start = next((i + 1 for i in range(at, -1, -1) if content[i : i + 1] in {bytes([m]) for m in marks}), 0)
    end = next((i for i in range(at, len(content)) if content[i] in marks), len(content))
    return content[:start] + draw.choice(WORDS) + content[max(start, end) :]


def _repacked(content: bytes, draw: random.Random) -> bytes:
    """The archive with a damaged member whose checksum is right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    if not members:
        return content
    hit, packed = draw.choice(list(members)), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for info, held in members.items():
            archive.writestr(info, mutated(held, draw) if info is hit else held)
    return packed.getvalue()


def outcome(reader: Reader, path: Path) -> str:
    """``read``, ``refused``, or what is wrong, of a reader and a file, tried in a child."""
    back, front = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(back)
        _try(reader, path, front)
    os.close(front)
    heard, deadline = b"", time.monotonic() + SECONDS
    while (left := deadline - time.monotonic()) > 0 and select.select([back], [], [], left)[0]:
        if not (part := os.read(back, 65536)):
            break
        heard += part
    os.close(back)
    if left <= 0:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if left <= 0:
        return f"no end after {SECONDS} s"
    if os.WIFSIGNALED(status):
        return f"crashed: {signal.Signals(os.WTERMSIG(status)).name}"
    return heard.decode(errors="replace") or "ended without a word"


def _try(reader: Reader, path: Path, front: int) -> None:
    """In the child: never returns."""
    try:
        os.setpgid(0, 0)
        faulthandler.disable()  # the parent's pytest switched it on
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            strange = next(_not_finite(reader.read(path)), None)
            said = "read" if strange is None else f"NaN or infinity enters: {strange}"
        except REFUSALS as error:
            said = _judged(error, path)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"[:300]
        os.write(front, said.encode(errors="replace"))
    finally:
        os._exit(0)


def _judged(error: BaseException, path: Path) -> str:
    text = str(error)
    if "\n" in text.strip():
        return f"more than a line: {text!r}"[:300]
    if path.name not in text and path.parent.name not in text:
        return f"names no file: {type(error).__name__}: {text}"[:300]
    return "refused"


def _not_finite(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            yield f"tensor {tuple(value.shape)}"
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fc" and not np.isfinite(value).all():
            yield f"array {value.shape}"
    elif isinstance(value, float):
        if not np.isfinite(value):
            yield str(value)
    elif depth < 6:
        if is_dataclass(value):
            value = [getattr(value, f.name) for f in fields(value)]
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple):
            for item in value:
                yield from _not_finite(item, depth + 1)


@dataclass
class Row:
    """What became of the mutations of one reader's file."""

    name: str
    tried: int
    read: int
    refused: int
    bad: dict[str, str]  # mutation -> what was wrong


def tried(reader: Reader, mutations: int = 200, seed: int = 0) -> Row:
    """Mutate the reader's file so many times; the valid file itself must be read.

    Raises:
        AssertionError: when the reader does not read its valid file.
    """
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        path = reader.write(folder)
        valid = path.read_bytes()
        assert (found := outcome(reader, path)) == "read", (
            f"{reader.name}: the valid file is not read: {found}"
        )
        counts, bad = Counter[str](), {}
        for number in range(mutations):
            path.write_bytes(mutated(valid, random.Random(f"{reader.name} {seed} {number}")))
            found = outcome(reader, path)
            if found in ("read", "refused"):
                counts[found] += 1
            else:
                bad[f"seed {seed}, mutation {number}"] = found
        return Row(reader.name, mutations, counts["read"], counts["refused"], bad)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def damaged(reader: Reader, folder: Path, number: int, seed: int = 0) -> Path:
    """The file of one mutation, to look at."""
    path = reader.write(folder)
    path.write_bytes(mutated(path.read_bytes(), random.Random(f"{reader.name} {seed} {number}")))
    return path


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| reader | tried | read | refused | bad |", "|---|---|---|---|---|"]
    lines += [f"| {r.name} | {r.tried} | {r.read} | {r.refused} | {len(r.bad)} |" for r in rows]
    return "\n".join(lines)
