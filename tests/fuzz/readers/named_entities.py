"""Named entities: tables of words, brackets of OntoNotes, own files, vectors, answers of labelling tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fakes.named_entities import GOLD, write_gold
from fuzz.forked import Reader

from datamodules.text.answers import read_answers
from datamodules.text.conll import Sentence, read_columns, read_gold_conll
from datamodules.text.ner_files import read_jsonl
from datamodules.text.queries import export_queries
from datamodules.text.vectors import read_vectors

SENTENCES = [
    Sentence(("Ada", "Byron", "left", "Zürich", "."), ((0, 2, "PER"), (3, 4, "LOC"))),
    Sentence(("Nobody", "came", "."), ()),
]
TABLE = "Ada NNP B-NP B-PER\nleft VBD B-VP O\n\n-DOCSTART- -X- -X- O\n\nZürich NNP B-NP B-LOC\n"
UNER = "# sent_id = 1\n1\tAda\tB-PER\t-\t-\n2\t#\tO\t-\tx\n\n1\t北京\tB-LOC\t-\t-\n"


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return write


def exported(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        queries = [(i, s.words, s.spans or (), -1.5) for i, s in enumerate(SENTENCES)]
        export_queries(folder, queries, True, ["LOC", "PER"])
        if name.endswith(".json"):
            tasks = json.loads((folder / name).read_text())
            for task in tasks:
                task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
            (folder / name).write_text(json.dumps(tasks, ensure_ascii=False))
        if name.startswith("prodigy"):
            lines = (folder / name).read_text().splitlines()
            (folder / name).write_text("".join(line[:-1] + ', "answer": "accept"}\n' for line in lines))
        return folder / name

    return write


def answers(path: Path) -> object:
    return read_answers([path], SENTENCES, True, ["LOC", "PER"])


RECORDS = "".join(
    json.dumps({"tokens": list(s.words), "tags": ["O"] * len(s.words)}) + "\n" for s in SENTENCES
)
VECTORS = "the 0.1 0.2 0.3\nZürich 1 2 3\nnobody -1e-3 0 5\n"
READERS = [
    Reader("CoNLL-2003", text("eng.train", TABLE), lambda path: list(read_columns(path))),
    Reader(
        "UNER",
        text("a.iob2", UNER),
        lambda path: list(read_columns(path, word=1, tag=2, delimiter="\t", comments=True)),
    ),
    Reader(
        "v4_gold_conll",
        lambda folder: write_gold(folder / "a.v4_gold_conll", GOLD),
        lambda path: list(read_gold_conll(path)),
    ),
    Reader("JSON lines of entities", text("train.jsonl", RECORDS), lambda path: list(read_jsonl(path))),
    Reader(
        "word vectors", text("v.txt", VECTORS), lambda path: read_vectors(path, ["the", "Zürich", "Nobody"])
    ),
    Reader("doccano", exported("doccano.jsonl"), answers),
    Reader("Prodigy", exported("prodigy.jsonl"), answers),
    Reader("Label Studio", exported("label_studio.json"), answers),
    Reader("labels as CoNLL", exported("sentences.conll"), answers),
]
