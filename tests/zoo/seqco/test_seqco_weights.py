"""fairseq's and transformers' weights <-> ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.seqco import data, fitted, one_batch, small

import cli
import zoo
from zoo.seqco.weights import from_fairseq, read, start_from, to_fairseq, write


def given(module: Any) -> dict[str, Any]:
    keys = ("sizes", "special_ids", "max_length", "sample_length", "min_length", "beams")
    return {key: module.hparams[key] for key in keys} | {"weight_xy": 1.0, "weight_xyhat": 0.0}


def test_the_official_names_go_there_and_back(tmp_path: Path) -> None:
    module = small(weight_xy=1.0)
    names = set(to_fairseq(dict(module.network.state_dict())))
    prefix = "models.article-summary."
    assert f"{prefix}encoder.embed_tokens.weight" in names
    assert f"{prefix}decoder.layers.0.encoder_attn.k_proj.weight" in names
    assert {f"cross_attention.{p}_proj.bias" for p in ("q", "k", "v", "out")} <= names
    assert {"encoder_extra_fc.0.weight", "momentum_encoder_extra_fc.2.bias"} <= names
    assert "momentum_encoder.layernorm_embedding.weight" in names
    path = tmp_path / "official.pt"
    write(module, path, "official")
    content = torch.load(path, weights_only=True)
    content["args"] = argparse.Namespace(arch="bart_large")  # as fairseq's files have it
    content["model"][f"{prefix}encoder.version"] = torch.tensor([3.0])
    content["model"][f"{prefix}decoder.embed_positions._float_tensor"] = torch.zeros(1)
    torch.save(content, path)
    weights, lines = read(path, given(module))
    assert "cross attention and target network" in lines[0]
    for name, value in module.state_dict().items():
        assert torch.equal(weights.state_dict[name], value), name


def test_plain_bart_of_fairseq_has_no_prefix(tmp_path: Path) -> None:
    module = small()
    path = tmp_path / "model.pt"
    write(module, path, "official")
    assert all(key.startswith(("encoder.", "decoder.")) for key in torch.load(path)["model"])
    fresh = small(weight_xy=1.0)
    assert str(path) in start_from(fresh.network.backbone, str(path))
    for name, value in module.network.backbone.state_dict().items():
        assert torch.equal(fresh.network.backbone.state_dict()[name], value), name


def test_the_joined_attention_computes_what_separate_projections_do() -> None:
    module = small(weight_xy=1.0).eval()
    state = to_fairseq(dict(module.network.state_dict()))
    query, key = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    q, k, v = (
        (x @ state[f"cross_attention.{p}_proj.weight"].T + state[f"cross_attention.{p}_proj.bias"])
        .unflatten(-1, (2, 8))
        .transpose(1, 2)
        for p, x in (("q", query), ("k", key), ("v", key))
    )
    mixed = ((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected = mixed @ state["cross_attention.out_proj.weight"].T + state["cross_attention.out_proj.bias"]
    found, _ = module.network.attention(query, key, key, need_weights=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    again, _ = from_fairseq(state)
    assert torch.equal(again["attention.in_proj_weight"], module.network.attention.in_proj_weight)


def test_a_plain_folder_gives_transformers_the_same_summaries(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    module = fitted(small(weight_xy=1.0, beams=2), 3).eval()
    assert module.vocabulary.text
    folder = tmp_path / "plain"
    assert "tokenizer" in write(module, folder, "transformers")[0]
    batch = one_batch(4)
    ours = module.generate(batch["source"], batch["source_mask"])
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    theirs = model.generate(batch["source"], attention_mask=batch["source_mask"].long())
    assert torch.equal(ours, theirs)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = data()
    made.setup("fit")
    assert tokenizer.decode([9, 10, 11]) == made.tokenizer.decode([9, 10, 11])
    weights, _ = read(folder, {"max_length": 8, "sample_length": 8, "min_length": 0})
    for name, value in module.network.backbone.state_dict().items():
        key = f"network.backbone.{name}"
        assert key not in weights.state_dict or torch.equal(weights.state_dict[key], value)


def test_a_plain_folder_comes_back_with_its_generation_settings(tmp_path: Path) -> None:
    settings = {"beams": 3, "length_penalty": 0.5, "min_length": 2, "no_repeat_ngram": 2, "force_bos": False}
    module = small(weight_xy=1.0, max_length=9, **settings)
    write(module, tmp_path / "plain", "transformers")
    hparams = read(tmp_path / "plain", {})[0].hparams
    assert {key: hparams[key] for key in ("max_length", *settings)} == {"max_length": 9, **settings}
    assert read(tmp_path / "plain", {"beams": 2})[0].hparams["beams"] == 2
    greedy = small(weight_xy=1.0, max_length=9, beams=1)
    write(greedy, tmp_path / "greedy", "transformers")
    assert read(tmp_path / "greedy", {})[0].hparams["beams"] == 1


def test_convert_writes_both_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ours.safetensors"
    zoo.save(small(), path)
    for to, out in (("official", "official.pt"), ("transformers", "folder")):
        assert cli.main(["convert", str(path), "--out", str(tmp_path / out), "--to", to]) == 0
    assert (tmp_path / "folder/config.json").is_file()
    assert "wrote" in capsys.readouterr().out


def test_foreign_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": {"encoder.embed_tokens.weight": torch.zeros(4, 4)}}, path)
    with pytest.raises(ValueError, match=r"model\.pt: these are no weights of BART") as caught:
        read(path, {})
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        read(tmp_path, {})
    other = small()
    write(other, path, "official")
    narrow = zoo.SeqCo(
        "bart", {**other.hparams["sizes"], "d_model": 8}, vocab_size=185, special_ids=[3], weight_xyhat=0.0,
        max_length=8, min_length=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="does not fit"):
        start_from(narrow.network.backbone, str(path))


def test_heads_that_no_file_tells_are_given_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = small()
    path, out = tmp_path / "model.pt", tmp_path / "ours.safetensors"
    write(module, path, "official")
    command = ["convert", str(path), "--method", "seqco", "--out", str(out)]
    rest = [
        f"{k}={v}"
        for k, v in given(module).items()
        if k in ("special_ids", "max_length", "min_length", "sample_length")
    ]
    options = [x for item in rest for x in ("--set", item)]
    assert (
        cli.main(
            [*command, *options, "--set", "sizes={encoder_attention_heads: 4, decoder_attention_heads: 4}"]
        )
        == 0
    )
    assert "64 wide" not in capsys.readouterr().out
    sizes = zoo.load(str(out)).hparams["sizes"]
    assert sizes["encoder_attention_heads"] == 4
    assert sizes["d_model"] == module.hparams["sizes"]["d_model"]
