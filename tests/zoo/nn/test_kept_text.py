import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from zoo.hub.foreign import Weights
from zoo.hub.weights import load_fitting, load_state
from zoo.nn.kept_text import KeptText
from zoo.nn.kept_tokenizer import KeptTokenizer


class Tagger(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = KeptText()
        self.layer = torch.nn.Linear(2, 3)


def weights_with(text: str) -> Weights:
    module = Tagger()
    module.vocabulary.fill(text)
    return Weights(Path("w.safetensors"), None, {}, dict(module.state_dict()))


@pytest.mark.parametrize("load", [load_state, load_fitting])
def test_a_vocabulary_of_any_length_comes_with_the_weights(load: object) -> None:
    text = '{"words": ["München", "' + "x" * 5000 + '"]}'
    module = Tagger()
    load(module, weights_with(text))  # type: ignore[operator]
    assert module.vocabulary.text == text
    assert module.vocabulary.value["words"][0] == "München"


def test_weights_before_any_data_have_none() -> None:
    module = Tagger()
    load_state(module, weights_with(""))
    assert module.vocabulary.text == ""
    assert module.vocabulary.value is None


def test_data_of_another_vocabulary_are_refused() -> None:
    kept = KeptText('["a"]')
    kept.fill('["a"]')
    with pytest.raises(ValueError, match="another vocabulary than that of Summaries"):
        kept.fill('["b"]', "Summaries")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"longest": 20}, r"with longest 30, pairs have longest 20: leave out data\.init_args\.longest, or"),
        (
            {"template": "pair"},
            r"layout \(template dialogue\) than pairs have \(template pair\): choose",
        ),
        ({"template": None, "longest": None}, r"\(longest none, template none\): choose data like"),
        ({"tokenizer": 2}, r"another tokenizer than that of pairs: leave data\.init_args\.tokenizer out"),
    ],
)
def test_the_line_names_what_the_data_have_otherwise(other: dict[str, Any], words: str) -> None:
    own = {"tokenizer": 1, "roles": {}, "template": "dialogue", "longest": 30}
    given = {k: v for k, v in {**own, **other}.items() if v is not None}
    with pytest.raises(ValueError, match=words) as caught:
        KeptTokenizer(json.dumps(own)).fill(json.dumps(given), "pairs")
    assert ("tokenizer out" in str(caught.value)) == ("tokenizer" in other)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"words": [', b"[" * 10_000])
def test_a_damaged_text_is_one_line_with_the_file(content: bytes) -> None:
    weights = weights_with("[1]")
    weights.state_dict["vocabulary._extra_state"] = torch.tensor(list(content), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"w\.safetensors: the vocabulary among the weights is no"):
        load_state(Tagger(), weights)
    weights.state_dict["vocabulary._extra_state"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"w\.safetensors: the vocabulary among the weights is no text"):
        load_state(Tagger(), weights)
