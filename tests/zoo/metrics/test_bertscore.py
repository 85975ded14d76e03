"""BERTScore against torchmetrics', over a tiny encoder that lies in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.text import bert_score

from zoo.metrics.bertscore import BertScore, matched

A = ["the cat sat on the mat", "a dog", "rain falls"]
B = ["a cat lay on a mat", "the dog sat", "sun"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in A + B for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=16,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(path)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16, initializer_range=1.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("layer", [None, 2])
def test_the_scores_are_torchmetrics(folder: Path, layer: int | None) -> None:
    metric = BertScore(str(folder), layer)
    metric.update(A[:1], B[:1])
    metric.update(A[1:], B[1:])
    settings: dict[str, Any] = {"model_name_or_path": str(folder), "num_layers": layer, "max_length": 16}
    # pair by pair: of several, sorted by their lengths, torchmetrics 1.9 takes the order for its inverse
    theirs = [bert_score([a], [b], num_threads=0, **settings) for a, b in zip(A, B, strict=True)]
    found = metric.compute()
    for name in ("precision", "recall", "f1"):
        mean = sum(float(score[name]) for score in theirs) / len(theirs)
        assert found[f"bertscore_{name}"].item() == pytest.approx(mean, abs=1e-5)
    assert found["bertscore_f1"] < 0.99
    same = BertScore(str(folder), layer)
    same.update(A, A)
    assert same.compute()["bertscore_f1"].item() == pytest.approx(1, abs=1e-6)
    assert not list(metric.parameters())  # the encoder's weights are nobody's


def test_each_token_takes_its_best_match() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    assert matched(a, b).tolist() == pytest.approx([0.5, 1.0, 2 / 3])
    assert matched(a, b[:0]).tolist() == [0, 0, 0]


def test_texts_with_nothing_in_common_score_zero() -> None:
    """0 / 0 was NaN, and with it the mean of the whole test."""
    across = matched(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert across.tolist() == matched(torch.zeros(0, 2), torch.ones(3, 2)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("kind", "room"), [("bert", 16), ("roberta", 14), ("bart", 16)])
def test_longer_texts_are_cut_at_the_positions_and_counted(
    kind: str, room: int, folder: Path, tmp_path: Path
) -> None:
    """RoBERTa's positions begin behind its pad's: of 16 it has 14."""
    from transformers import AutoModel, AutoTokenizer, BartConfig, BertConfig, RobertaConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**30  # of many a folder
    tokenizer.save_pretrained(tmp_path)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": 1}
    widths = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    small = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config: Any = {
        "bert": lambda: BertConfig(**{**sizes, "pad_token_id": 0}, **widths),
        "roberta": lambda: RobertaConfig(**sizes, **widths),
        "bart": lambda: BartConfig(**sizes, **small, encoder_ffn_dim=8, decoder_attention_heads=2),
    }[kind]()
    AutoModel.from_config(config).save_pretrained(tmp_path)
    metric = BertScore(str(tmp_path))
    fits, longer = " ".join(["cat"] * (room - 2)), " ".join(["cat"] * (room - 1))
    metric.update([fits], [fits])
    assert metric.compute()["bertscore_truncated"] == 0
    metric.update([longer, fits], [longer, longer])
    assert metric.compute()["bertscore_truncated"] == 3
    assert len(metric.vectors([longer])[0]) == room - 2


def test_what_is_no_encoder_is_one_line(folder: Path, tmp_path: Path) -> None:
    for metric, words in (
        (BertScore(str(tmp_path)), "is no folder of an encoder"),
        (BertScore(str(folder), 4), "has 3 layers, layer 4 was asked for"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            metric.update(A, B)
        assert "\n" not in str(caught.value)
