"""Summaries: lines, JSON lines, XML through the data module, weights of fairseq, folders of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fakes.summaries import fake_jsonl, fake_lines, fake_nyt
from fuzz.forked import Reader

from datamodules import Summaries
from datamodules.text.summary_files import nyt_article
from zoo.seqco import SeqCo
from zoo.seqco.summariser import documents_of
from zoo.seqco.weights import read, write

SIZES: dict[str, Any] = {
    "d_model": 8,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 8 for side in ("encoder", "decoder")},
    "max_position_embeddings": 16,
}
GIVEN: dict[str, Any] = {"vocab_size": 40, "special_ids": [3, 39], "max_length": 8, "sample_length": 8}
GIVEN |= {"min_length": 0, "weight_xyhat": 0.0}


def read_set(form: Any) -> Callable[[Path], Any]:
    def reader(path: Path) -> Any:
        data = Summaries(form, root=str(path.parent), vocab_size=300)
        data.setup("fit")
        return [data.train_set.__getitems__([0, 1]), data.val_set.records]

    return reader


def read_own(path: Path) -> Any:
    data = Summaries(predict=str(path))
    data.setup("predict")
    return data.predict_set.records


def module(**more: Any) -> SeqCo:
    return SeqCo("bart", SIZES, **{**GIVEN, **more})


def fairseq(folder: Path) -> Path:
    write(module(weight_xy=1.0), folder / "official.pt", "official")
    return folder / "official.pt"


def plain(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(module(), folder / "plain", "transformers")
        return folder / "plain" / file

    return make


def shapes(state: dict[str, Any]) -> list[Any]:
    return [tuple(v.shape) for v in state.values() if isinstance(v, torch.Tensor)]


def read_fairseq(path: Path) -> Any:
    given = {**GIVEN, "sizes": SIZES, "weight_xy": 1.0}
    return shapes(read(path, given)[0].state_dict)


def read_plain(path: Path) -> Any:
    given = {k: v for k, v in GIVEN.items() if k not in ("vocab_size", "special_ids")}
    return shapes(read(path.parent, given)[0].state_dict)


def read_python(path: Path) -> Any:
    return [text for _, text in documents_of(path)]


def article(folder: Path) -> Path:
    return min(fake_nyt(folder).rglob("*.xml"))


READERS = [
    Reader("summaries: lines", lambda folder: fake_lines(folder / "set") / "train.source", read_set("lines")),
    Reader("summaries: jsonl", lambda folder: fake_jsonl(folder / "set") / "train.jsonl", read_set("jsonl")),
    Reader("summaries: own documents", lambda folder: fake_lines(folder / "set") / "test.source", read_own),
    Reader("summarize: lines", lambda folder: fake_lines(folder / "set") / "test.source", read_python),
    Reader("summarize: jsonl", lambda folder: fake_jsonl(folder / "set") / "test.jsonl", read_python),
    Reader("an article of NYT", article, nyt_article),
    Reader("fairseq's SeqCo", fairseq, read_fairseq),
    Reader("transformers: config.json", plain("config.json"), read_plain),
    Reader("transformers: model.safetensors", plain("model.safetensors"), read_plain),
]
