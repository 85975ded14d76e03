"""Documents as one long row of token ids, in memory or in a file that is mapped into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.files import READ_ERRORS, one_line, read_json, written_whole
from datamodules.text.byte_tokens import Encoder

Array = np.ndarray[Any, Any]
FIRST = 2**24
"""Ids of a foreign file that are compared with the vocabulary before a training begins."""
_GROUP = 64  # texts that go to the tokenizer together


@dataclass(frozen=True)
class _Mapped:
    """A mapped file."""

    path: str
    kind: str

    @classmethod
    def of(cls, array: Any) -> _Mapped:
        return cls(str(array.filename), array.dtype.str)

    def opened(self) -> Array:
        return mapped(Path(self.path), np.dtype(self.kind))


@dataclass
class TokenStore:
    """The stream of a split: each document behind its start token, and an end token behind it.

    A tokenizer whose start and end are one token (GPT-2) has one between two documents: the end of the
    first, as a label, and the start of the second, as an input.

    Attributes:
        ids: (N,) of an integer type.
        start: id of the start token; -1 of a stream without.
        end: id of the end token; -1 of a stream without.
        table: bytes of each id; None where ``counted`` tells them.
        counted: (N,) bytes of each token of a tokenizer that is not byte-level.
        documents: how many.
        text_bytes: of the texts in UTF-8.
        entries: of the vocabulary, where ids are of others and may lie beyond it.
        name: of the file, in what is refused.
    """

    ids: Array
    start: int
    end: int
    table: Array | None
    counted: Array | None = None
    documents: int = 1
    text_bytes: int = 0
    entries: int | None = None
    name: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned loader process: a mapped file by its name, not by its content."""
        return {k: _Mapped.of(v) if isinstance(v, np.memmap) else v for k, v in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {k: v.opened() if isinstance(v, _Mapped) else v for k, v in state.items()}

    def at(self, places: Array) -> Array:
        """Ids at these places, int64.

        Raises:
            ValueError: for one beyond the vocabulary.
        """
        ids = np.asarray(self.ids[places], dtype=np.int64)
        if self.entries is not None and ids.size and (largest := int(ids.max())) >= self.entries:
            raise ValueError(
                f"{self.name} has the id {largest:,}, but the tokenizer has {self.entries:,} entries: give "
                "the one that the file was made with as data.init_args.tokenizer"
            )
        return ids

    def digest(self) -> str:
        """Of the ids; of a mapped file of the first and last of them and their number."""
        digest = hashlib.blake2b(str(len(self.ids)).encode(), digest_size=16)
        parts = [self.ids[: 2**20], self.ids[-(2**20) :]] if isinstance(self.ids, np.memmap) else [self.ids]
        for part in parts:
            digest.update(np.ascontiguousarray(part).astype("<u4").tobytes())
        return digest.hexdigest()

    def bytes_of(self, places: Array, ids: Array) -> Array:
        """Bytes of the tokens ``ids`` that stand at ``places``."""
        if self.counted is not None:
            return np.asarray(self.counted[places], dtype=np.int64)
        if self.table is None:
            return np.zeros(ids.shape, dtype=np.int64)
        return self.table[ids]

    def starts(self) -> Array:
        """Where documents begin, (D,) int64: at each start token, and at the first token of all."""
        if self.start < 0 or not len(self.ids):
            return np.zeros(min(1, len(self.ids)), dtype=np.int64)
        step = 2**24
        found = [
            np.flatnonzero(self.ids[at : at + step] == self.start) + at
            for at in range(0, len(self.ids), step)
        ]
        places = np.concatenate(found)
        return places if len(places) and places[0] == 0 else np.concatenate([[0], places])


def smallest_type(entries: int) -> Any:
    """The narrowest type that holds ids of so many entries."""
    return np.uint16 if entries <= 2**16 else np.uint32


def encoded(
    texts: Iterable[str], encoder: Encoder, start: int, end: int
) -> Iterator[tuple[Array, Array | None, int]]:
    """(ids with start and end, bytes of each token or None, bytes of the text) of each document."""
    group: list[str] = []

    def flush() -> Iterator[tuple[Array, Array | None, int]]:
        if encoder.table is None:
            rows, counts = encoder.counted(group)
        else:
            rows, counts = encoder.ids(group), []
        ends = [] if end == start else [end]
        for place, row in enumerate(rows):
            ids = np.concatenate([[start], row, ends]).astype(np.int64)
            count = np.concatenate([[0], counts[place], [0] * len(ends)]) if counts else None
            yield ids, count, len(group[place].encode())
        group.clear()

    for text in texts:
        group.append(text)
        if len(group) == _GROUP:
            yield from flush()
    yield from flush()


def in_memory(texts: Iterable[str], encoder: Encoder, start: int, end: int, entries: int) -> TokenStore:
    """The store of texts that fit into memory."""
    kind = smallest_type(entries)
    rows, counts, size = [], [], 0
    for ids, count, length in encoded(texts, encoder, start, end):
        rows.append(ids.astype(kind))
        size += length
        if count is not None:
            counts.append(count.astype(np.uint32))
    documents = len(rows)
    if start == end and rows:
        rows.append(np.array([end], dtype=kind))
        counts += [np.zeros(1, dtype=np.uint32)] * bool(counts)
    ids = np.concatenate(rows) if rows else np.zeros(0, dtype=kind)
    counted = np.concatenate(counts) if counts else None
    return TokenStore(ids, start, end, encoder.table, counted, documents, size)


def on_disk(
    folder: Path, name: str, texts: Iterable[str], encoder: Encoder, start: int, end: int, entries: int
) -> TokenStore:
    """The store of texts of any size: written once to ``<folder>/<name>.bin``, which is mapped.

    The file takes its name when it is whole, and ``<name>.json``, which says its size and its digest, comes
    last: without it the file is made anew.
    """
    kind, digest = np.dtype(smallest_type(entries)), hashlib.blake2b(digest_size=16)
    path, size, documents, tokens = folder / f"{name}.bin", 0, 0, 0
    with (
        written_whole(path) as bare,
        written_whole(folder / f"{name}.bytes") as other,
        bare.open("wb") as file,
        other.open("wb") as lengths,
    ):

        def put(ids: Array, count: Array | None) -> None:
            content = ids.astype(kind).tobytes()
            digest.update(content)
            file.write(content)
            if count is not None:
                lengths.write(count.astype(np.uint32).tobytes())

        for ids, count, length in encoded(texts, encoder, start, end):
            put(ids, count)
            size, documents, tokens = size + length, documents + 1, tokens + len(ids)
        if start == end and documents:
            put(np.array([end]), np.zeros(1) if encoder.table is None else None)
            tokens += 1
        for each in (file, lengths):
            each.flush()
            os.fsync(each.fileno())
    told = {"type": kind.name, "tokens": tokens, "documents": documents, "bytes": size,
            "blake2b": digest.hexdigest()}  # fmt: skip
    with written_whole(folder / f"{name}.json") as described:
        described.write_text(json.dumps(told))
    found = from_disk(folder, name, encoder, start, end)
    assert found is not None
    return found


def from_disk(folder: Path, name: str, encoder: Encoder, start: int, end: int) -> TokenStore | None:
    """The store that :func:`on_disk` has written, mapped; None where there is none, or half of one.

    Raises:
        ValueError: for one whose size is not what its description says.
    """
    path, described = folder / f"{name}.bin", folder / f"{name}.json"
    if not described.is_file() or not path.is_file():
        return None
    try:
        told = read_json(described)
        kind, tokens = np.dtype(told["type"]), int(told["tokens"])
        documents, size = int(told["documents"]), int(told["bytes"])
        if kind.name not in ("uint16", "uint32"):
            raise ValueError(f"type {kind.name}")
    except (*READ_ERRORS, TypeError) as error:
        raise ValueError(
            f"{described} is damaged ({one_line(error)}); delete it, and it is made anew"
        ) from None
    if path.stat().st_size != tokens * kind.itemsize:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, {tokens:,} tokens take {tokens * kind.itemsize:,}; "
            "delete it, and it is made anew"
        )
    counted = None
    if encoder.table is None:
        lengths = folder / f"{name}.bytes"
        if not lengths.is_file() or lengths.stat().st_size != tokens * 4:
            raise ValueError(f"{lengths} is damaged; delete {described}, and both are made anew")
        counted = mapped(lengths, np.dtype(np.uint32))
    return TokenStore(mapped(path, kind), start, end, encoder.table, counted, documents, size)


def mapped(path: Path, kind: Any) -> Array:
    """A file of numbers, of which only what is looked at comes into memory."""
    if not path.stat().st_size:
        return np.zeros(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def read_bin(paths: Sequence[Path], entries: int | None, end: int, table: Array | None) -> list[TokenStore]:
    """nanoGPT's ``train.bin``, ``val.bin``: ids of uint16 one after the other, mapped, not read.

    Args:
        paths: of the files.
        entries: of the vocabulary; None leaves ids unchecked. The first ones are compared here, the others
            when they are read.
        end: token between documents; -1 where there is none.
        table: bytes of each id, None where nobody knows.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, of odd size, or has ids beyond the
            vocabulary.
    """
    stores = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}; nanoGPT's data/<set>/prepare.py writes it")
        size = path.stat().st_size
        if size % 2 or size < 4:
            raise ValueError(f"{path} has {size:,} bytes: no two or more ids of 16 bits")
        ids = mapped(path, np.dtype("<u2"))
        store = TokenStore(ids, end, end, table, entries=entries, name=str(path))
        store.at(np.arange(min(len(ids), FIRST)))
        stores.append(store)
    return stores
