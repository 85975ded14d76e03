"""Data of language models: packing against padding, MinHash against all pairs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.interleaved import interleaved, median, ratio
from datamodules import Chats, TextStream
from datamodules.text.minhash import SIMILAR, components, shingles, signature


def test_packing(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    """The replies of chatterbot's chats in rows of 256 bytes: packed whole, or a chat a row."""
    quick = request.config.getoption("--quick")
    batches: dict[str, list[Any]] = {}
    sets: dict[str, Any] = {}
    for name, pack in (("packed", True), ("padded", False)):
        data = Chats(pack=pack, context=256, batch_size=16)
        data.setup("fit")
        sets[name] = data.train_set
        batches[name] = list(data.train_dataloader())
    scored = {n: sum(int((b["labels"] >= 0).sum()) for b in found) for n, found in batches.items()}
    assert scored["packed"] == scored["padded"]
    for name, found in batches.items():
        real = sum(int((b["documents"] > 0).sum()) for b in found)
        places = sum(b["documents"].numel() for b in found)
        record(f"language_data/{name}/real_share", real / places)
        record(f"language_data/{name}/tokens_an_epoch", places)

    def read(name: str) -> Callable[[], object]:
        keys = [*range(len(sets[name]))]
        return lambda: [sets[name].__getitems__(keys[at : at + 16]) for at in range(0, len(keys), 16)]

    times = interleaved({name: read(name) for name in sets}, 1 if quick else 5)
    for name in sets:
        record(f"language_data/{name}/scored_tokens_per_second", scored[name] / median(times, name))
    record("language_data/padded_over_packed", ratio(times, "padded", "packed"))


def test_rows_of_a_stream(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    """Rows of 256 bytes of the standard library, out of memory."""
    data = TextStream(context=256, batch_size=16)
    data.setup("fit")
    order = np.random.default_rng(0).permutation(len(data.train_set)).tolist()
    rows = order[: 160 if request.config.getoption("--quick") else 3200]

    def read() -> list[Any]:
        return [data.train_set.__getitems__(rows[at : at + 16]) for at in range(0, len(rows), 16)]

    times = interleaved({"rows": read}, 5)
    record("language_data/stream/tokens_per_second", 255 * len(rows) / median(times, "rows"))


def test_near_duplicates(record: Callable[[str, float], None], request: pytest.FixtureRequest) -> None:
    """Texts of 200 words of which a tenth differ from another in two words; both find the same ones."""
    count = 100 if request.config.getoption("--quick") else 600
    draw = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    texts = [draw.choices(words, k=200) for _ in range(count)]
    for i in range(count // 10):
        texts[-i - 1] = [*texts[i][:50], "one", *texts[i][51:150], "two", *texts[i][151:]]
    found = [" ".join(text) for text in texts]

    def hashed() -> Any:
        return components(np.stack([signature(text) for text in found]))

    def all_pairs() -> Any:
        sets = [set(shingles(text).tolist()) for text in found]
        leader = list(range(count))
        for i, j in itertools.combinations(range(count), 2):
            if len(sets[i] & sets[j]) >= SIMILAR * len(sets[i] | sets[j]):
                leader[j] = min(leader[j], leader[i])
        return np.array(leader)

    assert (hashed() == all_pairs()).all()
    times = interleaved({"minhash": hashed, "all pairs": all_pairs}, 3, warmup=0)
    record("language_data/minhash/documents_per_second", count / median(times, "minhash"))
    record("language_data/all_pairs/documents_per_second", count / median(times, "all pairs"))
    record("language_data/all_pairs_over_minhash", ratio(times, "all pairs", "minhash"))
