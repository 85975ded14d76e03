"""Where the sets of named entities have their files, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from datamodules.text.conll import Sentence, read_columns, read_gold_conll
from datamodules.text.grammar import TYPES, grammar_sentences
from datamodules.text.ner_files import read_files

Name = Literal[
    "grammar", "conll2003", "ontonotes", "ncbi_disease", "wnut17", "uner_zh_gsd", "uner_en_ewt", "files"
]
Read = Callable[[Path], Iterator[Sentence]]
SPLITS = ("train", "dev", "test")
_TSV: Read = partial(read_columns, delimiter="\t")
_UNER: Read = partial(read_columns, word=1, tag=2, delimiter="\t", comments=True)


@dataclass(frozen=True)
class NERSet:
    """A published set.

    Attributes:
        source: where it comes from, for the error of a missing file.
        files: of each split, names that the file may have; the first one that is there counts.
        read: reads one.
        types: all types of its entities, declared: never taken from labels that nobody has asked for.
        folder: default folder below ``$ZOO_DATA``.
        spaces: whether words are written with blanks between them.
    """

    source: str
    files: dict[str, tuple[str, ...]]
    read: Read
    types: tuple[str, ...]
    folder: str
    spaces: bool = True


_UNER_TYPES = ("LOC", "ORG", "PER")
ONTONOTES_TYPES = (
    "CARDINAL",
    "DATE",
    "EVENT",
    "FAC",
    "GPE",
    "LANGUAGE",
    "LAW",
    "LOC",
    "MONEY",
    "NORP",
    "ORDINAL",
    "ORG",
    "PERCENT",
    "PERSON",
    "PRODUCT",
    "QUANTITY",
    "TIME",
    "WORK_OF_ART",
)
SETS = {
    "conll2003": NERSet(
        "the CoNLL-2003 shared task (Reuters licence)",
        {
            "train": ("eng.train", "train.txt"),
            "dev": ("eng.testa", "valid.txt", "dev.txt"),
            "test": ("eng.testb", "test.txt"),
        },
        read_columns,
        ("LOC", "MISC", "ORG", "PER"),
        "conll2003",
    ),
    "ncbi_disease": NERSet(
        "github.com/spyysalo/ncbi-disease",
        {"train": ("train.tsv",), "dev": ("devel.tsv",), "test": ("test.tsv",)},
        _TSV,
        ("Disease",),
        "ner/ncbi_disease",
    ),
    "wnut17": NERSet(
        "github.com/leondz/emerging_entities_17",
        {
            "train": ("wnut17train.conll",),
            "dev": ("emerging.dev.conll",),
            "test": ("emerging.test.annotated",),
        },
        _TSV,
        ("corporation", "creative-work", "group", "location", "person", "product"),
        "ner/wnut17",
    ),
    "uner_zh_gsd": NERSet(
        "github.com/UniversalNER/UNER_Chinese-GSD",
        {s: (f"zh_gsd-ud-{s}.iob2",) for s in SPLITS},
        _UNER,
        _UNER_TYPES,
        "ner/uner_zh_gsd",
        spaces=False,
    ),
    "uner_en_ewt": NERSet(
        "github.com/UniversalNER/UNER_English-EWT",
        {s: (f"en_ewt-ud-{s}.iob2",) for s in SPLITS},
        _UNER,
        _UNER_TYPES,
        "ner/uner_en_ewt",
    ),
}


def read_set(name: str, folder: Path, split: str) -> list[Sentence]:
    """A split of a set.

    Raises:
        FileNotFoundError: with the expected path and the source.
        ValueError: for a file that cannot be read.
    """
    if name == "grammar":
        return grammar_sentences(split)
    known = SETS[name]
    for file in known.files[split]:
        if (folder / file).is_file():
            return list(known.read(folder / file))
    raise FileNotFoundError(
        f"no file {folder / known.files[split][0]}; {name} comes from {known.source}, and "
        f"{' or '.join(known.files[split])} is expected in data.init_args.root"
    )


_ONTONOTES_SPLITS = {"train": "train", "dev": "development", "test": "test"}


def read_ontonotes(root: Path, language: str, split: str, genres: Collection[str] | None) -> list[Sentence]:
    """A split of OntoNotes 5.0 in the CoNLL-2012 layout, files in the order of their paths.

    Genre ``pt`` has no layer of entities and is left out.

    Raises:
        FileNotFoundError: with the layout.
        ValueError: for a file that cannot be read, or genres that are not there.
    """
    base = root / "data" / _ONTONOTES_SPLITS[split] / "data" / language / "annotations"
    if not base.is_dir():
        raise FileNotFoundError(
            f"no folder {base}; OntoNotes 5.0 (LDC2013T19) in the layout of CoNLL-2012 is expected in "
            "data.init_args.root: data/{train,development,test}/data/LANGUAGE/annotations/GENRE/**/"
            "*.v4_gold_conll"
        )
    found = sorted(p.name for p in base.iterdir() if p.is_dir() and p.name != "pt")
    if unknown := sorted(set(genres or ()) - set(found)):
        raise ValueError(f"data.init_args.genres has {unknown[0]!r}; {base} has {', '.join(found)}")
    return [
        sentence
        for genre in found
        if not genres or genre in genres
        for file in sorted((base / genre).rglob("*.v4_gold_conll"))
        for sentence in read_gold_conll(file, genre)
    ]


def types_of(name: str) -> tuple[str, ...] | None:
    """The declared types of a set; None of a user's own files."""
    own = {"grammar": TYPES, "ontonotes": ONTONOTES_TYPES}
    return own.get(name) or (SETS[name].types if name in SETS else None)


def read_split(
    name: str, root: Path, split: str, language: str, genres: Collection[str] | None
) -> list[Sentence]:
    """A split of any set, of a user's own files too; language and genres are of OntoNotes.

    Raises:
        FileNotFoundError, ValueError: of its reader.
    """
    if name == "ontonotes":
        return read_ontonotes(root, language, split, genres)
    return read_files(root, split) if name == "files" else read_set(name, root, split)


def declared_types(own: Sequence[str] | None, seen: Sequence[Sentence], root: Path) -> list[str]:
    """The types of entities, or those of labels that everybody may see.

    Raises:
        ValueError: for no type at all, or one that is no word.
    """
    types = list(own) if own is not None else sorted({kind for s in seen for *_, kind in s.spans or ()})
    if own is None and not types:
        raise ValueError(f"{root}: no entity is labelled; declare data.init_args.types")
    if wrong := [t for t in types if not t or any(c.isspace() for c in t)]:
        raise ValueError(f"data.init_args.types has {wrong[0]!r}: a type is a word without blanks")
    return types


def check_types(sentences: Sequence[Sentence], types: Sequence[str], where: str) -> None:
    """Refuse entities of other types.

    Raises:
        ValueError: naming the sentence.
    """
    for number, sentence in enumerate(sentences, 1):
        if unknown := {kind for *_, kind in sentence.spans or ()} - set(types):
            raise ValueError(
                f"{where} sentence {number} has an entity of type {min(unknown)!r}, "
                f"which is none of data.init_args.types {', '.join(types)}"
            )
