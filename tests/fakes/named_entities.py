"""Tiny twins of the sets of named entities: CoNLL-2003, OntoNotes, NCBI-disease, UNER."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.text.conll import Sentence
from datamodules.text.grammar import grammar_sentences
from datamodules.text.ner_sets import SETS, SPLITS
from datamodules.text.schemes import tags_of

Tagged = Sequence[tuple[str, str]]
GOLD: list[Tagged] = [
    [("Ada", "(PERSON*"), ("Byron", "*)"), ("left", "*"), ("Ely", "(GPE)"), (".", "*")],
    [("Nobody", "*"), ("came", "*")],
]
_FOLDERS = {"train": "train", "dev": "development", "test": "test"}


def write_gold(path: Path, sentences: Sequence[Tagged]) -> Path:
    """A file of CoNLL-2012 with these words and brackets."""
    lines = ["#begin document (fake); part 000"]
    for sentence in sentences:
        for i, (word, bracket) in enumerate(sentence):
            lines.append(f"fake 0 {i} {word} X * - - - Speaker#1 {bracket} -")
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "#end document"]) + "\n", encoding="utf-8")
    return path


def renamed(sentence: Sentence, types: Sequence[str]) -> list[tuple[int, int, str]]:
    """The grammar's entities with a set's types."""
    return [(a, b, types[hash_of(kind) % len(types)]) for a, b, kind in sentence.spans or ()]


def hash_of(kind: str) -> int:
    return sum(map(ord, kind))


def brackets(sentence: Sentence, types: Sequence[str]) -> Tagged:
    marks = ["*"] * len(sentence.words)
    for start, end, kind in renamed(sentence, types):
        marks[start] = f"({kind}*"
        marks[end - 1] = f"{marks[end - 1]})" if end - 1 > start else f"({kind})"
    return list(zip(sentence.words, marks, strict=True))


def fake_ontonotes(root: Path, language: str, count: int = 60) -> None:
    """The layout of CoNLL-2012 with two genres and one without entities."""
    from datamodules.text.ner_sets import ONTONOTES_TYPES

    for split in SPLITS:
        base = root / "data" / _FOLDERS[split] / "data" / language / "annotations"
        sentences = [brackets(s, ONTONOTES_TYPES) for s in grammar_sentences(split)[:count]]
        write_gold(base / "nw" / "wsj" / "00" / "wsj_0001.v4_gold_conll", sentences[::2])
        write_gold(base / "bc" / "cnn" / "00" / "cnn_0001.v4_gold_conll", sentences[1::2])
        write_gold(base / "pt" / "nt" / "40" / "nt_4001.v4_gold_conll", GOLD)


def fake_columns(root: Path, name: str, count: int = 60) -> None:
    """A set of columns; CoNLL-2003's in IOB1 with marks of documents, UNER's with comments."""
    known = SETS[name]
    for split in SPLITS:
        lines = ["-DOCSTART- -X- -X- O", ""] if name == "conll2003" else []
        for sentence in grammar_sentences(split)[:count]:
            scheme = "iob1" if name == "conll2003" else "iob2"
            tags = tags_of(renamed(sentence, known.types), len(sentence.words), scheme)
            if name.startswith("uner"):
                lines.append("# text = " + " ".join(sentence.words))
            for number, (word, tag) in enumerate(zip(sentence.words, tags, strict=True), 1):
                if name == "conll2003":
                    lines.append(f"{word} NN B-NP {tag}")
                elif name.startswith("uner"):
                    lines.append(f"{number}\t{word}\t{tag}\t-\t-")
                else:
                    lines.append(f"{word}\t{tag}")
            lines.append("")
        root.mkdir(parents=True, exist_ok=True)
        (root / known.files[split][0]).write_text("\n".join(lines) + "\n", encoding="utf-8")


def own_folder(root: Path, labelled: int = 30, pool: int = 60) -> list[Sentence]:
    """A user's folder with a few labelled sentences and a pool; returns the pool's sentences with labels."""
    train = grammar_sentences("train")
    root.mkdir(parents=True, exist_ok=True)
    for name, sentences in (
        ("train", train[:labelled]),
        ("dev", grammar_sentences("dev")[:30]),
        ("test", grammar_sentences("test")[:30]),
    ):
        rows = []
        for s in sentences:
            tags = tags_of(s.spans or (), len(s.words), "iob2")
            rows += [f"{word} {tag}" for word, tag in zip(s.words, tags, strict=True)] + [""]
        (root / f"{name}.conll").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rest = train[labelled : labelled + pool]
    (root / "pool.txt").write_text("".join(" ".join(s.words) + "\n" for s in rest), encoding="utf-8")
    return rest


def fake_ner(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The twin of what a config reads, and the flags of a short run on it."""
    data = config["data"]["init_args"]
    name = data.get("name", "grammar")
    if name == "ontonotes":
        fake_ontonotes(root, data.get("language", "english"))
    elif name == "files":
        own_folder(root)
    else:
        fake_columns(root, name)
    flags: dict[str, Any] = {
        "data.init_args.seed_budget": 20 if data.get("unit", "percent") == "percent" else 100,
        "data.init_args.budget": 5 if data.get("unit", "percent") == "percent" else 50,
        "data.init_args.batch_size": 4,
        "data.init_args.seed_updates": 2,
        "data.init_args.round_updates": 1,
        "trainer.val_check_interval": 1.0,
        "trainer.check_val_every_n_epoch": 1,
    }
    if data.get("oracle") == "human" or data.get("rounds") == 0:  # the run ends with its first round
        flags["data.init_args.seed_updates"] = 3
    if data.get("oracle") == "human":  # what is labelled is the seed set
        del flags["data.init_args.seed_budget"]
    if data.get("rounds") == 0:
        del flags["data.init_args.budget"], flags["data.init_args.round_updates"]
    if data.get("embeddings"):
        width = config["model"]["init_args"].get("word_dim", 100)
        path = root / "vectors.txt"
        words = {w.lower() for s in grammar_sentences("train")[:60] for w in s.words}
        lines = [f"{word} " + " ".join(["0.1"] * width) for word in sorted(words)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        flags["data.init_args.embeddings"] = path
    return flags


TWINS = {"datamodules.NER": fake_ner}
WITHOUT_FILES = {"datamodules.NER": lambda arguments: arguments.get("name", "grammar") == "grammar"}
