"""Files of text: lines, JSON lines, sets of the hub and of installed packages. All readers are bounded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import check_claim, json_of, one_line
from datamodules.loading.tables import cut

LONGEST = 16 * 2**20
"""Bytes of the longest line."""
_MARK = b"\xef\xbb\xbf"
Record = dict[str, Any]


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of each line of a file in UTF-8, empty ones among them.

    Lines end at ``\\n`` or ``\\r\\n`` alone: other characters that Python takes for ends of lines may stand
    in a document, and cutting there would shift two files that are read side by side.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, too large, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_claim(path, "the file", path.stat().st_size)
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                raise ValueError(
                    f"{path}, line {number}: more than {LONGEST:,} bytes without an end, no text"
                )
            if b"\0" in raw:
                raise ValueError(f"{path}, line {number}: holds a byte 0, no text (UTF-8)")
            try:
                text = raw.removeprefix(_MARK if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start + 1} is no text (UTF-8); save the file so"
                ) from None
            yield number, text.removesuffix("\n").removesuffix("\r")


def read_lines(path: Path) -> list[str]:
    """The lines of a file; see :func:`lines_of`."""
    return [text for _, text in lines_of(path)]


def read_side_by_side(*paths: Path) -> list[tuple[str, ...]]:
    """Files whose lines belong together, ``train.source`` and ``train.target`` for instance.

    Raises:
        FileNotFoundError, ValueError: as :func:`lines_of`, and for files of different lengths.
    """
    columns = [read_lines(path) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{path} has {len(column):,} lines, {paths[0]} has {len(columns[0]):,}: line i of one "
                "belongs to line i of the other"
            )
    return list(zip(*columns, strict=True))


def read_jsonl(path: Path, needed: Mapping[str, type | tuple[type, ...]]) -> list[Record]:
    """The objects of a file of JSON lines; see :func:`numbered_jsonl`."""
    return [record for _, record in numbered_jsonl(path, needed)]


def numbered_jsonl(path: Path, needed: Mapping[str, type | tuple[type, ...]]) -> list[tuple[int, Record]]:
    """(number of its line, object) of a file of JSON lines; empty lines are passed over.

    Args:
        path: one object a line.
        needed: field -> its type; other fields are kept as they are.

    Raises:
        FileNotFoundError, ValueError: as :func:`lines_of`, and naming the line of what is no JSON, no
            object, or lacks a field.
    """
    found: list[tuple[int, Record]] = []
    for number, text in lines_of(path):
        if not text.strip():
            continue
        try:
            record = json_of(text.encode())
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({one_line(error)})") from None
        if "\\ud" in text.lower() and _is_cut_character(record):
            raise ValueError(f"{path}, line {number}: half of a character, written \\ud..., is no text")
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: {cut(text)} is no object with fields {_names(needed)}")
        _check_fields(record, needed, f"{path}, line {number}")
        found.append((number, record))
    if not found:
        raise ValueError(f"{path} holds no lines; expected are objects with fields {_names(needed)}")
    return found


def _is_cut_character(record: Any) -> bool:
    """Whether a text has one half of a pair of surrogates, which JSON can write and nothing can encode."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _names(needed: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, needed))


def _check_fields(record: Record, needed: Mapping[str, Any], where: str) -> None:
    for field, kind in needed.items():
        if field not in record:
            raise ValueError(f"{where}: no field {field!r}, only {', '.join(map(repr, list(record)[:8]))}")
        value = record[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = ("null" if each is type(None) else each.__name__ for each in kinds)
            wanted = " or ".join(names)
            raise ValueError(f"{where}: {field!r} must be {wanted}, got {cut(json.dumps(value), 40)}")


def package_folder(package: str, extra: str = "text") -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ImportError: naming the extra that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{package} is not installed; install the extra: pip install 'lightning-zoo[{extra}]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def hub_records(
    name: str, config: str | None, split: str, needed: Mapping[str, type | tuple[type, ...]]
) -> list[Record]:
    """A split of a data set of the Hugging Face hub, or of a folder in its layout, by ``datasets``.

    Args:
        name: ``owner/name`` or a folder.
        config: of the set, ``3.0.0`` for instance.
        split: ``train`` for instance.
        needed: field -> its type.

    Raises:
        ImportError: without ``datasets``.
        ValueError: for a set that cannot be had, in one line, and for records without these fields.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"reading {name} from the hub needs the library datasets: pip install datasets; or save it as "
            "JSON lines and use data.init_args.format: jsonl"
        ) from None
    try:
        found = datasets.load_dataset(name, config, split=split, trust_remote_code=False)
    except Exception as error:  # of the library anything may come: no network, no such set, a damaged file
        raise ValueError(f"the hub's data set {name} cannot be read: {one_line(error, 200)}") from None
    records: list[Record] = [dict(record) for record in found]
    for number, record in enumerate(records):
        _check_fields(record, needed, f"{name}, {split}, record {number}")
    if not records:
        raise ValueError(f"the hub's data set {name} has nothing in its split {split}")
    return records


def every_text(records: Sequence[Record], *fields: str) -> Iterator[str]:
    """The texts of these fields, to train a tokenizer on."""
    for record in records:
        for field in fields:
            yield record[field]
