"""Active-NER: scoring a pool by length against in order, and the LSTM decoder against the CRF.

The pool is that of ``ner_ncbi_disease`` where ``ZOO_DATA`` has it, else the grammar's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.interleaved import interleaved, median, ratio
from datamodules import NER
from datamodules.text.rounds import padded_words
from zoo.ner import ActiveNER
from zoo.ner.decoders import CRFDecoder, LSTMDecoder
from zoo.ner.tagger import score_batch


def pool() -> NER:
    known = (Path(os.environ.get("ZOO_DATA", "nowhere")) / "ner" / "ncbi_disease").is_dir()
    data = NER("ncbi_disease" if known else "grammar", train_sentences=1500, eval_batch_size=64)
    data.setup("fit")
    return data


@pytest.mark.parametrize("encoder", ["cnn", "lstm"])
def test_scoring_by_length(
    encoder: str, record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    quick = request.config.getoption("--quick")
    data = pool()
    assert data.pool is not None
    h: dict[str, Any] = {"word_filters": 128} if encoder == "cnn" else {"word_hidden": 64}
    module = ActiveNER(
        data.tags,
        data.num_words,
        data.num_characters,
        word_encoder=encoder,
        word_dim=64,
        decoder_hidden=64,
        **h,
    ).eval()
    assert module.vocabulary is not None
    module.vocabulary.fill(data.vocabulary_words, data.vocabulary_characters)
    indices = data.pool.unlabelled[: 128 if quick else None]
    size = data.eval_batch_size
    in_order = [indices[i : i + size] for i in range(0, len(indices), size)]
    batches = {"by length": data.pool_batches(indices), "in order": in_order}

    def scored(name: str) -> None:
        for batch in batches[name]:
            words = data.batch_of(batch)["words"]
            score_batch(module.network, module.encode(words), "mnlp", 1, 0)

    times = interleaved({name: (lambda name=name: scored(name)) for name in batches}, 1 if quick else 5)
    padded = {name: padded_words(found, data.lengths) for name, found in batches.items()}
    record(f"{encoder}/sentences_per_second/by_length", len(indices) / median(times, "by length"))
    record(f"{encoder}/sentences_per_second/in_order", len(indices) / median(times, "in order"))
    record(f"{encoder}/padded_words_ratio", padded["in order"] / padded["by length"])
    assert padded["in order"] > padded["by length"]


def test_lstm_decoder_against_the_crf(
    record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    """Loss and backward of 16 sentences of 30 words, hidden 64, as the number of tags grows."""
    quick = request.config.getoption("--quick")
    for tags in (17, 41, 73):
        torch.manual_seed(0)
        h, mask = torch.randn(16, 30, 222), torch.ones(16, 30, dtype=torch.bool)
        gold = torch.randint(tags, (16, 30))
        decoders = {"lstm": LSTMDecoder(222, tags, 64, 0.0), "crf": CRFDecoder(222, tags, 0.0)}

        def step(name: str, decoders: Any = decoders, gold: Any = gold, h: Any = h, mask: Any = mask) -> None:
            decoders[name].negative_log_likelihood(h, mask, gold).sum().backward()

        times = interleaved(
            {name: (lambda name=name, step=step: step(name)) for name in decoders}, 3 if quick else 30
        )
        record(f"crf_over_lstm/{tags}_tags", ratio(times, "crf", "lstm"))
