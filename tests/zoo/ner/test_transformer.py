"""A transformer as encoder under the same questions: a tiny BERT from a folder, nothing from the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import of_data
from interruption import newest_checkpoint

import zoo
from datamodules import NER
from zoo.ner import ActiveNER


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of the hub: config, weights, fast tokenizer of word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), "the", "ra", "##in"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=80,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def transformer(backbone: Path, **options: Any) -> ActiveNER:
    module = ActiveNER(
        ["O", "B-A", "I-A"],
        word_encoder="transformer",
        backbone=str(backbone),
        word_drop=0.5,
        tag_decoder="linear",
        **options,
    )
    return module.eval()


@torch.no_grad()
def test_the_first_sub_token_of_each_word_is_taken_whatever_the_batch(backbone: Path) -> None:
    module = transformer(backbone)
    encoder: Any = module.network.encoder
    batch = module.encode([["The", "rain", "x"], ["a", "b", "cd", "e", "f"]])
    # [CLS] the ra ##in x [SEP]
    assert batch.first[0].tolist() == [1, 2, 4, 0, 0]  # type: ignore[union-attr]
    states = encoder.model(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state  # type: ignore[union-attr]
    torch.testing.assert_close(encoder(batch)[0, 1], states[0, 2])
    alone = module.network.decode(module.encode([["The", "rain", "x"]]))
    together = module.network.decode(batch)
    assert float(alone.log_p) == pytest.approx(float(together.log_p[0]), abs=1e-5)
    # word-level maxima, summed
    best = alone.probabilities[0].amax(-1).log().sum()
    assert float(alone.log_p) == pytest.approx(float(best), abs=1e-5)
    with pytest.raises(ValueError, match="takes 122 sub-tokens, the backbone has 80 positions"):
        module.encode([["ab"] * 60])


def test_rounds_and_weights_of_a_transformer(backbone: Path, tmp_path: Path) -> None:
    flags = [
        "--model=zoo.ActiveNER",
        "--model.init_args.word_encoder=transformer",
        f"--model.init_args.backbone={backbone}",
        "--model.init_args.tag_decoder=linear",
        "--model.init_args.loss_reduction=mean",
        *of_data(train_sentences=60, val_sentences=10, max_words=12, seed_budget=60, budget=40, unit="words"),
        *of_data(rounds=1, seed_updates=3, round_updates=2, batch_size=4),
        "--trainer.log_every_n_steps=1",
    ]
    import yaml

    config = tmp_path / "bert.yaml"
    config.write_text(
        yaml.safe_dump({"data": {"class_path": "datamodules.NER"}, "trainer": {"max_epochs": -1}})
    )
    import cli

    common = [
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    assert cli.main(["fit", f"--config={config}", *flags, *common]) == 0
    folder = max((tmp_path / "bert").glob("version_*"))
    content = torch.load(newest_checkpoint(folder), weights_only=True)
    assert content["NER"]["pool"]["round"] == 1
    module = zoo.load(newest_checkpoint(folder))
    assert torch.equal(
        module.state_dict()["network.encoder.model.embeddings.word_embeddings.weight"],
        content["state_dict"]["network.encoder.model.embeddings.word_embeddings.weight"],
    )


def test_vectors_of_words_are_refused_beside_a_backbone(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("rained 1 2 3\n")
    data = NER(train_sentences=50, embeddings=str(tmp_path / "v.txt"))
    data.setup("fit")
    module = ActiveNER(data.tags, word_encoder="transformer", backbone=str(backbone), tag_decoder="linear")
    module._trainer = SimpleNamespace(datamodule=data, world_size=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"embeddings has vectors .* does not use: its backbone"):
        module.setup("fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "backbone names the transformer"),
        ({"backbone": "/nowhere/at-all"}, "cannot be loaded"),
        ({"backbone": "x", "char_dim": 3}, "char_dim is 3, which word_encoder: transformer does not use"),
        (
            {"backbone": "x", "word_filters": 3},
            "word_filters is 3, which word_encoder: transformer does not use",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ActiveNER(["O", "B-A"], word_encoder="transformer", tag_decoder="linear", **options)
