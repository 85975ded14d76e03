"""Layouts of sets of summaries: side-by-side lines, JSON lines, the hub, NYT's XML, ACLSum's wheel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from datamodules.loading.files import check_claim, one_line
from datamodules.loading.terminal import say
from datamodules.text.records import (
    Record,
    hub_records,
    lines_of,
    numbered_jsonl,
    package_folder,
    read_jsonl,
    read_side_by_side,
)

Format = Literal["jsonl", "lines", "hub", "nyt", "aclsum", "procedural"]
ASPECTS = ("challenge", "approach", "outcome")
_NO_TEXTS = (".csv", ".tsv", ".json", ".parquet", ".xlsx", ".xml", ".html", ".pdf", ".docx", ".gz", ".zip")
_XML = 16 * 2**20
_NYT_TEST_YEAR = 2007
_NYT_VALIDATION = 4000
_NYT_WORDS = 50
_SPLIT_OF_HUB = {"train": "train", "val": "validation", "test": "test"}


def missing(path: Path, root: Path, form: str) -> FileNotFoundError:
    """The error of a set that is not there, with its layout."""
    layouts = {
        "lines": "train.source, train.target, val.source, ... with a document or a summary a line",
        "jsonl": 'train.jsonl, val.jsonl, test.jsonl with {"document": "...", "summary": "..."} a line',
        "nyt": "the XML files of LDC2008T19 (data/YYYY/MM/DD/*.xml, unpacked)",
    }
    return FileNotFoundError(
        f"no file {path}; data.init_args.format {form} expects under {root}: {layouts[form]}. CNN/DailyMail "
        "and XSum come from the hub (abisee/cnn_dailymail, EdinburghNLP/xsum)"
    )


def side_by_side(root: Path, split: str) -> list[Record]:
    """``split.source`` and ``split.target``, the layout of fairseq and of transformers' examples."""
    paths = [root / f"{split}.{end}" for end in ("source", "target")]
    for path in paths:
        if not path.is_file():
            raise missing(path, root, "lines")
    rows = read_side_by_side(*paths)
    return [{"document": x, "summary": y, "id": f"{split}/{i}", "row": i} for i, (x, y) in enumerate(rows, 1)]


def json_lines(root: Path, split: str, fields: Mapping[str, str]) -> list[Record]:
    """``split.jsonl``; ``fields`` says what the set calls document, summary, id and yhat."""
    path = root / f"{split}.jsonl"
    if not path.is_file():
        raise missing(path, root, "jsonl")
    return of_lines(numbered_jsonl(path, needed(fields)), fields, split)


def of_lines(numbered: list[tuple[int, Record]], fields: Mapping[str, str], split: str) -> list[Record]:
    """Records of a file under our names, with the number of their line as ``row``."""
    found = renamed([record for _, record in numbered], fields, split)
    return [{**record, "row": number} for record, (number, _) in zip(found, numbered, strict=True)]


def needed(fields: Mapping[str, str], summaries: bool = True) -> dict[str, tuple[type, ...]]:
    """Fields that every record must have, all of them texts; null is none, and is left out with a count."""
    wanted = ["document", *["summary"] * summaries, *["yhat"] * ("yhat" in fields)]
    return {fields[name]: (str, type(None)) for name in wanted}


def renamed(records: list[Record], fields: Mapping[str, str], split: str) -> list[Record]:
    """Records under our names, lines within a text joined by blanks."""
    found = []
    for number, record in enumerate(records, 1):
        given = {name: record[field] for name, field in fields.items() if field in record}
        row = {
            name: one_line_of(value or "")
            for name, value in given.items()
            if isinstance(value, str | None) and name != "id"
        }
        name = record.get(fields["id"])
        row["id"] = str(name) if isinstance(name, str | int) else f"{split}/{number}"
        found.append(row)
    return found


def one_line_of(text: str) -> str:
    """A text without ends of lines: highlights of CNN/DailyMail are a line a sentence."""
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def of_hub(name: str, config: str | None, split: str, fields: Mapping[str, str]) -> list[Record]:
    """A split of the hub."""
    return renamed(hub_records(name, config, _SPLIT_OF_HUB[split], needed(fields)), fields, split)


def documents_of(path: Path, fields: Mapping[str, str]) -> list[Record]:
    """Documents to summarise: JSON lines (``.jsonl``), or a text with one a line; summaries may be missing.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"data.init_args.predict: no file {path}")
    if path.suffix.lower() in _NO_TEXTS:
        raise ValueError(
            f"data.init_args.predict: {path} is a {path.suffix}: read are a text with a document a line, and "
            ".jsonl with one object a line"
        )
    if path.suffix == ".jsonl":
        given = {k: v for k, v in fields.items() if k != "yhat"}
        numbered = numbered_jsonl(path, needed(given, summaries=False))
        rows = of_lines(numbered, given, path.stem)
        if blank := numbered[-1][0] - len(numbered):
            say(f"{path}: {blank:,} blank lines are passed over")
        # a summary that is not there yet is no reason to leave its document out
        return [{k: v for k, v in row.items() if k != "summary" or v} for row in rows]
    return [
        {"document": text, "id": f"{path.name}:{number}", "row": number} for number, text in lines_of(path)
    ]


# --- New York Times -----------------------------------------------------------------------------------------


def nyt(root: Path, split: str) -> list[Record]:
    """Articles with an abstract of the NYT Annotated Corpus (LDC2008T19).

    Of 2007 on is the test, filtered to summaries of 50 words or more (Durrett et al. 2016); the last 4,000
    before are the validation.

    Raises:
        FileNotFoundError, ValueError: for a folder without articles, or a file that is none.
    """
    paths = sorted(root.rglob("*.xml"), key=lambda p: p.relative_to(root).as_posix())
    if not paths:
        raise missing(root / "data/1987/01/01/0000000.xml", root, "nyt")
    dated = [(_date(path, root), path) for path in paths]
    late = [path for date, path in dated if date[0] >= _NYT_TEST_YEAR]
    early = [path for date, path in sorted(dated, key=lambda d: d[0]) if date[0] < _NYT_TEST_YEAR]
    if split == "test":
        found = [r for r in map(nyt_article, late) if r is not None]
        return [r for r in found if len(r["summary"].split()) >= _NYT_WORDS]
    found = [r for r in map(nyt_article, early) if r is not None]
    held = min(_NYT_VALIDATION, max(1, len(found) // 10))
    return found[-held:] if split == "val" else found[:-held]


def _date(path: Path, root: Path) -> tuple[int, int, int]:
    match = re.search(r"(\d{4})/(\d{1,2})/(\d{1,2})/[^/]+$", path.relative_to(root).as_posix())
    if match is None:
        raise ValueError(f"{path} does not lie in a folder YYYY/MM/DD, as those of LDC2008T19 do")
    year, month, day = map(int, match.groups())
    return year, month, day


def nyt_article(path: Path) -> Record | None:
    """Full text and abstract of an article; None where it lacks one of them.

    Raises:
        ValueError: for a file that is no XML, or too large.
    """
    check_claim(path, "the file", path.stat().st_size)
    if path.stat().st_size > _XML:
        raise ValueError(f"{path}: more than {_XML:,} bytes, no article")
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        raise ValueError(f"{path} declares entities, which no article of the corpus does; refused")
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no XML ({one_line(error)})") from None
    text = " ".join(
        _text(p) for block in tree.iter("block") if block.get("class") == "full_text" for p in block
    )
    summary = " ".join(_text(p) for part in tree.iter("abstract") for p in part)
    if not text.strip() or not summary.strip():
        return None
    return {"document": text, "summary": summary, "id": path.stem}


def _text(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


# --- ACLSum -------------------------------------------------------------------------------------------------


def aclsum(split: str, parts: str) -> list[Record]:
    """NLP papers with three expert-written sentences each: challenge, approach, outcome; split by paper.

    The document is the abstract, or abstract, introduction and conclusion (``all``); the name of the aspect
    goes before it as ``prompt``.

    Raises:
        ImportError: naming the extra.
        ValueError: for a wheel with another content.
    """
    path = package_folder("aclsum") / "dataset" / f"{split}.jsonl"
    found: list[Record] = []
    for number, record in enumerate(read_jsonl(path, {"id": str, "summary": dict, "sentences": dict}), 1):
        sections = ("abstract",) if parts == "abstract" else ("abstract", "introduction", "conclusion")
        try:
            text = " ".join(" ".join(record["sentences"][s]) for s in sections)
            rows = [
                {
                    "document": text,
                    "summary": str(record["summary"][a]),
                    "id": f"{record['id']}/{a}",
                    "prompt": f"{a} : ",
                }
                for a in ASPECTS
            ]
        except (KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: not ACLSum's layout of sentences and summaries"
            ) from None
        found += rows
    return found


def whole(records: list[Record]) -> tuple[list[Record], int]:
    """Records that have a document and, where they have the field, a summary; and how many have not."""
    kept = [r for r in records if r["document"].strip() and r.get("summary", "?").strip()]
    return kept, len(records) - len(kept)


Reader = Callable[[str], list[Record]]
