"""What a data module of text does not use is refused, in the words of the others."""

from __future__ import annotations

import re
from typing import Any

import pytest

import datamodules

IDLE: list[tuple[str, dict[str, Any], str]] = [
    ("Summaries", {"format": "procedural", "hub": "a/b"}, "hub is a/b, which format: procedural"),
    ("Summaries", {"format": "lines", "hub_config": "3"}, "hub_config is 3, which format: lines"),
    ("Summaries", {"format": "lines", "document_field": "x"}, "document_field is x, which format: lines"),
    ("Summaries", {"format": "nyt", "yhat_field": "x", "predict": "a.txt"}, "yhat_field is x, which format"),
    ("Summaries", {"format": "lines", "aclsum_parts": "all"}, "aclsum_parts is all, which format: lines"),
    ("Summaries", {"format": "procedural", "root": "/x"}, "root is /x, which format: procedural"),
    ("Summaries", {"format": "jsonl", "seed": 4}, "seed is 4, which format: jsonl"),
    ("Summaries", {"tokenizer": "x", "vocab_size": 300}, "vocab_size is 300, which tokenizer: x"),
    ("Dialogues", {"layout": "chitchat", "root": "/x"}, "root is /x, which layout: chitchat"),
    ("Dialogues", {"layout": "jsonl", "name": "a/b"}, "name is a/b, which layout: jsonl"),
    ("Dialogues", {"tokenizer": "x", "model": "words"}, "model is words, which tokenizer: x"),
    ("Dialogues", {"batch_tokens": 4096, "batch_size": 3}, "batch_size is 3, which batch_tokens: 4096"),
    ("DialogueHistories", {"root": "/x"}, "root is /x, which layout: facts"),
    ("DialogueHistories", {"layout": "wizard", "dialogues": 9}, "dialogues is 9, which layout: wizard"),
    ("ParallelText", {"layout": "lines", "package": "x"}, "package is x, which layout: lines"),
    ("ParallelText", {"layout": "gettext", "root": "/x"}, "root is /x, which layout: gettext"),
    ("ParallelText", {"layout": "jsonl", "source": "fr"}, "source is fr, which layout: jsonl"),
    ("NER", {"name": "grammar", "root": "/x"}, "root is /x, which name: grammar"),
    ("NER", {"name": "grammar", "spaces": True}, "spaces is true, which name: grammar"),
    ("NER", {"name": "wnut17", "genres": ["nw"]}, "which name: wnut17"),
    ("NER", {"labels": ["x"]}, "which oracle: simulated"),
    ("NER", {"name": "files", "oracle": "human", "noise": 0.1}, "noise is 0.1, which oracle: human"),
    ("NER", {"name": "files", "spaces": False}, "spaces is false, which oracle: simulated"),
    ("NER", {"name": "files", "oracle": "human", "seed_budget": 3}, "seed_budget is 3, which oracle: human"),
    ("NER", {"sentence_cost": 4.0}, "sentence_cost is 4.0, which unit: percent"),
    ("NER", {"rounds": 0, "budget": 5}, "budget is 5, which rounds: 0 does not use"),
    ("NER", {"rounds": 0, "round_updates": 5}, "round_updates is 5, which rounds: 0 does not use"),
    ("NER", {"rounds": 0, "seed_updates": 3, "passes": 9}, "passes is 9, but seed_updates"),
    ("NER", {"seed_updates": 3, "round_updates": 3, "passes": 9}, "passes is 9, but seed_updates"),
    ("TextStream", {"root": "/x"}, "root is /x, which layout: stdlib"),
    ("TextStream", {"layout": "files", "name": "a/b"}, "name is a/b, which layout: files"),
    ("TextStream", {"layout": "bin", "field": "x"}, "field is x, which layout: bin"),
    ("TextStream", {"layout": "hub", "unit": "line"}, "unit is line, which layout: hub"),
    ("TextStream", {"layout": "bin", "cache": "x"}, "cache is x, which layout: bin"),
    ("TextStream", {"layout": "bin", "clean": True}, "clean is true, which layout: bin"),
    ("TextStream", {"layout": "bin", "deduplicate": "near"}, "deduplicate is near, which layout: bin"),
    ("TextStream", {"val_share": 0.3}, "val_share is 0.3, which layout: stdlib"),
    ("TextStream", {"test_share": 0.3}, "test_share is 0.3, which layout: stdlib"),
    ("TextStream", {"tokenizer": "bytes", "vocab_size": 300}, "vocab_size is 300, which tokenizer: bytes"),
    ("TextStream", {"predict": "x", "predict_samples": 3}, "predict_samples is 3, which predict: x"),
    ("TextStream", {"predict": "x", "prompt_tokens": 3}, "prompt_tokens is 3, which predict: x"),
    ("Chats", {"root": "/x"}, "root is /x, which layout: chatterbot"),
    ("Chats", {"layout": "jsonl", "name": "a/b"}, "name is a/b, which layout: jsonl"),
    ("Chats", {"tokenizer": "x", "vocab_size": 300}, "vocab_size is 300, which tokenizer: x"),
    ("Chats", {"predict": "x", "predict_samples": 3}, "predict_samples is 3, which predict: x"),
    ("MultipleChoice", {"root": "/x"}, "root is /x, which layout: stdlib"),
    ("MultipleChoice", {"layout": "piqa", "choices": 3}, "choices is 3, which layout: piqa"),
    ("MultipleChoice", {"layout": "piqa", "val_share": 0.3}, "val_share is 0.3, which layout: piqa"),
    ("MultipleChoice", {"test_share": 0.3}, "test_share is 0.3, which layout: stdlib"),
    ("MultipleChoice", {"layout": "crows_pairs", "shots": 3}, "shots is 3, which layout: crows_pairs"),
    ("MultipleChoice", {"seed": 3}, "seed is 3, which shots: 0 does not use"),
    ("MultipleChoice", {"tokenizer": "x", "vocab_size": 300}, "vocab_size is 300, which tokenizer: x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "words"), IDLE, ids=lambda v: v if isinstance(v, str) else "")
def test_an_option_that_is_not_used_is_refused(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        getattr(datamodules, name)(**given)
    assert "leave" in str(caught.value)


def test_what_a_file_to_summarise_has_is_used() -> None:
    datamodules.Summaries(format="lines", predict="a.jsonl", document_field="article", id_field="key")
