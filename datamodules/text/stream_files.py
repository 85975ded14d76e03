"""Documents out of files: .txt, .jsonl, .jsonl.zst, .parquet, one after the other, never all in memory."""

from __future__ import annotations

import io
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.loading.files import check_claim, json_of, memory_named, one_line
from datamodules.loading.limits import limit
from datamodules.loading.tables import cut
from datamodules.text.records import LONGEST, package_folder

Unit = Literal["file", "paragraph", "line"]
ENDS = (".txt", ".jsonl", ".jsonl.zst", ".parquet")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Names of folders and files -> split."""
_MARK = b"\xef\xbb\xbf"
_FILE = 2**30  # bytes of a text that is one document
HELD = 200_000
"""Bytes of the standard library's validation and test text, at most."""


@dataclass(frozen=True)
class Document:
    """A text and where it is from.

    Attributes:
        text: as it stands in the file.
        where: the file, with the line or the record.
        split: of the files, where their names tell it.
    """

    text: str
    where: str
    split: str | None = None


def text_of(content: bytes, where: str) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
        ValueError: naming the first byte that is no text.
    """
    content = content.removeprefix(_MARK)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start + 1:,} is no text (UTF-8); save the file so, or leave it out"
        ) from None
    if "\0" in text:
        at = len(text[: text.index("\0")].encode()) + 1
        raise ValueError(f"{where}: byte {at:,} is 0, no text (UTF-8); save the file so, or leave it out")
    return text


def standard_library() -> list[Document]:
    """The interpreter's own modules: the top-level ``*.py`` of its library, sorted.

    Those whose number divides by ten are held out: the first 200,000 bytes of them, one after the other, are
    ``test``, the next 200,000 of the modules after the one that is cut there ``val``.
    """
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    if not files:
        raise FileNotFoundError(
            f"{sysconfig.get_paths()['stdlib']} has no modules in source; use a Python that has them, or "
            "data.init_args.layout: files with texts of your own"
        )
    found: list[Document] = []
    room = {"test": HELD, "val": HELD}
    for number, path in enumerate(files):
        text = text_of(path.read_bytes(), str(path))
        if number % 10:
            found.append(Document(text, path.name, "train"))
            continue
        split = next((s for s, left in room.items() if left), None)
        if split is None:
            continue
        content = text.encode()[: room[split]]
        room[split] -= len(content)
        if len(content) < len(text.encode()):
            room[split] = 0
        found.append(Document(content.decode(errors="ignore"), path.name, split))
    return found


def files_of(root: Path) -> list[tuple[Path, str | None]]:
    """(file, its split where the names tell one) of a folder, sorted, or of a single file.

    Names tell it if a file or a folder directly in ``root`` is called ``train``: then others must be called
    val, valid, validation, dev or test.

    Raises:
        FileNotFoundError, ValueError: where there are none, or some have a split and some have none.
    """
    if root.is_file():
        if not root.name.endswith(ENDS):
            raise ValueError(f"{root} is none of {', '.join(ENDS)}; data.init_args.root is such a file, "
                             "or a folder of them")  # fmt: skip
        return [(root, None)]
    if not root.is_dir():
        raise FileNotFoundError(
            f"no {root}; expected is a folder of {', '.join(ENDS)}, or one such file: set "
            "data.init_args.root, or leave data.init_args.layout out for the standard library"
        )
    paths = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name.endswith(ENDS)]
    paths = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    if not paths:
        raise FileNotFoundError(f"{root} holds no file of {', '.join(ENDS)}")
    firsts = [path.relative_to(root).parts[0] for path in paths]
    named = [SPLITS.get(first.split(".")[0].lower()) for first in firsts]
    if "train" not in named:
        return [(path, None) for path in paths]
    if None in named:
        raise ValueError(
            f"{root} has files to train by name, but {firsts[named.index(None)]} is neither train, val nor "
            "test: name them all so, or none"
        )
    return list(zip(paths, named, strict=True))


def documents_of(path: Path, field: str, unit: Unit, split: str | None) -> Iterator[Document]:
    """The documents of a file.

    Args:
        path: of the file.
        field: of a JSON object, or column of a table, that holds the text.
        unit: what is a document in a ``.txt``: the file, a paragraph (between empty lines), a line.
        split: of the file.

    Raises:
        FileNotFoundError, ValueError, ImportError: in one line with the file and byte, line or record.
    """
    if path.name.endswith(".txt"):
        yield from _of_text(path, unit, split)
    elif path.name.endswith(".parquet"):
        yield from _of_table(path, field, split)
    else:
        yield from _of_lines(path, field, split)


def _of_text(path: Path, unit: Unit, split: str | None) -> Iterator[Document]:
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path} is empty; delete it, or put a text into it")
    if unit == "file":
        if size > limit(_FILE):
            raise ValueError(
                f"{path} has {size:,} bytes, more than the {_FILE:,} of one document; set "
                "data.init_args.unit to paragraph or line"
            )
        text = text_of(path.read_bytes(), str(path))
        if not text.strip():
            raise ValueError(f"{path} holds nothing but blanks; delete it, or put a text into it")
        yield Document(text, path.name, split)
        return
    part: list[str] = []
    with path.open("rb") as file:
        for number, raw in _raw_lines(file, path):
            line = text_of(raw, f"{path}, line {number}")
            if line.strip():
                part.append(line)
            if part and (unit == "line" or not line.strip()):
                yield Document("".join(part), f"{path.name}, line {number}", split)
                part = []
    if part:
        yield Document("".join(part), f"{path.name}, its end", split)


def _raw_lines(file: Any, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(LONGEST + 1):
        number += 1
        if len(raw) > LONGEST:
            raise ValueError(f"{path}, line {number}: more than {LONGEST:,} bytes without an end, no text")
        yield number, raw


def _of_lines(path: Path, field: str, split: str | None) -> Iterator[Document]:
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; delete it, or put JSON lines into it")
    with _opened(path) as file:
        for number, raw in _raw_lines(file, path):
            where = f"{path}, line {number}"
            line = text_of(raw, where)
            if not line.strip():
                continue
            try:
                record = json_of(line.encode())
            except ValueError as error:
                raise ValueError(f"{where}: no JSON ({one_line(error)})") from None
            text = record.get(field) if isinstance(record, dict) else None
            if not isinstance(text, str):
                has = (
                    ", ".join(map(repr, list(record)[:8])) if isinstance(record, dict) else cut(line.strip())
                )
                raise ValueError(
                    f"{where}: no text {field!r}, only {has}; data.init_args.field says which one it is"
                )
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{where}: half of a character, written \\ud..., is no text") from None
            yield Document(text, f"{path.name}, line {number}", split)


def _opened(path: Path) -> Any:
    if not path.name.endswith(".zst"):
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path))


class _Unpacked(io.RawIOBase):
    """A file of Zstandard, unpacked as it is read; one that unpacks to more than 1,000 times its size is
    refused."""

    def __init__(self, path: Path) -> None:
        self.path, self._done = path, 0
        self._most = limit(max(2**26, 1000 * path.stat().st_size))
        self._stream = library("pyarrow", path).input_stream(str(path), compression="zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except Exception as error:  # pyarrow's own kinds
            raise ValueError(f"{self.path} is damaged: {one_line(error)}") from None
        self._done += len(content)
        if self._done > self._most:
            check_claim(self.path, "what it unpacks to", self._done, self._done // 1000)
        buffer[: len(content)] = content
        return len(content)


def library(name: str, path: Path) -> Any:
    """A library that reads a kind of file.

    Raises:
        ImportError: naming it and the file.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"reading {path} needs {name.partition('.')[0]}; install the extra: pip install "
            "'lightning-zoo[language]', or save the texts as JSON lines"
        ) from None


def _of_table(path: Path, field: str, split: str | None) -> Iterator[Document]:
    parquet = library("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(path)
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    except Exception as error:  # pyarrow's own kinds
        raise ValueError(f"{path} is no Parquet file: {one_line(error)}") from None
    if field not in names:
        raise ValueError(
            f"{path} has no column {field!r}, only {', '.join(map(repr, names[:8]))}; data.init_args.field "
            "says which one it is"
        )
    if not rows:
        raise ValueError(f"{path} has no rows; delete it")
    for group in range(file.metadata.num_row_groups):
        told = file.metadata.row_group(group)
        claimed = sum(told.column(i).total_uncompressed_size for i in range(told.num_columns))
        check_claim(path, f"row group {group}", claimed)
    number = 0
    try:
        with memory_named(path, "a batch"):
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        raise TypeError(f"row {number:,}: {field!r} is no text but {cut(repr(text), 40)}")
                    yield Document(text, f"{path.name}, row {number}", split)
    except TypeError as error:
        raise ValueError(f"{path}, {error}") from None
    except GeneratorExit:
        raise
    except Exception as error:  # pyarrow's own kinds
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None


def hub_documents(name: str, field: str) -> Iterator[Document]:
    """The documents of a data set of the hub, from where ``datasets`` keeps it on disk.

    Args:
        name: ``owner/name``, with its config after a colon.
        field: that holds the text.

    Raises:
        ImportError: without ``datasets``.
        ValueError: for a set that cannot be had or lacks the field.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"reading {name} from the hub needs the library datasets: pip install datasets; or save it as "
            "JSON lines and use data.init_args.layout: files"
        ) from None
    owner, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(owner, config or None, trust_remote_code=False)
    except Exception as error:  # of the library anything may come: no network, no such set, a damaged file
        raise ValueError(f"the hub's data set {name} cannot be read: {one_line(error, 200)}") from None
    named = {SPLITS[split]: split for split in found if split in SPLITS}
    if "train" not in named:
        raise ValueError(f"the hub's data set {name} has no split train, only {', '.join(map(str, found))}")
    alone = len(named) == 1
    for split, own in named.items():
        for number, record in enumerate(found[own]):
            text = record.get(field)
            if not isinstance(text, str):
                raise ValueError(
                    f"{name}, {own}, record {number}: no text {field!r}, only "
                    f"{', '.join(map(repr, list(record)[:8]))}; data.init_args.field says which one it is"
                )
            yield Document(text, f"{name}, {own}, record {number}", None if alone else split)


def corpus_package(package: str) -> Path:
    """Where a package of texts lies."""
    return package_folder(package, "language")
