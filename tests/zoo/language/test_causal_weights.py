"""Folders of transformers and checkpoints of nanoGPT, both ways, with random weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import zoo
from datamodules.text.byte_tokens import byte_tokenizer
from datamodules.text.tokenizers import document
from zoo.hub.convert import convert, read_foreign

SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "hidden": 64, "context": 48, "vocab_size": 259}
IDS = torch.randint(3, 259, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shaken(model: Any) -> Any:
    """With weights that are nowhere 0 or 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def converted(source: Path, out: Path, *given: str) -> zoo.CausalLM:
    assert [*convert(source, out, "causal_lm", "zoo", given, force=True)]
    module = zoo.load(out)
    assert isinstance(module, zoo.CausalLM)
    return module


def theirs(folder: Path, kind: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if kind == "gpt2":
        gpt = GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=48, layer_norm_epsilon=1e-3
        )  # fmt: skip
        model: Any = GPT2LMHeadModel(gpt)
    else:
        rope = {"rope_type": "default", "rope_theta": 500.0}
        llama = LlamaConfig(
            vocab_size=259, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=48, rope_parameters=rope, rms_norm_eps=1e-6,
            tie_word_embeddings=kind == "tied", attention_bias=kind == "tied",
        )  # fmt: skip
        model = LlamaForCausalLM(llama)
    shaken(model).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied"])
def test_a_folder_of_transformers_answers_alike_and_goes_back(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = theirs(tmp_path / "theirs", kind)
    byte_tokenizer().save_pretrained(tmp_path / "theirs")
    module = converted(tmp_path / "theirs", tmp_path / "ours.safetensors")
    wanted = model(IDS).logits
    assert torch.allclose(module(IDS), wanted, atol=1e-5)
    assert module.vocabulary.text == document(byte_tokenizer())
    assert [*convert(tmp_path / "ours.safetensors", tmp_path / "back", None, "transformers", (), False)]
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert torch.allclose(back(IDS).logits, wanted, atol=1e-6)
    assert (back.config.bos_token_id, back.config.eos_token_id) == (1, 2)
    assert AutoTokenizer.from_pretrained(tmp_path / "back")("é").input_ids == [0xC3 + 3, 0xA9 + 3]


def nanogpt(state: dict[str, Tensor], ids: Tensor, heads: int, layers: int) -> Tensor:
    """The forward pass of nanoGPT's model.py, of a state dict: independent of transformers."""
    p = {k.removeprefix("_orig_mod.").removeprefix("transformer."): v for k, v in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p.get(f"{name}.bias"), 1e-5)

    x = p["wte.weight"][ids] + p["wpe.weight"][: ids.shape[1]]
    for i in range(layers):
        q, k, v = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.ones(ids.shape[1], ids.shape[1]).tril() == 0
        y = scores.masked_fill(mask, -torch.inf).softmax(dim=-1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), f"h.{i}.attn.c_proj")
        y = functional.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(y, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ p["wte.weight"].T


@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_of_nanogpt_answers_alike_and_goes_back(bias: bool, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    shapes = {"transformer.wte.weight": (259, 32), "transformer.wpe.weight": (48, 32),
              "transformer.ln_f.weight": (32,), "transformer.ln_f.bias": (32,)}  # fmt: skip
    for i in range(2):
        for name, out, into in (("attn.c_attn", 96, 32), ("attn.c_proj", 32, 32), ("mlp.c_fc", 128, 32),
                                ("mlp.c_proj", 32, 128)):  # fmt: skip
            shapes[f"transformer.h.{i}.{name}.weight"] = (out, into)
            shapes[f"transformer.h.{i}.{name}.bias"] = (out,)
        for name in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{i}.{name}.weight"] = shapes[f"transformer.h.{i}.{name}.bias"] = (32,)
    kept = {k: shape for k, shape in shapes.items() if bias or not k.endswith("bias")}
    state = {k: torch.randn(shape, generator=g) * 0.3 for k, shape in kept.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    arguments = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "bias": bias, "vocab_size": 259,
                 "dropout": 0.1}  # fmt: skip
    named = {f"_orig_mod.{k}": v for k, v in state.items()}
    torch.save({"model": named, "model_args": arguments, "iter_num": 7}, tmp_path / "ckpt.pt")
    module = converted(tmp_path / "ckpt.pt", tmp_path / "ours.safetensors")
    wanted = nanogpt(state, IDS, 4, 2)
    assert torch.allclose(module(IDS), wanted, atol=1e-5)
    assert [*convert(tmp_path / "ours.safetensors", tmp_path / "back.pt", None, "nanogpt", (), False)]
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["model"].keys() == state.keys()
    assert all(back["model"][k].equal(v) for k, v in state.items())
    assert {**back["model_args"], "dropout": 0.1} == arguments
    assert [*convert(tmp_path / "ours.safetensors", tmp_path / "folder", None, "transformers", (), False)]
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    assert torch.allclose(again(IDS).logits, wanted, atol=1e-5)


def test_a_training_starts_from_a_folder_and_its_checkpoint_needs_it_no_more(tmp_path: Path) -> None:
    model = theirs(tmp_path / "theirs", "gpt2")
    module = zoo.CausalLM(pretrained=str(tmp_path / "theirs"), vocab_size=259)
    assert module.hparams["vocab_size"] == 300  # its table has more rows than the tokenizer has entries
    from zoo.language.folders import start_from

    assert "36,608 parameters" in start_from(module.network.model, str(tmp_path / "theirs"))
    assert torch.allclose(module.eval()(IDS), model(IDS).logits, atol=1e-6)
    zoo.save(module, tmp_path / "kept.safetensors")
    (tmp_path / "theirs" / "config.json").unlink()
    assert zoo.load(tmp_path / "kept.safetensors")(IDS).equal(module(IDS))


def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    theirs(tmp_path / "theirs", "llama")
    source = str(tmp_path / "theirs")
    for settings, words in (
        ({"width": 64}, "width is 64, but the sizes are those of pretrained"),
        ({"vocab_size": 50257}, "the tokenizer of the data has 50,257"),
    ):
        with pytest.raises(ValueError, match=words):
            zoo.CausalLM(pretrained=source, **settings)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    for change, words in (
        ({"model_type": "bert"}, "model of type 'bert'"),
        ({"hidden_size": 33}, "makes no llama"),
        ({"num_hidden_layers": 3}, "model.layers.2.* does not fit"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"rope_parameters": 3}, "makes no llama"),
    ):
        (tmp_path / "theirs" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises((ValueError, OSError), match=words) as caught:
            read_foreign(tmp_path / "theirs", "causal_lm")
        assert "\n" not in str(caught.value)
