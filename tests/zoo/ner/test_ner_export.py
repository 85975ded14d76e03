"""``zoo export``: the tagger with its loop over the words as one file, for sentences of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.hub import export as room
from zoo.ner import ActiveNER

SIZES = {"char_dim": 5, "char_filters": 6, "word_dim": 7, "word_filters": 9}
SENTENCES = [["ab"], ["x", "ef", "cd", "abc", "zzzz", "Q", "ef", "ab"] * 4, ["ef", "ab"]]


def tagger(**options: Any) -> ActiveNER:
    torch.manual_seed(0)
    module = ActiveNER(["O", "B-A", "I-A", "B-B"], 4, 6, **{**SIZES, **options})
    assert module.vocabulary is not None
    module.vocabulary.fill(["ab", "cd", "ef", "000"], "abcdef")
    with torch.no_grad():
        for parameter in module.network.decoder.parameters():  # a fresh one says the same of every word
            parameter.mul_(4)
    return module.eval()


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({"decoder_hidden": 8}, ".pt2"),
        ({"decoder_hidden": 8, "char_encoder": "none", "char_dim": 25, "char_filters": 50}, ".onnx"),
        ({"tag_decoder": "linear", "word_residual": True}, ".onnx"),
    ],
)
def test_the_file_tags_as_the_network_does(options: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    module, out = tagger(**options), tmp_path / f"x{suffix}"
    said = list(room.write(module, out))
    assert any("places 1, 3, 9" in line for line in said), said
    run = room.load(out)
    different = set()
    for sentences in (SENTENCES, SENTENCES[:1], SENTENCES[2:] * 7):
        names, mnlp = module.tag_batch(sentences)
        tags, score = run(module.inputs(sentences))
        found = [[module.hparams["tags"][t] for t in row if t >= 0] for row in tags.tolist()]
        assert found == names
        assert score.tolist() == pytest.approx(mnlp, abs=1e-5)
        different |= {tag for row in names for tag in row}
    assert len(different) > 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"char_encoder": "lstm", "char_hidden": 4}, "with char_encoder: lstm; cnn has fixed shapes"),
        ({"word_encoder": "lstm", "word_hidden": 4}, "with word_encoder: lstm"),
        ({"tag_decoder": "crf"}, "with tag_decoder: crf; lstm and linear can"),
    ],
)
def test_loops_over_what_is_in_a_sentence_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    filters = {"char_encoder": "char_filters", "word_encoder": "word_filters"}
    used = {k: v for k, v in SIZES.items() if k not in {filters.get(o) for o in options}}
    module = ActiveNER(["O", "B-A"], 4, 6, **used, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        list(room.write(module, tmp_path / "x.pt2"))
    assert list(tmp_path.iterdir()) == []
